"""A webhook that can't read the cluster: it allows, changes nothing, warns, and does so before its deadline."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apiserver.creation import start_vm
from tests.apiserver.pods import LEVEL, PRE, decided, hooks, kubevirt_hooks, owner_of, pod_like_a_launcher, record
from tests.apiserver.routing import lead_to
from tests.infra.controlplane import ControlPlane, launcher_pod, make_vm, wait_for
from tests.infra.installation import NAME, NAMESPACE, Installation, Replica, annotations
from tests.infra.tcp_line import Line

pytestmark = pytest.mark.usefixtures("undisturbed_apart")

BLIND = "blind"
DEADLINE = 1.0
LOOKUP_FAILED = {"reason": "lookup-failed"}


@pytest.fixture(autouse=True)
def _called_again(apart: Installation) -> Iterator[None]:
    """Afterwards the installed replica is called, and the others are gone."""
    installed = list(apart.replicas)
    yield
    lead_to(apart, installed[0])
    for replica in apart.replicas[len(installed) :]:
        replica.process.stop()
    apart.replicas[:] = installed


@pytest.fixture
def blind(apart: Installation) -> Replica:
    """A replica whose ServiceAccount may do everything but read VirtualMachines and their instances."""
    kubeconfig = _service_account_that_reads_no_vms(apart.cp)
    replica = apart.replica(env={"VM_CONSISTENCY_KUBECONFIG": str(kubeconfig)})
    replica.process.launch()
    wait_for(lambda: _only_misses_vms(replica), what="everything but VMs to be read")
    lead_to(apart, replica)
    return replica


def _service_account_that_reads_no_vms(cp: ControlPlane) -> Path:
    metadata = {"name": BLIND, "namespace": NAMESPACE}
    subjects = [{"kind": "ServiceAccount", **metadata}]
    rbac = "rbac.authorization.k8s.io"
    rules = cp.client.get("clusterroles", NAME)["rules"]
    seeing = [rule for rule in rules if "virtualmachines" not in rule["resources"]]
    assert len(seeing) < len(rules)
    cp.client.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    for item in (
        {"kind": "ClusterRole", "metadata": {"name": BLIND}, "rules": seeing},
        {"kind": "ClusterRoleBinding", "metadata": {"name": BLIND}, "roleRef": _reference("ClusterRole", BLIND)},
        {"kind": "RoleBinding", "metadata": metadata, "roleRef": _reference("Role", NAME)},
    ):
        bound = {"subjects": subjects} if "roleRef" in item else {}
        cp.client.apply({"apiVersion": f"{rbac}/v1", **item, **bound})
    return cp.kubeconfig_for(NAMESPACE, BLIND)


def _reference(kind: str, name: str) -> dict[str, str]:
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}


def _only_misses_vms(replica: Replica) -> bool:
    problems = replica.problems() or {}
    missing = {"virtualmachines.kubevirt.io", "virtualmachineinstances.kubevirt.io"}
    return problems.keys() == missing and all("403" in problem for problem in problems.values())


def test_without_permission_to_read_vms_their_pods_stay_as_they_are(
    apart: Installation, namespace_apart: str, blind: Replica
) -> None:
    assert blind.ops("/readyz")[0] == 503

    pod, creation = start_vm(apart.cp, "db", namespace_apart)

    assert hooks(pod) == kubevirt_hooks("db", namespace_apart)
    assert record(pod) == {}
    assert not creation.failed_open, "it did answer, within the timeout of the registration"
    assert blind.metric("vm_consistency_decisions_total", **LOOKUP_FAILED, action="none") == 1
    assert blind.metric("vm_consistency_errors_total", kind="internal") == 0


def test_whoever_creates_the_pod_is_told_why(apart: Installation, namespace_apart: str, blind: Replica) -> None:
    client = apart.cp.client
    start_vm(apart.cp, "db", namespace_apart)
    owner = owner_of(client.get("virtualmachineinstances", "db", namespace_apart))

    client.create(pod_like_a_launcher(namespace_apart, owner), dry_run=True)

    [warning] = client.warnings
    assert warning.startswith("vm-consistency: hooks left as they are: ")
    assert "virtualmachineinstances" in warning
    assert "403" in warning
    told = [line for line in blind.log_lines() if line.get("namespace") == namespace_apart]
    assert {(line["severity"], line["reason"]) for line in told} == {("warning", "lookup-failed")}


@pytest.fixture
def line(apart: Installation) -> Iterator[Line]:
    """The line between a second replica and the API server."""
    made = Line(int(apart.cp.url.rpartition(":")[2]))
    yield made
    made.end()


@pytest.fixture
def far(apart: Installation, line: Line, tmp_path: Path) -> Replica:
    """A replica at the end of the line, whose deadline leaves the API server some time."""
    config = json.loads(apart.cp.kubeconfig_for(NAMESPACE, NAME).read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{line.port}"
    kubeconfig = tmp_path / "far.kubeconfig"
    kubeconfig.write_text(json.dumps(config))
    env = {"VM_CONSISTENCY_KUBECONFIG": str(kubeconfig), "VM_CONSISTENCY_DEADLINE": str(DEADLINE)}
    replica = apart.replica(env=env)
    replica.process.start()
    lead_to(apart, replica)
    return replica


def test_a_dead_line_costs_no_more_than_the_deadline(
    apart: Installation, namespace_apart: str, line: Line, far: Replica
) -> None:
    client = apart.cp.client
    wait_for(lambda: _knows_namespace(apart, namespace_apart, far), what="the namespace to be known")
    line.go_silent()

    pod, creation = start_vm(apart.cp, "db", namespace_apart)

    assert hooks(pod) == kubevirt_hooks("db", namespace_apart)
    assert not creation.failed_open, "it did answer, within the timeout of the registration"
    assert creation.seconds >= DEADLINE
    assert far.metric("vm_consistency_decisions_total", **LOOKUP_FAILED) == 1
    owner = owner_of(client.get("virtualmachineinstances", "db", namespace_apart))
    client.create(pod_like_a_launcher(namespace_apart, owner), dry_run=True)
    assert f"did not answer within {DEADLINE:g} s" in client.warnings[0]
    assert far.ops("/livez")[0] == 200

    line.deliver()

    pod, _ = start_vm(apart.cp, "after", namespace_apart)
    assert (hooks(pod), decided(pod)) == ({}, ("crash", "vm"))


def _knows_namespace(apart: Installation, namespace: str, replica: Replica) -> bool:
    held = replica.metric("vm_consistency_store_objects", resource="namespaces")
    return held == len(apart.cp.client.list("namespaces"))


def test_what_is_known_is_decided_without_the_api_server(
    apart: Installation, namespace_apart: str, line: Line, far: Replica
) -> None:
    client = apart.cp.client
    before, _ = start_vm(apart.cp, "db", namespace_apart)
    vmi = client.get("virtualmachineinstances", "db", namespace_apart)
    everything = {"virtualmachines.kubevirt.io", "virtualmachineinstances.kubevirt.io", "namespaces"}

    def known() -> bool:
        held = {kind: far.metric("vm_consistency_store_objects", resource=kind) for kind in everything}
        return all(number == len(client.list(kind.partition(".")[0])) for kind, number in held.items())

    wait_for(known, what="the replica to have seen the VM")
    failures = far.metric("vm_consistency_decisions_total", **LOOKUP_FAILED)
    line.go_silent()

    again = client.create(pod_like_a_launcher(namespace_apart, owner_of(vmi)), dry_run=True)
    assert (hooks(again), decided(again)) == ({}, ("crash", "vm"))

    edit = {"metadata": {"annotations": {PRE + "command": "freeze", LEVEL: "filesystem"}}}
    name = before["metadata"]["name"]
    edited = client.patch("pods", name, edit, namespace_apart)
    assert annotations(edited) == {**annotations(before), LEVEL: "filesystem"}
    assert far.metric("vm_consistency_decisions_total", **LOOKUP_FAILED) == failures


def test_a_pod_of_an_instance_that_is_gone_is_decided_by_the_rest(
    apart: Installation, namespace_apart: str, far: Replica
) -> None:
    client = apart.cp.client
    client.create(make_vm("db", namespace_apart, annotations={LEVEL: "crash"}))
    launcher_pod(client, "db", namespace_apart)
    owner = owner_of(client.get("virtualmachineinstances", "db", namespace_apart), uid="an-earlier-one")

    pod = client.create(pod_like_a_launcher(namespace_apart, owner), dry_run=True)

    assert decided(pod) == ("filesystem", "default")
    assert far.metric("vm_consistency_decisions_total", **LOOKUP_FAILED) == 0
