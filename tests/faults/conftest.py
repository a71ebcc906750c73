"""A control plane for faults, a fleet of pods in it, and replicas of the product for each module of tests."""

import json
from collections.abc import Iterator

import pytest

from tests.faults.fleet import Fleet, policy
from tests.faults.ledger import Watchman, assert_quiet
from tests.infra.controlplane import ControlPlane, wait_for
from tests.infra.installation import NAME, NAMESPACE, Installation, Replica
from tests.infra.tcp_line import Line

RATE = 15
"""Writes per second: slow enough for a fault to strike amidst a change of all pods."""

SPACES = ("team-a", "team-b", "team-c")


@pytest.fixture(scope="package")
def cluster(real_parts: None, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """The product's manifests and KubeVirt's kinds, without virt-controller."""
    with ControlPlane() as cp:
        cp.install_kubevirt()
        installed = Installation(cp)
        installed.apply()
        installed.set_policy(policy(60))
        yield installed
        installed.remove()
        cp.keep |= request.session.testsfailed > 0


@pytest.fixture(scope="module")
def lines(cluster: Installation) -> Iterator[dict[Replica, Line]]:
    """The lines on which the replicas of this module reach the API server."""
    found: dict[Replica, Line] = {}
    yield found
    for line in found.values():
        line.end()


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    """What a module's replicas run with; a module may have its own."""
    return {"VM_CONSISTENCY_RECONCILE_RATE": str(RATE)}


@pytest.fixture(scope="module")
def replicas(
    cluster: Installation, lines: dict[Replica, Line], settings: dict[str, str]
) -> Iterator[tuple[Replica, Replica]]:
    """Two replicas, started for this module, the first of which the API server calls."""
    first, second = (_replica(cluster, lines, settings) for _ in range(2))
    cluster.route_to(first.url)
    cluster.validate_by(first.port)
    for replica in (first, second):
        replica.process.launch()
    for replica in (first, second):
        replica.process.wait_ready()
    yield first, second
    for replica in (first, second):
        replica.process.stop()


def _replica(cluster: Installation, lines: dict[Replica, Line], settings: dict[str, str]) -> Replica:
    line = Line(int(cluster.cp.url.rpartition(":")[2]))
    path = cluster.cp.folder / f"line-{line.port}.kubeconfig"
    content = json.loads(cluster.cp.kubeconfig_for(NAMESPACE, NAME).read_text())
    content["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{line.port}"
    path.touch(mode=0o600)
    path.write_text(json.dumps(content))
    replica = cluster.replica(env={"VM_CONSISTENCY_KUBECONFIG": str(path), **settings})
    lines[replica] = line
    return replica


@pytest.fixture(scope="package")
def fleet_made(cluster: Installation) -> list[Fleet]:
    """Holds the fleet once there is a webhook that its pods can come through."""
    return []


@pytest.fixture
def fleet(cluster: Installation, replicas: tuple[Replica, Replica], fleet_made: list[Fleet]) -> Fleet:
    """Sixty pods in three Namespaces; all of them are right when a test begins."""
    if not fleet_made:
        fleet_made.append(Fleet(cluster.cp.client, SPACES, 20).create())
    wait_for(lambda: any(replica.leads() for replica in replicas), what="a leader")
    cluster.set_policy(policy(60))
    fleet_made[0].right(fleet_made[0].frozen(60))
    return fleet_made[0]


@pytest.fixture
def leader(replicas: tuple[Replica, Replica], fleet: Fleet) -> Replica:
    """The replica that leads."""
    return next(replica for replica in replicas if replica.leads())


@pytest.fixture
def follower(replicas: tuple[Replica, Replica], leader: Replica) -> Replica:
    """The other one."""
    return next(replica for replica in replicas if replica is not leader)


@pytest.fixture
def well(cluster: Installation, replicas: tuple[Replica, Replica], fleet: Fleet) -> Iterator[None]:
    """Both replicas live through the test without spinning, are ready at its end, and then there is silence."""
    watched = [Watchman(replica) for replica in replicas]
    yield
    for one in watched:
        one.assert_well()
        one.replica.wait_ready()
    wait_for(lambda: sum(replica.leads() for replica in replicas) == 1, what="one leader")
    wait_for(
        lambda: all(replica.metric("vm_consistency_reconcile_backlog") == 0 for replica in replicas),
        what="nothing to be left",
    )
    assert_quiet(cluster.cp, *replicas)
