"""One run of a pod's own hooks outside a backup: what was measured, and what it proves."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from app.core.annotations import DECIDED_BY, EFFECTIVE_LEVEL, EFFECTIVE_PROFILE
from app.core.evidence.hook_output import FreezeReading, Known, ThawReading, read_post_hook, read_pre_hook
from app.core.evidence.velero_hooks import VeleroHook, VeleroHooks, read_hooks
from app.core.kubevirt_names import KubeVirtNames
from app.core.policy import Level
from app.core.record import RecordState, record_state
from app.core.text import one_line

_MAX_SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class Subject:
    """The launcher pod whose hooks are to be run, and what its record says; `level` and so on only of an intact one."""

    namespace: str
    vm: str
    pod: str
    record: RecordState
    level: str | None
    profile: str | None
    decided_by: str | None
    hooks: VeleroHooks

    @classmethod
    def of(cls, namespace: str, vm: str, pod: str, annotations: Mapping[str, str], containers: Sequence[str]) -> Self:
        """Read the pod of that name, with these annotations and the names of its containers, in order."""
        state = record_state(annotations)
        texts = [annotations.get(key) for key in (EFFECTIVE_LEVEL, EFFECTIVE_PROFILE, DECIDED_BY)]
        shown = [None if text is None else one_line(text[:_MAX_SHOWN]) for text in texts]
        level, profile, decided_by = shown if state is RecordState.INTACT else (None, None, None)
        return cls(namespace, vm, pod, state, level, profile, decided_by, read_hooks(annotations, containers))

    @property
    def idle(self) -> str | None:
        """Why there is nothing to run, if that is so and as it should be."""
        pre, post = self.hooks.pre, self.hooks.post
        if self.level == Level.CRASH:
            what = "hooks that do nothing" if pre or post else "no hooks"
            return f"level crash: the pod has {what}, so there is nothing to run"
        return "the pod has no hooks, so there is nothing to run" if pre is None and post is None else None

    @property
    def obstacles(self) -> list[str]:
        """What a backup would stumble over before any hook is run; with any of these nothing is run here."""
        if self.idle:
            return []
        found = []
        for name, hook in (("pre", self.hooks.pre), ("post", self.hooks.post)):
            if hook is None:
                found.append(
                    f"there is no {name} hook beside the other one: only Backup.spec.hooks can make up for that"
                )
            elif hook.fault:
                found.append(f"Velero can't run the {name} hook: {hook.fault}")
        return found

    @property
    def notes(self) -> list[str]:
        """What is worth knowing of the hooks."""
        hooks = [hook for hook in (self.hooks.pre, self.hooks.post) if hook is not None]
        return [oddity for hook in hooks for oddity in hook.oddities]


@dataclass(frozen=True, slots=True)
class Step:
    """One command that was run in the pod.

    `started` and `ended`: seconds on one clock. `exit_code` is None where the command is not known to have ended by
    itself, and `error` says why. `timeout`: seconds that Velero would wait, None without end.
    """

    name: str
    started: float
    ended: float
    exit_code: int | None
    error: str
    stdout: str
    stderr: str
    timeout: float | None

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.started

    @property
    def failed(self) -> bool:
        """Whether Velero would count it as failed, were there no timeout."""
        return self.exit_code != 0

    @property
    def is_late(self) -> bool:
        """Whether Velero would have given up on it."""
        return self.timeout is not None and self.seconds > self.timeout


@dataclass(frozen=True, slots=True)
class Trial:
    """What was run, in order, and what was seen meanwhile.

    `thaws`: runs of virt-freezer that were added because the post hook left a doubt. `seen_frozen`: whether KubeVirt
    reported the guest as frozen; it looks every 5 seconds, so False proves nothing. `still_frozen`: whether it went on
    to report that after the last step. `interrupted`: by what. `backups`: names of those that appeared meanwhile.
    """

    pre: Step
    post: Step
    thaws: tuple[Step, ...] = ()
    seen_frozen: bool = False
    still_frozen: bool = False
    interrupted: str | None = None
    backups: tuple[str, ...] = ()

    @property
    def freeze(self) -> FreezeReading:
        """What the pre hook tells."""
        return read_pre_hook(self.pre.stdout, self.pre.stderr, failed=self.pre.failed)

    @property
    def thaw(self) -> ThawReading:
        """What the post hook tells."""
        return thaw_of(self.post)

    @property
    def window(self) -> float:
        """Seconds from the end of the pre hook to the start of the post hook, where a backup takes its snapshots."""
        return self.post.started - self.pre.ended

    @property
    def frozen_at_most(self) -> float:
        """Seconds from the start of the pre hook to the end of what thawed."""
        last = next((step for step in (self.post, *self.thaws) if thaw_of(step).thawed is Known.YES), None)
        return (last or (self.post, *self.thaws)[-1]).ended - self.pre.started

    @property
    def froze_nothing(self) -> bool:
        """Whether nothing was frozen, going by the pre hook and by what KubeVirt reported."""
        return nothing_was_frozen(self.pre) and not self.seen_frozen

    @property
    def thawed(self) -> Known:
        """Whether the guest was left thawed."""
        if self.still_frozen:
            return Known.NO
        if self.froze_nothing or any(thaw_of(step).thawed is Known.YES for step in (self.post, *self.thaws)):
            return Known.YES
        return Known.UNKNOWN


def thaw_of(step: Step) -> ThawReading:
    """What a step that was to thaw tells."""
    return read_post_hook(step.stdout, step.stderr, failed=step.failed)


def nothing_was_frozen(pre: Step) -> bool:
    """Whether the pre hook ended well and said that it froze nothing."""
    return not pre.failed and read_pre_hook(pre.stdout, pre.stderr, failed=False).frozen is Known.NO


def thaw_command(subject: Subject, names: KubeVirtNames) -> tuple[str, ...]:
    """The plain thaw, whatever the hooks are."""
    return (names.freezer, "--unfreeze", "--name", subject.vm, "--namespace", subject.namespace)


def kubectl_thaw(subject: Subject, names: KubeVirtNames) -> str:
    """The same for people."""
    command = shlex.join(thaw_command(subject, names))
    return f"kubectl exec -n {subject.namespace} {subject.pod} -c {names.container} -- {command}"


def findings(subject: Subject, trial: Trial | None, names: KubeVirtNames) -> list[str]:
    """Return what is not as it should be, a line each, the most urgent first."""
    return [*(_of_trial(subject, trial, names) if trial else subject.obstacles), *_of_record(subject)]


def _of_record(subject: Subject) -> Iterator[str]:
    if subject.record is RecordState.FOREIGN:
        yield "the hooks do not fit the record on the pod: somebody else wrote last"


def _of_trial(subject: Subject, trial: Trial, names: KubeVirtNames) -> Iterator[str]:
    freeze, thaw = trial.freeze, trial.thaw
    yield from _of_end(subject, trial, names)
    if trial.interrupted:
        yield f"interrupted by {trial.interrupted}: the hooks were run to their end, to leave the guest thawed"
    yield from _of_step(trial.pre, subject.hooks.pre, freeze.why)
    if freeze.frozen is not Known.YES and not trial.pre.failed:
        prefix = "the guest was not frozen" if freeze.frozen is Known.NO else "nothing shows that the guest was frozen"
        yield f"{prefix}: {freeze.why}"
    yield from _of_step(trial.post, subject.hooks.post, thaw.why)
    if thaw.held is Known.NO and freeze.frozen is Known.YES and not trial.post.failed:
        yield f"the guest did not stay frozen: {thaw.why}"
    for name in trial.backups:
        yield f"Velero's backup {name} appeared during this run: the thaw may have fallen between its hooks"


def _of_end(subject: Subject, trial: Trial, names: KubeVirtNames) -> Iterator[str]:
    by_hand = f"run: {kubectl_thaw(subject, names)}"
    if trial.still_frozen:
        yield f"KubeVirt still reports the guest as FROZEN; {by_hand}"
    elif trial.thawed is Known.UNKNOWN:
        certainly = trial.freeze.frozen is Known.YES or trial.seen_frozen
        state = "was frozen, and nothing shows that it is thawed" if certainly else "is not known to be thawed"
        yield f"the guest {state}: {thaw_of((trial.post, *trial.thaws)[-1]).why}; {by_hand}"
    elif trial.thaws and trial.thaw.thawed is not Known.YES:
        yield "the post hook left a doubt; the guest was thawed by virt-freezer after it"


def _of_step(step: Step, hook: VeleroHook | None, why: str) -> Iterator[str]:
    if step.failed:
        ending = f"ended with {step.exit_code}" if step.exit_code is not None else f"failed: {step.error}"
        has_said = step.exit_code is not None or step.stdout or step.stderr
        yield f"the {step.name} {ending}" + (f": {why}" if has_said else "") + _consequence(hook)
    if step.is_late:
        yield (
            f"the {step.name} took {step.seconds:.1f} s, and Velero waits {step.timeout:g} s for it: "
            "it would go on with the backup, while the command runs on in the pod"
        )


def _consequence(hook: VeleroHook | None) -> str:
    if hook is not None and hook.phase == "pre" and hook.fails_pod:
        return " (on-error Fail: a backup leaves the pod out and runs no post hook; volumes are snapshot all the same)"
    return ""
