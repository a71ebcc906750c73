"""The objects of a cluster that decisions rest on, out of raw objects as somebody exported them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from app.core.kubevirt_names import UPSTREAM, KubeVirtNames
from app.core.objects import (
    SILENT,
    Facts,
    NamespaceView,
    OwnerReference,
    VirtualMachineInstanceView,
    VirtualMachineView,
    string_map,
)

_Key = tuple[str, str, str]
"""Kind, namespace (empty for a cluster-scoped object) and name."""
_Metadata = Mapping[str, Any]


class UnusableObject(ValueError):  # noqa: N818 - a property of the object
    """No decision can rest on an object; the message is one line that says where it is and what is wrong."""


@dataclass(frozen=True, slots=True)
class KnownObjects:
    """Namespaces, VirtualMachines and VirtualMachineInstances by name, and KubeVirt's own switch."""

    namespaces: Mapping[str, NamespaceView] = field(default_factory=dict)
    instances: Mapping[tuple[str, str], VirtualMachineInstanceView] = field(default_factory=dict)
    machines: Mapping[tuple[str, str], VirtualMachineView] = field(default_factory=dict)
    kubevirt_skip: str | None = None
    names: KubeVirtNames = UPSTREAM

    @classmethod
    def read(cls, objects: Iterable[tuple[str, Any]], names: KubeVirtNames = UPSTREAM) -> Self:
        """Read raw objects, each with where it was found; those of other kinds are passed over.

        Raises UnusableObject for what is no object, for one that is there twice, and for a VM without the UID that
        ties a pod to it.
        """
        metadata = _by_key(objects, names)

        def of(kind: str) -> Iterator[tuple[_Key, _Metadata]]:
            return ((key, found) for key, found in sorted(metadata.items()) if key[0] == kind)

        skips = (string_map(found, "annotations").get(names.skip_annotation) for _, found in of(_kubevirt_kind(names)))
        return cls(
            {key[2]: NamespaceView.from_metadata(found, names) for key, found in of("Namespace")},
            {key[1:]: VirtualMachineInstanceView.from_metadata(found, names) for key, found in of(names.instance_kind)},
            {key[1:]: VirtualMachineView.from_metadata(found, names) for key, found in of(names.machine_kind)},
            next((skip for skip in skips if skip is not None), None),
            names,
        )

    def namespace(self, name: str) -> NamespaceView:
        """Return the Namespace; one that is not known has neither labels nor annotations."""
        return self.namespaces.get(name) or NamespaceView(name, {}, SILENT)

    def facts(self, namespace: str, vmi: OwnerReference) -> Facts:
        """Return what is known of `vmi`; as in a cluster, an object with another UID is another object."""
        instance = self.instances.get((namespace, vmi.name))
        if instance is None or instance.uid != vmi.uid:
            return Facts(self.namespace(namespace), kubevirt_skip=self.kubevirt_skip)
        owner = instance.virtual_machine(self.names)
        machine = self.machines.get((namespace, owner.name)) if owner else None
        if owner and machine and machine.uid != owner.uid:
            machine = None
        return Facts(self.namespace(namespace), instance, machine, self.kubevirt_skip)


def _by_key(objects: Iterable[tuple[str, Any]], names: KubeVirtNames) -> dict[_Key, _Metadata]:
    found: dict[_Key, _Metadata] = {}
    places: dict[_Key, str] = {}
    for place, item in objects:
        try:
            key = _key(item, names)
        except ValueError as error:
            raise UnusableObject(f"{place}: {error}") from error
        if key is None:
            continue
        if key in found:
            shown = f"{key[0]} {'/'.join(filter(None, key[1:]))}"
            raise UnusableObject(f"{place}: {shown} is there twice, also as {places[key]}")
        found[key], places[key] = item["metadata"], place
    return found


def _key(item: Any, names: KubeVirtNames) -> _Key | None:
    """Return kind, namespace and name; None for an object of another kind."""
    fields = item if isinstance(item, dict) else {}
    api_version, kind = fields.get("apiVersion"), fields.get("kind")
    if not isinstance(api_version, str) or not isinstance(kind, str):
        raise ValueError("apiVersion and kind must be there")
    group = api_version.rpartition("/")[0]
    required = _required(names).get((group, kind))
    if required is None:
        return None
    given = fields.get("metadata")
    metadata = given if isinstance(given, dict) else {}
    for name in required:
        if not isinstance(metadata.get(name), str):
            what = f"{kind} {metadata['name']}" if isinstance(metadata.get("name"), str) else kind
            raise ValueError(f"{what}: metadata.{name} must be there, as `kubectl get -o yaml` prints it")
    return kind, metadata["namespace"] if "namespace" in required else "", metadata["name"]


def _required(names: KubeVirtNames) -> Mapping[tuple[str, str], tuple[str, ...]]:
    """By API group and kind: the fields of its metadata that an object must have.

    A manifest as a person writes it has no UID; then nothing tells whether a pod belongs to this VM or to an earlier
    one of its name.
    """
    group, machine = names.api_group, ("name", "namespace", "uid")
    return {
        ("", "Namespace"): ("name",),
        (group, names.machine_kind): machine,
        (group, names.instance_kind): machine,
        (group, _kubevirt_kind(names)): ("name",),
    }


def _kubevirt_kind(names: KubeVirtNames) -> str:
    return f"{names.kind_prefix}KubeVirt"
