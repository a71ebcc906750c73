"""What must hold over everything that the tests of this folder did; conftest.py puts it last."""

import pytest

from app.core.constants import LEVEL
from tests.apiserver.conftest import DEFAULT_POLICY
from tests.apiserver.pods import EFFECTIVE_LEVEL, owner_of, pod_like_a_launcher
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
from tests.infra.installation import WEBHOOK_USER, Installation, Replica, annotations

WEBHOOK = "pods.vm-consistency.io"
PLACE = "whole-run"


@pytest.fixture(scope="module", autouse=True)
def a_bit_of_everything(installation: Installation) -> None:
    """What these tests need to have happened, should they be the only ones that run."""
    client = installation.cp.client
    installation.change_policy({**DEFAULT_POLICY, "hooks": {"crash": "noop"}})
    installation.change_policy(DEFAULT_POLICY)
    client.create(make_namespace(PLACE))
    client.create(make_vm("db", PLACE))
    name = launcher_pod(client, "db", PLACE)["metadata"]["name"]
    client.patch("pods", name, {"metadata": {"annotations": {"example.com/a": "not for the webhook"}}}, PLACE)
    unknown = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "a", "uid": "1"}}
    client.create(pod_like_a_launcher(PLACE, owner_of(unknown)), dry_run=True)


ASKED = {
    ("list", "namespaces"),
    ("list", "virtualmachines"),
    ("list", "virtualmachineinstances"),
    ("get", "virtualmachineinstances"),
    ("list", "kubevirts"),
    ("list", "configmaps"),
    ("get", "configmaps"),
    ("patch", "configmaps"),
    ("list", "secrets"),
    ("patch", "secrets"),
    ("list", "mutatingwebhookconfigurations"),
    ("patch", "mutatingwebhookconfigurations"),
    ("list", "validatingwebhookconfigurations"),
    ("patch", "validatingwebhookconfigurations"),
}
"""Verbs and resources that the webhook needs for sure; the log has a watch only when it ended."""


def test_the_permissions_that_are_shipped_are_enough(control_plane: ControlPlane) -> None:
    def requests() -> list[Json]:
        return control_plane.audit_events(user=WEBHOOK_USER)

    wait_for(lambda: {_what(event)[:2] for event in requests()} >= ASKED, what="a run that is worth looking at")

    refused = {(*_what(event), _code(event)) for event in requests() if _code(event) in (401, 403)}
    assert refused == set()


def _what(event: Json) -> tuple[str, str, str]:
    target = event.get("objectRef", {})
    return event["verb"], target.get("resource", event["requestURI"]), target.get("name", "")


def _code(event: Json) -> int:
    return int(event["responseStatus"]["code"])


def test_every_request_is_made_with_the_token_of_the_service_account(control_plane: ControlPlane) -> None:
    events = control_plane.audit_events()

    # Commands that a test ran as somebody else wrote nothing, but for what Velero is asked by.
    own = [event for event in events if event.get("userAgent", "").startswith("vm-consistency/")]
    writes = [event for event in own if event["verb"] not in ("get", "list", "watch")]
    users = {event["user"]["username"] for event in writes if event["objectRef"]["resource"] != "downloadrequests"}

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
    asked = wait_for(lambda: control_plane.audit_events(since=since, **wanted), what="the request in the audit log")
    assert {_code(event) for event in asked} == {404}


def test_the_api_server_could_always_use_the_registration(control_plane: ControlPlane) -> None:
    def total(metric: str, **labels: str) -> float:
        return control_plane.metric(f"apiserver_admission_{metric}", name=WEBHOOK, **labels)

    assert total("webhook_request_total") > 0
    assert total("match_condition_exclusions_total") > 0, "a foreign annotation is not worth a call"
    assert total("match_condition_evaluation_errors_total") == 0
    assert total("webhook_rejection_count") == 0, "no pod was denied"


@pytest.mark.parametrize("webhook", ["policy.vm-consistency.io", "annotations.vm-consistency.io"])
def test_it_could_always_judge_whether_to_validate(control_plane: ControlPlane, webhook: str) -> None:
    exclusions = "apiserver_admission_match_condition_exclusions_total"
    errors = "apiserver_admission_match_condition_evaluation_errors_total"

    assert control_plane.metric(exclusions, name=webhook) > 0, "most writes of these objects are not worth a call"
    assert control_plane.metric(errors, name=webhook) == 0


def test_it_could_also_where_the_webhook_was_made_to_fail(apart: Installation) -> None:
    apart.cp.client.create(pod_like_a_launcher("default", None), dry_run=True)  # so that there is one in any case

    assert apart.cp.metric("apiserver_admission_webhook_request_total", name=WEBHOOK) > 0
    assert apart.cp.metric("apiserver_admission_match_condition_evaluation_errors_total", name=WEBHOOK) == 0


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
