"""The JSONPatch (RFC 6902) that brings a pod's annotations to what they should be.

Built by hand and not by a generic diff, which may turn a removal and an addition into a `move` between hook keys and
reads the whole pod; nothing outside the keys of this product is ever named.
"""

from collections.abc import Mapping

from app.core.annotations import MAX_ANNOTATIONS_BYTES, OWN_KEYS

Operation = dict[str, object]
_ROOT = "/metadata/annotations"


def escape(token: str) -> str:
    """Escape one reference token of a JSON pointer (RFC 6901)."""
    return token.replace("~", "~0").replace("/", "~1")


_PATHS = {key: f"{_ROOT}/{escape(key)}" for key in OWN_KEYS}


def annotation_patch(current: Mapping[str, str] | None, own: Mapping[str, str]) -> list[Operation]:
    """Return the operations after which exactly `own` stands in the product's keys; empty if it does already.

    `current` is None for an object without an annotations map.
    """
    if current is None:
        return [{"op": "add", "path": _ROOT, "value": dict(own)}] if own else []
    operations: list[Operation] = []
    for key, path in _PATHS.items():
        wanted, found = own.get(key), current.get(key)
        if wanted == found:
            continue
        if wanted is None:
            operations.append({"op": "remove", "path": path})
        else:
            operations.append({"op": "add" if found is None else "replace", "path": path, "value": wanted})
    return operations


def patched(current: Mapping[str, str] | None, own: Mapping[str, str]) -> dict[str, str]:
    """Return the annotations after `annotation_patch`."""
    return {**{key: value for key, value in (current or {}).items() if key not in _PATHS}, **own}


def is_too_large(annotations: Mapping[str, str], unread_bytes: int = 0) -> bool:
    """Whether the API server would refuse the object for the size of its annotations, `unread_bytes` more included."""
    room = MAX_ANNOTATIONS_BYTES - unread_bytes
    if 4 * sum(len(key) + len(value) for key, value in annotations.items()) <= room:
        return False  # UTF-8 needs at most four bytes a character
    return sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > room
