"""What stands on the policy's ConfigMap, and which Events are recorded about it. It is on a real API server too, in
test_events_live.py."""

from datetime import UTC, datetime, timedelta

import pytest

from app.controllers.events.recorder import NORMAL, WARNING, EventRecorder, ObjectRef
from app.controllers.policy.active import PolicyKeeper, digest
from app.controllers.policy.status import PolicyStatus
from app.controllers.reconcile_loop import Pace, Problem
from app.core.annotations import POLICY_ACCEPTED, POLICY_ERROR, POLICY_STATE, POLICY_TIME
from app.core.policy_v1alpha1.config_map import KEY
from app.kube.client import ApiError, Json
from tests.infra.factories import policy_text
from tests.infra.stand_ins.api_objects import StandInApi

NAMESPACE, NAME = "vm-consistency", "vm-consistency-policy"
PATH = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{NAME}"
GOOD, OTHER = policy_text(default={"level": "crash"}), policy_text(default={"level": "filesystem"})
BAD, WORSE = policy_text(mode="none"), policy_text(mode="never")


class Recorded(EventRecorder):
    """Keeps what is recorded, and writes none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, str, str]] = []
        self.abouts: list[ObjectRef] = []

    def record(self, about: ObjectRef, event_type: str, reason: str, message: str, *, recurring: bool = False) -> None:
        self.abouts.append(about)
        self.events.append((event_type, reason, message))


class Setting:
    def __init__(self) -> None:
        self.api, self.recorder = StandInApi(), Recorded()
        self.keeper = PolicyKeeper(lambda state, good: None)
        self.time = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
        self.status = self.another_leaders()

    def another_leaders(self, pace: float = 0) -> PolicyStatus:
        """What another replica, which has read the same, would do."""
        return PolicyStatus(
            self.api,
            self.keeper,
            self.recorder,
            namespace=NAMESPACE,
            name=NAME,
            now=lambda: self.time,
            pace=Pace(pace),
        )

    def write(self, text: str | None, uid: str = "uid-1") -> None:
        """As kubectl apply does: annotations that it doesn't know stay."""
        held: Json = self.api.objects.get(PATH, {})
        annotations = held.get("metadata", {}).get("annotations", {})
        data = {} if text is None else {KEY: text}
        self.api.put(PATH, {"metadata": {"uid": uid, "annotations": annotations}, "data": data})

    async def apply(self, text: str, uid: str = "uid-1") -> None:
        """Somebody writes it, the keeper reads it, the leader looks."""
        self.write(text, uid)
        self.keeper.read(text)
        await self.status.reconcile()

    @property
    def annotations(self) -> dict[str, str]:
        found: dict[str, str] = self.api.objects[PATH]["metadata"].get("annotations", {})
        return found


@pytest.fixture
def setting() -> Setting:
    return Setting()


async def test_a_good_policy(setting: Setting) -> None:
    await setting.apply(GOOD)
    assert setting.annotations == {
        POLICY_STATE: "valid",
        POLICY_ACCEPTED: digest(GOOD),
        POLICY_TIME: "2026-11-21T12:00:00Z",
    }
    assert setting.recorder.events == [(NORMAL, "PolicyAccepted", f"policy {digest(GOOD)} is in force")]
    assert setting.recorder.abouts == [ObjectRef("v1", "ConfigMap", NAMESPACE, NAME, "uid-1")]
    assert setting.recorder.overflow_about == setting.recorder.abouts[0]


async def test_a_bad_one_after_a_good_one_and_back(setting: Setting) -> None:
    await setting.apply(GOOD)
    setting.time += timedelta(hours=1)
    await setting.apply(BAD)
    error = setting.keeper.current().error
    assert error
    assert setting.annotations == {
        POLICY_STATE: "last-good",
        POLICY_ACCEPTED: digest(GOOD),
        POLICY_ERROR: error,
        POLICY_TIME: "2026-11-21T13:00:00Z",
    }
    event_type, reason, message = setting.recorder.events[-1]
    assert (event_type, reason) == (WARNING, "PolicyRejected")
    assert all(part in message for part in (digest(BAD), f"{digest(GOOD)} stays in force", error))
    await setting.apply(GOOD)
    assert POLICY_ERROR not in setting.annotations
    assert setting.annotations[POLICY_STATE] == "valid"
    assert [reason for _, reason, _ in setting.recorder.events] == [
        "PolicyAccepted",
        "PolicyRejected",
        "PolicyAccepted",
    ]


async def test_a_bad_one_with_no_good_one_behind_it(setting: Setting) -> None:
    await setting.apply(BAD)
    assert setting.annotations[POLICY_STATE] == "invalid"
    assert POLICY_ACCEPTED not in setting.annotations
    assert "every pod is left as it is" in setting.recorder.events[0][2]


async def test_an_error_is_one_line_of_bounded_length(setting: Setting) -> None:
    await setting.apply(policy_text(**{f"field{'x' * 5000}\n\u2028": 1}))
    error = setting.annotations[POLICY_ERROR]
    assert len(error) <= 1024
    assert error.isprintable()


@pytest.mark.parametrize("text", [GOOD, BAD])
async def test_nothing_is_written_or_told_twice(setting: Setting, text: str) -> None:
    await setting.apply(text)
    version = setting.api.version(PATH)
    for _ in range(3):
        setting.time += timedelta(minutes=10)
        await setting.status.reconcile()
        await setting.another_leaders().reconcile()
    assert setting.api.version(PATH) == version
    assert len(setting.recorder.events) == 1


async def test_the_time_stays_while_the_state_does(setting: Setting) -> None:
    await setting.apply(GOOD)
    entered = setting.annotations[POLICY_TIME]
    setting.time += timedelta(hours=1)
    await setting.apply(GOOD)
    assert setting.annotations[POLICY_TIME] == entered
    await setting.apply(OTHER)
    assert setting.annotations[POLICY_TIME] != entered


async def test_only_the_text_that_stands_there_is_described(setting: Setting) -> None:
    await setting.apply(GOOD)
    for text in (OTHER, BAD, None):
        setting.write(text)  # the keeper has not read it yet
        await setting.status.reconcile()
        assert setting.annotations[POLICY_ACCEPTED] == digest(GOOD)
        assert setting.annotations[POLICY_STATE] == "valid"
    setting.write(WORSE)
    setting.keeper.read(BAD)  # nor this one
    await setting.status.reconcile()
    assert setting.annotations[POLICY_STATE] == "valid"
    assert len(setting.recorder.events) == 1


async def test_a_configmap_without_the_key(setting: Setting) -> None:
    setting.write(None)
    setting.keeper.read("")
    await setting.status.reconcile()
    assert setting.annotations[POLICY_STATE] == "invalid"


async def test_before_the_policy_was_read_nothing_is_said(setting: Setting) -> None:
    setting.write(GOOD)
    assert await setting.status.reconcile() is None
    assert setting.annotations == {}


async def test_without_a_configmap_there_is_nothing_to_say_it_on(setting: Setting) -> None:
    setting.keeper.absent()
    assert await setting.status.reconcile() is None
    await setting.apply(GOOD)
    setting.api.before["patch"] = lambda: setting.api.objects.pop(PATH)
    setting.write(BAD)
    setting.keeper.read(BAD)
    assert await setting.status.reconcile() is None
    assert PATH not in setting.api.objects


async def test_one_that_was_deleted_and_made_anew_is_described_again(setting: Setting) -> None:
    await setting.apply(GOOD)
    del setting.api.objects[PATH]
    setting.keeper.absent()
    await setting.apply(GOOD, uid="uid-2")
    assert setting.annotations[POLICY_STATE] == "valid"
    assert [about.uid for about in setting.recorder.abouts] == ["uid-1", "uid-2"]


async def test_annotations_of_others_stay_and_ours_come_back(setting: Setting) -> None:
    await setting.apply(GOOD)
    held = setting.api.objects[PATH]
    edited = {**setting.annotations, "team": "storage", POLICY_STATE: "perfect"}
    del edited[POLICY_TIME]
    setting.api.put(PATH, {**held, "metadata": {**held["metadata"], "annotations": edited}})
    await setting.status.reconcile()
    assert setting.annotations["team"] == "storage"
    assert setting.annotations[POLICY_STATE] == "valid"
    assert POLICY_TIME in setting.annotations


async def test_a_lost_time_is_no_news(setting: Setting) -> None:
    await setting.apply(GOOD)
    del setting.api.objects[PATH]["metadata"]["annotations"][POLICY_TIME]
    await setting.status.reconcile()
    assert POLICY_TIME in setting.annotations
    assert len(setting.recorder.events) == 1


async def test_a_text_written_meanwhile_is_not_described_by_the_one_before(setting: Setting) -> None:
    setting.api.before["patch"] = lambda: setting.write(OTHER)
    await setting.apply(GOOD)
    assert setting.annotations == {}
    setting.keeper.read(OTHER)
    await setting.status.reconcile()
    assert setting.annotations[POLICY_ACCEPTED] == digest(OTHER)
    assert len(setting.recorder.events) == 1


async def test_who_undoes_it_is_not_fought_in_a_tight_loop(setting: Setting) -> None:
    setting.status = setting.another_leaders(pace=30)
    await setting.apply(GOOD)
    setting.api.put(PATH, {"metadata": {"uid": "uid-1"}, "data": {KEY: GOOD}})
    assert 20 < (await setting.status.reconcile() or 0) <= 30
    assert setting.annotations == {}


async def test_refusals_name_the_configmap(setting: Setting) -> None:
    setting.api.refusals["patch"] = [ApiError(403, "Forbidden", "cannot patch resource")]
    with pytest.raises(Problem, match=f"ConfigMap {NAMESPACE}/{NAME}: the policy's state can't be written: 403"):
        await setting.apply(GOOD)
    assert setting.recorder.events == []
    await setting.status.reconcile()
    assert len(setting.recorder.events) == 1
