"""Pods that run already are brought in line with what the webhook would write, by the leading replica."""

import pytest

from app.core.annotations import HOOKS_DIGEST, MANAGED
from tests.apiserver.conftest import SetPolicy
from tests.apiserver.pods import (
    DECIDED_BY,
    EFFECTIVE_LEVEL,
    LEVEL,
    POST,
    PRE,
    decided,
    filesystem_hooks,
    foreign,
    hooks,
    kubevirt_hooks,
    owner_of,
    pod_like_a_launcher,
    record,
)
from tests.apiserver.touching import Toucher
from tests.infra.controlplane import (
    Client,
    ControlPlane,
    Json,
    launcher_pod,
    make_vm,
    run_stand_in_guest,
    wait_for,
)
from tests.infra.installation import WEBHOOK_USER, Installation, Replica, annotations

SOON = 20.0
"""Seconds within which a change at one VM must have reached its pod, on a busy machine too.

Without a watch it would be seen when the next one begins, minutes later.
"""


@pytest.fixture(autouse=True)
def leads(replica: Replica) -> None:
    wait_for(lambda: replica.metric("vm_consistency_leader") == 1, what="the replica to lead")


@pytest.fixture
def pod(client: Client, namespace: str) -> Json:
    """The pod of a VirtualMachine called db, as the webhook decided it."""
    client.create(make_vm("db", namespace))
    return launcher_pod(client, "db", namespace)


def now(client: Client, pod: Json) -> Json:
    return client.get("pods", pod["metadata"]["name"], pod["metadata"]["namespace"])


def comes_to(client: Client, pod: Json, *expected: str, seconds: float = 60) -> Json:
    """Wait until the record says level and source; returns the pod."""
    wait_for(lambda: decided(now(client, pod)) == expected, seconds, what=f"the pod to say {expected}")
    return now(client, pod)


def annotate(client: Client, plural: str, name: str, namespace: str | None, **values: str | None) -> None:
    named = {key.replace("__", "/").replace("_", "-"): value for key, value in values.items()}
    client.patch(plural, name, {"metadata": {"annotations": named}}, namespace)


def patches(cp: ControlPlane, since: int, namespace: str | None = None) -> list[Json]:
    """What the product wrote to pods."""
    wanted = {"user": WEBHOOK_USER, "verb": "patch", "resource": "pods"}
    if namespace:
        wanted["namespace"] = namespace
    return cp.audit_events(since=since, **wanted)


def test_a_change_of_policy_reaches_running_pods(client: Client, pod: Json, set_policy: SetPolicy) -> None:
    assert decided(pod) == ("filesystem", "default")
    set_policy({"default": {"level": "crash"}})
    crashed = comes_to(client, pod, "crash", "default")
    assert hooks(crashed) == {}
    assert foreign(crashed) == foreign(pod)

    set_policy({"default": {"level": "filesystem"}, "hooks": {"freeze": {"timeout": "90s"}}})
    frozen = comes_to(client, pod, "filesystem", "default")
    assert hooks(frozen) == {**filesystem_hooks("db", pod["metadata"]["namespace"]), PRE + "timeout": "90s"}
    assert foreign(frozen) == foreign(pod)


def test_what_is_written_stays_when_kubevirt_syncs(
    client: Client, installation: Installation, namespace: str, set_policy: SetPolicy
) -> None:
    for name in ("db", "witness"):
        client.create(make_vm(name, namespace))
    pod = launcher_pod(client, "db", namespace)
    launcher_pod(client, "witness", namespace)
    here = {"name": "here", "match": {"namespaces": [namespace]}, "level": "crash"}  # not all that other tests left
    set_policy({"default": {"level": "filesystem"}, "rules": [here]})
    crashed = comes_to(client, pod, "crash", "rule/here")
    toucher = Toucher(installation.cp, namespace, ["db", "witness"], ["witness"])
    since = installation.cp.audit_position()
    for _ in range(3):
        toucher.touch()
    assert annotations(now(client, pod)) == annotations(crashed)
    assert patches(installation.cp, since, namespace) == []


def test_an_annotation_on_the_vm_takes_effect_without_a_restart_and_so_does_its_removal(
    client: Client, pod: Json
) -> None:
    namespace = pod["metadata"]["namespace"]
    for _ in range(2):
        annotate(client, "virtualmachines", "db", namespace, **{LEVEL: "crash"})
        assert hooks(comes_to(client, pod, "crash", "vm", seconds=SOON)) == {}
        annotate(client, "virtualmachines", "db", namespace, **{LEVEL: None})
        assert annotations(comes_to(client, pod, "filesystem", "default", seconds=SOON)) == annotations(pod)
    assert launcher_pod(client, "db", namespace)["metadata"]["uid"] == pod["metadata"]["uid"]


def test_an_annotation_on_the_namespace_takes_effect(client: Client, pod: Json) -> None:
    namespace = pod["metadata"]["namespace"]
    annotate(client, "namespaces", namespace, None, **{LEVEL: "crash"})
    comes_to(client, pod, "crash", "namespace")
    annotate(client, "namespaces", namespace, None, **{LEVEL: None})
    comes_to(client, pod, "filesystem", "default")


def test_labels_of_the_namespace_take_effect(client: Client, pod: Json, set_policy: SetPolicy) -> None:
    rule = {"name": "scratch", "match": {"namespaceSelector": {"matchLabels": {"tier": "scratch"}}}, "level": "crash"}
    set_policy({"default": {"level": "filesystem"}, "rules": [rule]})
    namespace = pod["metadata"]["namespace"]
    client.patch("namespaces", namespace, {"metadata": {"labels": {"tier": "scratch"}}})
    comes_to(client, pod, "crash", "rule/scratch")
    client.patch("namespaces", namespace, {"metadata": {"labels": {"tier": None}}})
    comes_to(client, pod, "filesystem", "default")


def test_skip_backup_hooks_on_a_running_vm(client: Client, pod: Json) -> None:
    namespace = pod["metadata"]["namespace"]
    annotate(client, "virtualmachines", "db", namespace, **{"kubevirt.io/skip-backup-hooks": "true"})
    crashed = comes_to(client, pod, "crash", "skip-backup-hooks")
    assert hooks(crashed) == {}


def test_a_vm_that_is_taken_out_is_handed_back_to_kubevirt(client: Client, pod: Json, set_policy: SetPolicy) -> None:
    namespace = pod["metadata"]["namespace"]
    allow = {"level": "filesystem", "allow": ["crash", "filesystem", "unmanaged"]}
    set_policy({"default": allow, "hooks": {"freeze": {"timeout": "90s"}}})
    wait_for(lambda: hooks(now(client, pod)).get(PRE + "timeout") == "90s", what="the policy's own hooks")
    annotate(client, "virtualmachines", "db", namespace, **{MANAGED: "false"})
    wait_for(lambda: record(now(client, pod)) == {}, what="the record to go")
    assert hooks(now(client, pod)) == kubevirt_hooks("db", namespace)

    client.patch(
        "pods",
        pod["metadata"]["name"],
        {"metadata": {"annotations": {PRE + "on-error": "Fail"}}},
        namespace,
        subresource="status",
    )
    annotate(client, "virtualmachines", "db", namespace, **{"example.com/touched": "1"})
    annotate(client, "virtualmachines", "db", namespace, **{MANAGED: None})
    back = comes_to(client, pod, "filesystem", "default")
    assert hooks(back)[PRE + "on-error"] == "Continue"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({PRE + "timeout": "-1s"}, id="timeout"),
        pytest.param({POST + "command": '["/bin/true"]'}, id="command"),
        pytest.param({POST + "on-error": None}, id="on-error-removed"),
        pytest.param({EFFECTIVE_LEVEL: None, DECIDED_BY: None, HOOKS_DIGEST: None}, id="record-removed"),
    ],
)
def test_what_admission_does_not_see_is_put_right(client: Client, pod: Json, change: dict[str, str | None]) -> None:
    change = {**change, "example.com/mine": "kept"}
    edit = {"metadata": {"annotations": change}}
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    sneaked = client.patch("pods", name, edit, namespace, subresource="status")
    assert annotations(sneaked) != annotations(pod)
    expected = {**annotations(pod), "example.com/mine": "kept"}
    wait_for(lambda: annotations(now(client, pod)) == expected, what="the pod to be put right")


def test_pods_that_ended_are_left_alone(
    client: Client, installation: Installation, pod: Json, set_policy: SetPolicy
) -> None:
    namespace = pod["metadata"]["namespace"]
    run_stand_in_guest(client, "db", namespace, "node-of-the-ended")
    vmi = client.get("virtualmachineinstances", "db", namespace)
    # As after a migration. On the guest's own node virt-controller would take its end for that of the guest.
    ended = client.create(pod_like_a_launcher(namespace, owner_of(vmi)))
    client.patch("pods", ended["metadata"]["name"], {"status": {"phase": "Succeeded"}}, namespace, subresource="status")
    set_policy({"default": {"level": "crash"}})
    comes_to(client, pod, "crash", "default")
    assert decided(now(client, ended)) == ("filesystem", "default")


def test_a_look_at_every_pod_that_finds_nothing_to_do_writes_nothing(
    client: Client, installation: Installation, pod: Json, replica: Replica
) -> None:
    wait_for(lambda: replica.metric("vm_consistency_reconcile_backlog") == 0, what="everything to be in line")
    since = installation.cp.audit_position()
    installation.change_policy({"default": {"level": "filesystem"}})  # another text with the same meaning
    wait_for(lambda: replica.metric("vm_consistency_reconcile_backlog") == 0, what="every pod to be looked at")
    assert patches(installation.cp, since) == []


def test_each_change_costs_one_request(client: Client, installation: Installation, pod: Json) -> None:
    since = installation.cp.audit_position()
    namespace = pod["metadata"]["namespace"]
    annotate(client, "virtualmachines", "db", namespace, **{LEVEL: "crash"})
    comes_to(client, pod, "crash", "vm")
    written = [event["responseStatus"]["code"] for event in patches(installation.cp, since, namespace)]
    assert written.count(200) == 1
    assert set(written) <= {200, 422}, "422: virt-controller wrote to the new pod at the same moment"
    asked = installation.cp.audit_events(since=since, user=WEBHOOK_USER, namespace=namespace)
    allowed = {("patch", "pods"), ("create", "events")} | ({("get", "pods")} if 422 in written else set())
    assert {(one["verb"], one["objectRef"]["resource"]) for one in asked} <= allowed


def test_what_is_refused_is_not_granted_to_running_pods_either(
    client: Client, pod: Json, set_policy: SetPolicy, replica: Replica
) -> None:
    set_policy({"default": {"level": "filesystem", "allow": ["filesystem"]}})
    wait_for(lambda: replica.metric("vm_consistency_reconcile_backlog") == 0, what="the policy to have reached all")

    def refused() -> float:
        return replica.metric("vm_consistency_pods_refused", source="vm", reason="level-not-allowed")

    namespace, others = pod["metadata"]["namespace"], refused()
    annotate(client, "virtualmachines", "db", namespace, **{LEVEL: "crash"})
    wait_for(lambda: refused() == others + 1, SOON, what="the refusal")
    assert decided(now(client, pod)) == ("filesystem", "default")
    annotate(client, "virtualmachines", "db", namespace, **{LEVEL: None})
    wait_for(lambda: refused() == others, SOON, what="the refusal to go")


def test_audit_leaves_running_pods_alone(client: Client, pod: Json, set_policy: SetPolicy, replica: Replica) -> None:
    set_policy({"mode": "audit", "default": {"level": "crash"}})
    counted = {"level": "crash", "source": "default"}
    wait_for(lambda: replica.metric("vm_consistency_pods", **counted) > 0, SOON, what="the decision to be counted")
    assert annotations(now(client, pod)) == annotations(pod)
