"""A limit to what YAML may ask of us, checked before it is composed.

PyYAML composes as deep as the text goes, on the C stack, where an overflow ends the process; libyaml takes a minute for
a hundred thousand nested brackets (PyYAML 6.0.3).
"""

from typing import Any

import yaml

MAX_DEPTH = 64
"""Deeper than any Kubernetes object."""


class OutOfBounds(ValueError):  # noqa: N818 - a property of the text
    """The text goes too deep, or has too many values; `line` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def check_bounds(text: str, *, depth: int = MAX_DEPTH, nodes: int | None = None) -> None:
    """Raise OutOfBounds where `text` exceeds the limits, and yaml.YAMLError where it is no YAML."""
    level = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.CSafeLoader)):
        level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if level > depth:
            raise OutOfBounds(f"nested more than {depth} levels deep", line_of(event.start_mark))
        if nodes is not None and count > nodes:
            raise OutOfBounds(f"more than {nodes} values", line_of(event.start_mark))


def line_of(mark: Any) -> int:
    """Return the line of PyYAML's mark, of which its C and its Python half have one each, or none: then 0."""
    return int(mark.line) + 1 if mark else 0
