"""The clock that skips waits tells a shell the same as the time of the machine, but for how long it takes."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.infra.controlplane.waiting import wait_for
from tests.scripts.conftest import BOTH_CLOCKS, HookRunner, time_can_be_skipped

skips_time = pytest.mark.skipif(not time_can_be_skipped(), reason="this machine has another timeout, or no wchan")

Shell = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def shell(hooks: HookRunner, tmp_path: Path) -> Iterator[Shell]:
    """Starts code as a hook would be started."""
    started = []

    def start(code: str) -> subprocess.Popen[str]:
        command = ["/bin/bash", "-c", code]
        process = subprocess.Popen(command, env=hooks.environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    hooks.processes.kill()
    for process in started:
        process.communicate()


@BOTH_CLOCKS
def test_waits_and_limits(hooks: HookRunner, shell: Shell) -> None:
    code = """
    timeout 60 true; echo $?
    timeout 60 sh -c 'exit 3'; echo $?
    timeout 1 sleep 60; echo $?
    timeout -k 1 3 sh -c 'trap "" TERM; while :; do sleep 0.2; done'; echo $?
    timeout 60 sh -c 'kill -9 $$'; echo $?
    sleep 60 & kill $!; wait $!; echo $?
    before=$SECONDS; sleep 2.1; [ $((SECONDS - before)) -ge 2 ]; echo $?
    """
    started = hooks.clock.now()
    ran = hooks.end_of(shell(code))
    assert ran.out.split() == ["0", "3", "124", "137", "137", "143", "0"]
    assert hooks.clock.now() - started >= 1 + 4 + 2.1


@skips_time
def test_a_test_waits_for_what_happens_meanwhile(hooks: HookRunner, shell: Shell, tmp_path: Path) -> None:
    process = shell("sleep 1; touch one; sleep 60; touch two")
    hooks.clock.sleep(2)
    assert (tmp_path / "one").exists()
    assert process.poll() is None
    assert not (tmp_path / "two").exists()


@skips_time
@pytest.mark.parametrize(
    "work",
    [
        pytest.param("while [ $n -lt 300000 ]; do n=$((n + 1)); done", id="one-process"),
        pytest.param("while [ $n -lt 500 ]; do touch a; mv a b; rm b; n=$((n + 1)); done", id="many-short-ones"),
        pytest.param("dd if=/dev/zero bs=1M count=300 | cat | cat >/dev/null", id="a-pipeline"),
    ],
)
def test_no_time_passes_while_something_computes(hooks: HookRunner, shell: Shell, work: str) -> None:
    ran = hooks.end_of(shell(f"sleep 3 >/dev/null & timeout 1 sh -c 'n=0; {work}'; echo $? $SECONDS"))
    assert ran.out == "0 0\n"
    assert hooks.clock.now() == 0


@skips_time
def test_what_waits_for_ever_is_told_at_once(hooks: HookRunner, shell: Shell) -> None:
    process = shell("mkfifo pipe; read -r line <pipe")
    with pytest.raises(TimeoutError, match="waited 120 s for the hook"):
        hooks.end_of(process)


@skips_time
def test_a_hook_is_given_up_when_its_waits_are_too_long(hooks: HookRunner, shell: Shell) -> None:
    process = shell("sleep 300")
    with pytest.raises(TimeoutError, match="waited 120 s for the hook"):
        hooks.end_of(process)


def test_nothing_is_left_when_a_test_ends(hooks: HookRunner, shell: Shell) -> None:
    shell("sleep 300 & setsid sleep 300")
    hooks.clock.sleep(1)
    assert len(hooks.processes.running()) == 3
    hooks.end()
    wait_for(lambda: not hooks.processes.running(), 10, what="their end")
