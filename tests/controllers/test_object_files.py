"""Objects from a folder: what changes is read again, and an error changes nothing."""

import logging
from pathlib import Path

import pytest

from app.admission.ports import LookupFailed
from app.controllers import object_files
from app.controllers.object_files import ObjectFiles
from app.core.kubevirt_names import UPSTREAM

SPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {tier: TIER}}\n"
LOGGER = "vm-consistency.objects"


def put(folder: Path, tier: str | None, name: str = "namespaces.yaml", text: str = SPACE) -> None:
    fresh = folder / "fresh"
    fresh.write_text(text if tier is None else text.replace("TIER", tier))
    fresh.rename(folder / name)


async def tier(files: ObjectFiles) -> str | None:
    await files.check()
    return (await files.namespace("shop")).labels.get("tier")


async def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    files = ObjectFiles(tmp_path, UPSTREAM)
    put(tmp_path, "one")
    assert await tier(files) == "one"
    put(tmp_path, "two")
    assert await tier(files) == "two"
    (tmp_path / "namespaces.yaml").rename(tmp_path / "namespaces.txt")
    assert await tier(files) is None
    assert (files.problem(), files.note()) == (None, None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("namespaces.yml", SPACE.replace("TIER", "data")),
        ("a.yaml", f"---\napiVersion: v1\nkind: Secret\n---\n---\n{SPACE.replace('TIER', 'data')}"),
        (
            "a.json",
            '{"kind": "List", "items": [{"apiVersion": "v1", "kind": "Namespace", '
            '"metadata": {"name": "shop", "labels": {"tier": "data"}}}]}',
        ),
    ],
    ids=["yml", "documents", "json-list"],
)
async def test_the_forms_of_files(tmp_path: Path, name: str, text: str) -> None:
    put(tmp_path, None, name, text)
    assert await tier(ObjectFiles(tmp_path, UPSTREAM)) == "data"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [\n", "namespaces.yaml: while parsing"),
        ("a: 1\n\tb: 2\n", "line 2"),
        ("kind: Namespace\n", "namespaces.yaml: object 1: apiVersion and kind must be there"),
        (f"{SPACE}---\n{SPACE}", "namespaces.yaml: object 2: Namespace shop is there twice"),
        ("[" * 100, "nested more than 64 levels deep"),
    ],
)
async def test_an_error_is_told_once_and_what_was_read_before_holds(
    tmp_path: Path, text: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, LOGGER)
    files = ObjectFiles(tmp_path, UPSTREAM)
    put(tmp_path, "one")
    assert await tier(files) == "one"

    put(tmp_path, None, text=text)
    for _ in range(3):
        assert await tier(files) == "one"
    [record] = caplog.records
    assert says in vars(record)["error"]
    assert files.problem() is None
    assert (files.note() or "").startswith("the objects that were read before hold: ")
    assert says in (files.note() or "")

    put(tmp_path, "two")
    assert await tier(files) == "two"
    assert files.note() is None


async def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"# f\xfcr alle\n")
    files = ObjectFiles(tmp_path, UPSTREAM)
    await files.check()
    assert f"{tmp_path / 'latin.yaml'}: not UTF-8 text, at byte 3" in (files.problem() or "")


async def test_while_nothing_good_was_read_no_decision_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    files = ObjectFiles(folder, UPSTREAM)
    assert "not been read yet" in (files.problem() or "")

    await files.check()
    assert f"{folder}: No such file or directory" in (files.problem() or "")
    with pytest.raises(LookupFailed, match="No such file"):
        await files.namespace("shop")

    folder.mkdir()
    put(folder, "one")
    assert await tier(files) == "one"
    assert files.problem() is None


async def test_a_folder_that_goes_and_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    folder.mkdir()
    put(folder, "one")
    files = ObjectFiles(folder, UPSTREAM)
    assert await tier(files) == "one"

    folder.rename(tmp_path / "elsewhere")
    assert await tier(files) == "one"
    assert "No such file" in (files.note() or "")

    (tmp_path / "elsewhere").rename(folder)
    assert await tier(files) == "one"
    assert files.note() is None


async def test_without_a_folder_no_object_is_known() -> None:
    files = ObjectFiles(None, UPSTREAM)
    assert files.problem() is None
    assert (await files.namespace("shop")).labels == {}


async def test_a_failure_that_nobody_foresaw_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ObjectFiles(tmp_path, UPSTREAM)
    put(tmp_path, "one")
    with monkeypatch.context() as patch:
        patch.setattr(object_files, "_read", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await files.check()
    assert await tier(files) == "one"
