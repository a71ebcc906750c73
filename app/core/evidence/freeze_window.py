"""What the pre and the post hook of a VM prove together: was its guest frozen while its disks were copied?"""

import re
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from app.core.evidence.hook_log import HookRun
from app.core.evidence.hook_output import FreezeReading, Known, ThawReading, read_post_hook, read_pre_hook
from app.core.evidence.velero_hooks import Phase
from app.core.hooks.timeouts import FREEZER_AUTO_THAW_SECONDS
from app.core.text import shown

# Of virt-freezer, and of our script pre.sh, after namespace, VM, virt-freezer's path and whether frozen is required.
_AUTO_THAW = re.compile(r"--unfreezeTimeoutSeconds[ =](\d{1,9})\b")
_SCRIPT_AUTO_THAW = re.compile(r"\svm-consistency \S+ \S+ \S+ (?:require|-) \d{1,9} (\d{1,9})\b")
_ONE_OF_SEVERAL = "several hooks ran at once and one of them failed; Velero does not say which"
_NO_TIMES = "frozen, but the log does not say for how long"
_RESOLUTION = 1.0  # Velero's log has whole seconds


class Achieved(StrEnum):
    """What a backup holds of a VM."""

    FROZEN = "frozen"
    NOT_FROZEN = "not frozen"
    UNKNOWN = "unknown"
    NOT_RUNNING = "not running"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`verified`: whether the guest itself said frozen, after the freeze and again before the thaw.

    Without that, `FROZEN` rests on virt-freezer: the guest agent carried out the freeze, the guest was thawed at the
    end, and the time between is shorter than KubeVirt's automatic thaw. `seconds`: from the end of the pre hook to the
    start of the post hook.
    """

    achieved: Achieved
    why: str = ""
    verified: bool = False
    seconds: float | None = None


def judge(pre: HookRun, post: HookRun | None) -> Outcome:
    """Judge one pod's hooks."""
    if pre.doubtful:
        return Outcome(Achieved.UNKNOWN, _ONE_OF_SEVERAL)
    reading = read_pre_hook(pre.stdout or "", pre.stderr or "", failed=pre.error is not None)
    if pre.error is not None:
        return _failed_freeze(pre, reading)
    if reading.frozen is not Known.YES:
        achieved = Achieved.NOT_FROZEN if reading.frozen is Known.NO else Achieved.UNKNOWN
        return Outcome(achieved, shown(reading.why))
    if post is None:
        return Outcome(Achieved.UNKNOWN, "frozen, but no post hook ran: when the guest was thawed is not known")
    return replace(_held(pre, post, reading), seconds=_seconds(pre.ended, post.started))


def failure_of(run: HookRun) -> str:
    """Why a hook failed: what it says itself, else what Velero says."""
    stdout, stderr = run.stdout or "", run.stderr or ""
    if not (stdout or stderr).strip():
        return shown(run.error or "")
    read = read_pre_hook if run.phase is Phase.PRE else read_post_hook
    return shown(read(stdout, stderr, failed=True).why)


def _failed_freeze(pre: HookRun, reading: FreezeReading) -> Outcome:
    achieved = Achieved.NOT_FROZEN if reading.frozen is Known.NO else Achieved.UNKNOWN
    if pre.ended is None:
        return Outcome(achieved, f"the pre hook {shown(pre.error or '')}: Velero does not end it, nor know what it did")
    return Outcome(achieved, failure_of(pre))


def _held(pre: HookRun, post: HookRun, frozen: FreezeReading) -> Outcome:
    """Whether the freeze lasted until the post hook."""
    if post.doubtful:
        return Outcome(Achieved.UNKNOWN, _ONE_OF_SEVERAL)
    reading = read_post_hook(post.stdout or "", post.stderr or "", failed=post.error is not None)
    if post.error is not None:
        return Outcome(Achieved.NOT_FROZEN if reading.held is Known.NO else Achieved.UNKNOWN, failure_of(post))
    if reading.held is Known.YES:
        return _by_the_guest(pre, post, frozen, reading)
    if reading.held is Known.NO:
        return Outcome(Achieved.NOT_FROZEN, f"not to the end: {shown(reading.why)}")
    if reading.thawed is not Known.YES:
        return Outcome(Achieved.UNKNOWN, f"frozen, but at the thaw: {shown(reading.why)}")
    return _by_the_clock(pre, post)


def _by_the_guest(pre: HookRun, post: HookRun, frozen: FreezeReading, thaw: ThawReading) -> Outcome:
    """Where the automatic thaw must have come, it can only be another backup that froze what the post hook found."""
    limit, shortest = auto_thaw(pre.command), _seconds(pre.ended, post.started)
    if limit and shortest is None:
        return Outcome(Achieved.UNKNOWN, _NO_TIMES)
    if limit and shortest is not None and shortest - _RESOLUTION > limit:
        why = f"KubeVirt thaws it after {limit} s, and the post hook found it frozen after {shortest:.0f} s"
        return Outcome(Achieved.UNKNOWN, f"{why}: that may be the freeze of another backup")
    why = "" if thaw.thawed is Known.YES else f"at the thaw: {shown(thaw.why)}"
    return Outcome(Achieved.FROZEN, why, verified=frozen.verified)


def _by_the_clock(pre: HookRun, post: HookRun) -> Outcome:
    """virt-freezer thaws a guest that is thawed already without a word, so the automatic thaw must not have come."""
    limit = auto_thaw(pre.command)
    if limit == 0:
        return Outcome(Achieved.FROZEN)
    shortest, longest = _seconds(pre.ended, post.started), _seconds(pre.started, post.started)
    if shortest is None or longest is None:
        return Outcome(Achieved.UNKNOWN, _NO_TIMES)
    if longest + _RESOLUTION <= limit:
        return Outcome(Achieved.FROZEN)
    if shortest - _RESOLUTION > limit:
        why = f"not to the end: KubeVirt thawed it after {limit} s, the post hook came after {shortest:.0f} s"
        return Outcome(Achieved.NOT_FROZEN, why)
    return Outcome(Achieved.UNKNOWN, f"frozen, but KubeVirt thawed it after {limit} s, about when the post hook came")


def auto_thaw(command: str) -> int:
    """Seconds after which KubeVirt thaws what a pre hook with this command froze; 0: never."""
    found = _SCRIPT_AUTO_THAW.search(command) or _AUTO_THAW.search(command)
    return int(found[1]) if found else FREEZER_AUTO_THAW_SECONDS


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    return (end - start).total_seconds() if start and end else None
