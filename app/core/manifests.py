"""Kubernetes objects in the text of a file: one, several documents, or a List; YAML or JSON."""

from dataclasses import dataclass
from typing import Any

import orjson
import yaml

from app.core.yaml_limits import check_bounds


class ManifestError(ValueError):
    """The text is neither YAML nor JSON; the message is one line, with the line where that is known."""


@dataclass(frozen=True, slots=True)
class Manifests:
    """What a text holds, in its order; nothing is known yet of the shape of an object."""

    objects: list[Any]
    is_list: bool
    """Whether it was a List, or several documents."""


def read_manifests(text: str) -> Manifests:
    """Return the objects in `text`; raises ManifestError."""
    try:
        documents = [orjson.loads(text)] if text.lstrip().startswith("{") else _load_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ManifestError(" ".join(str(error).split())) from error
    documents = [document for document in documents if document is not None]
    objects: list[Any] = []
    is_list = len(documents) > 1
    for document in documents:
        items = document.get("items") if isinstance(document, dict) else None
        is_list = is_list or isinstance(items, list)
        objects += items if isinstance(items, list) else [document]
    return Manifests(objects, is_list)


def _load_yaml(text: str) -> list[Any]:
    check_bounds(text)
    return list(yaml.load_all(text, Loader=yaml.CSafeLoader))
