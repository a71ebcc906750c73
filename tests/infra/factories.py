"""Objects for tests: a launcher pod as virt-controller makes it, the cluster around it, and a policy.

Everything goes in where the product reads it: pods and metadata as raw objects, policies as YAML text.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

from app.core.decision import Decision, decide
from app.core.kubevirt_names import UPSTREAM, KubeVirtNames
from app.core.launcher import NotLauncher, PodView, recognise
from app.core.objects import Facts, NamespaceView, VirtualMachineInstanceView, VirtualMachineView
from app.core.policy import BUILT_IN, Policy, PolicyState, Standing
from app.core.policy_v1alpha1.load import load_policy

Object = dict[str, Any]
Annotations = Mapping[str, str]

RECORDED: Mapping[str, Object] = {
    path.stem: json.loads(path.read_text()) for path in (Path(__file__).parents[1] / "data" / "launcher").glob("*.json")
}
"""Launcher pods that the real virt-controller made."""

NAMESPACE: str = RECORDED["plain"]["metadata"]["namespace"]
NAME: str = RECORDED["plain"]["metadata"]["ownerReferences"][0]["name"]
UID: str = RECORDED["plain"]["metadata"]["ownerReferences"][0]["uid"]
KUBEVIRT: Annotations = RECORDED["plain"]["metadata"]["annotations"]
"""All annotations of a new pod, KubeVirt's five hook keys among them."""

_RECORDED_FIELDS = ("name", "generateName", "namespace", "labels", "annotations", "ownerReferences")


def make_pod(**metadata: Any) -> Object:
    """Return the recorded pod with these fields of its metadata instead of its own; None takes a field away."""
    recorded = RECORDED["plain"]["metadata"]
    kept = deepcopy({field: recorded[field] for field in _RECORDED_FIELDS})
    changed = {field: value for field, value in {**kept, **metadata}.items() if value is not None}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": changed, "spec": {"containers": [{"name": "compute"}]}}


def make_owner(**fields: Any) -> Object:
    """Return the ownerReference to the VirtualMachineInstance with these fields instead of its own."""
    return {**RECORDED["plain"]["metadata"]["ownerReferences"][0], **fields}


def view(pod: Object) -> PodView:
    """Return `pod` as the product sees it."""
    return PodView.from_object(pod, NAMESPACE)


def make_facts(
    *,
    vm: Annotations | None = None,
    vmi: Annotations | None = None,
    namespace: Annotations | None = None,
    labels: Annotations | None = None,
    skip: str | None = None,
) -> Facts:
    """Return a cluster in which a VirtualMachine controls the pod's instance.

    `vm`, `vmi` and `namespace` are annotations, `labels` those of the namespace, `skip` the KubeVirt object's switch.
    """
    owner = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": NAME, "uid": "vm", "controller": True}
    return Facts(
        NamespaceView.from_metadata({"name": NAMESPACE, "labels": labels, "annotations": namespace}),
        VirtualMachineInstanceView.from_metadata(_metadata(UID, vmi) | {"ownerReferences": [owner]}),
        VirtualMachineView.from_metadata(_metadata("vm", vm)),
        skip,
    )


def make_bare_facts(*, vmi: Annotations | None = None, owner: Object | None = None, **others: Any) -> Facts:
    """Return a cluster in which no VirtualMachine is known; `owner` is the instance's ownerReference, if any."""
    facts = make_facts(**others)
    metadata = _metadata(UID, vmi) | {"ownerReferences": [owner] if owner else None}
    return Facts(facts.namespace, VirtualMachineInstanceView.from_metadata(metadata), kubevirt_skip=facts.kubevirt_skip)


def _metadata(uid: str, annotations: Annotations | None) -> Object:
    return {"namespace": NAMESPACE, "name": NAME, "uid": uid, "annotations": annotations}


def policy_text(**fields: Any) -> str:
    """Return policy.yaml with `fields` at its top level."""
    return yaml.safe_dump({"apiVersion": "vm-consistency.io/v1alpha1", "kind": "ConsistencyPolicy", **fields})


def make_policy(**fields: Any) -> Policy:
    """Return a policy that was read from its text."""
    return load_policy(policy_text(**fields)).policy


def decide_pod(
    pod: Object, facts: Facts | None = None, policy: Policy = BUILT_IN, names: KubeVirtNames = UPSTREAM
) -> Decision:
    """Return the decision on a pod that must be a launcher pod."""
    vmi = recognise(view(pod), names)
    assert not isinstance(vmi, NotLauncher), vmi
    return decide(view(pod), vmi, facts or make_facts(), PolicyState(Standing.VALID, policy), names)


def patched(pod: Object, decision: Decision) -> Object:
    """Return `pod` after the decision's patch, applied by a library; the rest of the pod must be as it was."""
    result: Object = jsonpatch.apply_patch(pod, decision.patch)
    before, after = deepcopy(pod), deepcopy(result)
    before["metadata"].pop("annotations", None)
    after["metadata"].pop("annotations", None)
    assert before == after, "a patch changed more than annotations"
    return result


def annotations_after(pod: Object, decision: Decision) -> dict[str, str]:
    """Return the annotations of `pod` after the decision's patch."""
    return dict(patched(pod, decision)["metadata"].get("annotations") or {})
