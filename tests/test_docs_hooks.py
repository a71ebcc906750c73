"""What the page for backup administrators says of hooks and no other test shows; the tools are stand-ins."""

import re
import shutil
import signal
from pathlib import Path

import pytest

from app.core.evidence.hook_output import Known, read_post_hook, read_pre_hook
from tests.scripts.conftest import HookRunner, hooks, real_time

__all__ = ["hooks", "real_time"]

PAGE = (Path(__file__).parents[1] / "docs" / "backup-administrators.md").read_text()


@pytest.mark.parametrize("require_frozen", [True, False])
@pytest.mark.parametrize("resume", [True, False])
def test_two_backups_at_once_under_continue(hooks: HookRunner, resume: bool, require_frozen: bool) -> None:
    steps = {"unlock": hooks.note("unlock")} if resume else {}
    hooks.application({"lock": hooks.note("lock")}, steps, require_frozen=require_frozen)

    assert hooks.pre().ok
    second = hooks.pre()
    second_post = hooks.post()  # Velero runs it although the pre hook failed
    first_post = hooks.post()

    assert not second.ok
    assert second_post.ok
    assert not hooks.frozen
    assert hooks.log == ["lock", "freeze --unfreezeTimeoutSeconds 3", "thaw"] + resume * ["unlock"] + ["thaw"]
    assert first_post.ok is not (resume or require_frozen)
    if first_post.ok:
        assert first_post.out == "vm-consistency: thawed, was not frozen any more\n"
    assert read_pre_hook(second.out, second.err, failed=True).frozen is Known.NO
    first = read_post_hook(first_post.out, first_post.err, failed=not first_post.ok)
    assert first.held is (Known.NO if require_frozen or not resume else Known.UNKNOWN)


def test_a_paused_guest_fails_where_a_freeze_is_required(hooks: HookRunner) -> None:
    hooks.filesystem(require_frozen=True)
    hooks.set("paused")
    assert hooks.pre().err == "vm-consistency: pre hook failed: freeze: virt-freezer froze nothing\n"


def test_a_paused_guest_is_not_quiesced(hooks: HookRunner) -> None:
    hooks.application({"lock": hooks.note("lock")}, {"unlock": hooks.note("unlock")})
    hooks.set("paused")
    assert "no guest agent, or guest-exec is forbidden" in hooks.pre().err
    assert hooks.log == []


@pytest.mark.parametrize("require_frozen", [True, False])
def test_just_booted_kubevirt_has_not_heard_of_the_agent(hooks: HookRunner, require_frozen: bool) -> None:
    hooks.application({"lock": hooks.note("lock")}, {"unlock": hooks.note("unlock")}, require_frozen=require_frozen)
    (hooks.bin / "virt-freezer").write_text(
        """#!/bin/sh\necho '{"component":"freezer","msg":"No guest agent, exiting"}'\n"""
    )
    before = hooks.pre()
    assert before.ok is not require_frozen
    if require_frozen:
        assert hooks.log == ["lock", "unlock"]
    else:
        assert before.out.endswith("vm-consistency: not frozen: virt-freezer froze nothing\n")
        assert hooks.post().ok


def test_a_keeper_that_is_stopped_resumes_the_application(hooks: HookRunner) -> None:
    hooks.application({"lock": "true"}, {"unlock": hooks.note("unlock")})
    assert hooks.pre().ok
    hooks.tell_the_keeper(signal.SIGTERM)
    hooks.clock.until(hooks.keeper_ended, 30, what="the keeper to end")
    assert hooks.log[-1] == "unlock"
    hooks.unset("frozen")
    assert "post hook failed: nothing was held: " in hooks.post().err


def test_the_tools_of_the_page_are_all_that_a_linux_guest_needs(hooks: HookRunner, tmp_path: Path) -> None:
    [sentence] = re.findall(r"A Linux guest with `application` needs ([^.]*?), besides", PAGE)
    tools, probe, real = tmp_path / "tools", hooks.bin / "virt-probe", tmp_path / "real"
    for folder in (tools, real):
        folder.mkdir()
    for tool in re.findall(r"`(\w+)`", sentence):
        (tools / tool).symlink_to(str(shutil.which(tool, path=hooks.environment["PATH"])))
    probe.rename(real / "virt-probe")
    probe.write_text(f'#!/bin/sh\nPATH={tools} exec {real}/virt-probe "$@"\n')
    probe.chmod(0o755)

    hooks.application({"lock": hooks.note("lock")}, {"unlock": hooks.note("unlock")})
    assert hooks.pre().out == "vm-consistency: frozen\n"
    assert hooks.post().out == "vm-consistency: thawed, was frozen until then\n"
    assert hooks.log == ["lock", "freeze --unfreezeTimeoutSeconds 3", "thaw", "unlock"]
    hooks.application({"bad": "echo why; false"})
    assert hooks.pre().err == "vm-consistency: pre hook failed: quiesce: step bad ended with 1: why\n"
