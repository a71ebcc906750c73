"""Durations as Go's time.ParseDuration reads them, which is what Velero does with a hook's timeout.

Python's libraries for it accept more than Go does (days, weeks, blanks); a timeout that Go refuses makes Velero fall
back to its own 30 s (velero v1.18, internal/hook/item_hook_handler.go).
"""

import re
from typing import Final

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
_MAX: Final = 2**63 - 1
_TERM = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")


def parse_go_duration(text: str) -> int:
    """Return nanoseconds.

    Raises ValueError with a message for the person who wrote `text`.
    """
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total = position = 0
    while position < len(rest):
        term = _TERM.match(rest, position)
        if term is None or not (term[1] or term[2]):
            break
        unit, fraction = NANOSECONDS[term[3]], term[2] or "0"
        total += int(term[1] or "0") * unit + int(fraction) * unit // 10 ** len(fraction)
        position = term.end()
    if not rest or position < len(rest):
        raise ValueError(f"{text!r} is no Go duration; write a number with a unit, such as 90s or 1m30s")
    if total > _MAX:
        raise ValueError(f"{text!r} is longer than a Go duration can be")
    return sign * total
