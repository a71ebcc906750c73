"""Which writes the real API server sends to the shipped registration, of which only the address is changed."""

from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.core.annotations import HOOK_KEYS
from tests.infra.controlplane import Client, ControlPlane, wait_for
from tests.infra.stand_ins.webhook import RecordingWebhook
from tests.manifests.updates import FOREIGN, UPDATES, State, Update

HOOKED = State({**FOREIGN, HOOK_KEYS[0]: '["/bin/true"]'})
ERRORS = "apiserver_admission_match_condition_evaluation_errors"
EVALUATIONS = "apiserver_admission_match_condition_evaluation_seconds"


class Cluster:
    """Writes pods and says which of the writes reached the webhook."""

    def __init__(self, control_plane: ControlPlane, webhook: RecordingWebhook) -> None:
        self.control_plane = control_plane
        self.client = control_plane.client
        self._webhook = webhook

    def create(self, state: State, namespace: str = "default", *, dry_run: bool = False) -> dict[str, Any]:
        return self.client.create(state.pod("virt-launcher-db", namespace), dry_run=dry_run)

    def delete(self, namespace: str = "default") -> None:
        self.client.delete("pods", "virt-launcher-db", namespace, grace_seconds=0)

    def sent(self) -> list[str]:
        """The operations that were sent since the last call. A write is answered only after its webhooks were."""
        operations = [request["operation"] for request in self._webhook.requests]
        self._webhook.requests.clear()
        return operations


@pytest.fixture(scope="module")
def webhook(control_plane: ControlPlane) -> Iterator[RecordingWebhook]:
    """The shipped registration, pointed at a recorder and seen to work."""
    path = "/webhooks/0/clientConfig"
    client = control_plane.client
    [shipped] = client.get("mutatingwebhookconfigurations", "vm-consistency")["webhooks"]

    def address(client_config: object) -> None:
        patch = [{"op": "replace", "path": path, "value": client_config}]
        client.patch("mutatingwebhookconfigurations", "vm-consistency", patch)

    with RecordingWebhook() as recorder:
        address(recorder.client_config)

        def heard() -> bool:
            client.create(State().pod(), dry_run=True)
            return bool(recorder.requests)

        wait_for(heard, what="the API server to use the new address")
        yield recorder
        address(shipped["clientConfig"])


@pytest.fixture
def cluster(control_plane: ControlPlane, webhook: RecordingWebhook) -> Cluster:
    webhook.requests.clear()
    return Cluster(control_plane, webhook)


@pytest.fixture
def hooked(cluster: Cluster) -> Iterator[dict[str, Any]]:
    """A launcher pod with a hook, as stored; its creation is forgotten."""
    pod = cluster.create(HOOKED)
    cluster.sent()
    yield pod
    cluster.delete()


def _other_hook(pod: dict[str, Any]) -> dict[str, Any]:
    metadata = {**pod["metadata"], "annotations": {HOOK_KEYS[0]: '["/bin/false"]'}}
    return {**pod, "metadata": metadata}


def _was_sent(cluster: Cluster, update: Update) -> bool:
    stored = cluster.create(update.before)
    cluster.sent()
    for field in ("annotations", "labels", "ownerReferences"):
        stored["metadata"][field] = update.after.pod()["metadata"][field]
    stored["spec"]["containers"][0]["image"] = update.after.image
    cluster.client.replace(stored)
    sent = cluster.sent()
    cluster.delete()
    assert sent in ([], ["UPDATE"])
    return bool(sent)


def test_updates_are_sent_only_when_they_matter(cluster: Cluster) -> None:
    sent = {update.name: _was_sent(cluster, update) for update in UPDATES}
    assert sent == {update.name: update.sent for update in UPDATES}
    assert _metric(cluster.control_plane, ERRORS, "pods.vm-consistency.io") == 0
    not_sent = sum(not update.sent for update in UPDATES)  # the others are not timed
    assert _metric(cluster.control_plane, EVALUATIONS, "pods.vm-consistency.io") >= not_sent


def test_creations_are_sent_dry_run_or_not(cluster: Cluster) -> None:
    cluster.create(State(None))
    cluster.delete()
    cluster.create(State(None), dry_run=True)
    assert cluster.sent() == ["CREATE", "CREATE"]


@pytest.mark.parametrize("label", ["hotplug-disk", "virt-exporter", "virt-handler", "", None])
def test_pods_that_are_created_as_no_launcher_are_not_sent(cluster: Cluster, label: str | None) -> None:
    labels = {"app": "other"} if label is None else {"kubevirt.io": label}
    created = cluster.create(State(labels=labels))
    cluster.client.replace(_other_hook(created))
    cluster.delete()
    # Whoever changes the label's value takes the pod away neither from KubeVirt nor from us.
    assert cluster.sent() == ([] if label is None else ["UPDATE"])


@pytest.mark.parametrize("namespace", ["kube-system", "kube-public", "kube-node-lease"])
def test_excluded_namespaces_are_not_sent(cluster: Cluster, namespace: str) -> None:
    cluster.client.replace(_other_hook(cluster.create(State(), namespace)))
    cluster.delete(namespace)
    assert cluster.sent() == []


def test_our_own_namespace_is_not_sent(cluster: Cluster) -> None:
    pod = State().pod(namespace="vm-consistency")
    pod["spec"]["securityContext"] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod["spec"]["containers"][0]["securityContext"] = restricted
    cluster.client.create(pod, dry_run=True)
    assert cluster.sent() == []


def test_status_and_binding_are_not_sent(cluster: Cluster, hooked: dict[str, Any]) -> None:
    name = hooked["metadata"]["name"]
    patch = {"metadata": {"annotations": {HOOK_KEYS[0]: ""}}, "status": {"phase": "Running"}}
    cluster.client.patch("pods", name, patch, "default", subresource="status")
    target = {"apiVersion": "v1", "kind": "Node", "name": "node"}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
    cluster.client.post("pods", name, "default", "binding", binding)
    assert cluster.sent() == []


@pytest.fixture
def service_account(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of the ServiceAccount in our namespace that `request.param` names, with a right to write pods."""
    name: str = request.param
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "vm-consistency"}}
    cluster.client.apply(account)
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"test-{name}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "vm-consistency"}],
    }
    cluster.client.create(binding)
    client = cluster.client.with_token(cluster.control_plane.token_for("vm-consistency", name))
    wait_for(lambda: _may_write_pods(client), what=f"{name} to get its role")
    yield client
    client.close()
    cluster.client.delete("clusterrolebindings", f"test-{name}")


def _may_write_pods(client: Client) -> bool:
    attributes = {"verb": "update", "resource": "pods", "namespace": "default"}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    answer = client.request("POST", path, {**review, "spec": {"resourceAttributes": attributes}}).json()
    return bool(answer["status"]["allowed"])


@pytest.mark.parametrize(
    ("service_account", "expected"),
    [("vm-consistency", []), ("vm-consistency-2", ["UPDATE"])],
    indirect=["service_account"],
    ids=["ours", "another"],
)
def test_only_our_own_writes_are_not_sent(
    cluster: Cluster, hooked: dict[str, Any], service_account: Client, expected: list[str]
) -> None:
    service_account.replace(_other_hook(hooked))
    assert cluster.sent() == expected


def test_the_metric_counts_what_fails(cluster: Cluster, webhook: RecordingWebhook) -> None:
    shipped = cluster.client.get("mutatingwebhookconfigurations", "vm-consistency")["webhooks"][0]
    failing = {"name": "always", "expression": "object.metadata.annotations['missing'] == ''"}
    broken = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "broken"},
        "webhooks": [{**shipped, "name": "broken.example.com", "matchConditions": [failing]}],
    }
    cluster.client.create(broken)

    def counted() -> bool:
        cluster.create(State(), dry_run=True)
        return _metric(cluster.control_plane, ERRORS, "broken.example.com") > 0

    wait_for(counted, what="a failed match condition to be counted")
    cluster.client.delete("mutatingwebhookconfigurations", "broken")


def _metric(control_plane: ControlPlane, family: str, webhook: str) -> float:
    """The sum of a counter, or of a histogram's observations, that kube-apiserver reports for one webhook."""
    text = control_plane.client.request("GET", "/metrics").text
    return sum(
        sample.value
        for found in text_string_to_metric_families(text)
        if found.name == family
        for sample in found.samples
        if sample.name.endswith(("_total", "_count")) and sample.labels["name"] == webhook
    )
