"""What to do with a pod. The webhook, the reconciler and the command line all come through here."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from app.core.constants import (
    DECIDED_BY,
    EFFECTIVE_LEVEL,
    EFFECTIVE_PROFILE,
    HOOK_KEYS,
    MAX_ANNOTATIONS_BYTES,
    OWN_KEYS,
    RECORD_KEYS,
    KubeVirtNames,
)
from app.core.hooks import kubevirt_hooks, render_hooks
from app.core.jsonpatch import Operation, annotation_patch, is_too_large, patched
from app.core.launcher import NotLauncher, PodView, recognise
from app.core.objects import Facts, OwnerReference
from app.core.policy import Level, Mode, PolicyState
from app.core.record import is_intact, with_record
from app.core.selection import Refusal, Selection, kubevirt_skips, select_level


class Action(StrEnum):
    """What is done; the values are part of the contract of `render` and of the metrics."""

    PATCH = "patch"
    NONE = "none"
    UNMANAGED = "unmanaged"
    IGNORED = "ignored"


class Reason(StrEnum):
    """Why; beside these, the values of NotLauncher."""

    DECIDED = "decided"
    IN_PLACE = "in-place"
    AUDIT = "audit"
    HANDS_OFF = "hands-off"
    KEPT = "kept"
    NO_RECORD = "no-intact-record"
    POLICY_INVALID = "policy-invalid"
    POLICY_UNKNOWN = "policy-unknown"
    LOOKUP_FAILED = "lookup-failed"
    TOO_LARGE = "annotations-too-large"


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome for one pod, with everything that a log line, a metric or a person wants to know of it."""

    action: Action
    reason: Reason | NotLauncher
    level: Level | None = None
    profile: str | None = None
    decided_by: str | None = None
    patch: list[Operation] = field(default_factory=list)
    annotations: Mapping[str, str] | None = None
    """The pod's annotations after the patch; None where nothing changes."""
    refusals: tuple[Refusal, ...] = ()
    trouble: str | None = None
    """Why the pod was left as it is although it should not have been."""

    @property
    def warnings(self) -> list[str]:
        """One line each, for the person who asked for the VM."""
        lines = [refusal.message for refusal in self.refusals]
        return [*lines, self.trouble] if self.trouble else lines


def ignored(reason: NotLauncher) -> Decision:
    """The decision for what is no launcher pod, or no longer one to touch."""
    return Decision(Action.IGNORED, reason)


def unchanged(reason: Reason, trouble: str) -> Decision:
    """The decision where something stands in the way of a good one: leave the pod alone and say so."""
    return Decision(Action.NONE, reason, trouble=f"hooks left as they are: {trouble}")


def decide(pod: PodView, vmi: OwnerReference, facts: Facts, state: PolicyState, names: KubeVirtNames) -> Decision:
    """Decide what `pod`, which `recognise` found to be the launcher of `vmi`, should carry."""
    policy = state.policy
    if policy is None:
        reason = Reason.POLICY_UNKNOWN if state.error is None else Reason.POLICY_INVALID
        return unchanged(reason, f"the policy can't be used: {state.error or 'it has not been read yet'}")
    selection = select_level(policy, facts, pod, names)
    if selection.level is None:
        return _hands_off(pod, vmi, facts, selection, names)
    hooks = render_hooks(selection.level, selection.hooks, pod.namespace, vmi.name, names)
    own = with_record(hooks, selection.level, selection.profile, selection.decided_by)
    outcome = (selection.level, selection.profile, selection.decided_by)
    if policy.mode is Mode.AUDIT:
        return Decision(Action.NONE, Reason.AUDIT, *outcome, refusals=selection.refusals)
    return _written(pod, own, Decision(Action.PATCH, Reason.DECIDED, *outcome, refusals=selection.refusals))


def keep(old: PodView, new: PodView, names: KubeVirtNames) -> Decision:
    """Decide an UPDATE: what an intact record vouches for is restored, whatever policy is in force.

    Only a CREATE and the reconciler change what a pod carries, so replicas with different policies never fight. What
    `old` was recognised as counts: an UPDATE that takes the label away can't take the hooks along. A record never comes
    in by an UPDATE.
    """
    if new.terminating:
        return ignored(NotLauncher.TERMINATING)
    if not isinstance(recognise(old, names), NotLauncher):
        before = old.annotations or {}
        return _restored(new, before, OWN_KEYS) if is_intact(before) else _restored(new, before, RECORD_KEYS)
    now = recognise(new, names)
    return ignored(now) if isinstance(now, NotLauncher) else _restored(new, {}, RECORD_KEYS)


def _restored(new: PodView, before: Mapping[str, str], keys: tuple[str, ...]) -> Decision:
    """Put `keys` back to what they were `before`; the rest of the product's keys stay as they come."""
    current = new.annotations or {}
    own = {key: value for key in OWN_KEYS if (value := (before if key in keys else current).get(key)) is not None}
    return _written(
        new,
        own,
        Decision(
            Action.PATCH,
            Reason.KEPT if keys is OWN_KEYS else Reason.NO_RECORD,
            Level.parse(before.get(EFFECTIVE_LEVEL)),
            before.get(EFFECTIVE_PROFILE),
            before.get(DECIDED_BY),
        ),
    )


def _hands_off(pod: PodView, vmi: OwnerReference, facts: Facts, selection: Selection, names: KubeVirtNames) -> Decision:
    """Leave the hooks to somebody else; a pod that carries our own goes back to what KubeVirt would write."""
    current = pod.annotations or {}
    if is_intact(current):
        hooks = kubevirt_hooks(pod.namespace, vmi.name, names)
        own = {} if kubevirt_skips(facts, names) else hooks
    else:
        own = {key: current[key] for key in HOOK_KEYS if key in current}
    outcome = Decision(Action.UNMANAGED, Reason.HANDS_OFF, decided_by=selection.decided_by, refusals=selection.refusals)
    return _written(pod, own, outcome)


def _written(pod: PodView, own: Mapping[str, str], decision: Decision) -> Decision:
    """Complete `decision` with the patch after which `own` stands on the pod, if one is needed and possible."""
    patch = annotation_patch(pod.annotations, own)
    if not patch:
        is_patch = decision.action is Action.PATCH
        reason = Reason.IN_PLACE if is_patch else decision.reason
        return replace(decision, action=Action.NONE if is_patch else decision.action, reason=reason)
    annotations = patched(pod.annotations, own)
    if is_too_large(annotations):
        return unchanged(Reason.TOO_LARGE, f"the pod's annotations would exceed {MAX_ANNOTATIONS_BYTES} bytes")
    return replace(decision, patch=patch, annotations=annotations)
