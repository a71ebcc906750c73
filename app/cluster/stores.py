"""The objects of the cluster that decisions rest on, kept in memory."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from app.core.kubevirt_names import KubeVirtNames
from app.core.objects import NamespaceView, VirtualMachineInstanceView, VirtualMachineView, string_map
from app.kube.client import Json, KubeClient
from app.kube.reflector import Reflector, Timings
from app.kube.resources import NAMESPACES, Resource, kubevirts, virtual_machine_instances, virtual_machines
from app.kube.store import ObjectStore

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KubeVirtView:
    """A KubeVirt object: its skip-backup-hooks annotation, as typed."""

    skip: str | None


@dataclass(frozen=True, slots=True)
class ClusterStores:
    """What is known of the cluster."""

    names: KubeVirtNames
    namespaces: ObjectStore[NamespaceView] = field(default_factory=ObjectStore)
    instances: ObjectStore[VirtualMachineInstanceView] = field(default_factory=ObjectStore)
    machines: ObjectStore[VirtualMachineView] = field(default_factory=ObjectStore)
    kubevirts: ObjectStore[KubeVirtView] = field(default_factory=ObjectStore)

    def namespace(self, item: Json) -> NamespaceView:
        """Decode a Namespace or its PartialObjectMetadata."""
        return NamespaceView.from_metadata(shared(item["metadata"]), self.names)

    def instance(self, item: Json) -> VirtualMachineInstanceView:
        """Decode a VirtualMachineInstance or its PartialObjectMetadata."""
        return VirtualMachineInstanceView.from_metadata(shared(item["metadata"]), self.names)

    def machine(self, item: Json) -> VirtualMachineView:
        """Decode a VirtualMachine or its PartialObjectMetadata."""
        return VirtualMachineView.from_metadata(shared(item["metadata"]), self.names)

    def kubevirt(self, item: Json) -> KubeVirtView:
        """Decode a KubeVirt object or its PartialObjectMetadata."""
        return KubeVirtView(string_map(item["metadata"], "annotations").get(self.names.skip_annotation))


def cluster_reflectors(
    client: KubeClient, stores: ClusterStores, timings: Timings | None = None
) -> tuple[Reflector[Any], ...]:
    """What keeps `stores` up to date: one reflector each, of metadata only, all namespaces. The caller runs them."""

    def reflector(resource: Resource, store: ObjectStore[T], decode: Callable[[Json], T]) -> Reflector[T]:
        return Reflector(client, resource, store, decode, metadata_only=True, timings=timings)

    names = stores.names
    return (
        reflector(NAMESPACES, stores.namespaces, stores.namespace),
        reflector(virtual_machine_instances(names), stores.instances, stores.instance),
        reflector(virtual_machines(names), stores.machines, stores.machine),
        reflector(kubevirts(names), stores.kubevirts, stores.kubevirt),
    )


def shared(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata with one copy of each string that many objects have in common: namespace, owner's kind.

    Not labels: only a Namespace's are kept, and what Python 3.12 interns stays for good.
    """
    lean = dict(metadata)
    if "namespace" in lean:
        lean["namespace"] = sys.intern(lean["namespace"])
    references = metadata.get("ownerReferences")
    if isinstance(references, list):
        lean["ownerReferences"] = [_shared_reference(reference, metadata.get("name")) for reference in references]
    return lean


def _shared_reference(reference: Any, name: Any) -> Any:
    if not isinstance(reference, dict):
        return reference
    lean = dict(reference)
    for key in ("apiVersion", "kind"):
        if isinstance(lean.get(key), str):
            lean[key] = sys.intern(lean[key])
    if lean.get("name") == name:  # a VirtualMachine and its instance have the same name
        lean["name"] = name
    return lean
