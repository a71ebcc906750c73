"""What is told about running pods: Events on their VirtualMachineInstance, metrics, and a line in the log."""

import logging
from dataclasses import dataclass
from typing import Protocol

from app.cluster.pods import RunningPod
from app.controllers.events.recorder import NORMAL, WARNING, EventRecorder, ObjectRef
from app.core.annotations import DECIDED_BY, EFFECTIVE_LEVEL, EFFECTIVE_PROFILE
from app.core.decision import Action, Decision
from app.core.level_source import Refusal, Refused
from app.core.objects import OwnerReference
from app.core.record import has_record, is_intact
from app.core.text import one_line
from app.kube.store import Key

_log = logging.getLogger("vm-consistency.reconciler")

LEVEL_CHANGED = "LevelChanged"
REQUEST_REFUSED = "RequestRefused"
PROFILE_UNKNOWN = "ProfileUnknown"
HOOKS_OVERWRITTEN = "HooksOverwritten"
HOOKS_NOT_WRITTEN = "HooksNotWritten"


class PodMetrics(Protocol):
    """Counts running pods and what is written on them."""

    def pods(self, level: str, source: str, change: int) -> None:
        """There are `change` more pods of that level, decided by that source."""
        ...

    def pods_refused(self, refusal: Refusal, change: int) -> None:
        """There are `change` more pods for which something was asked that does not count."""
        ...

    def pod_written(self, reason: str) -> None:
        """A pod was written to."""
        ...


@dataclass(frozen=True, slots=True)
class _Standing:
    """What was last decided about a pod."""

    level: str
    source: str
    refusals: tuple[Refusal, ...]


class PodReports:
    """Tells each thing once: a refusal as long as it stands, a change when it is made."""

    def __init__(self, recorder: EventRecorder, metrics: PodMetrics) -> None:
        self._recorder, self._metrics = recorder, metrics
        self._standing: dict[Key, _Standing] = {}
        self._shared: dict[_Standing, _Standing] = {}
        self._troubled: dict[Key, str] = {}
        self._troubles: set[str] = set()

    def decided(self, key: Key, vmi: OwnerReference, decision: Decision) -> None:
        """Take note of what a pod should carry."""
        if decision.trouble:
            if self._troubled.get(key) != decision.trouble:
                self._troubled[key] = decision.trouble
                self.not_written(key, vmi, decision.trouble)
            return
        self._troubled.pop(key, None)
        if decision.action is Action.NONE and decision.level is None:
            return  # nothing was decided: what was known stands
        source = (decision.decided_by or "").partition("/")[0]
        new = _Standing(decision.level or Action.UNMANAGED, source, decision.refusals)
        old = self._standing.get(key)
        if new == old:
            return
        known = old.refusals if old else ()
        for refusal in new.refusals:
            if refusal not in known:
                reason = PROFILE_UNKNOWN if refusal.reason is Refused.UNKNOWN_PROFILE else REQUEST_REFUSED
                self._recorder.record(about(key[0], vmi), WARNING, reason, refusal.message)
        self._count(old, -1)
        self._standing[key] = self._shared.setdefault(new, new) if not new.refusals else new
        self._count(new, 1)

    def wrote(self, pod: RunningPod, vmi: OwnerReference, decision: Decision) -> None:
        """Tell that a pod was written to, and why that was needed."""
        before = pod.view.annotations or {}
        if decision.trouble:  # which `decided` has told
            self._metrics.pod_written("changed" if is_intact(before) else "overwritten")
            return
        where = about(pod.view.namespace, vmi)
        reason = "missing"
        if is_intact(before):
            reason = "handed-back" if decision.level is None else "changed"
            if (decision.level, decision.profile) != (before.get(EFFECTIVE_LEVEL), before.get(EFFECTIVE_PROFILE)):
                self._recorder.record(where, NORMAL, LEVEL_CHANGED, _change(pod, decision), recurring=True)
        elif has_record(before):
            reason = "overwritten"
            message = f"somebody else changed the backup hooks of pod {pod.view.name}; they were put right"
            self._recorder.record(where, WARNING, HOOKS_OVERWRITTEN, message, recurring=True)
        self._metrics.pod_written(reason)
        fields = {
            "namespace": pod.view.namespace,
            "pod": pod.view.name,
            "why": reason,
            "level": decision.level,
            "profile": decision.profile,
            "decidedBy": decision.decided_by,
        }
        _log.debug("pod brought in line", extra={name: value for name, value in fields.items() if value})

    def not_written(self, key: Key, vmi: OwnerReference | None, why: str) -> None:
        """Tell that a pod stays as it is although it should not."""
        self._metrics.pod_written("failed")
        kind = why.replace(key[1], "")  # the API server names the pod; one line tells of thousands
        if kind not in self._troubles:
            self._troubles = {*self._troubles, kind} if len(self._troubles) < 100 else {kind}
            _log.warning("pod not brought in line", extra={"namespace": key[0], "pod": key[1], "error": why})
        if vmi is not None:
            self._recorder.record(about(key[0], vmi), WARNING, HOOKS_NOT_WRITTEN, f"pod {key[1]}: {why}")

    def forget(self, key: Key) -> None:
        """The pod is gone."""
        self._troubled.pop(key, None)
        self._count(self._standing.pop(key, None), -1)

    def close(self) -> None:
        """Somebody else counts the pods from now on."""
        for key in {*self._standing, *self._troubled}:
            self.forget(key)

    def _count(self, standing: _Standing | None, change: int) -> None:
        if standing is None:
            return
        self._metrics.pods(standing.level, standing.source, change)
        for refusal in standing.refusals:
            self._metrics.pods_refused(refusal, change)


def about(namespace: str, vmi: OwnerReference) -> ObjectRef:
    """The VirtualMachineInstance of an ownerReference, as the object of an Event."""
    return ObjectRef(vmi.api_version, vmi.kind, namespace, vmi.name, vmi.uid)


def _change(pod: RunningPod, decision: Decision) -> str:
    before = pod.view.annotations or {}
    old = one_line(_named(before.get(EFFECTIVE_LEVEL), before.get(EFFECTIVE_PROFILE), before.get(DECIDED_BY)))[:200]
    if decision.level is None:
        return f"backup hooks were handed back to KubeVirt (managed=false, {decision.decided_by}); before: {old}"
    return f"backups are now {_named(decision.level, decision.profile, decision.decided_by)}; before: {old}"


def _named(level: str | None, profile: str | None, decided_by: str | None) -> str:
    return f"{level}{f' with {profile}' if profile else ''} (decided by {decided_by})"
