from typing import Any

import jsonpatch
import pytest

from app.core.annotations import HOOK_KEYS, MAX_ANNOTATIONS_BYTES, OWN_KEYS
from app.core.jsonpatch import annotation_patch, escape, is_too_large, patched

A, B, C = HOOK_KEYS[:3]
FOREIGN = {"": "empty", "a/b": "slash", "a~b": "tilde", "~1": "escape", "ü": "\N{PILE OF POO}"}


@pytest.mark.parametrize(
    ("token", "escaped"), [("a", "a"), ("a/b", "a~1b"), ("a~b", "a~0b"), ("~1", "~01"), ("/~", "~1~0"), ("", "")]
)
def test_escape(token: str, escaped: str) -> None:
    assert escape(token) == escaped


@pytest.mark.parametrize(
    ("current", "own", "operations"),
    [
        pytest.param({A: "1"}, {A: "1"}, [], id="nothing-to-do"),
        pytest.param(None, {}, [], id="nothing-to-do-without-a-map"),
        pytest.param({}, {}, [], id="nothing-to-do-in-an-empty-map"),
        pytest.param(None, {A: "1", B: "2"}, ["add"], id="map-is-created-at-once"),
        pytest.param({}, {A: "1"}, ["add"], id="added"),
        pytest.param({A: "1"}, {A: "2"}, ["replace"], id="replaced"),
        pytest.param({A: ""}, {A: "2"}, ["replace"], id="empty-value-replaced"),
        pytest.param({A: "1"}, {}, ["remove"], id="removed"),
        pytest.param({A: ""}, {}, ["remove"], id="empty-value-removed"),
        pytest.param({A: "1", B: "1"}, {B: "1", C: "1"}, ["remove", "add"], id="no-move-between-keys"),
        pytest.param({A: "1"}, {A: ""}, ["replace"], id="emptied"),
    ],
)
def test_operations(current: dict[str, str] | None, own: dict[str, str], operations: list[str]) -> None:
    patch = annotation_patch(current, own)
    assert [operation["op"] for operation in patch] == operations
    document: dict[str, Any] = {"metadata": {} if current is None else {"annotations": current | FOREIGN}}
    after = jsonpatch.apply_patch(document, patch)["metadata"].get("annotations", {})
    assert after == (own if current is None else own | FOREIGN)
    assert patched(current, own) == own


def test_null_map_is_replaced() -> None:
    assert jsonpatch.apply_patch({"metadata": {"annotations": None}}, annotation_patch(None, {A: "1"})) == {
        "metadata": {"annotations": {A: "1"}}
    }


def test_every_key_can_be_added_replaced_and_removed() -> None:
    for before, own in (
        (FOREIGN, "1"),
        (FOREIGN | dict.fromkeys(OWN_KEYS, "0"), "1"),
        (FOREIGN | dict.fromkeys(OWN_KEYS, "0"), None),
    ):
        wanted = {} if own is None else dict.fromkeys(OWN_KEYS, own)
        patch = annotation_patch(before, wanted)
        assert len(patch) == len(OWN_KEYS)
        after = jsonpatch.apply_patch({"metadata": {"annotations": before}}, patch)["metadata"]["annotations"]
        assert after == FOREIGN | wanted == patched(before, wanted)


@pytest.mark.parametrize("character", ["x", "é", "\N{PILE OF POO}"])
def test_size_counts_bytes_of_keys_and_values(character: str) -> None:
    room = MAX_ANNOTATIONS_BYTES - len("kk")
    width = len(character.encode())
    full = {"k": character * (room // (2 * width)), "K": "x" * (room - room // (2 * width) * width)}
    assert sum(len((key + value).encode()) for key, value in full.items()) == MAX_ANNOTATIONS_BYTES
    assert not is_too_large(full)
    assert is_too_large({**full, "": "x"})
    assert is_too_large({**full, "x": ""})
