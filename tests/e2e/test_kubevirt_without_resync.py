"""A KubeVirt that never puts its own hooks back on a pod, 1.7.0, in a cluster of its own with the same product."""

from collections.abc import Iterator

import pytest

from app.core.annotations import COMMAND, PRE
from tests.e2e.conftest import POLICY
from tests.infra.controlplane import ControlPlane
from tests.infra.controlplane.stand_ins import stand_in_cdi
from tests.infra.guests.guest import Guest
from tests.infra.guests.hypervisor import Hypervisor
from tests.infra.guests.snapshotter import DiskArray
from tests.infra.guests.velero import Velero, hook_counts, phase
from tests.infra.guests.world import World, Worlds, product_and_velero


@pytest.fixture(scope="module")
def guest_of_older(hypervisor: Hypervisor) -> Iterator[Guest]:
    guest = hypervisor.start("older", "db")
    yield guest
    guest.close()


@pytest.fixture(scope="module")
def older(guest_of_older: Guest, request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """With the CRDs of the newer KubeVirt, which hold all that the older one writes."""
    with ControlPlane() as cp:
        cp.install_kubevirt()
        stand_in_cdi(cp.client)
        cp.start_virt_controller("kubevirt-1.7.0")
        yield cp
        cp.keep |= request.session.testsfailed > 0


@pytest.fixture(scope="module")
def velero_of_older(older: ControlPlane) -> Iterator[Velero]:
    with product_and_velero(older, POLICY) as (_, velero):
        yield velero


@pytest.fixture(scope="module")
def world_of_older(
    guest_of_older: Guest, older: ControlPlane, velero_of_older: Velero, hypervisor: Hypervisor
) -> World:
    return Worlds(older, hypervisor, DiskArray(older)).around(guest_of_older)


@pytest.mark.parametrize(("level", "profile"), [("filesystem", None), ("application", "marked")])
def test_hooks_arrive_and_run(world_of_older: World, velero_of_older: Velero, level: str, profile: str | None) -> None:
    world_of_older.choose(level, profile)

    backup = velero_of_older.backup(level, world_of_older.namespace)

    assert (phase(backup), hook_counts(backup)) == ("Completed", (2, 0))
    assert [event.call for event in world_of_older.guest.events() if event.state == "done"].count("thaw") >= 1


def test_a_vm_whose_hooks_were_taken_away_stays_without(world_of_older: World, velero_of_older: Velero) -> None:
    world_of_older.choose("crash")

    backup = velero_of_older.backup("crash", world_of_older.namespace)

    assert (phase(backup), hook_counts(backup)) == ("Completed", (0, 0))
    assert PRE + COMMAND not in world_of_older.annotations()
