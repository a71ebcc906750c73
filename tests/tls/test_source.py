"""Certificates from files that are replaced, torn, broken and mounted as the kubelet does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from app.tls.serving import ServingContext, fingerprint
from app.tls.source import FileSource
from app.tls.x509 import CertificateBundle, CertificateError
from tests.tls.material import NAMES, current_bundle

POLL = 0.01


def write(directory: Path, bundle: CertificateBundle) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "tls.crt").write_bytes(bundle.cert_pem)
    (directory / "tls.key").write_bytes(bundle.key_pem)
    (directory / "ca.crt").write_bytes(bundle.ca_pem)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - files have no event
            await asyncio.sleep(POLL)


@pytest.fixture
def serving() -> ServingContext:
    return ServingContext(NAMES)


@pytest.fixture
def source(serving: ServingContext, tmp_path: Path) -> FileSource:
    return FileSource(serving, tmp_path, POLL)


@pytest.fixture
async def running(source: FileSource, tmp_path: Path) -> AsyncIterator[FileSource]:
    write(tmp_path, current_bundle())
    source.load()
    task = asyncio.create_task(source.run())
    yield source
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def test_files_are_served(source: FileSource, serving: ServingContext, tmp_path: Path) -> None:
    write(tmp_path, bundle := current_bundle())
    source.load()
    assert serving.bundle == bundle
    assert source.problem() is None


def test_ca_is_optional(source: FileSource, serving: ServingContext, tmp_path: Path) -> None:
    write(tmp_path, current_bundle())
    (tmp_path / "ca.crt").unlink()
    source.load()
    assert serving.bundle is not None
    assert serving.bundle.ca_pem == b""


@pytest.mark.parametrize("missing", ["tls.crt", "tls.key"])
def test_a_missing_file_is_named(source: FileSource, tmp_path: Path, missing: str) -> None:
    write(tmp_path, current_bundle())
    (tmp_path / missing).unlink()
    with pytest.raises(CertificateError, match="No such file or directory") as refused:
        source.load()
    assert str(tmp_path / missing) in str(refused.value)


def test_unchanged_files_are_not_loaded_again(
    source: FileSource, serving: ServingContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, current_bundle())
    source.load()
    monkeypatch.setattr(serving, "replace", lambda bundle: pytest.fail("loaded again"))
    source.load()


async def test_replaced_files_are_served(running: FileSource, serving: ServingContext, tmp_path: Path) -> None:
    write(tmp_path, bundle := current_bundle())
    await until(lambda: serving.fingerprint == fingerprint(bundle))


async def test_a_torn_pair_keeps_the_old_one_until_it_is_whole(
    running: FileSource,
    serving: ServingContext,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts: list[CertificateBundle] = []
    replace = serving.replace

    def counted(bundle: CertificateBundle) -> None:
        attempts.append(bundle)
        replace(bundle)

    monkeypatch.setattr(serving, "replace", counted)
    before, bundle = serving.fingerprint, current_bundle()
    (tmp_path / "tls.key").write_bytes(bundle.key_pem)
    await until(lambda: len(attempts) > 3)
    assert serving.fingerprint == before
    assert running.problem() is None
    assert [record.__dict__["reason"] for record in caplog.records] == ["tls.key does not belong to tls.crt"]
    write(tmp_path, bundle)
    await until(lambda: serving.fingerprint == fingerprint(bundle))


async def test_the_same_good_pair_after_a_bad_one_is_no_change(
    running: FileSource, serving: ServingContext, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert serving.bundle is not None
    (tmp_path / "tls.crt").write_bytes(b"")
    await until(lambda: "serving certificate not replaced" in caplog.text)
    write(tmp_path, serving.bundle)
    await until(lambda: running.refused is None)
    assert running.problem() is None


async def test_a_mounted_secret_changes_through_its_symbolic_link(
    source: FileSource, serving: ServingContext, tmp_path: Path
) -> None:
    old, new = current_bundle(), current_bundle()
    write(tmp_path / "..1", old)
    write(tmp_path / "..2", new)
    (tmp_path / "..data").symlink_to("..1")
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (tmp_path / name).symlink_to(Path("..data") / name)
    source.load()
    assert serving.fingerprint == fingerprint(old)
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    source.load()
    assert serving.fingerprint == fingerprint(new)


def test_problem_before_anything_is_served_names_the_directory(source: FileSource, tmp_path: Path) -> None:
    write(tmp_path, current_bundle(names=["other.svc"]))
    with pytest.raises(CertificateError):
        source.load()
    assert source.problem() == (
        f"there is no serving certificate yet; {tmp_path}: tls.crt is not made for {', '.join(NAMES)}"
    )
