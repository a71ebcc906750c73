"""The names that forks of KubeVirt change."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class KubeVirtNames:
    """Names that forks of KubeVirt change; the defaults are upstream's."""

    api_group: str = "kubevirt.io"
    kind_prefix: str = ""
    """In front of every kind, and in lower case of every plural."""
    launcher_label: str = "kubevirt.io"
    launcher_label_value: str = "virt-launcher"
    ephemeral_annotation: str = "kubevirt.io/ephemeral-provisioning"
    skip_annotation: str = "kubevirt.io/skip-backup-hooks"
    container: str = "compute"
    freezer: str = "/usr/bin/virt-freezer"

    @property
    def api_version(self) -> str:
        """The apiVersion of VirtualMachines and VirtualMachineInstances."""
        return f"{self.api_group}/v1"

    @property
    def machine_kind(self) -> str:
        """The kind of what upstream calls VirtualMachine."""
        return f"{self.kind_prefix}VirtualMachine"

    @property
    def instance_kind(self) -> str:
        """The kind of what upstream calls VirtualMachineInstance."""
        return f"{self.kind_prefix}VirtualMachineInstance"


UPSTREAM: Final = KubeVirtNames()
