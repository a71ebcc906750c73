"""A webhook that is called before the product's, and sees what virt-controller writes to launcher pods."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.infra.controlplane import VIRT_CONTROLLER, ControlPlane, Json, wait_for
from tests.infra.stand_ins.webhook import RecordingWebhook

_NAME = "a-recorder"
"""The API server calls webhooks in the order of the names of their configurations."""


class Recorder:
    """The AdmissionRequests for pods of virt-controller so far."""

    def __init__(self, webhook: RecordingWebhook) -> None:
        self._webhook = webhook

    def created(self, vm: str) -> Json | None:
        """The request of the CREATE of a pod; `vm` is NAMESPACE/NAME."""
        return next((one for one in self._of(vm) if one["operation"] == "CREATE"), None)

    def resynced(self, vm: str) -> list[Json]:
        """The requests of the UPDATEs that change hooks; all but the last one have been stored."""
        updates = [one for one in self._of(vm) if one["operation"] == "UPDATE"]
        return [one for one in updates if _hooks(one["object"]) != _hooks(one["oldObject"])]

    def _of(self, vm: str) -> list[Json]:
        requests = (one for one in tuple(self._webhook.requests) if one["userInfo"]["username"] == VIRT_CONTROLLER)
        return [request for request in requests if _vm_of(request) == vm]


@contextmanager
def recording(cp: ControlPlane) -> Iterator[Recorder]:
    """Record until the end; the API server knows the webhook on entry."""
    with RecordingWebhook() as webhook:
        cp.client.create(_registration(webhook))

        def heard() -> bool:
            cp.client.create(_PROBE, dry_run=True)
            return bool(webhook.requests)

        wait_for(heard, what="the API server to call the recorder")
        yield Recorder(webhook)
        cp.client.delete("mutatingwebhookconfigurations", _NAME)


def _vm_of(request: Json) -> str:
    """NAMESPACE/NAME of the VM whose pod a request is about."""
    owners = request["object"]["metadata"].get("ownerReferences") or [{"name": ""}]
    return f"{request['namespace']}/{owners[0]['name']}"


def _hooks(pod: Json) -> Json:
    annotations = pod["metadata"].get("annotations") or {}
    return {key: value for key, value in annotations.items() if "hook.backup.velero.io/" in key}


_PROBE: Json = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "probe", "namespace": "default", "labels": {"kubevirt.io": "virt-launcher"}},
    "spec": {"containers": [{"name": "probe", "image": "probe"}]},
}


def _registration(webhook: RecordingWebhook) -> Json:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["pods"]}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": _NAME},
        "webhooks": [
            {
                "name": "recorder.example.com",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "clientConfig": webhook.client_config,
                "rules": [rule],
                "objectSelector": {"matchLabels": {"kubevirt.io": "virt-launcher"}},
            }
        ],
    }
