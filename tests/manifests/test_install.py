"""The default overlay on a real API server: accepted, safe to apply again, and enough but no more for the process."""

from base64 import b64encode
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from app.settings import Settings
from tests.infra.controlplane import ApiError, Client, ControlPlane
from tests.manifests.overlay import DEFAULT, Overlay

NAMESPACE = "vm-consistency"
REGISTRATIONS = {"mutatingwebhookconfigurations": 1, "validatingwebhookconfigurations": 2}
"""With the number of their webhooks."""


@pytest.fixture(scope="module")
def ourselves(control_plane: ControlPlane) -> Iterator[Client]:
    """A client with the token of the ServiceAccount that the pods run under."""
    client = control_plane.client.with_token(control_plane.token_for(NAMESPACE, "vm-consistency"))
    yield client
    client.close()


@pytest.fixture
def pod(overlay: Overlay) -> dict[str, Any]:
    """A pod as the Deployment would make it."""
    template = deepcopy(overlay.the("Deployment")["spec"]["template"])
    metadata = {**template["metadata"], "name": "vm-consistency-0", "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def test_everything_is_there(control_plane: ControlPlane, overlay: Overlay) -> None:
    listed = control_plane.kubectl("get", "-k", DEFAULT, "-o", "name").split()
    assert len(listed) == len(overlay.objects)


def test_pods_pass_the_namespaces_pod_security(control_plane: ControlPlane, pod: dict[str, Any]) -> None:
    control_plane.client.create(pod, dry_run=True)
    assert not control_plane.client.warnings


def test_pod_security_is_enforced(control_plane: ControlPlane, pod: dict[str, Any]) -> None:
    del pod["spec"]["containers"][0]["securityContext"]["capabilities"]
    with pytest.raises(ApiError, match="unrestricted capabilities"):
        control_plane.client.create(pod, dry_run=True)


@pytest.mark.parametrize("flags", [(), ("--server-side", "--force-conflicts")], ids=["client-side", "server-side"])
def test_applying_again_keeps_what_the_process_wrote(
    control_plane: ControlPlane, ourselves: Client, overlay: Overlay, flags: tuple[str, ...]
) -> None:
    settings = Settings()
    key = {"data": {"tls.key": b64encode(b"key").decode()}}
    policy = {"data": {"policy.yaml": "kind: ConsistencyPolicy"}}
    bundle = b64encode(control_plane.ca_file.read_bytes()).decode()
    ourselves.patch("secrets", settings.certificate_secret, key, NAMESPACE)
    ourselves.patch("configmaps", settings.last_good_config_map, policy, NAMESPACE)
    lease = {"spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 15}}
    ourselves.patch("leases", "vm-consistency", lease, NAMESPACE)
    for plural, count in REGISTRATIONS.items():
        places = (f"/webhooks/{index}/clientConfig/caBundle" for index in range(count))
        patch = [{"op": "add", "path": place, "value": bundle} for place in places]
        ourselves.patch(plural, settings.webhook_configuration, patch)

    control_plane.kubectl("apply", *flags, "-k", DEFAULT)

    client = control_plane.client
    assert client.get("secrets", settings.certificate_secret, NAMESPACE)["data"] == key["data"]
    assert client.get("configmaps", settings.last_good_config_map, NAMESPACE)["data"] == policy["data"]
    held = client.get("leases", "vm-consistency", NAMESPACE)["spec"]
    assert {field: held[field] for field in lease["spec"]} == lease["spec"]
    for plural, count in REGISTRATIONS.items():
        webhooks = client.get(plural, settings.webhook_configuration)["webhooks"]
        assert [webhook["clientConfig"]["caBundle"] for webhook in webhooks] == [bundle] * count


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"/api/v1/namespaces/{NAMESPACE}/secrets", "vm-consistency-certs"),
        (f"/api/v1/namespaces/{NAMESPACE}/configmaps", "vm-consistency-policy"),
        (f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases", "vm-consistency"),
        *((f"/apis/admissionregistration.k8s.io/v1/{plural}", "vm-consistency") for plural in REGISTRATIONS),
    ],
)
def test_named_objects_are_listed_and_watched_only_by_name(ourselves: Client, path: str, name: str) -> None:
    by_name = {"fieldSelector": f"metadata.name={name}"}
    assert len(ourselves.request("GET", path, params=by_name).json()["items"]) == 1
    watch = {**by_name, "watch": "true", "timeoutSeconds": "1"}
    ourselves.request("GET", path, params=watch)
    _forbidden(ourselves, "GET", path)


@pytest.mark.parametrize("path", ["/api/v1/namespaces", "/api/v1/pods", "/apis/kubevirt.io/v1/virtualmachines"])
def test_what_decisions_need_is_listed_in_the_whole_cluster(ourselves: Client, path: str) -> None:
    try:
        ourselves.request("GET", path)
    except ApiError as error:
        assert error.status == 404, "without KubeVirt's CRDs there is nothing to list"  # noqa: PT017


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/events"),
        ("DELETE", "/api/v1/namespaces/default/pods/any"),
        ("PUT", "/api/v1/namespaces/default/pods/any"),
        ("PATCH", "/api/v1/namespaces/default/pods/any/status"),
        ("POST", "/api/v1/namespaces/default/pods/any/exec"),
        ("GET", "/api/v1/secrets"),
        ("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/other"),
        ("POST", f"/api/v1/namespaces/{NAMESPACE}/secrets"),
        ("POST", f"/api/v1/namespaces/{NAMESPACE}/configmaps"),
        ("PUT", f"/api/v1/namespaces/{NAMESPACE}/configmaps/vm-consistency-policy"),
        ("DELETE", f"/api/v1/namespaces/{NAMESPACE}/configmaps/vm-consistency-policy"),
        ("PATCH", f"/api/v1/namespaces/{NAMESPACE}/configmaps/other"),
        ("POST", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"),
        ("PUT", f"/api/v1/namespaces/{NAMESPACE}/secrets/vm-consistency-certs"),
        ("DELETE", f"/api/v1/namespaces/{NAMESPACE}/secrets/vm-consistency-certs"),
        ("PATCH", "/api/v1/namespaces/default"),
        ("PATCH", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/other"),
        ("PATCH", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/other"),
        ("PUT", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/vm-consistency"),
    ],
)
def test_the_rest_is_forbidden(ourselves: Client, method: str, path: str) -> None:
    _forbidden(ourselves, method, path)


def _forbidden(client: Client, method: str, path: str) -> None:
    headers = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else None
    with pytest.raises(ApiError) as refused:
        client.request(method, path, None if method == "GET" else {}, headers=headers)
    assert refused.value.status == 403
