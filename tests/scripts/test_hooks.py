"""What the hook scripts do, run by the real shell; the tools around them are stand-ins."""

import signal

import pytest

from app.core.annotations import POST, PRE
from app.core.policy import Hooks
from app.core.profiles import Shell
from tests.scripts.conftest import BOTH_CLOCKS, HookRunner

FROZEN = "vm-consistency: frozen\n"
THAWED = "vm-consistency: thawed, was frozen until then\n"


def test_a_freeze_that_is_verified(hooks: HookRunner) -> None:
    before = hooks.pre()
    assert (before.ok, before.out, before.err) == (True, FROZEN, "")
    assert hooks.frozen
    after = hooks.post()
    assert (after.ok, after.out, after.err) == (True, THAWED, "")
    assert hooks.log == ["freeze --unfreezeTimeoutSeconds 3", "thaw"]


@BOTH_CLOCKS
def test_steps_run_around_the_freeze_in_order(hooks: HookRunner) -> None:
    quiesce = {"first": hooks.note("first"), "second": hooks.note("second")}
    resume = {"third": hooks.note("third"), "fourth": hooks.note("fourth")}
    hooks.quick = Hooks("60s", thaw_timeout="60s", auto_thaw_seconds=3)  # no limit passes, however busy the machine is
    hooks.application(quiesce, resume, seconds=60)
    assert hooks.pre().out == FROZEN
    assert hooks.log == ["first", "second", "freeze --unfreezeTimeoutSeconds 3"]
    assert hooks.post().out == THAWED
    assert hooks.log[3:] == ["thaw", "third", "fourth"]
    assert hooks.keeper_ended()


def test_without_resume_steps_nothing_is_left_in_the_guest(hooks: HookRunner) -> None:
    hooks.application({"checkpoint": hooks.note("checkpoint")})
    assert hooks.pre().ok
    assert hooks.keeper_ended()
    assert hooks.post().out == THAWED


def test_steps_run_as_they_are_written(hooks: HookRunner) -> None:
    awkward = f"""x='a "b" $c `d` \\e'
printf '%s\\n' "$x" @RESUME@ é "$VM_CONSISTENCY_HOLD" >>{hooks.guest}/log; echo "$VM_CONSISTENCY_DIR" >/dev/null"""
    hooks.application({"awkward": awkward}, {"undo": "true"})
    assert hooks.pre().ok
    assert hooks.log[:4] == ['a "b" $c `d` \\e', "@RESUME@", "é", "25"]
    assert hooks.post().ok


def test_a_step_that_fails_ends_the_hook_before_the_freeze(hooks: HookRunner) -> None:
    quiesce = {"one": "true", "lock": "echo no such user; exit 3", "never": hooks.note("never")}
    hooks.application(quiesce, {"unlock": hooks.note("unlock")})
    before = hooks.pre()
    assert not before.ok
    assert before.err == "vm-consistency: pre hook failed: quiesce: step lock ended with 3: no such user\n"
    assert hooks.log == ["unlock"]
    assert hooks.keeper_ended()


def test_what_failed_is_undone_when_nobody_listens_any_more(hooks: HookRunner) -> None:
    hooks.application({"lock": hooks.note("lock")}, {"unlock": hooks.note("unlock")}, require_frozen=True)
    hooks.set("freeze-fails")
    process = hooks.start(PRE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    assert not hooks.end_of(process).ok
    assert hooks.log[-1] == "unlock"


def test_a_step_that_takes_too_long_is_ended(hooks: HookRunner) -> None:
    hooks.application({"slow": "sleep 60"}, {"unlock": hooks.note("unlock")}, seconds=1)
    before = hooks.pre()
    assert "step slow ended with 124" in before.err
    assert hooks.log == ["unlock"]


def test_a_freeze_that_fails_is_undone(hooks: HookRunner) -> None:
    hooks.application({"lock": hooks.note("lock")}, {"unlock": hooks.note("unlock")})
    hooks.set("freeze-fails")
    before = hooks.pre()
    assert before.err == "vm-consistency: pre hook failed: freeze: virt-freezer ended with 1: freeze did not work[31m\n"
    assert hooks.log == ["lock", "freeze --unfreezeTimeoutSeconds 3", "thaw", "thaw", "unlock"]


@BOTH_CLOCKS
def test_a_freeze_that_takes_place_after_it_was_given_up_is_undone(hooks: HookRunner) -> None:
    hooks.application({"lock": hooks.note("lock")}, {"unlock": hooks.note("unlock")})
    hooks.set("freeze-hangs")
    started = hooks.clock.now()
    before = hooks.pre()
    assert "virt-freezer ended with 124" in before.err
    assert not hooks.frozen
    assert hooks.clock.now() - started >= 7, "the guest must say thawed twice, 5 s apart"
    assert hooks.log[-1] == "unlock"


@pytest.mark.parametrize("require_frozen", [True, False])
def test_a_freeze_that_did_not_take_place(hooks: HookRunner, require_frozen: bool) -> None:
    hooks.application({"lock": hooks.note("lock")}, {"unlock": hooks.note("unlock")}, require_frozen=require_frozen)
    hooks.set("freeze-lies")
    before = hooks.pre()
    assert before.ok is not require_frozen
    if require_frozen:
        assert before.err.endswith("freeze: the guest does not report frozen\n")
        assert hooks.log[-1] == "unlock"
    else:
        assert before.out == "vm-consistency: not frozen: the guest does not report frozen\n"
        assert hooks.post().out == "vm-consistency: thawed, was not frozen any more\n"


def test_without_an_agent_nothing_was_frozen_and_nothing_is_to_be_thawed(hooks: HookRunner) -> None:
    hooks.set("no-agent")
    before = hooks.pre()
    assert before.err == "vm-consistency: pre hook failed: freeze: virt-freezer froze nothing\n"
    assert "No guest agent" in before.out


def test_without_an_agent_the_application_is_not_quiesced(hooks: HookRunner) -> None:
    hooks.application({"lock": hooks.note("lock")}, {"unlock": "true"})
    hooks.set("no-agent")
    before = hooks.pre()
    assert "no guest agent, or guest-exec is forbidden" in before.err
    assert hooks.log == []


def test_the_post_hook_says_that_the_freeze_had_ended(hooks: HookRunner) -> None:
    assert hooks.pre().ok
    hooks.unset("frozen")
    after = hooks.post()
    assert after.err == "vm-consistency: post hook failed: freeze: the guest was not frozen any more\n"


def test_every_resume_step_runs_even_if_one_fails(hooks: HookRunner) -> None:
    hooks.application({"lock": "true"}, {"bad": "exit 4", "good": hooks.note("good")})
    assert hooks.pre().ok
    after = hooks.post()
    assert not after.ok
    assert "not resumed: bad:4 ended" in after.err
    assert hooks.log[-2:] == ["thaw", "good"]


def test_a_thaw_that_fails_does_not_keep_the_application_from_resuming(hooks: HookRunner) -> None:
    hooks.application({"lock": "true"}, {"unlock": hooks.note("unlock")})
    assert hooks.pre().ok
    hooks.set("thaw-fails")
    hooks.unset("frozen")  # as with VSS, which thaws by itself and then complains
    after = hooks.post()
    assert "thaw: thaw did not work" in after.err
    assert hooks.log[-1] == "unlock"


def test_a_thaw_that_did_not_take_place(hooks: HookRunner) -> None:
    hooks.filesystem(require_frozen=True)
    assert hooks.pre().ok
    hooks.set("thaw-lies")
    assert hooks.post().err == "vm-consistency: post hook failed: thaw: the guest is frozen still\n"


def test_windows_that_let_go_of_the_freeze_is_told_though_the_next_thaw_succeeds(hooks: HookRunner) -> None:
    assert hooks.pre().ok
    hooks.set("thaw-limited")
    after = hooks.post()
    assert after.err == "vm-consistency: post hook failed: thaw: Windows had let go of the freeze before\n"


def test_a_guest_that_is_resumed_while_the_post_hook_runs_is_thawed(hooks: HookRunner) -> None:
    assert hooks.pre().ok
    hooks.set("paused")
    process = hooks.start(POST)
    hooks.clock.sleep(1)
    hooks.unset("paused")
    hooks.end_of(process)
    assert not hooks.frozen


def test_a_guest_that_was_paused_in_the_window_was_not_thawed(hooks: HookRunner) -> None:
    hooks.application({"lock": "true"})
    assert hooks.pre().ok
    hooks.set("paused")
    after = hooks.post()
    assert not after.ok
    assert "VM domain not running" in after.err


def test_a_step_that_leaves_a_process_with_its_output_open_holds_nothing_up(hooks: HookRunner) -> None:
    leave = "setsid sleep 60 & echo left"
    hooks.application({"lock": leave, "more": hooks.note("more")}, {"start": leave, "unlock": hooks.note("unlock")})
    assert hooks.pre().ok
    assert hooks.post().ok
    assert hooks.log == ["more", "freeze --unfreezeTimeoutSeconds 3", "thaw", "unlock"]
    assert hooks.keeper_ended()
    assert hooks.pre().ok, "what is left does not hold the lock"
    assert hooks.post().ok
    assert hooks.processes.running(), "the steps have left none"


def test_a_guest_that_is_slow_to_answer_after_the_thaw_is_asked_again(hooks: HookRunner) -> None:
    hooks.application({"lock": "true"}, {"unlock": hooks.note("unlock")})
    assert hooks.pre().ok
    (hooks.guest / "deaf").write_text("3")
    assert hooks.post().ok
    assert hooks.log[-1] == "unlock"


def test_an_undo_that_gets_no_answer_at_first_asks_again(hooks: HookRunner) -> None:
    hooks.application({"lock": "true"}, {"unlock": hooks.note("unlock")})
    hooks.set("freeze-fails")
    (hooks.bin / "virt-freezer").write_text(
        (hooks.bin / "virt-freezer")
        .read_text()
        .replace('print("freeze did', '(GUEST / "deaf").write_text("3"); print("freeze did')
    )
    assert not hooks.pre().ok
    assert hooks.log[-1] == "unlock"


def test_a_guest_without_flock_is_told_apart_from_another_run(hooks: HookRunner) -> None:
    hooks.application({"lock": hooks.note("lock")})
    (hooks.bin / "flock").write_text("#!/bin/sh\nexit 127\n")
    (hooks.bin / "flock").chmod(0o755)
    assert hooks.pre().err == "vm-consistency: pre hook failed: quiesce: not started: needs flock\n"
    assert hooks.log == []


def test_a_guest_whose_run_is_full_at_the_start_is_not_quiesced(hooks: HookRunner) -> None:
    hooks.application({"lock": hooks.note("lock")}, {"unlock": hooks.note("unlock")})
    (hooks.guest / "run" / "new").mkdir(parents=True)  # stands for it: the status can't be written
    assert hooks.pre().err.endswith("quiesce: not started: can not write to " + str(hooks.guest / "run") + "\n")
    assert hooks.log == []


def test_a_start_that_comes_too_late_starts_nothing(hooks: HookRunner) -> None:
    hooks.application({"lock": hooks.note("lock")}, {"unlock": "true"})
    hooks.set("late")
    assert "not started" in hooks.pre().err
    hooks.clock.until(lambda: not hooks.keeper_ended(), 10, what="the late keeper")
    hooks.clock.until(hooks.keeper_ended, 40, what="it to give up")
    assert hooks.log == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_pre_hook_that_is_told_to_end_undoes(hooks: HookRunner, number: signal.Signals) -> None:
    hooks.application({"lock": hooks.note("lock"), "wait": "sleep 2"}, {"unlock": hooks.note("unlock")})
    process = hooks.start(PRE)
    hooks.clock.until(lambda: "lock" in hooks.log, 20, what="the first step")
    process.send_signal(number)
    ran = hooks.end_of(process)
    assert ran.exit_code == 1
    assert "stopped by a signal" in ran.err
    assert not hooks.frozen
    assert hooks.log[-1] == "unlock"


def test_a_success_that_nobody_hears_is_undone(hooks: HookRunner) -> None:
    hooks.application({"lock": hooks.note("lock")}, {"unlock": hooks.note("unlock")})
    process = hooks.start(PRE)
    assert process.stdout is not None
    process.stdout.close()
    assert "nobody listens" in hooks.end_of(process).err
    assert not hooks.frozen
    assert hooks.log[-1] == "unlock"


def test_a_full_disk_in_the_guest_keeps_no_resume_step_from_running(hooks: HookRunner) -> None:
    """A folder where the keeper can't write stands for a full /run."""
    hooks.application({"lock": "true"}, {"unlock": hooks.note("unlock")})
    assert hooks.pre().ok
    run = hooks.guest / "run"
    (
        run / f"end.{hooks.status.split()[0]}"
    ).touch()  # what the post hook would do; the folder is taken away before the keeper sees it
    for name in ("new", "out", "pipe"):
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()
        (run / name / "in-the-way").touch()
    hooks.unset("frozen")
    hooks.clock.until(lambda: "unlock" in hooks.log, 30, what="the resume step")
    hooks.clock.until(hooks.keeper_ended, 20, what="the keeper to end")


def test_one_backup_after_the_other(hooks: HookRunner) -> None:
    hooks.application({"lock": hooks.note("lock")}, {"unlock": hooks.note("unlock")})
    for _ in range(2):
        assert hooks.pre().ok
        hooks.clock.sleep(1.5)  # in which a keeper that was told to end before would resume
        assert hooks.log[-1].startswith("freeze")
        assert hooks.post().ok
    assert hooks.log.count("unlock") == 2


@BOTH_CLOCKS
def test_a_step_that_ignores_its_end_is_killed(hooks: HookRunner) -> None:
    hooks.application(
        {"stubborn": "trap '' TERM; while :; do sleep 1; done"}, {"unlock": hooks.note("unlock")}, seconds=4
    )
    assert "step stubborn ended with 137" in hooks.pre().err
    assert hooks.log == ["unlock"]


def test_the_keeper_resumes_when_the_service_of_the_agent_is_stopped(hooks: HookRunner) -> None:
    hooks.application({"lock": "true"}, {"unlock": hooks.note("unlock")})
    assert hooks.pre().ok
    hooks.tell_the_keeper(signal.SIGTERM)
    hooks.clock.until(lambda: "unlock" in hooks.log, 10, what="the resume step")
    hooks.clock.until(hooks.keeper_ended, 20, what="the keeper to end")
    assert "nothing was held" in hooks.post().err


@pytest.mark.parametrize("tool", ["virsh", "virt-probe"])
def test_a_tool_that_hangs_holds_nothing_up(hooks: HookRunner, tool: str) -> None:
    hooks.application({"lock": "true"})
    (hooks.bin / tool).write_text("#!/bin/sh\nexec sleep 300\n")
    started = hooks.clock.now()
    before = hooks.pre()
    assert hooks.clock.now() - started < 40
    assert before.ok is (tool == "virsh")


def test_a_post_hook_that_comes_while_the_application_is_being_quiesced_ends_that(hooks: HookRunner) -> None:
    """Velero lost the stream of the pre hook, which goes on, and runs the post hook under Continue."""
    hooks.application({"slow": f"sleep 2; {hooks.note('lock')}"}, {"unlock": hooks.note("unlock")})
    process = hooks.start(PRE)
    hooks.clock.until(lambda: "running slow" in hooks.status, 20, what="the first step")
    after = hooks.post()
    assert "still being quiesced" in after.err
    assert "pre hook failed: quiesce: ended" in hooks.end_of(process).err
    assert not hooks.frozen
    assert hooks.log == ["thaw", "lock", "unlock"]


def test_a_silent_guest_is_not_said_to_have_been_thawed(hooks: HookRunner) -> None:
    hooks.application({"checkpoint": "true"})
    assert hooks.pre().ok
    hooks.set("silent")
    assert hooks.post().out == "vm-consistency: thawed, did not say whether it was frozen\n"


def test_a_guest_that_falls_silent_in_a_step_is_told(hooks: HookRunner) -> None:
    hooks.application({"lock": f"touch {hooks.guest}/silent; sleep 1"}, seconds=1)
    assert hooks.pre().err == "vm-consistency: pre hook failed: quiesce: no answer from the guest\n"


def test_the_dead_man_resumes_when_the_post_hook_never_comes(hooks: HookRunner) -> None:
    hooks.quick = type(hooks.quick)(freeze_timeout="1s", thaw_timeout="1s", auto_thaw_seconds=1)
    hooks.application({"lock": "true"}, {"unlock": hooks.note("unlock")})
    assert hooks.pre().ok
    hooks.clock.until(lambda: "unlock" in hooks.log, 30, what="the dead-man")
    hooks.clock.until(hooks.keeper_ended, 20, what="the keeper to end")
    after = hooks.post()
    assert "its time was up" in after.err
    assert hooks.log.count("unlock") == 1


def test_a_second_run_leaves_the_first_alone(hooks: HookRunner) -> None:
    hooks.application({"lock": hooks.note("lock")}, {"unlock": hooks.note("unlock")})
    assert hooks.pre().ok
    second = hooks.pre()
    assert second.err == (
        "vm-consistency: pre hook failed: the guest is frozen already: another backup or snapshot is at work\n"
    )
    hooks.unset("frozen")  # the safety timer has thawed the guest, the application is still held
    third = hooks.pre()
    assert "another run holds the application" in third.err
    assert hooks.log == ["lock", "freeze --unfreezeTimeoutSeconds 3"]
    assert hooks.post().ok
    assert hooks.log[-1] == "unlock"


def test_two_runs_at_once_quiesce_once(hooks: HookRunner) -> None:
    hooks.application({"lock": f"sleep 1; {hooks.note('lock')}"}, {"unlock": hooks.note("unlock")})
    both = [hooks.start(PRE), hooks.start(PRE)]
    assert sorted(hooks.end_of(process).exit_code for process in both) == [0, 1]
    assert hooks.log.count("lock") == 1
    assert hooks.post().ok


def test_a_post_hook_that_comes_twice_or_alone_says_so(hooks: HookRunner) -> None:
    hooks.application({"lock": "true"}, {"unlock": hooks.note("unlock")})
    assert "nothing was held" in hooks.post().err
    assert hooks.pre().ok
    assert hooks.post().ok
    assert "nothing was held" in hooks.post().err
    assert hooks.log.count("unlock") == 1


def test_powershell_steps(hooks: HookRunner) -> None:
    hooks.application({"check": hooks.note("check")}, {"undo": hooks.note("undo")}, shell=Shell.POWERSHELL)
    assert hooks.pre().ok
    assert hooks.post().ok
    assert hooks.log == ["check", "freeze --unfreezeTimeoutSeconds 3", "thaw", "undo"]

    hooks.application({"check": "echo writers failed; exit 5"}, {"undo": hooks.note("undone")}, shell=Shell.POWERSHELL)
    assert hooks.pre().err == "vm-consistency: pre hook failed: step check ended with 5: writers failed\n"
    assert hooks.log[-1] == "undone"
