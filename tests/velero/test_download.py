"""Downloads from an object store: TLS, gzip, and whatever may lie behind a URL."""

import gzip
import io
import json
import ssl
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.tls.x509 import new_ca
from app.velero import download
from app.velero.download import NotStoredError, StoreError, lines_of, members_of, opened, trust
from tests.infra.stand_ins.object_store import StandInStore, archive, log_file
from tests.tls.material import current_bundle

ANYBODY = trust(None, "", verify=True)


@pytest.fixture
def store() -> Iterator[StandInStore]:
    with StandInStore() as store:
        yield store


def read_lines(store: StandInStore, path: str = "log", context: ssl.SSLContext = ANYBODY) -> list[str]:
    with opened(f"{store.url}/{path}?signature=secret", context) as stream:
        return list(lines_of(stream))


def test_a_compressed_log(store: StandInStore) -> None:
    store.files["log"] = log_file(["one\n", "zwei \u00e4\n", "three"])

    assert read_lines(store) == ["one\n", "zwei \u00e4\n", "three"]


def test_a_log_that_somebody_decompressed_on_the_way(store: StandInStore) -> None:
    store.files["log"] = b"one\ntwo\xff\n"

    assert read_lines(store) == ["one\n", "two\ufffd\n"]


def test_an_empty_file(store: StandInStore) -> None:
    store.files["log"] = b""

    assert read_lines(store) == []


def test_long_lines_are_cut(store: StandInStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_LINE_BYTES", 10)
    store.files["log"] = log_file(["x" * 35 + "\n", "y" * 9 + "\n", "z" * 10 + "\n", "end"])

    assert read_lines(store) == ["x" * 10, "y" * 9 + "\n", "z" * 10, "end"]


def test_a_download_has_an_end(store: StandInStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 1_000_000)
    store.files["log"] = gzip.compress(bytes(2_000_000))

    with pytest.raises(StoreError, match="more than 1000000 bytes"):
        read_lines(store)


def test_members_of_an_archive(store: StandInStore) -> None:
    store.files["contents"] = archive(
        {"pods/prod/a": {"a": 1}, "secrets/prod/s": {}, "pods/prod/b": "x" * 100}, names=["metadata/version"]
    )

    with opened(f"{store.url}/contents", ANYBODY) as stream:
        found = dict(members_of(stream, lambda path: path.startswith("resources/pods/namespaces/"), 50))

    assert {path.rpartition("/")[2]: content and json.loads(content) for path, content in found.items()} == {
        "a.json": {"a": 1},
        "b.json": None,
    }


def test_members_that_are_no_files(store: StandInStore) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo(f"member-{kind.decode()}")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    store.files["contents"] = packed.getvalue()

    with opened(f"{store.url}/contents", ANYBODY) as stream:
        assert list(members_of(stream, lambda path: True, 50)) == []


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(archive({"pods/prod/a": "x" * 5000})[:-30], id="cut"),
        pytest.param(b"\x1f\x8bnonsense", id="no-gzip"),
        pytest.param(gzip.compress(b"nonsense" * 500), id="no-tar"),
        pytest.param(b"<html>" * 500, id="html"),
    ],
)
def test_archives_that_are_damaged(store: StandInStore, content: bytes) -> None:
    store.files["contents"] = content

    with (
        pytest.raises(StoreError, match=r"^http://127\.0\.0\.1:\d+: the download was cut short or is damaged: "),
        opened(f"{store.url}/contents?signature=secret", ANYBODY) as stream,
    ):
        list(members_of(stream, lambda path: True, 10_000))


def test_what_is_not_stored(store: StandInStore) -> None:
    with pytest.raises(NotStoredError):
        read_lines(store)


@pytest.mark.parametrize("status", [400, 403, 500, 503])
def test_a_store_that_says_no(store: StandInStore, status: int) -> None:
    store.files["log"] = (status, b"<Error>\n<Code>AccessDenied</Code>\x1b[2J" + b"x" * 9000)

    with pytest.raises(StoreError) as refused:
        read_lines(store)

    assert f": {status} " in str(refused.value)
    assert "AccessDenied" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1200


def test_a_redirect_is_followed_to_http_only(store: StandInStore, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("here\n")
    store.files |= {"log": (307, b"/other"), "other": log_file(["there\n"])}
    store.files["file"] = (302, (tmp_path / "here").as_uri().encode())
    store.files["ftp"] = (302, b"ftp://127.0.0.1/here")

    assert read_lines(store) == ["there\n"]
    for path in ("file", "ftp"):
        with pytest.raises(StoreError):
            read_lines(store, path)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "https:///x", "data:,x", "x"])
def test_other_urls_are_not_opened(url: str) -> None:
    with pytest.raises(StoreError, match="not one of HTTP"), opened(url, ANYBODY):
        pytest.fail("opened")


def test_a_store_that_is_not_there() -> None:
    with StandInStore() as store:
        url = store.url
    with pytest.raises(StoreError, match="refused"), opened(url, ANYBODY):
        pytest.fail("opened")


def test_whom_to_trust(tmp_path: Path) -> None:
    authority = new_ca(datetime.now(UTC))
    bundle = current_bundle(authority, ["127.0.0.1"])
    file = tmp_path / "ca.pem"
    file.write_bytes(bundle.ca_pem)
    with StandInStore(bundle) as store:
        store.files["log"] = log_file(["one\n"])
        for context in (
            trust(file, "", verify=True),
            trust(None, bundle.ca_pem.decode(), verify=True),
            trust(None, "", verify=False),
        ):
            assert read_lines(store, context=context) == ["one\n"]
        with pytest.raises(StoreError, match="--cacert names its authority, and --insecure-skip-tls-verify"):
            read_lines(store)


@pytest.mark.parametrize("text", ["nonsense", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"])
def test_authorities_that_can_not_be_read(tmp_path: Path, text: str) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(text)

    with pytest.raises(StoreError, match=r"ca\.pem: "):
        trust(file, "", verify=True)
    with pytest.raises(StoreError, match="certificates of the BackupStorageLocation: "):
        trust(None, text, verify=True)
    with pytest.raises(StoreError, match=r"missing\.pem: "):
        trust(tmp_path / "missing.pem", "", verify=True)
