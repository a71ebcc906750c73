"""What must hold over everything that the tests of this folder did; conftest.py puts it last."""

import re

import pytest

from app.core.constants import LEVEL
from tests.apiserver.pods import EFFECTIVE_LEVEL, owner_of, pod_like_a_launcher
from tests.controlplane import Client, ControlPlane, Json, launcher_pod, make_vm, make_vmi, wait_for
from tests.installation import WEBHOOK_USER, Replica, annotations

WEBHOOK = "pods.vm-consistency.io"


@pytest.fixture(scope="module")
def requests(control_plane: ControlPlane) -> list[Json]:
    """All that the webhook has asked of the API server since it was installed."""
    return control_plane.audit_events(user=WEBHOOK_USER)


def _what(event: Json) -> tuple[str, str, str]:
    target = event.get("objectRef", {})
    return event["verb"], target.get("resource", event["requestURI"]), target.get("name", "")


@pytest.mark.usefixtures("replica")
def test_the_permissions_that_are_shipped_are_enough(requests: list[Json]) -> None:
    refused = {(*_what(event), event["responseStatus"]["code"]) for event in requests if _code(event) in (401, 403)}

    assert refused == set()
    done = {(verb, resource) for verb, resource, _ in map(_what, requests)}
    assert done >= {
        *((verb, "namespaces") for verb in ("list", "watch")),
        *((verb, "virtualmachines") for verb in ("list", "watch")),
        *((verb, "virtualmachineinstances") for verb in ("list", "watch", "get")),
        *((verb, "kubevirts") for verb in ("list", "watch")),
        *((verb, "configmaps") for verb in ("list", "watch", "get", "patch")),
        *((verb, "secrets") for verb in ("list", "watch")),
        *((verb, "mutatingwebhookconfigurations") for verb in ("list", "watch", "patch")),
    }, "or else the assertion above would say little"


def _code(event: Json) -> int:
    return int(event["responseStatus"]["code"])


@pytest.mark.usefixtures("replica")
def test_every_request_is_made_with_the_token_of_the_service_account(control_plane: ControlPlane) -> None:
    events = control_plane.audit_events()

    users = {event["user"]["username"] for event in events if event.get("userAgent", "").startswith("vm-consistency/")}

    assert users == {WEBHOOK_USER}


def test_virtual_machines_that_nobody_has_seen_may_be_looked_up(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    since = control_plane.audit_position()
    gone = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "gone", "uid": "1"}}
    vmi = make_vmi("orphan", namespace)
    vmi["metadata"]["ownerReferences"] = [owner_of(gone)]
    created = client.create(vmi)

    pod = client.create(pod_like_a_launcher(namespace, owner_of(created)), dry_run=True)

    assert annotations(pod)[EFFECTIVE_LEVEL] == "filesystem"
    wanted = {"user": WEBHOOK_USER, "verb": "get", "resource": "virtualmachines", "name": "gone"}
    [asked] = wait_for(lambda: control_plane.audit_events(since=since, **wanted), what="the request in the audit log")
    assert _code(asked) == 404


@pytest.mark.usefixtures("replica")
def test_the_api_server_could_always_use_the_registration(client: Client) -> None:
    metrics = client.request("GET", "/metrics").text

    def total(metric: str) -> float:
        samples = re.findall(rf'^{metric}{{[^}}]*name="{re.escape(WEBHOOK)}"[^}}]*}} (\S+)$', metrics, re.MULTILINE)
        return sum(map(float, samples))

    assert total("apiserver_admission_webhook_request_total") > 100
    assert total("apiserver_admission_match_condition_evaluation_errors_total") == 0
    assert total("apiserver_admission_match_condition_exclusions_total") > 0
    assert total("apiserver_admission_webhook_rejection_count") == 0


def test_no_review_was_a_fault_of_ours(replica: Replica) -> None:
    lines = replica.log_lines()

    assert [line for line in lines if "exception" in line] == []
    assert [line for line in lines if line["message"] == "review failed; the pod is allowed unchanged"] == []


def test_nothing_of_a_pod_is_in_the_log(client: Client, namespace: str, replica: Replica) -> None:
    secret = "not for the log"
    asked = {LEVEL: "bulletproof", "example.com/a": secret, "pre.hook.backup.velero.io/on-error": secret}
    client.create(make_vm("db", namespace, template_annotations=asked))
    launcher_pod(client, "db", namespace)

    assert any(line.get("namespace") == namespace for line in replica.log_lines())
    assert secret not in replica.process.log.read_text()
