"""Objects that tests create: virtual machines and what belongs to them, as small as KubeVirt takes them."""

from collections.abc import Mapping
from typing import Any

from tests.infra.controlplane.client import Client, Json
from tests.infra.controlplane.waiting import wait_for

Strings = Mapping[str, str]

_GUEST: Json = {
    "architecture": "amd64",  # virt-api's webhook, which is not here, would default it
    "domain": {"devices": {}, "resources": {"requests": {"memory": "64Mi"}}},
}


def make_namespace(name: str, *, labels: Strings | None = None, annotations: Strings | None = None) -> Json:
    """A Namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": _metadata(name, None, annotations, labels)}


def make_vm(
    name: str,
    namespace: str = "default",
    *,
    annotations: Strings | None = None,
    labels: Strings | None = None,
    template_annotations: Strings | None = None,
    template_labels: Strings | None = None,
    run_strategy: str = "Always",
    guest: Json | None = None,
) -> Json:
    """A VirtualMachine; `guest` replaces or adds top-level fields of `spec.template.spec` (domain, volumes, ...)."""
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": _metadata(name, namespace, annotations, labels),
        "spec": _vm_spec(run_strategy, template_annotations, template_labels, guest),
    }


def make_vmi(
    name: str,
    namespace: str = "default",
    *,
    annotations: Strings | None = None,
    labels: Strings | None = None,
    guest: Json | None = None,
) -> Json:
    """A VirtualMachineInstance without a VirtualMachine."""
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": _metadata(name, namespace, annotations, labels),
        "spec": {**_GUEST, **(guest or {})},
    }


def make_vm_pool(
    name: str,
    namespace: str = "default",
    *,
    replicas: int = 2,
    vm_annotations: Strings | None = None,
    vm_labels: Strings | None = None,
    template_annotations: Strings | None = None,
    template_labels: Strings | None = None,
    guest: Json | None = None,
) -> Json:
    """A VirtualMachinePool, whose VirtualMachines are called NAME-0, NAME-1 and so on."""
    selected = {"pool": name, **(vm_labels or {})}
    template = {
        "metadata": {"labels": selected, "annotations": dict(vm_annotations or {})},
        "spec": _vm_spec("Always", template_annotations, {"pool": name, **(template_labels or {})}, guest),
    }
    return {
        "apiVersion": "pool.kubevirt.io/v1beta1",
        "kind": "VirtualMachinePool",
        "metadata": _metadata(name, namespace, None, None),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"pool": name}},
            "virtualMachineTemplate": template,
        },
    }


def make_migration(vmi: str, namespace: str = "default") -> Json:
    """A live migration of a running VirtualMachineInstance."""
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstanceMigration",
        "metadata": _metadata(f"migrate-{vmi}", namespace, None, None),
        "spec": {"vmiName": vmi},
    }


def make_export(pvc: str, namespace: str = "default") -> Json:
    """A VirtualMachineExport of a PersistentVolumeClaim; virt-controller makes a virt-export pod for it."""
    return {
        "apiVersion": "export.kubevirt.io/v1beta1",
        "kind": "VirtualMachineExport",
        "metadata": _metadata(f"export-{pvc}", namespace, None, None),
        "spec": {
            "tokenSecretRef": f"export-{pvc}",
            "source": {"apiGroup": "", "kind": "PersistentVolumeClaim", "name": pvc},
        },
    }


def launcher_pods(client: Client, vmi: str, namespace: str = "default") -> list[Json]:
    """The virt-launcher pods of a VirtualMachineInstance that are neither ending nor ended, oldest first.

    By the controller ownerReference: no label holds the whole name.
    """
    found = [pod for pod in client.list("pods", namespace, labels="kubevirt.io=virt-launcher") if _runs(pod, vmi)]
    return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def launcher_pod(
    client: Client, vmi: str, namespace: str = "default", *, not_uid: str | None = None, timeout: float = 60.0
) -> Json:
    """Wait for the virt-launcher pod of a VirtualMachine or VirtualMachineInstance and return it.

    `not_uid` is the uid of a pod that is known already: wait for its successor or migration target.
    """

    def look() -> Json | None:
        pods = launcher_pods(client, vmi, namespace)
        return next((pod for pod in reversed(pods) if pod["metadata"]["uid"] != not_uid), None)

    return wait_for(look, timeout, what=f"the virt-launcher pod of {namespace}/{vmi}")


def _runs(pod: Json, vmi: str) -> bool:
    owners = pod["metadata"].get("ownerReferences", [])
    owned = any(owner["kind"] == "VirtualMachineInstance" and owner["name"] == vmi for owner in owners)
    going = "deletionTimestamp" in pod["metadata"] or pod["status"]["phase"] in ("Failed", "Succeeded")
    return owned and not going


def _vm_spec(run_strategy: str, annotations: Strings | None, labels: Strings | None, guest: Json | None) -> Json:
    template = {
        "metadata": {"annotations": dict(annotations or {}), "labels": dict(labels or {})},
        "spec": {**_GUEST, **(guest or {})},
    }
    return {"runStrategy": run_strategy, "template": template}


def _metadata(name: str, namespace: str | None, annotations: Strings | None, labels: Strings | None) -> Json:
    metadata: dict[str, Any] = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    if annotations:
        metadata["annotations"] = dict(annotations)
    if labels:
        metadata["labels"] = dict(labels)
    return metadata
