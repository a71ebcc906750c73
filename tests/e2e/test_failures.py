"""Backups of guests that cannot be frozen, or not in time: told, and nothing stays held."""

from collections.abc import Iterator

import pytest

from app.core.annotations import COMMAND, HOOK_KEYS, POST, PRE
from tests.e2e.conftest import SetHooks
from tests.infra.controlplane import Json, launcher_pod, make_migration, wait_for
from tests.infra.guests.domain import Agent
from tests.infra.guests.guest import Guest
from tests.infra.guests.hypervisor import Hypervisor
from tests.infra.guests.snapshotter import DiskArray
from tests.infra.guests.velero import Velero, hook_counts, phase
from tests.infra.guests.world import World, Worlds
from tests.infra.installation import annotations

IN_TIME = {"timeout": "5s"}


@pytest.fixture(scope="module")
def _guests(hypervisor: Hypervisor) -> Iterator[dict[Agent, Guest]]:
    agents = (Agent.NONE, Agent.BLOCK_EXEC)
    guests = {agent: hypervisor.start(f"agent-{agent}", "db", agent=agent) for agent in agents}
    yield guests
    for guest in guests.values():
        guest.close()  # an idle guest costs a tenth of a processor


@pytest.fixture(scope="module")
def without_agent(_guests: dict[Agent, Guest], worlds: Worlds, velero: Velero) -> World:
    return worlds.around(_guests[Agent.NONE], agent=False)


@pytest.fixture(scope="module")
def without_exec(_guests: dict[Agent, Guest], worlds: Worlds, velero: Velero) -> World:
    return worlds.around(_guests[Agent.BLOCK_EXEC])


@pytest.fixture
def healed(world: World) -> Iterator[World]:
    """A guest whose freeze a test slows down or makes fail."""
    yield world
    wait_for(lambda: not world.guest.frozen(), 30, what="the guest to be thawed")
    world.guest.on_freeze("")


def test_without_an_agent_a_freeze_that_was_not_is_told_only_where_it_is_required(
    without_agent: World, velero: Velero, set_hooks: SetHooks
) -> None:
    without_agent.choose("filesystem")
    backup = velero.backup("no-agent", without_agent.namespace)
    assert (phase(backup), hook_counts(backup)) == ("Completed", (2, 0))
    assert "No guest agent, exiting" in velero.log("no-agent")

    set_hooks(requireFrozen=True)
    without_agent.wait_for_pre_hook("/bin/bash")
    backup = velero.backup("no-agent-required", without_agent.namespace)
    assert (phase(backup), hook_counts(backup)) == ("PartiallyFailed", (2, 2))
    assert "pre hook failed: freeze: virt-freezer froze nothing" in velero.log("no-agent-required")


def test_a_paused_guest_fails_the_backup_where_a_freeze_is_required(
    world: World, velero: Velero, set_hooks: SetHooks
) -> None:
    set_hooks(requireFrozen=True, thaw={"timeout": "3s"})
    world.choose("filesystem")
    world.wait_for_pre_hook("/bin/bash")
    world.guest.pause()
    try:
        backup = velero.backup("paused", world.namespace)
    finally:
        world.guest.resume()

    assert (phase(backup), hook_counts(backup)) == ("PartiallyFailed", (2, 2))
    assert "VM domain not running" in velero.log("paused")


def test_where_guest_exec_is_forbidden_no_step_runs_and_nothing_is_frozen(without_exec: World, velero: Velero) -> None:
    without_exec.choose("application", "marked")

    backup = velero.backup("no-exec", without_exec.namespace)

    assert (phase(backup), hook_counts(backup)) == ("PartiallyFailed", (2, 2))
    assert "pre hook failed: " in velero.log("no-exec")
    assert [event for event in without_exec.guest.events() if event.call == "freeze"] == []

    without_exec.choose("filesystem")
    assert hook_counts(velero.backup("no-exec-filesystem", without_exec.namespace)) == (2, 0)


def test_a_freeze_that_the_guest_refuses_lets_the_application_go_on(healed: World, velero: Velero) -> None:
    healed.choose("application", "marked")
    healed.guest.on_freeze("exit 1")

    backup = velero.backup("refused", healed.namespace)

    assert phase(backup) == "PartiallyFailed"
    assert "pre hook failed: freeze: virt-freezer ended with " in velero.log("refused")
    assert healed.guest.run("test -e /data/held").exit_code != 0


def test_a_freeze_that_comes_after_the_hook_gave_up_is_undone(
    healed: World, velero: Velero, set_hooks: SetHooks
) -> None:
    set_hooks(freeze=IN_TIME, thaw=IN_TIME)
    healed.choose("application", "marked")
    healed.guest.on_freeze("sleep 8")

    backup = velero.backup("late", healed.namespace)

    assert phase(backup) == "PartiallyFailed"
    assert "pre hook failed: freeze: virt-freezer ended with 124" in velero.log("late")
    assert not healed.guest.frozen()
    assert healed.guest.run("test -e /data/held").exit_code != 0


def test_an_agent_that_hangs_for_a_while_costs_the_freeze_and_no_more(
    world: World, velero: Velero, set_hooks: SetHooks
) -> None:
    set_hooks(freeze=IN_TIME, thaw=IN_TIME, requireFrozen=True)
    world.choose("filesystem")
    world.wait_for_pre_hook("/bin/bash")

    world.guest.stop_agent()
    try:
        velero.start_backup("hung", world.namespace)
        wait_for(lambda: world.node.runs("virt-freezer --unfreeze "), 60, what="the hook to give the freeze up")
    finally:
        world.guest.continue_agent()
    backup = velero.ended_backup("hung")

    assert phase(backup) == "PartiallyFailed"
    assert "pre hook failed: freeze: " in velero.log("hung")
    wait_for(world.guest.answers, 60, what="the agent to answer again")
    assert not world.guest.frozen()


def test_a_second_backup_in_the_window_fails_and_undoes_nothing(world: World, velero: Velero, array: DiskArray) -> None:
    world.choose("application", "marked")
    pre = world.hook(PRE)
    with array.held():
        velero.start_backup("first", world.namespace)
        array.wait_started("first")
        second = world.node.exec(world.pod(), *pre)
        assert world.guest.frozen()

    assert "pre hook failed: the guest is frozen already" in second.stderr
    assert hook_counts(velero.ended_backup("first")) == (2, 0)


def test_both_pods_of_a_migration_carry_the_hooks(without_exec: World) -> None:
    world = without_exec.choose("application", "marked")
    world.client.create(make_migration(world.name, world.namespace))

    target = launcher_pod(world.client, world.name, world.namespace, not_uid=world.pod()["metadata"]["uid"])

    assert hook_annotations(target) == hook_annotations(world.pod())
    assert hook_annotations(target).keys() >= {PRE + COMMAND, POST + COMMAND}


def hook_annotations(pod: Json) -> dict[str, str]:
    return {key: value for key, value in annotations(pod).items() if key in HOOK_KEYS}
