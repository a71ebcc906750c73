"""What is kept of the cluster's objects: as little as the decisions need.

Every view is read from an object's raw ``metadata``; labels and annotations of an unexpected shape count as absent,
because a view never has a reason to fail: the API server validated the object, and a doubt is settled by deciding
without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from app.core.annotations import LEVEL, MANAGED, PROFILE
from app.core.kubevirt_names import UPSTREAM, KubeVirtNames

_NONE: Mapping[str, str] = {}

_MAX_WISH = 254
_MAX_REFERENCE = 512
"""Characters. No level, profile or name is as long; and anybody may write thousands of objects of 256 KiB each."""


@dataclass(frozen=True, slots=True)
class OwnerReference:
    """The controlling entry of ``metadata.ownerReferences``."""

    api_version: str
    kind: str
    name: str
    uid: str

    @property
    def group(self) -> str:
        """The API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]


def controller_of(metadata: Mapping[str, Any]) -> OwnerReference | None:
    """The ownerReference with ``controller: true``, of which the API server admits at most one."""
    references = metadata.get("ownerReferences")
    if not isinstance(references, list):
        return None
    for reference in references:
        if isinstance(reference, dict) and reference.get("controller") is True:
            fields = [reference.get(key) for key in ("apiVersion", "kind", "name", "uid")]
            strings = [field for field in fields if isinstance(field, str) and len(field) <= _MAX_REFERENCE]
            if len(strings) == len(fields):
                return OwnerReference(*strings)
    return None


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _MAX_WISH else text[:_MAX_WISH]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the annotations of one object ask for, as typed but cut short; None where an annotation is absent."""

    level: str | None = None
    profile: str | None = None
    managed: str | None = None
    skip: str | None = None

    @classmethod
    def from_annotations(cls, annotations: Mapping[str, str], skip_annotation: str | None = None) -> Self:
        """Read the annotations; `skip_annotation` names KubeVirt's own switch where the object can carry it."""
        return cls(
            _cut(annotations.get(LEVEL)),
            _cut(annotations.get(PROFILE)),
            _cut(annotations.get(MANAGED)),
            _cut(annotations.get(skip_annotation)) if skip_annotation else None,
        )


SILENT = Wishes()


def string_map(metadata: Mapping[str, Any], field: str) -> Mapping[str, str]:
    """`metadata[field]` if it is an object of strings, else an empty one."""
    value = metadata.get(field)
    if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
        return value
    return _NONE


def _wishes(metadata: Mapping[str, Any], skip_annotation: str | None) -> Wishes:
    wishes = Wishes.from_annotations(string_map(metadata, "annotations"), skip_annotation)
    return SILENT if wishes == SILENT else wishes  # thousands of silent objects share one


@dataclass(frozen=True, slots=True)
class NamespaceView:
    """A Namespace: labels for the policy's selectors, and what its annotations ask for."""

    name: str
    labels: Mapping[str, str]
    wishes: Wishes

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], names: KubeVirtNames = UPSTREAM) -> Self:
        """Read the raw metadata of a Namespace."""
        return cls(str(metadata.get("name", "")), string_map(metadata, "labels"), _wishes(metadata, None))


@dataclass(frozen=True, slots=True)
class VirtualMachineView:
    """A VirtualMachine: what the annotations of its own metadata ask for."""

    namespace: str
    name: str
    uid: str
    wishes: Wishes

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], names: KubeVirtNames = UPSTREAM) -> Self:
        """Read the raw metadata of a VirtualMachine."""
        return cls(
            str(metadata.get("namespace", "")),
            str(metadata.get("name", "")),
            str(metadata.get("uid", "")),
            _wishes(metadata, names.skip_annotation),
        )


@dataclass(frozen=True, slots=True)
class VirtualMachineInstanceView:
    """A VirtualMachineInstance: who controls it, and what its own annotations ask for."""

    namespace: str
    name: str
    uid: str
    controller: OwnerReference | None
    wishes: Wishes

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], names: KubeVirtNames = UPSTREAM) -> Self:
        """Read the raw metadata of a VirtualMachineInstance."""
        return cls(
            str(metadata.get("namespace", "")),
            str(metadata.get("name", "")),
            str(metadata.get("uid", "")),
            controller_of(metadata),
            _wishes(metadata, names.skip_annotation),
        )

    def virtual_machine(self, names: KubeVirtNames = UPSTREAM) -> OwnerReference | None:
        """The VirtualMachine that controls this instance; None for a bare one or one of a replica set."""
        owner = self.controller
        return owner if owner and owner.kind == names.machine_kind and owner.group == names.api_group else None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a decision needs of the cluster besides the pod itself.

    `vmi` is None where no instance of the pod's ownerReference (name and UID) exists, `vm` where no VirtualMachine
    controls it; `kubevirt_skip` is the skip-backup-hooks annotation of the KubeVirt object, as typed.
    """

    namespace: NamespaceView
    vmi: VirtualMachineInstanceView | None = None
    vm: VirtualMachineView | None = None
    kubevirt_skip: str | None = None
