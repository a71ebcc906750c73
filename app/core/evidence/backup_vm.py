"""What a backup achieved for one VM."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from app.core.annotations import DECIDED_BY, EFFECTIVE_LEVEL, EFFECTIVE_PROFILE
from app.core.evidence.backup_archive import BackupView, Launcher, StoredVm, VmKey
from app.core.evidence.freeze_window import Achieved, Outcome, failure_of, judge
from app.core.evidence.hook_log import HookLog, HookRun
from app.core.evidence.hook_owners import named_vm
from app.core.evidence.velero_hooks import Phase
from app.core.policy import Level
from app.core.record import RecordState, is_intact, record_state
from app.core.text import shown

FREEZING: Final = frozenset({Level.FILESYSTEM.value, Level.APPLICATION.value})

_MAX_SHOWN = 100
_SELECTED = (
    "the backup selects by labels that the pod does not have, so that it came in through its VM, and Velero runs hooks "
    "only in pods that are selected themselves. Give the VM's template the label too, or use a kubevirt-velero-plugin "
    "later than v0.9.0, with an ItemBlockAction for VirtualMachines"
)
_NOT_SELECTED = "Velero runs none in a pod that comes in through its VM instead of being selected itself"
_NO_POD = "the guest ran, but neither its launcher pod is in the backup nor a hook of it in the log"
_MISSING = "its launcher pod, and with it the record, is not in the backup"
_LEFT_OUT = (
    f"{_MISSING}: under on-error Fail Velero leaves it out when the pre hook fails, runs no post hook, and copies the "
    "disks all the same"
)


@dataclass(frozen=True, slots=True)
class VmReport:
    """One VM. `level`, `profile` and `decided_by` are those of the record, as far as there is one.

    `record`: None where no pod that had not completed is in the backup. `expected`: whether the guest should have been
    frozen. `attempted` and `failed`: hooks of this VM, without those of completed pods; None where the log does not
    tell.
    """

    namespace: str
    name: str
    level: str | None
    profile: str | None
    decided_by: str | None
    record: RecordState | None
    pods: Sequence[str]
    completed_pods: int
    expected: bool
    attempted: int | None
    failed: int | None
    outcome: Outcome
    notes: Sequence[str] = ()

    @property
    def finding(self) -> bool:
        """Whether somebody should look at it."""
        is_missed = self.expected and self.outcome.achieved not in (Achieved.FROZEN, Achieved.NOT_RUNNING)
        return is_missed or bool(self.failed) or self.record is RecordState.FOREIGN


class VmExamination:
    """Brings together what is known of one VM: its pods, its hooks in the log, and the backup."""

    def __init__(
        self, backup: BackupView, key: VmKey, stored: StoredVm, runs: Sequence[HookRun], log: HookLog | None
    ) -> None:
        self._backup, self._key, self._stored, self._runs, self._log = backup, key, stored, runs, log
        self._pods = [pod for _, pod in sorted(stored.pods.items())]
        self._pre = next((command for pod in self._pods if (command := pod.command(Phase.PRE))), None)

    def report(self) -> VmReport:
        """Judge it."""
        first = self._pods[0].annotations if self._pods else {}
        level, profile, decided_by = (_text(first.get(key)) for key in (EFFECTIVE_LEVEL, EFFECTIVE_PROFILE, DECIDED_BY))
        expected, outcome = self._is_expected(), self._outcome()
        return VmReport(
            namespace=self._key[0],
            name=self._key[1],
            level=level,
            profile=profile,
            decided_by=decided_by,
            record=_record(self._pods),
            pods=[pod.name for pod in self._pods],
            completed_pods=len(self._stored.completed),
            expected=expected,
            attempted=None if self._is_blind() else len(self._runs),
            failed=None if self._is_blind() else sum(run.error is not None for run in self._runs),
            outcome=outcome,
            notes=list(self._notes(outcome, expected)),
        )

    def _is_expected(self) -> bool:
        if not self._pods:  # whatever its level is, no hook of a guest without a pod can be known to have worked
            return bool(self._runs) or self._stored.guest_ran
        return any(
            pod.annotations.get(EFFECTIVE_LEVEL) in FREEZING
            or (not is_intact(pod.annotations) and "--freeze" in (pod.command(Phase.PRE) or ""))
            for pod in self._pods
        )

    def _is_blind(self) -> bool:
        """Whether hooks of it may have run without being told from the log."""
        has_hooks = any(pod.command(phase) for pod in self._pods for phase in Phase)
        return has_hooks and not self._runs and not self._would_show()

    def _would_show(self) -> bool:
        """Whether the log would show a pre hook of this VM, so that nothing there means that none ran."""
        is_told = self._log is not None and self._log.tells and not self._log.cut
        return is_told and self._pre is not None and named_vm(self._pre) is not None

    def _outcome(self) -> Outcome:
        if self._pods and all(_asks_for_no_freeze(pod) for pod in self._pods):
            return Outcome(Achieved.NOT_FROZEN)
        pres = [run for run in self._runs if run.phase is Phase.PRE]
        if not pres:
            return self._without_hook()
        posts = iter([run for run in self._runs if run.phase is Phase.POST])
        # Velero runs no post hook in a pod whose pre hook failed under on-error Fail.
        outcomes = [judge(run, None if run.error and run.on_error == "Fail" else next(posts, None)) for run in pres]
        # Of the pods of a migration only the one that the guest runs in can freeze it.
        return min(outcomes, key=lambda outcome: _BEST_FIRST.index(outcome.achieved))

    def _without_hook(self) -> Outcome:
        if not self._pods:
            return Outcome(Achieved.UNKNOWN, _NO_POD) if self._stored.guest_ran else Outcome(Achieved.NOT_RUNNING)
        if self._pre is None:
            return Outcome(Achieved.NOT_FROZEN, "no pre hook stands on the pod")
        if self._log is None:
            return Outcome(Achieved.UNKNOWN, "the backup has no log")
        if not self._would_show():
            return Outcome(Achieved.UNKNOWN, "the log does not show whether this hook ran")
        if any(failure.startswith("pre hook: ") for failure in self._log.failures):
            return Outcome(Achieved.UNKNOWN, "no hook of it in the log, and one failed in a pod that is not named")
        return Outcome(Achieved.NOT_FROZEN, f"no hook ran: {_SELECTED if self._backup.by_label else _NOT_SELECTED}")

    def _notes(self, outcome: Outcome, expected: bool) -> Iterator[str]:
        if outcome.why and (expected or self._runs):
            yield outcome.why
        for run in self._runs:
            if run.error and (why := failure_of(run)) not in outcome.why:
                failed = f"{run.phase} hook failed: "
                yield failed + why.removeprefix(failed)
        if self._runs and not self._pods:
            is_left_out = any(run.phase is Phase.PRE and run.error and run.on_error == "Fail" for run in self._runs)
            yield _LEFT_OUT if is_left_out else _MISSING
        if _record(self._pods) is RecordState.FOREIGN:
            yield "the hooks don't fit the record: somebody else wrote on the pod after vm-consistency"
        if len({pod.annotations.get(EFFECTIVE_LEVEL) for pod in self._pods}) > 1:
            yield "its pods carry different levels"


_BEST_FIRST = (Achieved.FROZEN, Achieved.UNKNOWN, Achieved.NOT_FROZEN, Achieved.NOT_RUNNING)


def _record(pods: Sequence[Launcher]) -> RecordState | None:
    states = {record_state(pod.annotations) for pod in pods}
    return next(
        (state for state in (RecordState.FOREIGN, RecordState.NONE, RecordState.INTACT) if state in states), None
    )


def _asks_for_no_freeze(pod: Launcher) -> bool:
    return is_intact(pod.annotations) and pod.annotations[EFFECTIVE_LEVEL] == Level.CRASH


def _text(value: str | None) -> str | None:
    # Whoever may write pods can write a record with anything in it.
    return None if value is None else shown(value[:_MAX_SHOWN])
