"""What a Velero backup achieved for each VM: from its pods with their records, and from the log of its hooks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.core.evidence.backup_archive import BackupContents, BackupView, StoredVm, VmKey
from app.core.evidence.backup_vm import VmExamination, VmReport
from app.core.evidence.freeze_window import failure_of
from app.core.evidence.hook_log import HookLog, HookRun
from app.core.evidence.hook_owners import owned
from app.core.text import shown


@dataclass(frozen=True, slots=True)
class BackupReport:
    """A backup and its VMs in order; `findings` are those about no VM in particular."""

    backup: BackupView
    vms: Sequence[VmReport] = ()
    findings: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def is_fine(self) -> bool:
        """Whether nobody has to look at it."""
        return not self.findings and not any(vm.finding for vm in self.vms)


def report(backup: BackupView, contents: BackupContents, log: HookLog | None) -> BackupReport:
    """Bring a backup's archive and its log together; `log` is None where there is none."""
    runs = owned(contents.vms, log.runs if log else ())
    known = {**contents.vms, **{key: StoredVm() for key in runs if key not in contents.vms}}
    vms = [VmExamination(backup, key, vm, runs.get(key, []), log).report() for key, vm in sorted(known.items())]
    return BackupReport(backup, vms, _findings(backup, contents, log, runs), _notes(log))


def _findings(
    backup: BackupView, contents: BackupContents, log: HookLog | None, owned_runs: Mapping[VmKey, Sequence[HookRun]]
) -> list[str]:
    findings = []
    if contents.unreadable:
        some = ", ".join(map(shown, contents.unreadable[:3]))
        findings.append(f"{len(contents.unreadable)} object(s) of the backup can't be read: {some}")
    if log is None:
        if backup.hooks_failed:
            findings.append(f"the backup has no log; Velero counts {backup.hooks_failed} failed hook(s)")
        return findings
    known = {id(run) for runs in owned_runs.values() for run in runs}
    nobodys = [f"{run.phase} hook: {failure_of(run)}" for run in log.runs if run.error and id(run) not in known]
    findings += [f"in a pod that Velero does not name: {shown(failure)}" for failure in [*nobodys, *log.failures]]
    shown_failures = sum(run.error is not None for run in log.runs) + len(log.failures)
    if (backup.hooks_failed or 0) > shown_failures:
        findings.append(f"Velero counts {backup.hooks_failed} failed hook(s), its log shows {shown_failures}")
    return findings


def _notes(log: HookLog | None) -> list[str]:
    if log is None:
        return ["the backup has no log: what its hooks did is not known"]
    notes = []
    if not log.tells:
        notes.append("the log has no lines of level info (velero server --log-level): what the hooks did is not known")
    if log.cut:
        notes.append("the log shows more hooks than are read here")
    if log.skipped:
        notes.append(f"{log.skipped} of the hooks that Velero counts did not run: their pods had completed")
    return notes
