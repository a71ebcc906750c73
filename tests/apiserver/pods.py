"""What the tests look at on a pod, and pods that look like virt-controller's."""

import json
import secrets
from collections.abc import Mapping

from app.core.annotations import HOOK_KEYS, RECORD_KEYS
from tests.infra.controlplane import Json
from tests.infra.installation import annotations

PRE, POST = "pre.hook.backup.velero.io/", "post.hook.backup.velero.io/"
LEGACY = "hook.backup.velero.io/"
LEVEL, PROFILE = "vm-consistency.io/level", "vm-consistency.io/profile"
EFFECTIVE_LEVEL, DECIDED_BY = "vm-consistency.io/effective-level", "vm-consistency.io/decided-by"
SKIP = "kubevirt.io/skip-backup-hooks"
KUBEVIRT_KEYS = {PRE + "container", PRE + "command", PRE + "timeout", POST + "container", POST + "command"}

EXCLUDED = "kube-system"
"""A namespace whose pods the API server does not send: what stands there is what virt-controller wrote."""


def hooks(pod: Json) -> dict[str, str]:
    """The hook annotations: those of the twelve keys that are there."""
    return {key: value for key, value in annotations(pod).items() if key in HOOK_KEYS}


def record(pod: Json) -> dict[str, str]:
    """The record, empty where there is none."""
    return {key: value for key, value in annotations(pod).items() if key in RECORD_KEYS}


def foreign(pod: Json) -> dict[str, str]:
    """The annotations that are neither hooks nor record."""
    return {key: value for key, value in annotations(pod).items() if key not in (*HOOK_KEYS, *RECORD_KEYS)}


def decided(pod: Json) -> tuple[str | None, str | None]:
    """Level and source, as the record has them."""
    written = annotations(pod)
    return written.get(EFFECTIVE_LEVEL), written.get(DECIDED_BY)


def kubevirt_hooks(vmi: str, namespace: str) -> dict[str, str]:
    """What KubeVirt 1.8 writes by itself."""
    target = ["--name", vmi, "--namespace", namespace]
    return {
        PRE + "container": "compute",
        PRE + "command": json.dumps(["/usr/bin/virt-freezer", "--freeze", *target]),
        PRE + "timeout": "60s",
        POST + "container": "compute",
        POST + "command": json.dumps(["/usr/bin/virt-freezer", "--unfreeze", *target]),
    }


def filesystem_hooks(vmi: str, namespace: str) -> dict[str, str]:
    """Level filesystem with the default settings: KubeVirt's hooks, and the keys that KubeVirt leaves out."""
    ours = {PRE + "on-error": "Continue", POST + "on-error": "Continue", POST + "timeout": "60s"}
    return {**kubevirt_hooks(vmi, namespace), **ours}


def hooks_of(level: str, vmi: str, namespace: str) -> dict[str, str]:
    """The hooks of a level with the default settings."""
    return {"crash": {}, "filesystem": filesystem_hooks(vmi, namespace)}[level]


def owner_of(vmi: Json, **changes: object) -> Json:
    """A controller ownerReference to an object."""
    metadata = vmi["metadata"]
    reference = {"apiVersion": vmi["apiVersion"], "kind": vmi["kind"], "name": metadata["name"], "uid": metadata["uid"]}
    return {**reference, "controller": True, **changes}


def pod_like_a_launcher(
    namespace: str,
    owner: Json | None,
    *,
    annotations: Mapping[str, str] | None = None,
    label: str | None = "virt-launcher",
) -> Json:
    """A pod that carries the label and the ownerReference of a launcher; anyone who may create pods can make it."""
    metadata: Json = {"name": f"borrowed-{secrets.token_hex(3)}", "namespace": namespace}
    if label:
        metadata["labels"] = {"kubevirt.io": label}
    if owner:
        metadata["ownerReferences"] = [owner]
    if annotations:
        metadata["annotations"] = dict(annotations)
    spec = {"containers": [{"name": "compute", "image": "virt-launcher"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
