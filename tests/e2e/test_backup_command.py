"""`backup NAME` on backups of the real Velero: what it tells is what happened to the guest."""

from typing import Any

import pytest

from app.core.annotations import ON_ERROR
from tests.cli.support import run
from tests.e2e.conftest import SetHooks
from tests.infra.controlplane import Json
from tests.infra.guests.snapshotter import DiskArray
from tests.infra.guests.velero import Velero, phase
from tests.infra.guests.world import World


def told(velero: Velero, name: str) -> tuple[int, Json]:
    """Exit code and report, whose counts must be Velero's own."""
    ran = run("backup", name, "--kubeconfig", velero.cp.kubeconfig, "-o", "json")
    assert ran.stderr == ""
    report: Json = ran.json()
    counted = velero.cp.client.get("backups", name, "velero")["status"].get("hookStatus", {})
    assert report["backup"]["hooksAttempted"] == counted.get("hooksAttempted", 0)
    assert report["backup"]["hooksFailed"] == counted.get("hooksFailed", 0)
    return ran.exit_code, report


def only(velero: Velero, name: str) -> tuple[int, Json]:
    """The same of the only VM."""
    exit_code, report = told(velero, name)
    [vm] = report["vms"]
    hooks = vm["hooks"]
    assert (hooks["attempted"], hooks["failed"]) == (
        report["backup"]["hooksAttempted"],
        report["backup"]["hooksFailed"],
    )
    assert report["findings"] == []
    return exit_code, vm


def shown(vm: Json) -> tuple[Any, ...]:
    return vm["record"]["level"], vm["record"]["state"], vm["achieved"], vm["verified"]


def test_level_crash(world: World, velero: Velero) -> None:
    velero.backup("told-crash", world.namespace)

    exit_code, vm = only(velero, "told-crash")

    assert (exit_code, *shown(vm)) == (0, "crash", "intact", "not frozen", False)
    assert (vm["namespace"], vm["vm"], vm["pods"]) == (world.namespace, world.name, [world.pod_name])


def test_level_filesystem_by_virt_freezer_s_word(world: World, velero: Velero) -> None:
    world.choose("filesystem")
    velero.backup("told-filesystem", world.namespace)

    exit_code, vm = only(velero, "told-filesystem")

    assert (exit_code, *shown(vm)) == (0, "filesystem", "intact", "frozen", False)
    assert vm["secondsHeld"] < 60
    assert vm["notes"] == []


def test_level_filesystem_by_the_guest_s_own_word(world: World, velero: Velero, set_hooks: SetHooks) -> None:
    world.choose("filesystem")
    set_hooks(requireFrozen=True)
    world.wait_for_pre_hook("vm-consistency")
    velero.backup("told-verified", world.namespace)

    exit_code, vm = only(velero, "told-verified")

    assert (exit_code, *shown(vm)) == (0, "filesystem", "intact", "frozen", True)


def test_level_application(world: World, velero: Velero) -> None:
    world.choose("application", "marked")
    velero.backup("told-application", world.namespace)

    exit_code, vm = only(velero, "told-application")

    assert (exit_code, *shown(vm)) == (0, "application", "intact", "frozen", True)
    assert vm["record"]["profile"] == "marked"


@pytest.mark.parametrize("require", [False, True])
def test_a_paused_guest_is_not_frozen(world: World, velero: Velero, set_hooks: SetHooks, require: bool) -> None:
    """virt-freezer ends with 0 all the same; only requireFrozen makes it a failure of the backup."""
    world.choose("filesystem")
    set_hooks(requireFrozen=require, thaw={"timeout": "3s"})
    world.wait_for_pre_hook("vm-consistency" if require else 'virt-freezer", "--freeze')
    name = f"told-paused-{require}".lower()
    world.guest.pause()
    try:
        backup = velero.backup(name, world.namespace)
    finally:
        world.guest.resume()

    exit_code, vm = only(velero, name)

    assert phase(backup) == ("PartiallyFailed" if require else "Completed")
    assert (exit_code, *shown(vm)) == (1, "filesystem", "intact", "not frozen", False)
    assert vm["finding"]


@pytest.mark.parametrize("on_error", ["Continue", "Fail"])
def test_a_step_that_fails(world: World, velero: Velero, set_hooks: SetHooks, on_error: str) -> None:
    set_hooks(freeze={"timeout": "30s", "onError": on_error})
    world.choose("application", "failing")
    world.wait_for_pre_hook(on_error, ON_ERROR)
    name = f"told-failing-{on_error.lower()}"
    velero.backup(name, world.namespace)

    exit_code, vm = only(velero, name)

    assert (exit_code, vm["achieved"]) == (1, "not frozen")
    assert "step refuse ended with 3: the database is busy" in vm["notes"][0]
    if on_error == "Fail":
        assert (vm["pods"], vm["record"]["state"], vm["record"]["level"]) == ([], None, None)
        assert any("under on-error Fail Velero leaves it out" in note for note in vm["notes"])
    else:
        assert shown(vm)[:2] == ("application", "intact")


def test_a_window_that_kubevirt_ended(world: World, velero: Velero, array: DiskArray, set_hooks: SetHooks) -> None:
    """virt-freezer thaws what is thawed already with exit code 0; the times tell."""
    world.choose("filesystem")
    set_hooks(freeze={"timeout": "5s"}, thaw={"timeout": "3s"}, autoThaw="4s")
    world.wait_for_pre_hook('"--unfreezeTimeoutSeconds", "4"')
    with array.behaving(delay="9s"):
        backup = velero.backup("told-thawed", world.namespace)

    exit_code, vm = only(velero, "told-thawed")

    assert phase(backup) == "Completed"
    assert (exit_code, *shown(vm)) == (1, "filesystem", "intact", "not frozen", False)
    assert "KubeVirt thawed it after 4 s" in vm["notes"][0]


def test_a_vm_without_its_pod_in_a_backup_by_label(world: World, velero: Velero) -> None:
    world.choose("filesystem")
    world.client.patch("virtualmachines", world.name, {"metadata": {"labels": {"backup": "this"}}}, world.namespace)
    velero.backup("told-by-label", world.namespace, labelSelector={"matchLabels": {"backup": "this"}})

    exit_code, report = told(velero, "told-by-label")

    [vm] = report["vms"]
    assert (exit_code, vm["vm"], vm["achieved"], vm["pods"]) == (1, world.name, "unknown", [])
    assert report["backup"]["hooksAttempted"] == 0
    assert "neither its launcher pod is in the backup nor a hook of it in the log" in vm["notes"][0]


def test_a_backup_that_velero_did_not_survive(world: World, velero: Velero, array: DiskArray) -> None:
    with array.held():
        velero.start_backup("told-killed", world.namespace)
        array.wait_started("told-killed")
        running = run("backup", "told-killed", "--kubeconfig", velero.cp.kubeconfig)
        velero.process.kill()
    velero.process.start()
    velero.ended_backup("told-killed")

    ended = run("backup", "told-killed", "--kubeconfig", velero.cp.kubeconfig)

    assert (running.exit_code, running.stdout) == (2, "")
    assert "is in phase InProgress: there is nothing to read before it has ended" in running.stderr
    assert ended.exit_code == 1
    assert "! phase Failed: " in ended.stdout
    assert "its contents were not stored" in ended.stdout


def test_the_table(world: World, velero: Velero) -> None:
    world.choose("application", "marked")
    velero.backup("told-table", world.namespace)

    ran = run("backup", "told-table", "--kubeconfig", velero.cp.kubeconfig)

    assert (ran.exit_code, ran.stderr) == (0, "")
    heading, columns, row, summary = ran.stdout.splitlines()
    assert heading == "velero/told-table: Completed; Velero counts 2 hooks attempted, 0 failed"
    assert columns.split() == ["NAMESPACE", "VM", "LEVEL", "ACHIEVED", "HOOKS", "FAILED", "HELD"]
    assert " ".join(row.split()).startswith(f"{world.namespace} db application (marked) frozen, verified 2 0 ")
    assert summary == "1 VM(s), 0 finding(s)"
