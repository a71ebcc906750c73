"""KubeVirt writes its own hooks back at every reconcile of an instance. What the webhook decided stays all the same."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from app.core.record import is_intact
from tests.apiserver.conftest import DEFAULT_POLICY
from tests.apiserver.pods import LEVEL, POST, PRE, decided, filesystem_hooks, hooks, kubevirt_hooks
from tests.apiserver.routing import lead_to, unregistered
from tests.apiserver.touching import Toucher
from tests.infra.controlplane import ControlPlane, Json, launcher_pod, make_namespace, make_vm, wait_for
from tests.infra.installation import NAMESPACE, WEBHOOK_USER, Installation, Replica, annotations, policy_text

TOUCHES = 20
QUIET_SECONDS = 3.0
PLAIN, TUNED, CRASH = "plain", "tuned", "crash"
POLICY = {
    "default": {"level": "filesystem"},
    "rules": [
        {
            "name": "slow-storage",
            "match": {"templateSelector": {"matchLabels": {"storage": "slow"}}},
            "hooks": {"freeze": {"timeout": "90s", "onError": "Fail"}, "autoThaw": "10m"},
        }
    ],
}


@pytest.fixture(scope="module")
def installation(apart: Installation) -> Installation:
    """Not the shared one, where virt-controller never comes to rest: it keeps trying instances that tests forged."""
    return apart


@dataclass(frozen=True)
class Touched:
    """What twenty touches left, and what was there before."""

    toucher: Toucher
    created: dict[str, Json]
    before: dict[str, Json]
    since: int

    def writes(self, vm: str) -> list[Json]:
        return self.toucher.writes(vm, self.before[vm])


@pytest.fixture(scope="module")
def touched(installation: Installation) -> Iterator[Touched]:
    """Three VMs, touched once to settle and then twenty times more."""
    installation.change_policy(POLICY)
    cp, namespace = installation.cp, "re-sync"
    cp.client.create(make_namespace(namespace))
    cp.client.create(make_vm(PLAIN, namespace))
    cp.client.create(make_vm(TUNED, namespace, template_labels={"storage": "slow"}))
    cp.client.create(make_vm(CRASH, namespace, annotations={LEVEL: "crash"}))
    created = {vm: launcher_pod(cp.client, vm, namespace) for vm in (PLAIN, TUNED, CRASH)}
    toucher = Toucher(cp, namespace, (PLAIN, TUNED, CRASH), (TUNED, CRASH))
    toucher.settle()
    before, since = {vm: toucher.pod(vm) for vm in toucher.vms}, cp.audit_position()
    for _ in range(TOUCHES):
        toucher.touch()
    yield Touched(toucher, created, before, since)
    installation.change_policy(DEFAULT_POLICY)


def test_the_pods_carry_what_was_decided(touched: Touched) -> None:
    plain, tuned, crash = (touched.toucher.pod(vm) for vm in (PLAIN, TUNED, CRASH))

    assert hooks(plain) == filesystem_hooks(PLAIN, "re-sync")
    assert json.loads(hooks(tuned)[PRE + "command"])[-2:] == ["--unfreezeTimeoutSeconds", "600"]
    assert (hooks(tuned)[PRE + "timeout"], hooks(tuned)[PRE + "on-error"]) == ("90s", "Fail")
    assert hooks(crash) == {}
    assert [decided(pod)[0] for pod in (plain, tuned, crash)] == ["filesystem", "filesystem", "crash"]


@pytest.mark.parametrize("vm", [PLAIN, TUNED, CRASH])
def test_twenty_reconciles_do_not_change_the_pod(touched: Touched, vm: str) -> None:
    after = touched.toucher.pod(vm)

    assert after == touched.before[vm], "resourceVersion included"
    assert touched.writes(vm) == []


@pytest.mark.parametrize("vm", [TUNED, CRASH])
def test_though_virt_controller_tried_each_time(touched: Touched, vm: str) -> None:
    patches = touched.toucher.patches(touched.since, touched.toucher.pods[vm])

    assert len(patches) >= TOUCHES
    assert {event["responseStatus"]["code"] for event in patches} == {200}


@pytest.mark.parametrize("vm", [PLAIN, TUNED, CRASH])
def test_whatever_was_written_since_the_creation_no_annotation_was(touched: Touched, vm: str) -> None:
    created = touched.created[vm]

    for state in touched.toucher.writes(vm, created):
        assert annotations(state) == annotations(created)


def test_for_plain_filesystem_hooks_virt_controller_has_nothing_to_write(touched: Touched) -> None:
    toucher = touched.toucher

    assert toucher.patches(0, toucher.pods[PLAIN]) == [], "not one since the pod was created"
    assert annotations(toucher.pod(PLAIN)) == annotations(touched.created[PLAIN])


def test_nothing_loops_when_idle(touched: Touched, replica: Replica) -> None:
    cp, toucher = touched.toucher.cp, touched.toucher
    reviews, since = replica.metric("vm_consistency_admission_seconds_count"), cp.audit_position()
    ends = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < ends:  # what must not happen can only be waited for
        assert cp.audit_events(since=since, resource="pods", namespace=toucher.namespace) == []
        assert cp.audit_events(since=since, resource="virtualmachineinstances", namespace=toucher.namespace) == []
        time.sleep(0.2)

    assert replica.metric("vm_consistency_admission_seconds_count") == reviews


def test_without_the_webhook_the_hooks_come_back(installation: Installation, namespace: str) -> None:
    """The baseline: were the re-sync not there, or not seen by these tests, they would prove nothing."""
    client = installation.cp.client
    client.create(make_vm("db", namespace, annotations={LEVEL: "crash"}))
    assert hooks(launcher_pod(client, "db", namespace)) == {}

    with unregistered(installation):
        toucher = Toucher(installation.cp, namespace, ["db"], [])  # once they are back there is no PATCH any more

        def come_back() -> Json | None:
            toucher.touch()
            pod = toucher.pod("db")
            return pod if hooks(pod) == kubevirt_hooks("db", namespace) else None

        # The reconciler takes them away again, at once for a few times.
        seen = wait_for(come_back, what="KubeVirt's hooks")
        assert not is_intact(annotations(seen)), "and the record tells that somebody else wrote last"


RIVAL = "rival"
RIVAL_POLICY = {"default": {"level": "filesystem"}, "hooks": {"freeze": {"timeout": "90s"}}}


@pytest.fixture
def rival(installation: Installation) -> Iterator[Replica]:
    """A second replica that follows a policy of its own: that of crash for the first, filesystem for this one."""
    installation.change_policy({"default": {"level": "crash"}})
    _grant_config_maps(installation.cp)
    env = {
        "VM_CONSISTENCY_POLICY_CONFIG_MAP": f"{RIVAL}-policy",
        "VM_CONSISTENCY_LAST_GOOD_CONFIG_MAP": f"{RIVAL}-last-good",
    }
    started = installation.replica(env=env)
    started.process.start()
    yield started
    lead_to(installation, installation.replicas[0])
    started.process.stop()
    installation.replicas.remove(started)  # it would never read the policy that others are given
    installation.change_policy(DEFAULT_POLICY)


def _grant_config_maps(cp: ControlPlane) -> None:
    names = [f"{RIVAL}-policy", f"{RIVAL}-last-good"]
    metadata = {"name": RIVAL, "namespace": NAMESPACE}
    verbs = ["get", "list", "watch", "patch"]
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": names, "verbs": verbs}]
    role = {"kind": "Role", "metadata": metadata, "rules": rules}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": RIVAL}
    subjects = [{"kind": "ServiceAccount", "name": "vm-consistency", "namespace": NAMESPACE}]
    binding = {"kind": "RoleBinding", "metadata": metadata, "roleRef": reference, "subjects": subjects}
    for item in (role, binding):
        cp.client.apply({"apiVersion": "rbac.authorization.k8s.io/v1", **item})
    for name, data in zip(names, ({"policy.yaml": policy_text(RIVAL_POLICY)}, {}), strict=True):
        config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**metadata, "name": name}, "data": data}
        cp.client.apply(config_map)
        wait_for(lambda: _may_read(cp, name), what="the API server to know the new role")  # noqa: B023


def _may_read(cp: ControlPlane, name: str) -> bool:
    attributes = {"namespace": NAMESPACE, "verb": "patch", "resource": "configmaps", "name": name}
    spec = {"user": WEBHOOK_USER, "resourceAttributes": attributes}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    answer = cp.client.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body).json()
    return bool(answer["status"]["allowed"])


@pytest.mark.usefixtures("undisturbed")
def test_replicas_with_different_policies_never_fight(
    installation: Installation, namespace: str, replica: Replica, rival: Replica
) -> None:
    client = installation.cp.client
    made_by = {"by-first": replica, "by-rival": rival}
    for vm, author in made_by.items():
        lead_to(installation, author)
        client.create(make_vm(vm, namespace))
        launcher_pod(client, vm, namespace)
    toucher = Toucher(installation.cp, namespace, list(made_by), list(made_by))
    before = {vm: toucher.pod(vm) for vm in made_by}
    assert {vm: decided(pod)[0] for vm, pod in before.items()} == {"by-first": "crash", "by-rival": "filesystem"}
    assert hooks(before["by-rival"])[PRE + "timeout"] == "90s"

    kept = {one: one.metric("vm_consistency_decisions_total", reason="kept") for one in made_by.values()}
    for turn in range(TOUCHES):
        lead_to(installation, (replica, rival)[turn % 2])
        toucher.touch()

    for one, at_first in kept.items():
        restored = one.metric("vm_consistency_decisions_total", reason="kept") - at_first
        assert restored >= TOUCHES, "half of the touches, two pods each"
    for vm, pod in before.items():
        assert annotations(toucher.pod(vm)) == annotations(pod)
        assert len(toucher.writes(vm, pod)) <= 2
        assert POST + "command" in hooks(pod) or vm == "by-first"
