"""One cluster with the product, Velero, an object store and a storage array, for all tests of this folder.

What is missing on this machine is a failure that names the command to run.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest

from tests.infra.controlplane import ControlPlane, Json
from tests.infra.controlplane.fixtures import kubevirt_cluster
from tests.infra.guests.fixtures import hypervisor, prerequisites
from tests.infra.guests.hypervisor import Hypervisor
from tests.infra.guests.snapshotter import DiskArray
from tests.infra.guests.velero import Velero
from tests.infra.guests.world import World, Worlds, product_and_velero
from tests.infra.installation import Installation

__all__ = ["hypervisor", "prerequisites"]


class SetHooks(Protocol):
    """Takes fields of the policy's `hooks`."""

    def __call__(self, **hooks: Any) -> None: ...


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, prerequisites: None, real_parts: None) -> Iterator[ControlPlane]:
    """etcd, kube-apiserver and virt-controller."""
    yield from kubevirt_cluster(request)


POLICY: Json = {
    "default": {"level": "crash", "allowProfiles": ["postgresql", "marked", "failing"]},
    "hooks": {"freeze": {"timeout": "30s"}, "thaw": {"timeout": "30s"}},
    "profiles": {
        "marked": {
            "quiesce": [{"name": "mark", "run": "touch /data/held", "timeout": "10s"}],
            "resume": [{"name": "unmark", "run": "rm /data/held", "timeout": "10s"}],
        },
        "failing": {
            "quiesce": [
                {"name": "mark", "run": "touch /data/held", "timeout": "10s"},
                {"name": "refuse", "run": "echo the database is busy; exit 3", "timeout": "10s"},
            ],
            "resume": [{"name": "unmark", "run": "rm /data/held", "timeout": "10s"}],
        },
    },
}
"""VMs choose by annotation. The profile `marked` leaves a file in the guest between quiesce and resume."""


@pytest.fixture(scope="session")
def _started(cluster: ControlPlane) -> Iterator[tuple[Installation, Velero]]:
    with product_and_velero(cluster, POLICY) as both:
        yield both


@pytest.fixture(scope="session")
def installation(_started: tuple[Installation, Velero]) -> Installation:
    """The product as shipped, with one replica; POLICY is in force."""
    return _started[0]


@pytest.fixture(scope="session")
def velero(_started: tuple[Installation, Velero]) -> Velero:
    """Velero's server."""
    return _started[1]


@pytest.fixture
def set_hooks(installation: Installation) -> Iterator[SetHooks]:
    """Change `hooks` of the policy for the rest of the test; running pods follow a little later."""
    yield lambda **hooks: installation.change_policy({**POLICY, "hooks": {**POLICY["hooks"], **hooks}})
    installation.change_policy(POLICY)


@pytest.fixture
def set_default(installation: Installation) -> Iterator[Callable[[str], None]]:
    """Change the level of the policy's `default` for the rest of the test; running pods follow a little later."""
    yield lambda level: installation.change_policy({**POLICY, "default": {**POLICY["default"], "level": level}})
    installation.change_policy(POLICY)


@pytest.fixture(scope="session")
def array(cluster: ControlPlane) -> DiskArray:
    """Where disk images are volumes."""
    return DiskArray(cluster)


@pytest.fixture(scope="session")
def worlds(cluster: ControlPlane, installation: Installation, hypervisor: Hypervisor, array: DiskArray) -> Worlds:
    """Virtual machines with guests that really run."""
    return Worlds(cluster, hypervisor, array)


@pytest.fixture(scope="module")
def _world(request: pytest.FixtureRequest, hypervisor: Hypervisor, worlds: Worlds, velero: Velero) -> Iterator[World]:
    # Not one for the whole session: whoever is changed more than sixty times in ten minutes has to wait for his hooks.
    guest = hypervisor.start(request.module.__name__.rpartition("test_")[2].replace("_", "-"), "db")
    yield worlds.around(guest)
    guest.close()  # an idle guest costs a tenth of a processor


@pytest.fixture
def world(_world: World) -> World:
    """The VirtualMachine `db`, at level crash until it chooses another, in the module's namespace; Velero is there too.

    The namespace is called as the module is: `chain` in test_chain.py.
    """
    _world.choose(None)
    _world.wait_for_level("crash")
    return _world
