"""Which pods are a VM's virt-launcher pods, and whose."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self

from app.core.constants import EFFECTIVE_LEVEL, LEVEL, MANAGED, OWN_KEYS, PROFILE, KubeVirtNames
from app.core.objects import OwnerReference, controller_of

_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_MAX_SUBDOMAIN = 253


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


def is_dns_subdomain(text: str) -> bool:
    """Whether `text` is a DNS-1123 subdomain as Kubernetes has it: 253 characters, but no limit for a part."""
    return len(text) <= _MAX_SUBDOMAIN and _SUBDOMAIN.fullmatch(text) is not None


def recognise(pod: PodView, names: KubeVirtNames) -> OwnerReference | NotLauncher:
    """Return the ownerReference to the VirtualMachineInstance, or why this is no launcher pod.

    Only the controller ownerReference identifies the VM: the label vm.kubevirt.io/name is a truncated hostname, and a
    template can forge annotations (kubevirt v1.8.4, pkg/virt-controller/services/template.go).
    """
    if pod.labels.get(names.launcher_label) != names.launcher_label_value:
        return NotLauncher.LABEL
    owner = _instance(pod, names)
    if isinstance(owner, NotLauncher):
        return owner
    if names.ephemeral_annotation in (pod.annotations or ()):
        return NotLauncher.EPHEMERAL
    return NotLauncher.TERMINATING if pod.terminating else owner


def recognise_running(pod: PodView, names: KubeVirtNames) -> OwnerReference | NotLauncher:
    """`recognise` for a pod that runs already.

    One with a record is a launcher, whatever somebody made of its label or annotated since: KubeVirt goes on writing
    its hooks to every pod that has the label at all (kubevirt v1.8.4, pkg/controller/virtinformers.go), while
    admission is asked for those with the right value only.
    """
    if EFFECTIVE_LEVEL not in (pod.annotations or ()):
        return recognise(pod, names)
    return NotLauncher.TERMINATING if pod.terminating else _instance(pod, names)


def _instance(pod: PodView, names: KubeVirtNames) -> OwnerReference | NotLauncher:
    owner = pod.controller
    if owner is None or owner.kind != names.instance_kind or owner.group != names.api_group:
        return NotLauncher.OWNER
    return owner if is_dns_subdomain(owner.name) else NotLauncher.OWNER_NAME


def lean(pod: PodView, names: KubeVirtNames) -> PodView:
    """Return `pod` with only those annotations that decisions look at, for whoever keeps thousands of pods."""
    if pod.annotations is None:
        return pod
    kept = {key: pod.annotations[key] for key in (*_LOOKED_AT, names.ephemeral_annotation) if key in pod.annotations}
    unread = sum(len(k.encode()) + len(v.encode()) for k, v in pod.annotations.items() if k not in kept)
    return replace(pod, annotations=kept, unread_bytes=unread)


_LOOKED_AT = (*OWN_KEYS, LEVEL, PROFILE, MANAGED)
