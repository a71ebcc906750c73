"""What comes and goes around a replica: KubeVirt is installed late, the API server restarts."""

from collections.abc import Iterator

import pytest

from tests.apiserver.pods import LEVEL, SKIP, decided, hooks, owner_of, pod_like_a_launcher
from tests.apiserver.routing import failed_open
from tests.infra.controlplane import (
    Client,
    ControlPlane,
    Json,
    launcher_pod,
    make_namespace,
    make_vm,
    make_vmi,
    wait_for,
)
from tests.infra.installation import Installation, Replica

STORES = ("namespaces", "virtualmachines", "virtualmachineinstances", "kubevirts")


@pytest.fixture(scope="module")
def installation(real_parts: None, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """The product on a control plane that has never heard of KubeVirt."""
    with ControlPlane() as cp:
        installed = Installation(cp)
        installed.apply()
        installed.set_policy(None)
        installed.start()
        yield installed
        installed.remove()
        cp.keep |= request.session.testsfailed > 0


@pytest.fixture(scope="module")
def kubevirt(installation: Installation) -> Installation:
    """KubeVirt comes to the running replica."""
    assert installation.replicas[0].is_ready()
    installation.cp.install_kubevirt()
    installation.cp.start_virt_controller()
    return installation


@pytest.fixture
def client(installation: Installation) -> Client:
    return installation.cp.client


def held(replica: Replica, plural: str) -> float:
    """How many objects of a kind the replica knows of."""
    resource = plural if plural == "namespaces" else f"{plural}.kubevirt.io"
    return replica.metric("vm_consistency_store_objects", resource=resource)


def knows_all(replica: Replica, client: Client) -> bool:
    """Whether the replica has seen whatever is there."""
    return all(held(replica, plural) == len(client.list(plural)) for plural in STORES)


def test_it_is_ready_without_kubevirt(installation: Installation, client: Client, namespace: str) -> None:
    replica = installation.replicas[0]
    owner = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "db", "uid": "1"}

    created = client.create(pod_like_a_launcher(namespace, {**owner, "controller": True}), dry_run=True)

    assert decided(created) == ("filesystem", "built-in")
    assert client.warnings == ()
    assert replica.ops("/readyz")[0] == 200


def test_kubevirt_may_come_later(kubevirt: Installation, client: Client, namespace: str) -> None:
    replica = kubevirt.replicas[0]
    client.create(make_vm("at-once", namespace, annotations={LEVEL: "crash"}))
    assert decided(launcher_pod(client, "at-once", namespace)) == ("crash", "vm")

    wait_for(lambda: knows_all(replica, client), what="the replica to watch what it had not found")
    client.create(make_vm("later", namespace, annotations={LEVEL: "crash"}))
    assert decided(launcher_pod(client, "later", namespace)) == ("crash", "vm")

    client.patch("kubevirts", "kubevirt", {"metadata": {"annotations": {SKIP: "true"}}}, "kubevirt")
    trial = pod_like_a_launcher(namespace, owner_of(client.create(make_vmi("bare", namespace))))
    wait_for(lambda: _level(client, trial) == "crash", what="the KubeVirt object to have its say")
    client.patch("kubevirts", "kubevirt", {"metadata": {"annotations": {SKIP: None}}}, "kubevirt")
    wait_for(lambda: _level(client, trial) == "filesystem", what="the KubeVirt object to be silent again")
    client.delete("virtualmachineinstances", "bare", namespace)


def _level(client: Client, pod: Json) -> str | None:
    return decided(client.create(pod, dry_run=True))[0]


def _lost(replica: Replica, since: int) -> int:
    lines = replica.log_lines()[since:]
    return len([line for line in lines if line["logger"] == "vm-consistency.watch" and line["severity"] == "warning"])


def test_a_replica_outlives_the_api_server(kubevirt: Installation, client: Client, namespace: str) -> None:
    replica, process = kubevirt.replicas[0], kubevirt.replicas[0].process
    client.create(make_vm("before", namespace, annotations={LEVEL: "crash"}))
    before = launcher_pod(client, "before", namespace)
    pid, logged = process.pid, len(replica.log_lines())

    kubevirt.cp.apiserver.kill()
    wait_for(lambda: _lost(replica, logged) >= len(STORES), what="every watch to be lost")
    assert (replica.ops("/livez")[0], replica.ops("/readyz")[0]) == (200, 200)
    kubevirt.cp.apiserver.start()
    if not kubevirt.cp.virt_controller.alive:
        kubevirt.cp.virt_controller.start()  # which ends itself when it loses its lease

    client.create(make_namespace(f"{namespace}-new", annotations={LEVEL: "crash"}))
    client.create(make_vm("after", f"{namespace}-new"))
    client.create(make_vm("own", namespace, annotations={LEVEL: "crash"}))
    assert decided(launcher_pod(client, "after", f"{namespace}-new")) == ("crash", "namespace")
    assert decided(launcher_pod(client, "own", namespace)) == ("crash", "vm")
    assert hooks(client.get("pods", before["metadata"]["name"], namespace)) == {}

    wait_for(lambda: knows_all(replica, client), what="the replica to have seen everything again")
    kubevirt.change_policy({"default": {"level": "crash"}})
    client.create(make_vm("by-policy", namespace))
    assert decided(launcher_pod(client, "by-policy", namespace)) == ("crash", "default")
    assert replica.is_ready()
    assert (process.alive, process.pid) == (True, pid)
    assert failed_open(kubevirt) == 0, "of the new API server"
