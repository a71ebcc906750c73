"""Which pods are a VM's virt-launcher pods, and whose."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import Any, Self

from app.core.annotations import COMMAND, EFFECTIVE_LEVEL, LEVEL, MANAGED, OWN_KEYS, POST, PRE, PROFILE
from app.core.kubevirt_names import KubeVirtNames
from app.core.objects import OwnerReference, VirtualMachineInstanceView, controller_of
from app.core.text import is_dns_subdomain


class NotLauncher(StrEnum):
    """Why a pod is left alone."""

    NO_POD_WRITE = "no-create-or-update-of-a-pod"
    LABEL = "no-launcher-label"
    OWNER = "no-vmi-owner"
    OWNER_NAME = "vmi-name-invalid"
    EPHEMERAL = "ephemeral-provisioning"
    TERMINATING = "terminating"


@dataclass(frozen=True, slots=True)
class PodView:
    """The parts of a pod's metadata that a decision needs."""

    namespace: str
    name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str] | None
    """None where the pod has no annotations map, which a JSONPatch must then create."""
    controller: OwnerReference | None
    terminating: bool
    unread_bytes: int = 0
    """Size of the annotations that were left out; they count for the limit of the API server."""

    @classmethod
    def from_object(cls, pod: Mapping[str, Any], namespace: str) -> Self:
        """Read a raw pod; `namespace` is the request's, because an object may lack it at CREATE.

        Raises ValueError, with the field's path, for what the API server would never send.
        """
        metadata = pod.get("metadata")
        if not isinstance(metadata, dict):
            raise ValueError("metadata must be an object")
        return cls(
            namespace=namespace,
            name=str(metadata.get("name") or metadata.get("generateName") or ""),
            labels=_strings(metadata, "labels") or {},
            annotations=_strings(metadata, "annotations"),
            controller=controller_of(metadata),
            terminating=metadata.get("deletionTimestamp") is not None,
        )


def _strings(metadata: Mapping[str, Any], field: str) -> Mapping[str, str] | None:
    value = metadata.get(field)
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError(f"metadata.{field} must be an object of strings")
    return value


def recognise(pod: PodView, names: KubeVirtNames) -> OwnerReference | NotLauncher:
    """Return the ownerReference to the VirtualMachineInstance, or why this is no launcher pod.

    Only the controller ownerReference identifies the VM: the label vm.kubevirt.io/name is a truncated hostname, and a
    template can forge annotations (kubevirt v1.8.4, pkg/virt-controller/services/template.go).
    """
    owner = pod.controller
    if pod.labels.get(names.launcher_label) != names.launcher_label_value:
        return NotLauncher.LABEL
    if owner is None or owner.kind != names.instance_kind or owner.group != names.api_group:
        return NotLauncher.OWNER
    if not is_dns_subdomain(owner.name):
        return NotLauncher.OWNER_NAME
    if names.ephemeral_annotation in (pod.annotations or ()):
        return NotLauncher.EPHEMERAL
    return NotLauncher.TERMINATING if pod.terminating else owner


def recognise_running(
    pod: PodView, instance: VirtualMachineInstanceView | None, names: KubeVirtNames
) -> OwnerReference | NotLauncher:
    """Return the VirtualMachineInstance whose launcher a pod that runs already is, or why it is none.

    `instance` is the one with the UID in the pod's controller ownerReference, if there is one. KubeVirt finds the pods
    of an instance by that UID alone, among those that have the launcher label with whatever value (kubevirt v1.8.4,
    pkg/controller/virtinformers.go and controller.go), and all else about them can be edited.
    """
    owner, annotations = pod.controller, pod.annotations or {}
    if owner is None or instance is None or (instance.namespace, instance.uid) != (pod.namespace, owner.uid):
        return NotLauncher.OWNER
    if names.ephemeral_annotation in annotations and EFFECTIVE_LEVEL not in annotations:
        return NotLauncher.EPHEMERAL
    if pod.terminating:
        return NotLauncher.TERMINATING
    return OwnerReference(names.api_version, names.instance_kind, instance.name, instance.uid)


def lean(pod: PodView, names: KubeVirtNames) -> PodView:
    """Return `pod` with only what decisions look at, for whoever keeps thousands of pods.

    Of a value that is longer than any of ours the beginning is kept: enough to know that it is to go. Of more labels
    than anybody uses the first are: who writes them decides by no more than that about his own VM.
    """
    labels = pod.labels if len(pod.labels) <= _MAX_LABELS else dict(islice(pod.labels.items(), _MAX_LABELS))
    if pod.annotations is None:
        return replace(pod, labels=labels)
    looked_at = (*_LOOKED_AT, names.ephemeral_annotation)
    kept = {key: _cut(key, pod.annotations[key]) for key in looked_at if key in pod.annotations}
    # What is cut of our own keys is replaced or removed; all else stays on the pod.
    unread = sum(
        len(value.encode()) - len(kept[key].encode()) if key in kept else len(key.encode()) + len(value.encode())
        for key, value in pod.annotations.items()
        if key not in OWN_KEYS
    )
    return replace(pod, labels=labels, annotations=kept, unread_bytes=unread)


_LOOKED_AT = (*OWN_KEYS, LEVEL, PROFILE, MANAGED)
_COMMANDS = frozenset({PRE + COMMAND, POST + COMMAND})
_MAX_COMMAND = 8192
_MAX_VALUE = 254
_MAX_LABELS = 128


def _cut(key: str, value: str) -> str:
    longest = _MAX_COMMAND if key in _COMMANDS else _MAX_VALUE
    return value if len(value) <= longest else value[:64]
