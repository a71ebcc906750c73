"""What the output of a backup hook proves: our own lines, and those of KubeVirt's virt-freezer.

An exit code of 0 proves nothing: virt-freezer ends so where there is no guest agent, and where the guest is not
running (kubevirt v1.8.4, cmd/virt-freezer/virt-freezer.go). Whoever writes the hook of a pod can also write what it
prints; a guest can't, the hook scripts keep what it says within lines of their own.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from app.core.text import one_line

OWN: Final = "vm-consistency: "
"""Begins every line of our scripts: the last one on stdout after success, one on stderr after a failure."""

FROZEN: Final = "frozen"
NOT_FROZEN: Final = "not frozen: "
THAWED: Final = "thawed"
HELD: Final = "thawed, was frozen until then"
RELEASED: Final = "thawed, was not frozen any more"

MAX_LINES: Final = 200
MAX_CHARS: Final = 64 * 1024
"""Of one stream; what is longer is read as far as that."""

_WAS_OVER = RELEASED.removeprefix("thawed, ")
_AGENT_MISSING = "No guest agent"
_NOT_RUNNING = "VM domain not running"
_SUCCESS = frozenset({"Operation completed successfully", "Exiting..."})
"""The second one is of KubeVirt before 1.6."""
_VSS_LIMIT = "fsfreeze is limited"
_LATE = ("DeadlineExceeded", "deadline exceeded")


class Known(StrEnum):
    """An answer, as far as there is one."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class FreezeReading:
    """What a pre hook tells.

    `frozen`: whether this hook left the guest frozen, so that a snapshot is covered. `verified`: whether the guest
    itself said so when it was asked after the freeze; virt-freezer only hands on that the guest agent carried out a
    command. `why`: the evidence, one line.
    """

    frozen: Known
    verified: bool
    why: str


@dataclass(frozen=True, slots=True)
class ThawReading:
    """What a post hook tells.

    `held`: whether the guest was still frozen when the thaw began; only our scripts say that. `thawed`: whether it was
    thawed when the hook ended. `why`: the evidence, one line.
    """

    held: Known
    thawed: Known
    why: str


def printable_lines(text: str) -> list[str]:
    """Return the lines that are not blank, each fit for a terminal and cut, the last MAX_LINES of them."""
    return [one_line(line) for line in text[:MAX_CHARS].splitlines() if line.strip()][-MAX_LINES:]


def read_pre_hook(stdout: str, stderr: str, *, failed: bool) -> FreezeReading:
    """Read what a pre hook printed; `failed` is whether it ended with another code than 0 or did not end in time."""
    if failed:
        return _failed_freeze(stdout, stderr)
    own, freezer = _own_line(stdout), list(_freezer_lines(stdout, stderr))
    if own == FROZEN:
        return FreezeReading(Known.YES, True, "the guest said frozen when it was asked after the freeze")
    if own is not None and own.startswith(NOT_FROZEN):
        return FreezeReading(Known.NO, False, own)
    if nothing := _nothing_done(freezer):
        return FreezeReading(Known.NO, False, nothing)
    if _succeeded(freezer):
        return FreezeReading(Known.YES, False, "virt-freezer: the guest agent carried out the freeze")
    return FreezeReading(Known.UNKNOWN, False, own or "the hook's output does not tell")


def read_post_hook(stdout: str, stderr: str, *, failed: bool) -> ThawReading:
    """Read what a post hook printed; `failed` as for `read_pre_hook`."""
    if failed:
        return _failed_thaw(stdout, stderr)
    own, freezer = _own_line(stdout), list(_freezer_lines(stdout, stderr))
    held = {HELD: Known.YES, RELEASED: Known.NO}.get(own or "", Known.UNKNOWN)
    if let_go := _let_go(freezer):
        return ThawReading(Known.NO, Known.YES if _succeeded(freezer) else Known.UNKNOWN, let_go)
    if nothing := _nothing_done(freezer):  # frozen before or not, it is as it was
        return ThawReading(held, Known.UNKNOWN, nothing)
    if own is not None and own.startswith(THAWED):
        return ThawReading(held, Known.YES, own)
    if _succeeded(freezer):
        why = "virt-freezer: the guest is thawed; it does not say whether it was still frozen"
        return ThawReading(held, Known.YES, why)
    return ThawReading(held, Known.UNKNOWN, own or "the hook's output does not tell")


def _failed_freeze(stdout: str, stderr: str) -> FreezeReading:
    if own := _own_failure(stderr, "pre"):  # which has undone what it did, or tried
        return FreezeReading(Known.NO, False, own)
    why = _freezer_error(list(_freezer_lines(stdout, stderr)))
    if why is None:
        return FreezeReading(Known.UNKNOWN, False, _last_line(stdout, stderr))
    # virt-launcher goes on with a freeze that virt-freezer does not wait for any more.
    is_late = any(word in why for word in _LATE)
    return FreezeReading(Known.UNKNOWN if is_late else Known.NO, False, why)


def _failed_thaw(stdout: str, stderr: str) -> ThawReading:
    freezer = list(_freezer_lines(stdout, stderr))
    if let_go := _let_go(freezer):
        return ThawReading(Known.NO, Known.UNKNOWN, let_go)
    if own := _own_failure(stderr, "post"):
        return ThawReading(Known.NO if _WAS_OVER in own else Known.UNKNOWN, Known.UNKNOWN, own)
    return ThawReading(Known.UNKNOWN, Known.UNKNOWN, _freezer_error(freezer) or _last_line(stdout, stderr))


def _own_line(stdout: str) -> str | None:
    """Our line is the last one; what comes before it is the output of others."""
    last = printable_lines(stdout)[-1:]
    return last[0].removeprefix(OWN) if last and last[0].startswith(OWN) else None


def _own_failure(stderr: str, phase: str) -> str | None:
    last = printable_lines(stderr)[-1:]
    return last[0].removeprefix(OWN) if last and last[0].startswith(f"{OWN}{phase} hook failed: ") else None


def _freezer_lines(*streams: str) -> Iterator[tuple[str, str, str]]:
    """Level, message and reason of each line of KubeVirt's log that virt-freezer wrote."""
    for line in (line for stream in streams for line in stream[:MAX_CHARS].splitlines()):
        try:
            entry = json.loads(line) if line.startswith("{") else None
        except (ValueError, RecursionError):
            continue  # cut, or no log line
        if isinstance(entry, dict) and entry.get("component") == "freezer":
            level, message, reason = (one_line(str(entry.get(key) or "")) for key in ("level", "msg", "reason"))
            yield level, message, reason


def _nothing_done(lines: list[tuple[str, str, str]]) -> str | None:
    message = lines[-1][1] if lines else ""  # of the last try, where there were several
    return f"virt-freezer did nothing: {message}" if message.startswith((_AGENT_MISSING, _NOT_RUNNING)) else None


def _succeeded(lines: list[tuple[str, str, str]]) -> bool:
    return bool(lines) and lines[-1][0] == "info" and lines[-1][1] in _SUCCESS


def _let_go(lines: list[tuple[str, str, str]]) -> str | None:
    """Windows lets go after 10 s, says frozen all the same when asked, and tells at the first thaw."""
    return next((f"virt-freezer: {message}: {reason}" for _, message, reason in lines if _VSS_LIMIT in reason), None)


def _freezer_error(lines: list[tuple[str, str, str]]) -> str | None:
    errors = [f"{message}: {reason}" if reason else message for level, message, reason in lines if level == "error"]
    return f"virt-freezer: {errors[-1]}" if errors else None


def _last_line(stdout: str, stderr: str) -> str:
    lines = printable_lines(stderr) or printable_lines(stdout)
    return lines[-1] if lines else "the hook printed nothing"
