"""Text of unknown origin, made fit for one line of a log or a terminal."""

from typing import Final

MAX_QUOTED: Final = 60
"""Characters of a quotation; long enough for a DNS label."""
MAX_LINE: Final = 1024


def quoted(text: str) -> str:
    """Quote what a user typed: one printable line of ASCII, cut short."""
    shown = ascii(text[:MAX_QUOTED])
    is_whole = len(text) <= MAX_QUOTED and len(shown) <= MAX_QUOTED + 2
    return shown if is_whole else shown[:MAX_QUOTED] + "..."


def one_line(text: str) -> str:
    """Return `text` as one printable line, cut short."""
    line = " ".join(text.split())
    line = line if len(line) <= MAX_LINE else line[: MAX_LINE - 3] + "..."
    return line if line.isprintable() else ascii(line)[1:-1][:MAX_LINE]
