"""Writes of Namespaces, VirtualMachines and the policy, and whether the validating webhooks must hear of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from app.core.annotations import LEVEL, MANAGED, PROFILE
from app.core.kubevirt_names import UPSTREAM

Object = dict[str, Any]
FOREIGN = {"example.com/note": "1"}


@dataclass(frozen=True)
class Edit:
    """An object before and after a write; None is one that is not there."""

    name: str
    before: Object | None
    after: Object | None
    sent: bool

    @property
    def operation(self) -> str:
        """What it is to the API server."""
        return "CREATE" if self.before is None else "DELETE" if self.after is None else "UPDATE"


def make_namespace(annotations: dict[str, str] | None) -> Object:
    """A Namespace, with null where it has no annotations."""
    metadata = {"name": "team", "labels": {"kubernetes.io/metadata.name": "team"}, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata, "spec": {"finalizers": ["kubernetes"]}}


def make_vm(
    annotations: dict[str, str] | None = None,
    template: dict[str, str] | None = None,
    *,
    template_metadata: bool = True,
    running: bool = True,
) -> Object:
    """A VirtualMachine as the API server holds it: without the maps that it does not have."""
    below: Object = {"spec": {"domain": {}}}
    if template_metadata:
        below["metadata"] = {"creationTimestamp": None, **({"annotations": template} if template else {})}
    metadata = {"name": "db", "namespace": "team", **({"annotations": annotations} if annotations else {})}
    spec = {"running": running, "template": below}
    return {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": metadata, "spec": spec}


Make: TypeAlias = Callable[[dict[str, str] | None], Object]
"""From annotations to an object."""


def _annotated(name: str, make: Make, key: str, *, sent: bool) -> Iterator[Edit]:
    """`key` comes with a new object, arrives at an old one, changes, goes, and stays while something else changes."""
    one, two, note = {**FOREIGN, key: "1"}, {**FOREIGN, key: "2"}, {"example.com/note": "2"}
    yield Edit(f"{name}-created-with", None, make(one), sent)
    yield Edit(f"{name}-added", make(FOREIGN), make(one), sent)
    yield Edit(f"{name}-added-as-the-first", make(None), make({key: "1"}), sent)
    yield Edit(f"{name}-changed", make(one), make(two), sent)
    yield Edit(f"{name}-removed", make(one), make(FOREIGN), sent)
    yield Edit(f"{name}-removed-as-the-last", make({key: "1"}), make(None), sent)
    yield Edit(f"{name}-kept", make(one), make({**one, **note}), False)


def _all() -> Iterator[Edit]:
    kinds: dict[str, Make] = {
        "namespace": make_namespace,
        "vm": make_vm,
        "template": lambda annotations: make_vm(template=annotations),
    }
    for kind, make in kinds.items():
        for key in (LEVEL, PROFILE, MANAGED, UPSTREAM.skip_annotation):
            yield from _annotated(f"{kind}-{key}", make, key, sent=True)
        for key in ("example.com/other", "vm-consistency.io/not-invented-yet"):
            yield from _annotated(f"{kind}-{key}", make, key, sent=False)
        yield Edit(f"{kind}-created-without-any", None, make(None), False)
    asking = make_vm({LEVEL: "crash"}, {LEVEL: "crash"})
    yield Edit("vm-halted", asking, make_vm({LEVEL: "crash"}, {LEVEL: "crash"}, running=False), False)
    bare = make_vm(template_metadata=False)
    yield Edit("vm-without-template-metadata", None, bare, False)
    yield Edit("vm-annotated-without-template-metadata", bare, make_vm({LEVEL: "1"}, template_metadata=False), True)
    yield Edit("template-metadata-arrives", bare, make_vm(template={LEVEL: "1"}), True)
    null = make_vm()
    null["spec"]["template"]["metadata"] = None  # nullable in KubeVirt's CRD
    yield Edit("vm-with-null-template-metadata", None, null, False)
    yield Edit("vm-annotated-with-null-template-metadata", None, {**null, "metadata": asking["metadata"]}, True)
    yield Edit("template-metadata-no-longer-null", null, make_vm(template={LEVEL: "1"}), True)


EDITS = list(_all())
