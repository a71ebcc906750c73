"""What to do with a pod. Whoever asks, the webhook, the reconciler or the command line, comes through here."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from app.core.annotations import (
    DECIDED_BY,
    EFFECTIVE_LEVEL,
    EFFECTIVE_PROFILE,
    HOOK_KEYS,
    MAX_ANNOTATIONS_BYTES,
    OWN_KEYS,
    RECORD_KEYS,
)
from app.core.hooks.render import kubevirt_hooks, render_hooks
from app.core.jsonpatch import Operation, annotation_patch, is_too_large, patched
from app.core.kubevirt_names import KubeVirtNames
from app.core.launcher import NotLauncher, PodView, recognise
from app.core.level_source import Refusal, is_source, kubevirt_skips, select_level
from app.core.objects import Facts, OwnerReference
from app.core.policy import Level, Mode, PolicyState
from app.core.record import is_intact, with_record
from app.core.text import one_line


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
    OWNER_GONE = "owner-gone"


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


def undecided(pod: PodView, reason: Reason, trouble: str) -> Decision:
    """The decision where something stands in the way of a good one: leave the hooks alone and say so."""
    return discarding(pod, Decision(Action.NONE, reason, trouble=one_line(f"hooks left as they are: {trouble}")))


def discarding(pod: PodView, decision: Decision) -> Decision:
    """Complete a decision that leaves the hooks as they come: a record that comes in is discarded all the same.

    Later UPDATEs would keep what it vouches for.
    """
    return _leaving(pod, _hooks(pod), decision)


def _hooks(pod: PodView) -> dict[str, str]:
    current = pod.annotations or {}
    return {key: current[key] for key in HOOK_KEYS if key in current}


def _leaving(pod: PodView, own: Mapping[str, str], decision: Decision) -> Decision:
    """Complete a decision that takes things away: of the product's keys, only `own` is left on the pod."""
    patch = annotation_patch(pod.annotations, own)
    if not patch:
        return decision
    return replace(decision, action=Action.PATCH, patch=patch, annotations=patched(pod.annotations, own))


def _without_policy(state: PolicyState) -> Reason:
    return Reason.POLICY_UNKNOWN if state.error is None else Reason.POLICY_INVALID


def decide(pod: PodView, vmi: OwnerReference, facts: Facts, state: PolicyState, names: KubeVirtNames) -> Decision:
    """Decide what `pod`, which `recognise` found to be the launcher of `vmi`, should carry."""
    policy = state.policy
    if policy is None:
        return undecided(
            pod, _without_policy(state), f"the policy can't be used: {state.error or 'it has not been read yet'}"
        )
    selection = select_level(policy, facts, pod, names)
    if selection.level is None:
        decided_by, refusals = selection.decided_by, selection.refusals
        unmanaged = Decision(Action.UNMANAGED, Reason.HANDS_OFF, decided_by=decided_by, refusals=refusals)
        if policy.mode is Mode.AUDIT:
            return unmanaged
        return _written(pod, _handed_back(pod, vmi, facts, names), unmanaged)
    steps = policy.steps(selection.profile)
    hooks = render_hooks(selection.level, steps, selection.hooks, pod.namespace, vmi.name, names)
    own = with_record(hooks, selection.level, selection.profile, selection.decided_by)
    outcome = (selection.level, selection.profile, selection.decided_by)
    if policy.mode is Mode.AUDIT:
        return Decision(Action.NONE, Reason.AUDIT, *outcome, refusals=selection.refusals)
    return _written(pod, own, Decision(Action.PATCH, Reason.DECIDED, *outcome, refusals=selection.refusals))


def decide_running(
    pod: PodView, vmi: OwnerReference, facts: Facts, state: PolicyState, names: KubeVirtNames
) -> Decision:
    """Decide what `pod`, which runs already, should carry: what a new one would get.

    Where that can't be told, all of the pod stays as it is, its record too: that was written when it could be told.
    """
    if state.policy is None:
        return Decision(Action.NONE, _without_policy(state))
    if facts.vmi is None:
        return Decision(Action.NONE, Reason.OWNER_GONE)  # the pod follows; without its owner's wishes it would change
    return decide(pod, vmi, facts, state, names)


def keep(old: PodView, new: PodView, names: KubeVirtNames) -> Decision:
    """Decide an UPDATE: what an intact record vouches for is restored, whatever policy is in force.

    Only a CREATE and the reconciler change what a pod carries, so replicas with different policies never fight. What
    `old` was recognised as counts: an UPDATE that takes the label away can't take the hooks along. A record never comes
    in by an UPDATE.
    """
    if new.terminating:
        return ignored(NotLauncher.TERMINATING)
    was, before = recognise(old, names), old.annotations or {}
    # Whoever may write pods may edit what a launcher is known by, too; no other pod has an honest record.
    if is_intact(before):
        return _kept(new, before)
    if isinstance(was, OwnerReference) or was is NotLauncher.EPHEMERAL:
        return _without_news(new, before)
    now = recognise(new, names)
    if isinstance(now, NotLauncher) and now is not NotLauncher.EPHEMERAL:
        return ignored(now)
    return _without_news(new, {})


def _kept(new: PodView, before: Mapping[str, str]) -> Decision:
    """Put the product's keys back to what they were `before`."""
    own = {key: before[key] for key in OWN_KEYS if key in before}
    level, decided_by = Level.parse(before.get(EFFECTIVE_LEVEL)), before.get(DECIDED_BY)
    # Anyone can write a record that is intact, and metrics have a series for every source.
    source = decided_by if is_source(decided_by) else None
    return _written(new, own, Decision(Action.PATCH, Reason.KEPT, level, before.get(EFFECTIVE_PROFILE), source))


def _without_news(new: PodView, before: Mapping[str, str]) -> Decision:
    """Put the record alone back to what it was `before`, as nothing vouches for the hooks."""
    own = _hooks(new) | {key: before[key] for key in RECORD_KEYS if key in before}
    return _written(new, own, Decision(Action.PATCH, Reason.NO_RECORD))


def _handed_back(pod: PodView, vmi: OwnerReference, facts: Facts, names: KubeVirtNames) -> Mapping[str, str]:
    """Return what KubeVirt would write on a pod that carries our own hooks; anybody else's stay as they are."""
    if not is_intact(pod.annotations or {}):
        return _hooks(pod)
    return {} if kubevirt_skips(facts, names) else kubevirt_hooks(pod.namespace, vmi.name, names)


def _written(pod: PodView, own: Mapping[str, str], decision: Decision) -> Decision:
    """Complete `decision` with the patch after which `own` stands on the pod, if one is needed and possible."""
    patch = annotation_patch(pod.annotations, own)
    if not patch:
        action = Action.NONE if decision.action is Action.PATCH else decision.action
        reason = Reason.IN_PLACE if decision.reason in (Reason.DECIDED, Reason.KEPT) else decision.reason
        return replace(decision, action=action, reason=reason)
    annotations = patched(pod.annotations, own)
    if is_too_large(annotations, pod.unread_bytes):
        return _stripped(pod, own)
    return replace(decision, patch=patch, annotations=annotations)


def _stripped(pod: PodView, own: Mapping[str, str]) -> Decision:
    """Take away the hooks that should not be there, where there is no room for those that should.

    Or else whoever fills a pod's annotations could keep any hooks. KubeVirt's own are mostly those that should.
    """
    right = {key: value for key, value in _hooks(pod).items() if own.get(key) == value}
    trouble = f"hooks are missing: the pod's annotations would exceed {MAX_ANNOTATIONS_BYTES} bytes"
    return _leaving(pod, right, Decision(Action.NONE, Reason.TOO_LARGE, trouble=trouble))
