"""Whose hook each one in a backup's log was."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from app.core.evidence.backup_archive import StoredVm, VmKey
from app.core.evidence.hook_log import HookRun
from app.core.evidence.velero_hooks import Phase

_FREEZER = re.compile(r" --(?:un)?freeze --name[ =]([-a-z0-9.]+) --namespace[ =]([-a-z0-9]+)")
_SCRIPT = re.compile(r"\svm-consistency ([-a-z0-9]+) ([-a-z0-9.]+) /\S+ ")


def named_vm(command: str) -> VmKey | None:
    """The VM that a command of ours or of KubeVirt names, as Velero prints it."""
    if found := _SCRIPT.search(command):
        return found[1], found[2]
    found = _FREEZER.search(command)
    return (found[2], found[1]) if found else None


def owned(vms: Mapping[VmKey, StoredVm], runs: Iterable[HookRun]) -> dict[VmKey, list[HookRun]]:
    """The hooks of each VM, in their order: by the pod where Velero names it, by the command, or by its arguments.

    A command that stands on pods of several VMs, such as `["/bin/true"]`, counts for them if each pod had its own run
    and none failed.
    """
    owners = _Owners(vms)
    assigned: dict[VmKey, list[HookRun]] = defaultdict(list)
    shared: dict[tuple[Phase, str], list[HookRun]] = defaultdict(list)
    for run in runs:
        if key := owners.of(run):
            assigned[key].append(run)
        elif owners.by_command[run.phase, run.command]:
            shared[run.phase, run.command].append(run)
    for about, alike in shared.items():
        keys = owners.by_command[about]
        if len(alike) == len(keys) and not any(run.error or run.doubtful for run in alike):
            for key, run in zip(keys, alike, strict=True):
                assigned[key].append(run)
    return assigned


class _Owners:
    def __init__(self, vms: Mapping[VmKey, StoredVm]) -> None:
        self._by_pod = {(key[0], pod): key for key, vm in vms.items() for pod in vm.pods}
        self.by_command: dict[tuple[Phase, str], list[VmKey]] = defaultdict(list)
        for key, vm in vms.items():
            for pod in vm.pods.values():
                for phase in Phase:
                    if command := pod.command(phase):
                        self.by_command[phase, command].append(key)

    def of(self, run: HookRun) -> VmKey | None:
        if run.pod in self._by_pod:
            return self._by_pod[run.pod]
        candidates = set(self.by_command[run.phase, run.command])
        return candidates.pop() if len(candidates) == 1 else named_vm(run.command)
