"""What a backup's archive tells of virtual machines: their launcher pods, with the record, and what stood beside them.

An object is stored as resources/RESOURCE.GROUP/namespaces/NAMESPACE/NAME.json, and once more under its version
(velero v1.18.3, pkg/archive/filesystem.go); the latter copies are left out here.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from app.core.annotations import COMMAND, LEGACY, OWN_KEYS, POST, PRE
from app.core.evidence.velero_hooks import Phase, parse_command
from app.core.kubevirt_names import KubeVirtNames
from app.core.launcher import PodView, recognise
from app.core.objects import OwnerReference
from app.core.text import shown

VmKey = tuple[str, str]
"""Namespace and name of a VirtualMachineInstance, which are those of its VirtualMachine."""

MAX_OBJECT_BYTES: Final = 4 * 1024 * 1024
"""More than any of the kinds that are read has: etcd takes 1.5 MiB."""

_ENDED = frozenset({"Succeeded", "Failed"})
_NOT_YET = frozenset({"", "Pending", "Scheduling", "Scheduled"})
_RUNS = frozenset({"Running", "Paused", "Migrating", "Stopping"})  # kubevirt.io/v1 VirtualMachinePrintableStatus


@dataclass(frozen=True, slots=True)
class BackupView:
    """What matters of a Velero Backup (velero.io/v1)."""

    namespace: str
    name: str
    phase: str
    hooks_attempted: int | None
    """None before Velero 1.13, which does not count them."""
    hooks_failed: int | None
    by_label: bool
    """Whether it selects by labels."""
    reason: str

    @classmethod
    def from_object(cls, backup: Mapping[str, Any]) -> Self:
        """Read the raw object; what is missing or of an unexpected shape counts as absent."""
        metadata, spec, status = (_mapping(backup.get(key)) for key in ("metadata", "spec", "status"))
        counts = status.get("hookStatus")
        counted = _mapping(counts)
        errors = status.get("validationErrors")
        reasons = [status.get("failureReason"), *(errors if isinstance(errors, list) else [])]
        return cls(
            namespace=str(metadata.get("namespace", "")),
            name=str(metadata.get("name", "")),
            phase=str(status.get("phase") or "New"),
            hooks_attempted=None if counts is None else _count(counted.get("hooksAttempted")),
            hooks_failed=None if counts is None else _count(counted.get("hooksFailed")),
            by_label=bool(spec.get("labelSelector") or spec.get("orLabelSelectors")),
            reason=shown("; ".join(str(reason) for reason in reasons if reason)),
        )


@dataclass(frozen=True, slots=True)
class Launcher:
    """A launcher pod that had not completed."""

    name: str
    annotations: Mapping[str, str]

    def command(self, phase: Phase) -> str | None:
        """The command of a hook as Velero prints it; None without one."""
        text = self.annotations.get((PRE if phase is Phase.PRE else POST) + COMMAND)
        if phase is Phase.PRE and not text:
            text = self.annotations.get(LEGACY + COMMAND)
        return as_logged(parse_command(text)) if text else None


@dataclass(slots=True)
class StoredVm:
    """All that the archive has of one VM."""

    pods: dict[str, Launcher] = field(default_factory=dict)
    completed: set[str] = field(default_factory=set)
    instance_phase: str | None = None
    """`status.phase` of its VirtualMachineInstance; None where that is not in the backup."""
    machine_status: str | None = None
    """`status.printableStatus` of its VirtualMachine; None where that is not in the backup."""

    @property
    def guest_ran(self) -> bool:
        """Whether a guest ran when the backup began, as far as the objects beside the pods tell."""
        if self.instance_phase is not None:
            return self.instance_phase not in _ENDED | _NOT_YET
        return self.machine_status in _RUNS


def as_logged(argv: Iterable[str]) -> str:
    """An argv as Go prints it, and so Velero's log."""
    return f"[{' '.join(argv)}]"


class BackupContents:
    """The VMs of an archive, as far as it has been read."""

    def __init__(self, names: KubeVirtNames) -> None:
        self._names = names
        prefix = names.kind_prefix.lower()
        self._takers = {
            "pods": self._pod,
            f"{prefix}virtualmachineinstances.{names.api_group}": self._instance,
            f"{prefix}virtualmachines.{names.api_group}": self._machine,
        }
        self.vms: dict[VmKey, StoredVm] = {}
        self.unreadable: list[str] = []
        """Paths of objects that could not be read."""

    def wants(self, path: str) -> bool:
        """Whether the member of that path is to be given to `take`."""
        return _parsed(path)[0] in self._takers

    def take(self, path: str, content: bytes | None) -> None:
        """Read one member; None stands for one that is too large."""
        resource, namespace, name = _parsed(path)
        if resource not in self._takers:
            return
        try:
            obj = json.loads(content or b"")
            self._takers[resource](namespace, name, obj, obj.get("status") or {})
        except (ValueError, TypeError, AttributeError, RecursionError):
            self.unreadable.append(path)

    def _vm(self, namespace: str, name: str) -> StoredVm:
        return self.vms.setdefault((namespace, name), StoredVm())

    def _pod(self, namespace: str, name: str, obj: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        pod = PodView.from_object(obj, namespace)
        owner = recognise(pod, self._names)
        if not isinstance(owner, OwnerReference):
            return
        vm = self._vm(namespace, owner.name)
        if status.get("phase") in _ENDED:
            vm.completed.add(name)
        else:
            own = {key: value for key, value in (pod.annotations or {}).items() if key in OWN_KEYS}
            vm.pods[name] = Launcher(name, own)

    def _instance(self, namespace: str, name: str, obj: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        self._vm(namespace, name).instance_phase = str(status.get("phase") or "")

    def _machine(self, namespace: str, name: str, obj: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        self._vm(namespace, name).machine_status = str(status.get("printableStatus") or "")


def _parsed(path: str) -> tuple[str, str, str]:
    """Resource, namespace and name; empty for the path of anything else."""
    parts = path.removeprefix("./").split("/")
    if len(parts) == 5 and parts[0] == "resources" and parts[2] == "namespaces" and parts[4].endswith(".json"):
        return parts[1], parts[3], parts[4].removesuffix(".json")
    return "", "", ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
