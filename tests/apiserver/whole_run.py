"""What must hold over everything that the tests of this folder did to an installation.

The fixtures of conftest.py call `judge` when the installation ends, in every process that runs tests: each has an
installation of its own.
"""

from app.core.annotations import LEVEL
from tests.apiserver.pods import owner_of, pod_like_a_launcher
from tests.infra.controlplane import ControlPlane, Json, launcher_pod, make_namespace, make_vm, wait_for
from tests.infra.installation import WEBHOOK_USER, Installation, Replica

PODS_WEBHOOK = "pods.vm-consistency.io"
VALIDATING_WEBHOOKS = ("policy.vm-consistency.io", "annotations.vm-consistency.io")
PLACE = "whole-run"

NEEDED_REQUESTS = {
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


def judge(installation: Installation) -> None:
    """Fail if anything that happened on this control plane should not have happened."""
    cp, replica = installation.cp, installation.replicas[0]
    _let_everything_happen_once(installation)
    _the_shipped_permissions_are_enough(cp)
    _every_write_is_made_with_the_token_of_the_service_account(cp)
    judge_registration(cp)
    assert _metric(cp, PODS_WEBHOOK, "webhook_rejection_count") == 0, "no pod was denied"
    for webhook in VALIDATING_WEBHOOKS:
        assert _metric(cp, webhook, "match_condition_exclusions_total") > 0, f"{webhook}: most writes need no call"
        assert _metric(cp, webhook, "match_condition_evaluation_errors_total") == 0
    _no_review_was_a_fault_of_ours(replica)


def judge_registration(cp: ControlPlane) -> None:
    """Fail if the API server could not use the registration of the mutating webhook at some time."""
    cp.client.create(pod_like_a_launcher("default", None), dry_run=True)  # so that there is a call in any case
    assert _metric(cp, PODS_WEBHOOK, "webhook_request_total") > 0
    assert _metric(cp, PODS_WEBHOOK, "match_condition_evaluation_errors_total") == 0


def _let_everything_happen_once(installation: Installation) -> None:
    """Cause each needed request, whichever tests ran before."""
    client = installation.cp.client
    installation.change_policy({"default": {"level": "filesystem"}, "hooks": {"crash": "noop"}})
    client.create(make_namespace(PLACE))
    client.create(make_vm("db", PLACE, annotations={LEVEL: "crash"}))
    name = launcher_pod(client, "db", PLACE)["metadata"]["name"]
    client.patch("pods", name, {"metadata": {"annotations": {"example.com/a": "not for the webhook"}}}, PLACE)
    unknown = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "a", "uid": "1"}}
    client.create(pod_like_a_launcher(PLACE, owner_of(unknown)), dry_run=True)
    assert _metric(installation.cp, PODS_WEBHOOK, "match_condition_exclusions_total") > 0, "that needs no call"


def _the_shipped_permissions_are_enough(cp: ControlPlane) -> None:
    def requests() -> list[Json]:
        return cp.audit_events(user=WEBHOOK_USER)

    wait_for(lambda: {_what(event)[:2] for event in requests()} >= NEEDED_REQUESTS, what="each needed request")
    refused = {(*_what(event), status(event)) for event in requests() if status(event) in (401, 403)}
    assert refused == set()


def _every_write_is_made_with_the_token_of_the_service_account(cp: ControlPlane) -> None:
    # Commands that a test ran as somebody else write nothing but DownloadRequests, by which Velero is asked.
    own = [event for event in cp.audit_events() if event.get("userAgent", "").startswith("vm-consistency/")]
    writes = [event for event in own if event["verb"] not in ("get", "list", "watch")]
    users = {event["user"]["username"] for event in writes if event["objectRef"]["resource"] != "downloadrequests"}
    assert users == {WEBHOOK_USER}


def _no_review_was_a_fault_of_ours(replica: Replica) -> None:
    lines = replica.log_lines()
    assert [line for line in lines if "exception" in line] == []
    assert [line for line in lines if line["message"] == "review failed; the pod is allowed unchanged"] == []


def _metric(cp: ControlPlane, webhook: str, name: str) -> float:
    return cp.metric(f"apiserver_admission_{name}", name=webhook)


def _what(event: Json) -> tuple[str, str, str]:
    target = event.get("objectRef", {})
    return event["verb"], target.get("resource", event["requestURI"]), target.get("name", "")


def status(event: Json) -> int:
    """The HTTP status of an audit event."""
    return int(event["responseStatus"]["code"])
