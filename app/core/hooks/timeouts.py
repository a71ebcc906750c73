"""How long a hook that is a script may take: the sum of the limits that the script itself keeps.

Velero ends nothing when a hook's timeout passes (velero v1.18.3, pkg/podexec/pod_command_executor.go), so the script
must be done, with what failed undone, before that.
"""

from app.core.duration import SECOND, parse_go_duration
from app.core.policy import Hooks
from app.core.profiles import Profile, Shell, seconds

Budget = tuple[tuple[str, int], ...]
"""The parts, each with its seconds; Velero's timeout is their sum."""

FREEZER_AUTO_THAW_SECONDS = 300
"""virt-freezer's own default (kubevirt v1.8.4, cmd/virt-freezer/virt-freezer.go)."""

UNDO_SECONDS = 40
"""For the guest to say thawed twice, five seconds apart, after a freeze that failed."""

_QUESTION = 10
"""One question to the guest agent about its file systems."""
_START = 31
"""To start the keeper in the guest, and to read its last status."""
_FINISH = 45
"""To get an answer from the keeper, to tell it to resume, and to read its last status."""
_CALL = 7
"""What a call of virt-probe may take beyond the timeout of its step."""
_MARGIN = 10
_DAY = 24 * 3600


def pre_budget(profile: Profile, hooks: Hooks) -> Budget:
    """Return the parts of the pre hook."""
    quiesce, resume = _steps(profile)
    parts = (
        ("quiesce steps", quiesce),
        ("freeze", whole_seconds(hooks.freeze_timeout)),
        ("questions to the guest agent", 2 * _QUESTION),
        ("undo: thaw", UNDO_SECONDS + 2 * _QUESTION),
        ("undo: resume steps", resume),
        ("margin", _MARGIN),
    )
    return tuple(part for part in parts if part[1])


def post_budget(profile: Profile, hooks: Hooks) -> Budget:
    """Return the parts of the post hook."""
    parts = (
        ("questions to the guest agent", 3 * _QUESTION),
        ("thaw", whole_seconds(hooks.thaw_timeout)),
        ("resume steps", _steps(profile)[1]),
        ("margin", _MARGIN),
    )
    return tuple(part for part in parts if part[1])


def total(budget: Budget) -> int:
    """Return Velero's timeout in seconds."""
    return sum(part for _, part in budget)


def hold_seconds(hooks: Hooks) -> int:
    """Return after how long the dead-man resumes the application: later than a post hook that still finds it frozen."""
    return whole_seconds(hooks.freeze_timeout) + auto_thaw_seconds(hooks) + whole_seconds(hooks.thaw_timeout) + 15


def auto_thaw_seconds(hooks: Hooks) -> int:
    """Return after how long KubeVirt thaws a guest that nobody thawed."""
    return FREEZER_AUTO_THAW_SECONDS if hooks.auto_thaw_seconds is None else hooks.auto_thaw_seconds


def whole_seconds(duration: str) -> int:
    """Return a Go duration in seconds, rounded up; no more than a day, so that a sum of them is one as well."""
    return min(-(-parse_go_duration(duration) // SECOND), _DAY)


def _steps(profile: Profile) -> tuple[int, int]:
    quiesce, resume = seconds(profile.quiesce), seconds(profile.resume)
    if profile.shell is Shell.POWERSHELL:
        return quiesce + _CALL * len(profile.quiesce), resume + _CALL * len(profile.resume)
    runs_in_guest = bool(profile.quiesce or profile.resume)
    return quiesce + _START * runs_in_guest, resume + _FINISH * bool(profile.resume)
