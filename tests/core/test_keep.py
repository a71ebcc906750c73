"""UPDATE keeps what an intact record vouches for, and lets no record in."""

from collections.abc import Mapping
from typing import Any

import pytest

from app.core.annotations import (
    DECIDED_BY,
    EFFECTIVE_LEVEL,
    HOOK_KEYS,
    HOOKS_DIGEST,
    KUBEVIRT_HOOK_KEYS,
    LEVEL,
    MAX_ANNOTATIONS_BYTES,
    OWN_KEYS,
    POST,
    PRE,
    RECORD_KEYS,
)
from app.core.decision import Action, Decision, Reason, keep
from app.core.hooks.render import kubevirt_hooks
from app.core.kubevirt_names import UPSTREAM
from app.core.launcher import NotLauncher
from app.core.policy import Level
from app.core.record import digest, is_intact, with_record
from tests.infra.factories import (
    KUBEVIRT,
    NAME,
    NAMESPACE,
    annotations_after,
    decide_pod,
    make_owner,
    make_pod,
    make_policy,
    view,
)

Annotations = Mapping[str, str]

FILESYSTEM, CRASH, NOOP = (
    annotations_after(make_pod(), decide_pod(make_pod(), policy=make_policy(default={"level": level}, hooks=hooks)))
    for level, hooks in (("filesystem", {}), ("crash", {}), ("crash", {"crash": "noop"}))
)
FIVE = kubevirt_hooks(NAMESPACE, NAME, UPSTREAM)
FORGED = with_record({PRE + "command": '["/bin/evil"]'}, Level.CRASH, None, "vm")
BROKEN = {**CRASH, **FIVE}
TERMINATING = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
NO_LAUNCHER = {"labels": {"app": "x"}}


def without(annotations: Annotations, *keys: str) -> dict[str, str]:
    return {key: value for key, value in annotations.items() if key not in keys}


def own(annotations: Annotations) -> dict[str, str]:
    return {key: annotations[key] for key in OWN_KEYS if key in annotations}


def record(annotations: Annotations) -> dict[str, str]:
    return {key: annotations[key] for key in RECORD_KEYS if key in annotations}


def hooks(annotations: Annotations) -> dict[str, str]:
    return {key: annotations[key] for key in HOOK_KEYS if key in annotations}


def update(
    old: Annotations | None,
    new: Annotations | None,
    was: dict[str, Any] | None = None,
    now: dict[str, Any] | None = None,
) -> tuple[Decision, dict[str, str]]:
    """Decide an UPDATE from annotations `old` to `new`; `was` and `now` are other metadata of the two objects."""
    after = make_pod(annotations=new, **(now or {}))
    decision = keep(view(make_pod(annotations=old, **(was or {}))), view(after), UPSTREAM)
    return decision, annotations_after(after, decision)


CHANGES = [
    pytest.param(lambda a: {**without(a, *KUBEVIRT_HOOK_KEYS), **FIVE}, id="KubeVirt-writes-its-five-back"),
    pytest.param(lambda a: without(a, *KUBEVIRT_HOOK_KEYS), id="KubeVirt-deletes-its-five"),
    pytest.param(lambda a: {**a, PRE + "command": '["/bin/sync"]'}, id="hook-edited-by-hand"),
    pytest.param(lambda a: {**a, POST + "on-error": "Fail"}, id="on-error-edited-by-hand"),
    pytest.param(lambda a: {**a, "hook.backup.velero.io/command": "sync"}, id="legacy-hook-added"),
    pytest.param(lambda a: without(a, *HOOK_KEYS), id="hooks-removed"),
    pytest.param(lambda a: without(a, *RECORD_KEYS), id="record-removed"),
    pytest.param(lambda a: without(a, HOOKS_DIGEST), id="digest-removed"),
    pytest.param(lambda a: {**a, HOOKS_DIGEST: "sha256:0"}, id="digest-broken"),
    pytest.param(lambda a: {**a, DECIDED_BY: "somebody"}, id="record-edited"),
    pytest.param(lambda a: {**without(a, *OWN_KEYS), **FORGED}, id="another-record-that-is-intact"),
    pytest.param(lambda a: {}, id="emptied"),
    pytest.param(lambda a: None, id="map-removed"),
    pytest.param(lambda a: {**a, LEVEL: "crash", "other": "x"}, id="keys-of-others"),
]
RENDERINGS = [
    pytest.param(FILESYSTEM, id="filesystem"),
    pytest.param(CRASH, id="crash"),
    pytest.param(NOOP, id="noop"),
    pytest.param({**KUBEVIRT, **with_record(FIVE, Level.APPLICATION, "p", "rule/r")}, id="of-another-version"),
]


@pytest.mark.parametrize("decided", RENDERINGS)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "now",
    [
        pytest.param({}, id="launcher"),
        pytest.param(NO_LAUNCHER, id="label-taken-away"),
        pytest.param({"ownerReferences": None}, id="owner-taken-away"),
        pytest.param({"ownerReferences": [make_owner(name="other")]}, id="owner-exchanged"),
    ],
)
def test_intact_rendering_comes_back(decided: Annotations, change: Any, now: dict[str, Any]) -> None:
    changed = change(dict(decided))
    decision, after = update(decided, changed, now=now)
    assert own(after) == own(decided)
    assert is_intact(after)
    assert without(after, *OWN_KEYS) == without(changed or {}, *OWN_KEYS)
    is_changed = own(changed or {}) != own(decided)
    assert decision.action is (Action.PATCH if is_changed else Action.NONE)
    assert decision.reason is (Reason.KEPT if is_changed else Reason.IN_PLACE)
    assert (decision.level, decision.profile) == (
        Level(decided[EFFECTIVE_LEVEL]),
        decided.get("vm-consistency.io/effective-profile"),
    )
    assert decision.decided_by == decided[DECIDED_BY]


@pytest.mark.parametrize("decided", RENDERINGS)
def test_update_that_touches_nothing_of_ours_gets_no_patch(decided: Annotations) -> None:
    decision, _ = update(decided, decided)
    assert (decision.action, decision.reason, decision.patch) == (Action.NONE, Reason.IN_PLACE, [])


@pytest.mark.parametrize(
    "old",
    [
        pytest.param(KUBEVIRT, id="no-record"),
        pytest.param(None, id="no-annotations"),
        pytest.param(BROKEN, id="record-that-does-not-fit"),
        pytest.param(without(CRASH, EFFECTIVE_LEVEL), id="record-in-parts"),
    ],
)
@pytest.mark.parametrize(
    "new",
    [
        pytest.param({**KUBEVIRT, **FORGED}, id="forged-record-with-a-right-digest"),
        pytest.param(FILESYSTEM, id="record-of-another-pod"),
        pytest.param({**KUBEVIRT, HOOKS_DIGEST: "sha256:0"}, id="digest-alone"),
        pytest.param({**KUBEVIRT, PRE + "command": '["/bin/sync"]'}, id="hand-edit"),
        pytest.param({}, id="emptied"),
        pytest.param(None, id="map-removed"),
    ],
)
@pytest.mark.parametrize("now", [pytest.param({}, id="launcher"), pytest.param(NO_LAUNCHER, id="label-taken-away")])
def test_without_an_intact_record_hooks_are_free_and_the_record_is_not(
    old: Annotations | None, new: Annotations | None, now: dict[str, Any]
) -> None:
    decision, after = update(old, new, now=now)
    assert record(after) == record(old or {})
    assert without(after, *RECORD_KEYS) == without(new or {}, *RECORD_KEYS)
    assert decision.reason is Reason.NO_RECORD
    assert decision.action is (Action.PATCH if record(old or {}) != record(new or {}) else Action.NONE)
    assert (decision.level, decision.profile, decision.decided_by) == (None, None, None)


def test_pod_becomes_a_launcher_without_its_forged_record() -> None:
    decision, after = update({**KUBEVIRT, **FORGED}, {**KUBEVIRT, **FORGED}, was=NO_LAUNCHER)
    assert decision.reason is Reason.NO_RECORD
    assert after == without({**KUBEVIRT, **FORGED}, *RECORD_KEYS)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        pytest.param(NO_LAUNCHER, NotLauncher.LABEL, id="label"),
        pytest.param({"ownerReferences": None}, NotLauncher.OWNER, id="owner"),
    ],
)
def test_pod_that_never_was_a_launcher_is_ignored(other: dict[str, Any], reason: NotLauncher) -> None:
    decision, _ = update(KUBEVIRT, {**KUBEVIRT, **FORGED}, was=other, now=other)
    assert decision == Decision(Action.IGNORED, reason)


@pytest.mark.parametrize("other", [NO_LAUNCHER, {"ownerReferences": None}], ids=["label", "owner"])
def test_whoever_edits_what_a_launcher_is_known_by_does_not_get_at_its_hooks(other: dict[str, Any]) -> None:
    for was in ({}, other):
        decision, after = update(FILESYSTEM, {**KUBEVIRT, **FORGED}, was=was, now=other)
        assert decision.reason is Reason.KEPT
        assert own(after) == own(FILESYSTEM)


@pytest.mark.parametrize("was", [pytest.param({}, id="until-now-not"), pytest.param(TERMINATING, id="already")])
@pytest.mark.parametrize("old", [FILESYSTEM, KUBEVIRT, None])
def test_terminating_pod_is_left_alone(was: dict[str, Any], old: Annotations | None) -> None:
    decision, _ = update(old, {**KUBEVIRT, **FORGED}, was=was, now=TERMINATING)
    assert decision == Decision(Action.IGNORED, NotLauncher.TERMINATING)


def test_a_temporary_pod_stays_as_it_is() -> None:
    temporary = {**KUBEVIRT, UPSTREAM.ephemeral_annotation: "true"}
    decision, after = update(temporary, {**temporary, "a": "b"})
    assert (decision.action, decision.patch) == (Action.NONE, [])
    assert after == {**temporary, "a": "b"}


@pytest.mark.parametrize("old", [FILESYSTEM, CRASH, KUBEVIRT], ids=["filesystem", "crash", "no-record"])
def test_a_launcher_that_was_made_to_look_temporary_takes_no_record(old: Annotations) -> None:
    """The annotation is not ours, so an UPDATE that adds or removes it alone is not even sent."""
    disguised = {**old, UPSTREAM.ephemeral_annotation: "true"}
    _, after = update(disguised, {**without(disguised, *OWN_KEYS), **FORGED})
    assert record(after) == record(old)
    assert own(after) == own(old) or old is KUBEVIRT


def test_annotation_that_marks_a_pod_ephemeral_does_not_free_its_hooks() -> None:
    _, after = update(CRASH, {**KUBEVIRT, UPSTREAM.ephemeral_annotation: "true"})
    assert own(after) == own(CRASH)


@pytest.mark.parametrize(
    ("decided_by", "told"),
    [("vm", "vm"), ("rule/anything", "rule/anything"), ("built-in", "built-in"), ("x" * 99, None), ("", None)],
)
def test_source_of_a_forged_record_is_not_passed_on(decided_by: str, told: str | None) -> None:
    # Metrics have a series for each source; the record is kept all the same.
    forged = {**KUBEVIRT, **with_record(FIVE, Level.CRASH, None, decided_by)}
    decision, after = update(forged, {})
    assert (decision.reason, decision.decided_by) == (Reason.KEPT, told)
    assert own(after) == own(forged)


def test_level_of_a_forged_record_that_is_none_is_not_passed_on() -> None:
    forged = {EFFECTIVE_LEVEL: "x", DECIDED_BY: "vm"}
    forged[HOOKS_DIGEST] = digest(forged)
    decision, after = update(forged, KUBEVIRT)
    assert (decision.reason, decision.level) == (Reason.KEPT, None)
    assert own(after) == forged


@pytest.mark.parametrize("forged", [FORGED, {}], ids=["forged", "none"])
def test_no_room_to_restore_and_none_for_a_record_that_comes_in(forged: Annotations) -> None:
    size = sum(len(key) + len(value) for key, value in forged.items())
    decision, after = update(FILESYSTEM, {**forged, "big": "x" * (MAX_ANNOTATIONS_BYTES - 3 - size)})
    assert decision.reason is Reason.TOO_LARGE
    assert decision.warnings
    assert record(after) == {}
    assert (hooks(after), len(after["big"])) == ({}, MAX_ANNOTATIONS_BYTES - 3 - size)


def test_hooks_that_are_right_stay_where_there_is_no_room_for_the_others() -> None:
    kept = hooks(KUBEVIRT)
    size = sum(len(key) + len(value) for key, value in kept.items())
    room = MAX_ANNOTATIONS_BYTES - size - 60
    decision, after = update(FILESYSTEM, {**kept, "hook.backup.velero.io/command": "evil", "big": "x" * room})
    assert decision.reason is Reason.TOO_LARGE
    assert hooks(after) == kept
