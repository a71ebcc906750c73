"""Durations as Go's time.ParseDuration reads them, which is what Velero does with a hook's timeout.

Python's libraries for it accept more than Go does (days, weeks, blanks); a timeout that Go refuses makes Velero fall
back to its own 30 s (velero v1.18, internal/hook/item_hook_handler.go).
"""

import re
from typing import Final

from app.core.text import quoted

NANOSECONDS: Final = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
SECOND: Final = NANOSECONDS["s"]
_LIMIT: Final = 2**63
_DIGITS: Final = len(str(_LIMIT)) + 1
_TERM = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")


def parse_go_duration(text: str) -> int:
    """Return nanoseconds.

    Raises ValueError with a message for the person who wrote `text`.
    """
    negative, rest = text.startswith("-"), text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    total = position = 0
    while position < len(rest):
        term = _TERM.match(rest, position)
        if term is None or not (term[1] or term[2]):
            break
        unit = NANOSECONDS[term[3]]
        total += _whole(term[1] or "0") * unit + _fraction(term[2] or "", unit)
        position = term.end()
    if not rest or position < len(rest):
        raise ValueError(f"{quoted(text)} is no Go duration; write a number with a unit, such as 90s or 1m30s")
    if total > (_LIMIT if negative else _LIMIT - 1):
        raise ValueError(f"{quoted(text)} is longer than a Go duration can be")
    return -total if negative else total


def _whole(digits: str) -> int:
    """Return a number that may be too large, but never one that takes long to read."""
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) < _DIGITS else _LIMIT


def _fraction(digits: str, unit: int) -> int:
    """Go drops the digits that don't fit 63 bits, and rounds as float64 does."""
    value, scale = 0, 1.0
    for digit in digits:
        if (longer := value * 10 + int(digit)) > _LIMIT:
            break
        value, scale = longer, scale * 10
    return int(value * (unit / scale))
