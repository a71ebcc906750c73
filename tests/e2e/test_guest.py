"""The real virt-freezer and virt-probe against real guests, without Kubernetes: what the hooks are built on."""

import json
import shlex
import time
from base64 import b64encode
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.infra.controlplane.waiting import wait_for
from tests.infra.guests.compute import Compute, Done
from tests.infra.guests.domain import Agent
from tests.infra.guests.guest import Event, Guest, GuestError
from tests.infra.guests.hypervisor import Hypervisor


@pytest.fixture(scope="module")
def started(hypervisor: Hypervisor) -> Iterator[dict[str, Guest]]:
    guests = {
        "db": hypervisor.start("tools", "db"),
        "none": hypervisor.start("tools", "none", agent=Agent.NONE),
        "rhel": hypervisor.start("tools", "rhel", agent=Agent.BLOCK_EXEC),
    }
    yield guests
    for guest in guests.values():
        guest.close()


@pytest.fixture
def guest(started: dict[str, Guest]) -> Guest:
    """A guest with PostgreSQL and an agent that is out of the box."""
    return started["db"].wait_agent()


@pytest.fixture
def compute(guest: Guest, hypervisor: Hypervisor) -> Compute:
    return Compute(guest, hypervisor.environment)


def messages(done: Done) -> list[str]:
    """What virt-freezer logged."""
    return [json.loads(line)["msg"] for line in done.stderr.splitlines()]


def calls(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.call, event.state) for event in events]


def test_freeze_and_thaw_reach_the_guest(guest: Guest, compute: Compute) -> None:
    before = len(guest.events())

    assert compute.freeze().exit_code == 0
    assert guest.frozen()
    assert compute.thaw().exit_code == 0
    assert not guest.frozen()

    asked = ("status", "sent"), ("status", "done")
    expected = [*asked, ("freeze", "sent"), ("freeze", "done"), *asked, ("thaw", "sent"), ("thaw", "done")]
    assert calls(guest.events()[before:]) == expected


def test_writes_wait_while_frozen_and_go_on_after_the_thaw(guest: Guest, compute: Compute) -> None:
    ticking = "while sleep 0.1; do cut -d' ' -f1 /proc/uptime >>/data/ticks; done"
    guest.must_run(f"setsid sh -c {shlex.quote(ticking)} </dev/null >/dev/null 2>&1 & echo $! >/run/ticking")
    guest.must_run("until [ -s /data/ticks ]; do sleep 0.1; done")
    compute.freeze()
    time.sleep(2)  # the window
    compute.thaw()
    guest.must_run("n=$(wc -l </data/ticks); while [ $(wc -l </data/ticks) -lt $((n + 3)) ]; do sleep 0.1; done")
    ticks = [float(line) for line in guest.must_run("kill $(cat /run/ticking); cat /data/ticks").split()]
    assert 2 < max(later - earlier for earlier, later in pairwise(ticks)) < 5


def test_freezing_a_frozen_guest_succeeds_and_starts_no_new_timer(guest: Guest, compute: Compute) -> None:
    before = len(guest.events())
    assert compute.freeze("--unfreezeTimeoutSeconds", "3").exit_code == 0
    assert compute.freeze("--unfreezeTimeoutSeconds", "60").exit_code == 0

    wait_for(lambda: not guest.frozen() or None, what="the thaw by the first timer", timeout=10)
    assert [call for call, state in calls(guest.events()[before:]) if state == "sent" and call != "status"] == [
        "freeze",
        "thaw",
    ]


def test_the_safety_timer_thaws_after_the_seconds_asked_for(guest: Guest, compute: Compute) -> None:
    before = len(guest.events())
    compute.freeze("--unfreezeTimeoutSeconds", "4")
    wait_for(lambda: not guest.frozen() or None, what="the thaw by the timer", timeout=15)

    events = {(event.call, event.state): event.at for event in guest.events()[before:]}
    held = (events["safety-timer", "done"] - events["freeze", "done"]).total_seconds()
    assert 3.9 < held < 6
    again = compute.thaw()
    assert (again.exit_code, messages(again)[-1]) == (0, "Operation completed successfully")


def test_exit_code_and_output_of_a_command_in_the_guest(compute: Compute) -> None:
    script = b64encode(b'echo "quotes \\ and"; echo lines; exit 7').decode()
    done = compute.probe("/bin/sh", "-c", f"echo {script}|base64 -d|sh")
    assert (done.exit_code, done.stdout) == (7, "quotes \\ and\nlines\n\n")


def test_a_quote_breaks_the_request(guest: Guest, compute: Compute) -> None:
    before = len(guest.events())
    assert compute.probe("/bin/sh", "-c", 'echo "x"').exit_code == 2
    assert calls(guest.events()[before:]) == [("malformed", "sent"), ("malformed", "failed")]


def test_a_command_killed_by_a_signal_looks_like_success(compute: Compute) -> None:
    assert compute.probe("/bin/sh", "-c", "kill -9 $$").exit_code == 0


def test_a_command_that_takes_too_long_goes_on_in_the_guest(guest: Guest, compute: Compute) -> None:
    done = compute.probe("/bin/sh", "-c", "sleep 3; touch /run/late", seconds=1)
    assert done.exit_code == 2
    assert "Timed out waiting for guest pid" in done.stderr
    wait_for(lambda: guest.run("rm /run/late").exit_code == 0 or None, what="the end of the command", timeout=10)


def test_guest_exec_is_refused_while_frozen(guest: Guest, compute: Compute) -> None:
    compute.freeze()
    try:
        refused = compute.probe("/bin/true")
        with pytest.raises(GuestError, match="the agent is in frozen state"):
            guest.run("true")
    finally:
        compute.thaw()
    assert refused.exit_code == 2
    assert "the agent is in frozen state" in refused.stderr


def test_virsh_finds_the_domain_without_options(guest: Guest, compute: Compute) -> None:
    asked = compute.run("virsh", "-q", "qemu-agent-command", guest.domain, '{"execute":"guest-fsfreeze-status"}')
    assert (asked.exit_code, asked.stdout.strip()) == (0, '{"return":"thawed"}')


def test_a_failing_freeze_hook_fails_the_freeze(guest: Guest, compute: Compute) -> None:
    guest.on_freeze("exit 1")
    failed = compute.freeze()
    guest.on_freeze("")
    assert (failed.exit_code, guest.frozen()) == (1, False)
    assert "Freezing VMI failed" in messages(failed)


def test_a_paused_guest_is_not_frozen_and_exit_code_0_does_not_tell(guest: Guest, compute: Compute) -> None:
    before = len(guest.events())
    guest.pause()
    try:
        done = compute.freeze()
    finally:
        guest.resume()
    assert (done.exit_code, messages(done)[-1]) == (0, "VM domain not running, no need to freeze/unfreeze")
    assert guest.events()[before:] == []


def test_a_safety_timer_that_fires_in_a_pause_thaws_nothing_and_never_fires_again(
    guest: Guest, compute: Compute
) -> None:
    compute.freeze("--unfreezeTimeoutSeconds", "2")
    guest.pause()
    try:
        wait_for(lambda: ("thaw", "failed") in calls(guest.events()) or None, what="the timer")
    finally:
        guest.resume()
    time.sleep(3)
    still = guest.frozen()
    assert (compute.thaw().exit_code, still, guest.frozen()) == (0, True, False)


def test_without_an_agent_exit_code_0_does_not_mean_frozen(started: dict[str, Guest], hypervisor: Hypervisor) -> None:
    guest = started["none"]
    guest.wait_console("ready without an agent")
    done = Compute(guest, hypervisor.environment).freeze()
    assert (done.exit_code, messages(done)) == (0, ["No guest agent, exiting"])
    assert guest.events() == []


def test_guest_exec_forbidden_as_on_rhel(started: dict[str, Guest], hypervisor: Hypervisor) -> None:
    guest = started["rhel"].wait_agent()
    compute = Compute(guest, hypervisor.environment)
    refused = compute.probe("/bin/true")
    assert (refused.exit_code, "has been disabled" in refused.stderr) == (2, True)
    assert compute.freeze().exit_code == 0
    assert guest.frozen()
    assert compute.thaw().exit_code == 0


def test_the_disk_copied_while_frozen_starts_with_every_committed_row(
    guest: Guest, compute: Compute, hypervisor: Hypervisor
) -> None:
    guest.psql("CREATE TABLE rows (n integer PRIMARY KEY)")
    guest.psql("INSERT INTO rows SELECT generate_series(1, 1000)")
    compute.freeze()
    copy = hypervisor.folder / "copy.img"
    compute.run("cp", "--sparse=always", str(guest.data_disk), str(copy))
    compute.thaw()
    guest.psql("INSERT INTO rows VALUES (1001)")

    second = hypervisor.start("restored", "db", data_disk=copy).wait_agent()
    try:
        assert second.psql("SELECT count(*), max(n) FROM rows") == "1000|1000"
        assert "database system was not properly shut down" in second.must_run("cat /data/postgresql/log")
    finally:
        second.close()
