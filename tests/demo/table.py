"""The table of both demos: what each launcher pod ends up with."""

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from app.core.annotations import DECIDED_BY, EFFECTIVE_LEVEL, HOOK_KEYS

Annotations = Mapping[str, str]

HOOK_KEYS_EXPLAINED = (
    "Hook keys: how many of the annotations that Velero reads the pod has as KubeVirt writes it -> after the webhook."
)

_HEADINGS = ("VM", "level", "decided by", "hook keys", "")
_WIDTHS = (15, 11, 17, 26)
"""Of all columns but the last; a whole line fits 80 characters."""


@dataclass(frozen=True)
class Row:
    """One pod: its annotations as they came in and as they are stored, and what the person who asked is told."""

    vm: str
    """NAMESPACE/NAME."""
    before: Annotations
    after: Annotations
    warnings: Sequence[str] = ()

    @property
    def level(self) -> str:
        """As the record on the pod says."""
        return self.after.get(EFFECTIVE_LEVEL, "-")

    @property
    def decided_by(self) -> str:
        """As the record on the pod says."""
        return self.after.get(DECIDED_BY, "-")

    @property
    def change(self) -> str:
        """How many of Velero's keys came in and are stored, and what became of them."""
        before, after = _hooks(self.before), _hooks(self.after)
        counts = {
            "added": len(after.keys() - before.keys()),
            "changed": sum(before[key] != after[key] for key in before.keys() & after.keys()),
            "removed": len(before.keys() - after.keys()),
        }
        told = [f"{count} {what}" for what, count in counts.items() if count]
        return ", ".join([f"{len(before)} -> {len(after)}", *told])


class Table:
    """Prints sections of rows as they come, each with its warnings below it, numbered."""

    def __init__(self, out: TextIO = sys.stdout, *, verbose: bool = False) -> None:
        """`verbose`: print the hook annotations of every pod as well."""
        self._out, self._verbose = out, verbose
        self._colour = out.isatty() and not os.environ.get("NO_COLOR")
        self._width = max(80, min(120, shutil.get_terminal_size((100, 24)).columns))
        self._notes: list[str] = []
        self._has_headings = False

    def say(self, text: str, *, bold: bool = False, indent: str = "") -> None:
        """Print a paragraph, wrapped to the terminal; `indent` stands before its first line."""
        rest = " " * len(indent)
        for line in textwrap.wrap(
            text,
            self._width,
            initial_indent=indent,
            subsequent_indent=rest,
            break_long_words=False,
            break_on_hyphens=False,
        ):
            self._print(line, bold=bold)

    def paragraph(self, text: str) -> None:
        """Print a paragraph below an empty line."""
        self._print("")
        self.say(text)

    def section(self, title: str, rows: Sequence[Row]) -> None:
        """Print rows below a title."""
        if not self._has_headings:
            self._print("")
            self._line(_HEADINGS)
            self._has_headings = True
        self._print("")
        self.say(title, bold=True)
        told: list[int] = []
        for row in rows:
            numbers = [self._number(warning) for warning in row.warnings]
            told += [number for number in numbers if number not in told]
            self._line((row.vm, row.level, row.decided_by, row.change, " ".join(f"[{number}]" for number in numbers)))
            if self._verbose:
                self._annotations(row)
        for number in told:
            self.say(f"Warning: {self._notes[number - 1]}", indent=f"  [{number}] ")

    def _number(self, warning: str) -> int:
        if warning not in self._notes:
            self._notes.append(warning)
        return self._notes.index(warning) + 1

    def _annotations(self, row: Row) -> None:
        for key, value in sorted(_hooks(row.after).items(), reverse=True):
            self._print(f"    {key}: {value}")

    def _line(self, cells: Sequence[str]) -> None:
        padded = [cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=False)]
        self._print("  ".join([*padded, cells[-1]]).rstrip())

    def _print(self, line: str, *, bold: bool = False) -> None:
        print(f"\x1b[1m{line}\x1b[0m" if bold and self._colour else line, file=self._out, flush=True)


def _hooks(annotations: Annotations) -> dict[str, str]:
    return {key: annotations[key] for key in HOOK_KEYS if key in annotations}
