"""Paths of the API server's resources."""

from dataclasses import dataclass
from urllib.parse import quote

from app.core.kubevirt_names import KubeVirtNames


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object as it is served: the API group (empty for core), its version and the plural."""

    group: str
    version: str
    plural: str

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def collection(self, namespace: str | None = None) -> str:
        """The path of all objects, or of those in one namespace."""
        prefix = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{prefix}/namespaces/{_segment(namespace)}/{self.plural}" if namespace else f"{prefix}/{self.plural}"

    def object(self, name: str, namespace: str | None = None) -> str:
        """The path of one object. Raises ValueError for a name that no object can have."""
        return f"{self.collection(namespace)}/{_segment(name)}"


def _segment(name: str) -> str:
    # apimachinery, pkg/api/validation/path: no object is called so. In a URL these would lead elsewhere, and names
    # come out of ownerReferences, whose content the API server doesn't check.
    if name in {"", ".", ".."} or "/" in name or "%" in name:
        raise ValueError(f"not a name of an object: {name!r}")
    return quote(name, safe="")


NAMESPACES = Resource("", "v1", "namespaces")
CONFIG_MAPS = Resource("", "v1", "configmaps")
SECRETS = Resource("", "v1", "secrets")
PODS = Resource("", "v1", "pods")
EVENTS = Resource("", "v1", "events")
LEASES = Resource("coordination.k8s.io", "v1", "leases")
MUTATING_WEBHOOKS = Resource("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations")
VALIDATING_WEBHOOKS = Resource("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations")
BACKUPS = Resource("velero.io", "v1", "backups")


def virtual_machines(names: KubeVirtNames) -> Resource:
    """VirtualMachines of KubeVirt or of a fork."""
    return _kubevirt_resource(names, "virtualmachines")


def virtual_machine_instances(names: KubeVirtNames) -> Resource:
    """VirtualMachineInstances of KubeVirt or of a fork."""
    return _kubevirt_resource(names, "virtualmachineinstances")


def kubevirts(names: KubeVirtNames) -> Resource:
    """The objects that configure KubeVirt itself; normally there is one."""
    return _kubevirt_resource(names, "kubevirts")


def _kubevirt_resource(names: KubeVirtNames, plural: str) -> Resource:
    return Resource(names.api_group, "v1", f"{names.kind_prefix.lower()}{plural}")
