"""Somebody else's admission refuses our writes in one Namespace; all others must not suffer for it."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest

from tests.apiserver.pods import LEVEL
from tests.faults.fleet import Fleet, crashed, frozen, policy
from tests.faults.ledger import Ledger
from tests.infra.controlplane import ApiError, Client, Json, wait_for
from tests.infra.installation import Installation, Replica

pytestmark = pytest.mark.usefixtures("well")

REFUSED = "team-b"
SELECTOR = {"matchLabels": {"kubernetes.io/metadata.name": REFUSED}}
PODS = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["pods"]}
GROUP = "admissionregistration.k8s.io/v1"

POLICY: Json = {
    "apiVersion": GROUP,
    "kind": "ValidatingAdmissionPolicy",
    "metadata": {"name": "frozen-zone"},
    "spec": {
        "matchConstraints": {"resourceRules": [PODS], "namespaceSelector": SELECTOR},
        "validations": [{"expression": "false", "message": "change freeze until Monday"}],
    },
}
BINDING: Json = {
    "apiVersion": GROUP,
    "kind": "ValidatingAdmissionPolicyBinding",
    "metadata": {"name": "frozen-zone"},
    "spec": {"policyName": "frozen-zone", "validationActions": ["Deny"]},
}
UNREACHABLE: Json = {
    "apiVersion": GROUP,
    "kind": "ValidatingWebhookConfiguration",
    "metadata": {"name": "gone"},
    "webhooks": [
        {
            "name": "gone.example.com",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "timeoutSeconds": 1,
            "clientConfig": {"url": "https://127.0.0.1:9/"},
            "rules": [PODS],
            "namespaceSelector": SELECTOR,
        }
    ],
}
PLURALS = {
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
    "ValidatingWebhookConfiguration": "validatingwebhookconfigurations",
}


@contextmanager
def in_force(client: Client, *objects: Json) -> Iterator[Callable[[], None]]:
    """Create them and return when they refuse; gives what takes them away, and returns when they refuse no more."""

    def refuses() -> bool:
        change = {"metadata": {"annotations": {"example.com/try": "1"}}}
        try:
            client.patch("pods", "vm-0", change, REFUSED, dry_run=True)
        except ApiError:
            return True
        return False

    def lift() -> None:
        for one in objects:
            if client.find(PLURALS[one["kind"]], one["metadata"]["name"]):
                client.delete(PLURALS[one["kind"]], one["metadata"]["name"])
        wait_for(lambda: not refuses(), what="what refused to be out of force")

    for one in objects:
        client.create(one)
    try:
        wait_for(refuses, what="what refuses to be in force")
        yield lift
    finally:
        lift()


@pytest.mark.parametrize(
    ("objects", "text"),
    [
        pytest.param((POLICY, BINDING), "change freeze until Monday", id="validating-admission-policy"),
        pytest.param((UNREACHABLE,), "failed calling webhook", id="webhook-that-nobody-answers"),
    ],
)
def test_one_namespace_is_refused(
    cluster: Installation, fleet: Fleet, leader: Replica, objects: tuple[Json, ...], text: str
) -> None:
    client, ledger, timeout = cluster.cp.client, Ledger(cluster.cp), 51 + len(objects)
    logged = len(leader.log_lines())

    def others(namespace: str, vm: str) -> Mapping[str, str]:
        return frozen(namespace, vm, 60 if namespace == REFUSED else timeout)

    with in_force(client, *objects) as lift:
        cluster.change_policy(policy(timeout))
        fleet.right(others)
        wait_for(lambda: _told(client, text), what="an Event that says what refuses")
        lines = [line for line in leader.log_lines()[logged:] if line["message"] == "pod not brought in line"]
        assert [text in line["error"] for line in lines] == [True], "once, not for every pod"

        _takes_effect_soon(client)
        time.sleep(3)  # in which a tight loop would show
        tries = sum(ledger.answers().values()) - sum(ledger.writes().values())
        assert tries <= 8 * len([member for member in fleet.members if member[0] == REFUSED])
        assert not any(namespace == REFUSED for namespace, _ in ledger.writes())
        lift()
        lifted = time.monotonic()
        fleet.right(fleet.frozen(timeout))
    took = time.monotonic() - lifted
    print(f"{tries} tries while it was refused; right {took:.1f} s after that; {ledger}")
    assert max(count for member, count in ledger.writes().items() if member != ("team-a", "vm-0")) == 1


def _told(client: Client, text: str) -> bool:
    events = client.list("events", REFUSED)
    return any(event["reason"] == "HooksNotWritten" and text in event["message"] for event in events)


def _takes_effect_soon(client: Client) -> None:
    """A change of one VirtualMachine elsewhere does not wait for what is refused."""

    def annotated(level: str | None, expected: Mapping[str, str]) -> None:
        client.patch("virtualmachines", "vm-0", {"metadata": {"annotations": {LEVEL: level}}}, "team-a")
        wait_for(
            lambda: client.get("pods", "vm-0", "team-a")["metadata"]["annotations"] == expected,
            20,
            what="the annotation to take effect",
        )

    before = client.get("pods", "vm-0", "team-a")["metadata"]["annotations"]
    annotated("crash", crashed("vm"))
    annotated(None, before)
