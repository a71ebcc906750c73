"""The input of the benchmark: the review that kube-apiserver sends when virt-controller makes a launcher pod."""

import json
from copy import deepcopy
from dataclasses import dataclass

from tests.infra.controlplane import Client, ControlPlane, launcher_pod, make_namespace, make_vm, wait_for
from tests.infra.controlplane.client import Json
from tests.infra.stand_ins.webhook import RecordingWebhook

NAMESPACE = "bench"
VM = "postgres-primary"

# A VM of everyday size, so that its pod is one.
_DISKS = {
    "domain": {
        "cpu": {"cores": 4},
        "memory": {"guest": "8Gi"},
        "devices": {
            "disks": [{"name": name, "disk": {"bus": "virtio"}} for name in ("root", "data", "seed")],
            "interfaces": [{"name": "default", "masquerade": {}}],
        },
        "resources": {"requests": {"memory": "8Gi", "cpu": "2"}},
    },
    "architecture": "amd64",
    "networks": [{"name": "default", "pod": {}}],
    "volumes": [
        {"name": "root", "containerDisk": {"image": "fedora:1"}},
        {"name": "data", "emptyDisk": {"capacity": "10Gi"}},
        {"name": "seed", "cloudInitNoCloud": {"userData": "#cloud-config"}},
    ],
}


@dataclass(frozen=True)
class Recording:
    """One admission of a launcher pod; its VirtualMachine and instance are still in the cluster."""

    review: Json

    @property
    def created(self) -> Json:
        """The pod as virt-controller sends it, to be created again."""
        pod = deepcopy(self.review["request"]["object"])
        pod["metadata"].pop("managedFields", None)  # the API server's own
        return dict(pod)


def record(control_plane: ControlPlane) -> Recording:
    """Let virt-controller make a launcher pod, and keep what kube-apiserver asked a webhook about it."""
    client = control_plane.client
    client.create(make_namespace(NAMESPACE))
    control_plane.install_kubevirt()
    control_plane.start_virt_controller()
    with RecordingWebhook() as recorder:
        client.create(_registration(recorder))
        wait_for(lambda: _reaches(client, recorder), what="the API server to call the recorder")
        recorder.requests.clear()
        client.create(make_vm(VM, NAMESPACE, template_labels={"app": "postgres"}, guest=_DISKS))
        launcher_pod(client, VM, NAMESPACE)
        client.delete("mutatingwebhookconfigurations", "recorder")
        control_plane.virt_controller.stop()
        [request] = recorder.requests
    return Recording({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request})


def compact(value: Json) -> bytes:
    """JSON as kube-apiserver writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _reaches(client: Client, recorder: RecordingWebhook) -> bool:
    container = {"name": "probe", "image": "probe"}
    metadata = {"name": "probe", "namespace": NAMESPACE, "labels": {"kubevirt.io": "virt-launcher"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
    client.create(pod, dry_run=True)
    return bool(recorder.requests)


def _registration(recorder: RecordingWebhook) -> Json:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    webhook = {
        "name": "recorder.example.com",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "clientConfig": recorder.client_config,
        "rules": [rule],
        "objectSelector": {"matchLabels": {"kubevirt.io": "virt-launcher"}},
    }
    api_version = "admissionregistration.k8s.io/v1"
    metadata = {"name": "recorder"}
    return {
        "apiVersion": api_version,
        "kind": "MutatingWebhookConfiguration",
        "metadata": metadata,
        "webhooks": [webhook],
    }
