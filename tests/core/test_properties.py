"""What holds for every pod, cluster and policy."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.core.annotations import MAX_ANNOTATIONS_BYTES, OWN_KEYS, RECORD_KEYS
from app.core.decision import Action, Decision, Reason, keep
from app.core.kubevirt_names import UPSTREAM
from app.core.objects import Facts
from app.core.policy import Level, Mode, Policy
from app.core.record import is_intact
from tests.core.strategies import ANNOTATIONS, FACTS, PODS, POLICIES, RECORDS
from tests.infra.factories import annotations_after, decide_pod, make_pod, make_policy, view

Annotations = dict[str, str]


def annotations_of(pod: dict[str, Any]) -> Annotations:
    return dict(pod["metadata"].get("annotations") or {})


def others(annotations: Annotations) -> Annotations:
    return {key: value for key, value in annotations.items() if key not in OWN_KEYS}


def check_patch(pod: dict[str, Any], decision: Decision) -> Annotations:
    """Check what holds for every decision on `pod`; return its annotations afterwards."""
    before, after = annotations_of(pod), annotations_after(pod, decision)
    assert others(after) == others(before)
    assert decision.annotations == (after if decision.patch else None)
    assert bool(decision.patch) == (before != after)
    if decision.action in (Action.NONE, Action.IGNORED):
        assert not decision.patch
    assert all(line.isprintable() and 0 < len(line) < 1200 for line in decision.warnings)
    return after


@given(PODS, FACTS, POLICIES)
def test_decision(pod: dict[str, Any], facts: Facts, policy: Policy) -> None:
    decision = decide_pod(pod, facts, policy)
    after = check_patch(pod, decision)
    if policy.mode is Mode.AUDIT:
        assert not decision.patch
    elif decision.action is Action.UNMANAGED:
        assert not any(key in after for key in RECORD_KEYS)
        assert decision.level is None
    else:
        assert is_intact(after)
        assert after["vm-consistency.io/effective-level"] == decision.level
        assert after["vm-consistency.io/decided-by"] == decision.decided_by
        assert (decision.level is Level.APPLICATION) == (decision.profile is not None)
    assert len({(refusal.source, refusal.reason) for refusal in decision.refusals}) == len(decision.refusals)


@given(PODS, FACTS, POLICIES)
def test_decided_again_nothing_is_left_to_do(pod: dict[str, Any], facts: Facts, policy: Policy) -> None:
    first = decide_pod(pod, facts, policy)
    pod["metadata"]["annotations"] = annotations_after(pod, first)
    second = decide_pod(pod, facts, policy)
    assert second.patch == []
    assert (second.level, second.profile, second.decided_by) == (first.level, first.profile, first.decided_by)
    assert second.refusals == first.refusals


@given(PODS, FACTS, POLICIES, ANNOTATIONS, st.booleans())
def test_update_brings_back_what_was_decided(
    pod: dict[str, Any], facts: Facts, policy: Policy, later: Annotations | None, is_labelled: bool
) -> None:
    pod["metadata"]["annotations"] = decided = annotations_after(pod, decide_pod(pod, facts, policy))
    changed = make_pod(annotations=later, **({} if is_labelled else {"labels": None}))
    after = check_patch(changed, keep(view(pod), view(changed), UPSTREAM))
    if is_intact(decided):
        assert {key: after.get(key) for key in OWN_KEYS} == {key: decided.get(key) for key in OWN_KEYS}
    else:
        assert {key: after.get(key) for key in RECORD_KEYS} == {key: decided.get(key) for key in RECORD_KEYS}


@given(ANNOTATIONS, ANNOTATIONS | RECORDS)
def test_no_record_comes_in_by_an_update(old: Annotations | None, new: Annotations | None) -> None:
    changed = make_pod(annotations=new)
    after = check_patch(changed, keep(view(make_pod(annotations=old)), view(changed), UPSTREAM))
    assert {key: after.get(key) for key in RECORD_KEYS} == {key: (old or {}).get(key) for key in RECORD_KEYS}


@given(
    st.integers(0, 3000),
    st.sampled_from(["x", "é", "\N{PILE OF POO}"]),
    st.sampled_from([Level.CRASH, Level.FILESYSTEM]),
)
def test_annotations_never_outgrow_what_the_api_server_takes(spare: int, character: str, level: Level) -> None:
    width = len(character.encode())
    pod = make_pod(annotations={"big": character * ((MAX_ANNOTATIONS_BYTES - spare) // width)})
    decision = decide_pod(pod, policy=make_policy(default={"level": level.value}))
    after = check_patch(pod, decision)
    size = sum(len((key + value).encode()) for key, value in after.items())
    assert size <= MAX_ANNOTATIONS_BYTES or not decision.patch
    assert bool(decision.patch) == (decision.reason is not Reason.TOO_LARGE)
