"""What two hooks prove together."""

import json
from datetime import timedelta

import pytest

from app.core.annotations import COMMAND, PRE
from app.core.evidence.backup_archive import as_logged
from app.core.evidence.freeze_window import Achieved, auto_thaw, failure_of, judge
from app.core.evidence.hook_log import HookRun
from app.core.evidence.velero_hooks import Phase
from app.core.hooks.render import render_hooks
from app.core.kubevirt_names import UPSTREAM
from app.core.policy import Hooks, Level
from app.core.profiles import NO_STEPS
from app.core.text import shown
from tests.core.evidence.velero_log import AGENT, DONE, EXIT_1, NO_AGENT, PAUSED, START, freezer_line

FROZEN, NOT_FROZEN, UNKNOWN = Achieved.FROZEN, Achieved.NOT_FROZEN, Achieved.UNKNOWN
FREEZE = "[/usr/bin/virt-freezer --freeze --name db --namespace prod]"
VSS = AGENT + freezer_line("Unfreezing VMI failed, please try again", "error", reason="fsfreeze is limited up to 10 s")
MIGRATING = AGENT + freezer_line("Freezing VMI failed", "error", reason="VMI is currently during migration")


def hook(
    phase: Phase,
    *,
    stdout: str = "",
    stderr: str = "",
    error: str | None = None,
    at: tuple[float, float | None] = (0, 0),
    command: str = FREEZE,
) -> HookRun:
    start, end = at
    run = HookRun(phase, command, "annotation", "Continue", "1m0s", START + timedelta(seconds=start), None)
    run.ended = None if end is None else START + timedelta(seconds=end)
    run.stdout, run.stderr, run.error = stdout, stderr, error
    return run


def script(auto_thaw: int | None = None) -> str:
    """The command of a pre hook that this product writes for requireFrozen."""
    hooks = Hooks(require_frozen=True, auto_thaw_seconds=auto_thaw)
    rendered = render_hooks(Level.FILESYSTEM, NO_STEPS, hooks, "prod", "db", UPSTREAM)
    return as_logged(json.loads(rendered[PRE + COMMAND]))


def freeze(stderr: str = DONE, **fields: object) -> HookRun:
    return hook(Phase.PRE, stderr=stderr, **fields)  # type: ignore[arg-type]


def thaw(stderr: str = DONE, **fields: object) -> HookRun:
    return hook(Phase.POST, stderr=stderr, **{"at": (5, 5), **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pre", "post", "achieved", "why"),
    [
        pytest.param(freeze(), thaw(), FROZEN, "", id="virt-freezer"),
        pytest.param(freeze(NO_AGENT), thaw(NO_AGENT), NOT_FROZEN, "No guest agent", id="no-agent"),
        pytest.param(freeze(PAUSED), thaw(PAUSED), NOT_FROZEN, "VM domain not running", id="paused"),
        pytest.param(freeze(AGENT), thaw(), UNKNOWN, "does not tell", id="silent"),
        pytest.param(freeze(), None, UNKNOWN, "no post hook ran", id="no-thaw"),
        pytest.param(freeze(), thaw(NO_AGENT), UNKNOWN, "at the thaw: virt-freezer did nothing", id="agent-died"),
        pytest.param(freeze(), thaw(PAUSED), UNKNOWN, "at the thaw: virt-freezer did nothing", id="paused-meanwhile"),
        pytest.param(freeze(), thaw(""), UNKNOWN, "at the thaw: the hook's output does not tell", id="silent-thaw"),
        pytest.param(freeze(), thaw(VSS, error=EXIT_1), NOT_FROZEN, "fsfreeze is limited", id="windows-let-go"),
        pytest.param(freeze(), thaw("sh: gone", error=EXIT_1), UNKNOWN, "sh: gone", id="thaw-failed"),
        pytest.param(
            freeze(MIGRATING, error=EXIT_1), thaw(), NOT_FROZEN, "Freezing VMI failed: VMI is", id="freeze-failed"
        ),
        pytest.param(
            hook(Phase.PRE, error="timed out after 1m0s", at=(0, None)),
            thaw(),
            UNKNOWN,
            "the pre hook timed out after 1m0s",
            id="freeze-timed-out",
        ),
        pytest.param(
            freeze("", stdout=DONE + "vm-consistency: frozen\n"),
            thaw("", stdout=DONE + "vm-consistency: thawed, was not frozen any more\n"),
            NOT_FROZEN,
            "not to the end",
            id="script-thawed-early",
        ),
        pytest.param(
            freeze("", stdout=DONE + "vm-consistency: frozen\n"),
            thaw(
                "vm-consistency: post hook failed: freeze: the guest was not frozen any more\n",
                stdout=DONE,
                error=EXIT_1,
            ),
            NOT_FROZEN,
            "was not frozen any more",
            id="script-required-more",
        ),
        pytest.param(
            freeze("", stdout=NO_AGENT + "vm-consistency: not frozen: virt-freezer froze nothing\n"),
            thaw("", stdout=NO_AGENT + "vm-consistency: thawed, was not frozen any more\n"),
            NOT_FROZEN,
            "froze nothing",
            id="script-without-agent",
        ),
        pytest.param(
            freeze("vm-consistency: pre hook failed: step checkpoint ended with 2: no\x1b[31m\n", error=EXIT_1),
            None,
            NOT_FROZEN,
            "step checkpoint ended with 2: no",
            id="script-failed",
        ),
    ],
)
def test_outcome(pre: HookRun, post: HookRun | None, achieved: Achieved, why: str) -> None:
    outcome = judge(pre, post)

    assert (outcome.achieved, outcome.verified) == (achieved, False)
    assert why in outcome.why
    assert outcome.why.isprintable()
    assert bool(outcome.why) == bool(why)


@pytest.mark.parametrize(
    ("auto_thaw", "thawed", "achieved"),
    [
        pytest.param(None, 302, FROZEN, id="in-time"),
        pytest.param(None, 303, FROZEN, id="in-time-but-for-a-second"),
        pytest.param(None, 304, UNKNOWN, id="too-late"),
        pytest.param(4000, 3000, FROZEN, id="own-limit"),
        pytest.param(20, 24, UNKNOWN, id="own-limit-too-late"),
    ],
)
def test_the_guest_s_own_word_at_both_ends(auto_thaw: int | None, thawed: float, achieved: Achieved) -> None:
    """After the automatic thaw it can only be another backup's freeze that the post hook found."""
    command = script(auto_thaw)
    pre = freeze("", stdout=DONE + "vm-consistency: frozen\n", at=(0, 2), command=command)
    held = DONE + "vm-consistency: thawed, was frozen until then\n"
    post = thaw("", stdout=held, at=(thawed, thawed + 1), command=command)

    outcome = judge(pre, post)

    assert (outcome.achieved, outcome.verified, outcome.seconds) == (achieved, achieved is FROZEN, thawed - 2)
    assert ("another backup" in outcome.why) == (achieved is UNKNOWN)


def test_the_guest_s_own_word_without_times() -> None:
    pre = freeze("", stdout=DONE + "vm-consistency: frozen\n")
    pre.ended = None

    assert judge(pre, thaw("", stdout="vm-consistency: thawed, was frozen until then\n")).achieved is UNKNOWN


def test_frozen_to_the_end_and_perhaps_beyond() -> None:
    pre = freeze("", stdout=DONE + "vm-consistency: frozen\n")
    post = thaw("", stdout=NO_AGENT + "vm-consistency: thawed, was frozen until then\n")

    outcome = judge(pre, post)

    assert (outcome.achieved, outcome.verified) == (FROZEN, True)
    assert "at the thaw: virt-freezer did nothing: No guest agent" in outcome.why


@pytest.mark.parametrize(
    ("option", "ended", "thawed", "achieved"),
    [
        pytest.param("", 10, 298, FROZEN, id="shorter-whenever-it-began"),
        pytest.param("", 10, 300, UNKNOWN, id="perhaps-shorter"),
        pytest.param("", 10, 311, UNKNOWN, id="by-a-second"),
        pytest.param("", 10, 312, NOT_FROZEN, id="longer-whenever-it-began"),
        pytest.param(" --unfreezeTimeoutSeconds 20", 10, 19, FROZEN, id="own-limit"),
        pytest.param(" --unfreezeTimeoutSeconds 20", 10, 40, NOT_FROZEN, id="own-limit-over"),
        pytest.param(" --unfreezeTimeoutSeconds=600", 10, 400, FROZEN, id="longer-limit"),
        pytest.param(" --unfreezeTimeoutSeconds 0", 10, 4000, FROZEN, id="no-automatic-thaw"),
    ],
)
def test_a_window_is_held_until_the_automatic_thaw(
    option: str, ended: float, thawed: float, achieved: Achieved
) -> None:
    pre = freeze(at=(0, ended), command=FREEZE[:-1] + option + "]")

    outcome = judge(pre, thaw(at=(thawed, thawed)))

    assert (outcome.achieved, outcome.seconds) == (achieved, thawed - ended)
    assert bool(outcome.why) == (achieved is not FROZEN)


def test_without_times() -> None:
    pre = freeze()
    pre.started = None

    outcome = judge(pre, thaw())

    assert (outcome.achieved, outcome.why) == (UNKNOWN, "frozen, but the log does not say for how long")


@pytest.mark.parametrize("doubtful", [Phase.PRE, Phase.POST])
def test_a_hook_that_may_have_failed(doubtful: Phase) -> None:
    pre, post = freeze(), thaw()
    (pre if doubtful is Phase.PRE else post).doubtful = True

    assert judge(pre, post).achieved is UNKNOWN


def test_why_a_hook_failed() -> None:
    assert failure_of(hook(Phase.PRE, error="no route\x07 to host")) == "no route to host"
    assert "during migration" in failure_of(freeze(MIGRATING, error=EXIT_1))
    assert "fsfreeze is limited" in failure_of(thaw(VSS, error=EXIT_1))
    ours = "vm-consistency: post hook failed: nothing was held\n"
    assert failure_of(thaw(ours, error=EXIT_1)) == "post hook failed: nothing was held"


def test_what_a_guest_wrote_is_one_short_printable_line() -> None:
    assert shown("a\x1b[2J\u202eb\r\n\x00c") == "a [2J b c"
    assert len(shown("x" * 5000)) == 400


def test_the_automatic_thaw_of_a_command() -> None:
    assert auto_thaw("[/usr/bin/virt-freezer --freeze --name x]") == 300
    assert auto_thaw("[a --unfreezeTimeoutSeconds 99999999999999999999]") == 300
    assert (auto_thaw(script()), auto_thaw(script(45))) == (300, 45)
