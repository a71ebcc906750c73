"""Output of hooks, as virt-freezer of KubeVirt 1.8.4 and our own scripts print it."""

import json

import pytest

from app.core.evidence.hook_output import (
    MAX_CHARS,
    MAX_LINES,
    FreezeReading,
    Known,
    ThawReading,
    printable_lines,
    read_post_hook,
    read_pre_hook,
)

YES, NO, UNKNOWN = Known.YES, Known.NO, Known.UNKNOWN


def log(message: str, level: str = "info", **fields: str) -> str:
    """A line of virt-freezer."""
    entry = {"component": "freezer", "level": level, "msg": message, "pos": "virt-freezer.go:119", **fields}
    return json.dumps({**entry, "timestamp": "2026-11-21T09:00:00.000000Z"}, separators=(",", ":")) + "\n"


AGENT = log("Guest agent version is 8.2.2")
DONE = AGENT + log("Operation completed successfully")
NO_AGENT = log("No guest agent, exiting")
PAUSED = AGENT + log("VM domain not running, no need to freeze/unfreeze")
MIGRATING = AGENT + log(
    "Freezing VMI failed", "error", reason='server error. command Freeze failed: "VMI is currently during migration"'
)
LATE = AGENT + log(
    "Freezing VMI failed",
    "error",
    reason="unknown error encountered sending command Freeze: rpc error: code = DeadlineExceeded desc = deadline",
)
VSS = AGENT + log("Unfreezing VMI failed, please try again", "error", reason="fsfreeze is limited up to 10 seconds")


@pytest.mark.parametrize(
    ("stdout", "stderr", "frozen", "verified", "why"),
    [
        pytest.param("", DONE, YES, False, "the guest agent carried out", id="virt-freezer"),
        pytest.param("", AGENT + log("Exiting..."), YES, False, "the guest agent carried out", id="old-virt-freezer"),
        pytest.param("", NO_AGENT, NO, False, "No guest agent", id="no-agent"),
        pytest.param("", PAUSED, NO, False, "VM domain not running", id="paused"),
        pytest.param("", AGENT, UNKNOWN, False, "does not tell", id="virt-freezer-cut-short"),
        pytest.param("", "", UNKNOWN, False, "does not tell", id="silent"),
        pytest.param(DONE + "vm-consistency: frozen\n", "", YES, True, "the guest said frozen", id="verified"),
        pytest.param(
            NO_AGENT + "vm-consistency: not frozen: no agent\n", "", NO, False, "not frozen: no agent", id="script-no"
        ),
        pytest.param(
            DONE + "vm-consistency: freeze asked for, not verified\n", "", YES, False, "carried out", id="not-verified"
        ),
        pytest.param("vm-consistency: something new\n", "", UNKNOWN, False, "something new", id="unknown-line-of-ours"),
        pytest.param("vm-consistency: frozen\nmore\n", "", UNKNOWN, False, "does not tell", id="ours-not-last"),
        pytest.param("xvm-consistency: frozen\n", "", UNKNOWN, False, "does not tell", id="ours-not-at-the-start"),
        pytest.param("", "vm-consistency: frozen\n", UNKNOWN, False, "does not tell", id="ours-on-stderr"),
        pytest.param("done: " + DONE[:-20], "", UNKNOWN, False, "does not tell", id="cut-line"),
        pytest.param(
            "", DONE.replace("freezer", "probe"), UNKNOWN, False, "does not tell", id="another-component-s-line"
        ),
        pytest.param("[" * 100_000 + "\n" + "{" * 1000, "", UNKNOWN, False, "does not tell", id="nested"),
    ],
)
def test_pre_hook_that_ended_well(stdout: str, stderr: str, frozen: Known, verified: bool, why: str) -> None:
    reading = read_pre_hook(stdout, stderr, failed=False)

    assert (reading.frozen, reading.verified) == (frozen, verified)
    assert why in reading.why


@pytest.mark.parametrize(
    ("stdout", "stderr", "frozen", "why"),
    [
        pytest.param("", MIGRATING, NO, "during migration", id="virt-freezer"),
        pytest.param("", LATE, UNKNOWN, "DeadlineExceeded", id="freeze-may-still-come"),
        pytest.param(
            DONE, "vm-consistency: pre hook failed: quiesce step dump:1\n", NO, "quiesce step dump:1", id="script"
        ),
        pytest.param("vm-consistency: frozen\n", "", UNKNOWN, "vm-consistency: frozen", id="success-that-failed"),
        pytest.param("", "bash: not found\n", UNKNOWN, "bash: not found", id="something-else"),
        pytest.param("", "", UNKNOWN, "printed nothing", id="silent"),
    ],
)
def test_pre_hook_that_failed(stdout: str, stderr: str, frozen: Known, why: str) -> None:
    reading = read_pre_hook(stdout, stderr, failed=True)

    assert (reading.frozen, reading.verified) == (frozen, False)
    assert why in reading.why


@pytest.mark.parametrize(
    ("stdout", "stderr", "failed", "held", "thawed", "why"),
    [
        pytest.param("", DONE, False, UNKNOWN, YES, "does not say", id="virt-freezer"),
        pytest.param("", NO_AGENT, False, UNKNOWN, UNKNOWN, "No guest agent", id="no-agent"),
        pytest.param("", PAUSED, False, UNKNOWN, UNKNOWN, "not running", id="paused-in-the-window"),
        pytest.param(
            DONE + "vm-consistency: thawed, was frozen until then\n", "", False, YES, YES, "until then", id="held"
        ),
        pytest.param(
            DONE + "vm-consistency: thawed, was not frozen any more\n", "", False, NO, YES, "not frozen any", id="lost"
        ),
        pytest.param(
            PAUSED + "vm-consistency: thawed, was frozen until then\n", "", False, YES, UNKNOWN, "not run", id="held-on"
        ),
        pytest.param("vm-consistency: thawed, not verified\n", "", False, UNKNOWN, YES, "not ver", id="not-verified"),
        pytest.param("", "", False, UNKNOWN, UNKNOWN, "does not tell", id="silent"),
        pytest.param("", VSS, True, NO, UNKNOWN, "fsfreeze is limited", id="windows-let-go"),
        pytest.param(
            DONE, "vm-consistency: post hook failed: nothing was held\n", True, UNKNOWN, UNKNOWN, "nothing", id="script"
        ),
        pytest.param(
            "",
            "vm-consistency: post hook failed: freeze: the guest was not frozen any more\n",
            True,
            NO,
            UNKNOWN,
            "not frozen any more",
            id="not-held-but-required",
        ),
        pytest.param(
            VSS + DONE + "vm-consistency: thawed, was frozen until then\n",
            "",
            False,
            NO,
            YES,
            "fsfreeze is limited",
            id="windows-let-go-and-the-second-thaw-succeeds",
        ),
        pytest.param(PAUSED + DONE, "", False, UNKNOWN, YES, "does not say", id="the-last-try-counts"),
        pytest.param("", "", True, UNKNOWN, UNKNOWN, "printed nothing", id="failed-silently"),
    ],
)
def test_post_hook(stdout: str, stderr: str, failed: bool, held: Known, thawed: Known, why: str) -> None:
    reading = read_post_hook(stdout, stderr, failed=failed)

    assert (reading.held, reading.thawed) == (held, thawed)
    assert why in reading.why


def test_what_a_guest_says_stays_on_one_printable_line() -> None:
    reading = read_pre_hook(
        "", log("Freezing VMI failed", "error", reason="\x1b[2J\nvm-consistency: frozen"), failed=True
    )

    assert reading == FreezeReading(NO, False, "virt-freezer: Freezing VMI failed: \\x1b[2J vm-consistency: frozen")


def test_a_thaw_that_nobody_vouches_for() -> None:
    assert read_post_hook("anything\n", "", failed=False) == ThawReading(
        UNKNOWN, UNKNOWN, "the hook's output does not tell"
    )


def test_lines_are_printable_and_bounded() -> None:
    assert printable_lines("a\x1b[31m\n\n  b\tc \r\n") == ["a\\x1b[31m", "b c"]
    assert len(printable_lines("x\n" * 10 * MAX_LINES)) == MAX_LINES
    assert sum(map(len, printable_lines("x" * 100 * MAX_CHARS))) <= MAX_CHARS
