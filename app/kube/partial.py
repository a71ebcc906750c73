"""Metadata without managedFields: of what comes, only that becomes Python objects which somebody looks at.

managedFields are most of an object's metadata; of a page of 500 launcher pods they are 16 of 18 MB.
"""

from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic takes that of `typing` from Python 3.12 on


class _Metadata(TypedDict, total=False):
    name: str
    generateName: str
    namespace: str
    uid: str
    resourceVersion: str
    deletionTimestamp: str | None
    labels: dict[str, str] | None
    annotations: dict[str, str] | None
    ownerReferences: list[dict[str, Any]] | None


class _Object(TypedDict):
    metadata: _Metadata


class _Event(TypedDict):
    type: str
    object: _Object


class _Page(TypedDict):
    metadata: dict[str, Any]
    items: list[_Object] | None


_PAGES: TypeAdapter[Any] = TypeAdapter(_Page)
_EVENTS: TypeAdapter[Any] = TypeAdapter(_Event)


def read_page(content: bytes) -> dict[str, Any] | None:
    """Read a list of objects; None if it is no JSON object."""
    try:
        page: dict[str, Any] = _PAGES.validate_json(content)
    except ValidationError:
        return _whole(content)
    return page


def read_event(line: bytes) -> Any:
    """Read a watch event; raises ValueError for what is no JSON."""
    try:
        event = _EVENTS.validate_json(line)
    except ValidationError:
        return orjson.loads(line)
    return orjson.loads(line) if event["type"] == "ERROR" else event  # whose object is a Status


def _whole(content: bytes) -> dict[str, Any] | None:
    """Read what is not as expected as it is, so that one odd object does not cost all the others."""
    try:
        page = orjson.loads(content)
    except ValueError:
        return None
    return page if isinstance(page, dict) else None
