"""Text of unknown origin, made fit for one line of a log or a terminal."""

import re
from typing import Final

MAX_QUOTED: Final = 60
"""Characters of a quotation; long enough for a DNS label."""
MAX_LINE: Final = 1024
_SUBDOMAIN: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_MAX_SUBDOMAIN: Final = 253
_MAX_SHOWN: Final = 400


def quoted(text: str) -> str:
    """Quote what a user typed: one printable line of ASCII, cut short."""
    literal = ascii(text[:MAX_QUOTED])
    is_whole = len(text) <= MAX_QUOTED and len(literal) <= MAX_QUOTED + 2
    return literal if is_whole else literal[:MAX_QUOTED] + "..."


def one_line(text: str) -> str:
    """Return `text` as one printable line, cut short."""
    line = " ".join(text.split())
    line = line if len(line) <= MAX_LINE else line[: MAX_LINE - 3] + "..."
    return line if line.isprintable() else ascii(line)[1:-1][:MAX_LINE]


def shown(text: str) -> str:
    """Text that a hook or a guest wrote: one line without control characters, cut."""
    text = "".join(character if character.isprintable() else " " for character in text)
    line = one_line(text)
    return line if len(line) <= _MAX_SHOWN else line[: _MAX_SHOWN - 3] + "..."


def is_dns_subdomain(text: str) -> bool:
    """Whether `text` is a DNS-1123 subdomain as Kubernetes has it: 253 characters, but no limit for a part."""
    return len(text) <= _MAX_SUBDOMAIN and _SUBDOMAIN.fullmatch(text) is not None
