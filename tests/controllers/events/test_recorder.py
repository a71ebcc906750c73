"""What becomes of Events, by a clock that the test holds. What the stand-in imitates is in test_events_live.py."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import deepcopy

import pytest

from app.controllers.events.recorder import EVENTS_SUPPRESSED, NORMAL, WARNING, EventRecorder, ObjectRef, Result
from app.kube.client import ApiError, ApiUnavailable, Json, KubeError
from tests.kube.support import eventually

POLICY = ObjectRef("v1", "ConfigMap", "vm-consistency", "vm-consistency-policy", "policy-uid")


def vmi(name: str = "db", namespace: str = "shop") -> ObjectRef:
    return ObjectRef("kubevirt.io/v1", "VirtualMachineInstance", namespace, name, f"{namespace}-{name}-uid")


class StandInApi:
    """Events by path. `refusals` are raised by the next requests, one after the other."""

    def __init__(self) -> None:
        self.events: dict[str, Json] = {}
        self.requests: list[str] = []
        self.refusals: list[KubeError] = []
        self.refused: Callable[[str], KubeError | None] = lambda _: None

    async def get(self, path: str) -> Json:
        self._request("get", path)
        return deepcopy(self.events[path])

    async def post(self, path: str, body: Json) -> Json:
        path = f"{path}/{body['metadata']['name']}"
        self._request("post", path)
        if path in self.events:
            raise ApiError(409, "AlreadyExists", "already exists")
        self.events[path] = deepcopy(body)
        return body

    async def patch(self, path: str, body: Json) -> Json:
        self._request("patch", path)
        self.events[path].update(body)
        return self.events[path]

    def _request(self, verb: str, path: str) -> None:
        self.requests.append(verb)
        if self.refusals:
            raise self.refusals.pop(0)
        if error := self.refused(path):
            raise error
        if verb != "post" and path not in self.events:
            raise ApiError(404, "NotFound", "not found")

    def said(self) -> list[str]:
        return [event["message"] for event in self.events.values()]

    def only(self) -> Json:
        [event] = self.events.values()
        return event


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class Setting:
    """A recorder, its API server and its clock."""

    def __init__(self, *, max_waiting: int = 1000, remembered: int = 20_000, api: StandInApi | None = None) -> None:
        self.api, self.time = api or StandInApi(), Time()
        self.results: list[tuple[str, Result]] = []
        self.recorder = EventRecorder(
            instance="replica-1",
            overflow_about=POLICY,
            on_result=lambda reason, result: self.results.append((reason, result)),
            max_waiting=max_waiting,
            remembered=remembered,
            clock=self.time,
            sleep=self.time.sleep,
        )
        self.record = self.recorder.record

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.recorder.run(self.api))
        try:
            yield
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def settled(self, results: int) -> None:
        """So many Events came to an end."""
        await eventually(lambda: len(self.results) >= results, what=f"{results} results; got {self.results}")
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
def setting() -> Setting:
    return Setting()


async def test_an_event_as_kubectl_shows_it(setting: Setting) -> None:
    setting.record(vmi(), NORMAL, "LevelChanged", "crash is now\n  filesystem")
    async with setting.running():
        await setting.settled(1)
    [(path, event)] = setting.api.events.items()
    assert path.startswith("/api/v1/namespaces/shop/events/db.")
    assert event["involvedObject"] == {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "namespace": "shop",
        "name": "db",
        "uid": "shop-db-uid",
    }
    assert (event["type"], event["reason"], event["message"]) == ("Normal", "LevelChanged", "crash is now filesystem")
    assert (event["count"], event["source"]) == (1, {"component": "vm-consistency"})
    assert (event["reportingComponent"], event["reportingInstance"]) == ("vm-consistency", "replica-1")
    assert event["firstTimestamp"] == event["lastTimestamp"]
    assert setting.results == [("LevelChanged", "sent")]


async def test_the_same_is_told_once(setting: Setting) -> None:
    async with setting.running():
        for _ in range(3):
            for _ in range(3):
                setting.record(vmi(), WARNING, "RequestRefused", "crash is not allowed")
            await setting.settled(1)
        assert setting.api.requests == ["post"]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((vmi("web"), "RequestRefused", "no"), id="object"),
        pytest.param((ObjectRef("v1", "VMI", "shop", "db", "reborn"), "RequestRefused", "no"), id="uid"),
        pytest.param((vmi(), "ProfileUnknown", "no"), id="reason"),
        pytest.param((vmi(), "RequestRefused", "no!"), id="message"),
    ],
)
async def test_what_differs_is_told_too(setting: Setting, other: tuple[ObjectRef, str, str]) -> None:
    setting.record(vmi(), WARNING, "RequestRefused", "no")
    setting.record(other[0], WARNING, *other[1:])
    async with setting.running():
        await setting.settled(2)
    assert len(setting.api.events) == 2


async def test_what_another_leader_told_is_not_told_again() -> None:
    first = Setting()
    second = Setting(api=first.api)
    for one in (first, second):
        one.record(vmi(), WARNING, "RequestRefused", "no")
        async with one.running():
            await eventually(lambda one=one: one.time.slept)  # type: ignore[misc]
    assert first.api.requests == ["post", "post"]
    assert first.api.only()["reportingInstance"] == "replica-1"
    assert (first.results, second.results) == ([("RequestRefused", "sent")], [])


async def test_what_recurs_is_counted_with_one_write_a_minute(setting: Setting) -> None:
    async with setting.running():
        setting.record(vmi(), WARNING, "HooksOverwritten", "by somebody", recurring=True)
        await setting.settled(1)
        for _ in range(7):
            setting.record(vmi(), WARNING, "HooksOverwritten", "by somebody", recurring=True)
        await asyncio.sleep(0.02)
        assert setting.api.requests == ["post"]
        setting.time.now += 61
        setting.record(vmi("web"), NORMAL, "LevelChanged", "wakes it")
        await setting.settled(3)
        counts = {event["reason"]: event["count"] for event in setting.api.events.values()}
        assert counts == {"HooksOverwritten": 8, "LevelChanged": 1}
        assert sorted(setting.api.requests) == ["get", "patch", "post", "post"]


async def test_what_recurs_before_the_first_write_is_one_write(setting: Setting) -> None:
    for _ in range(5):
        setting.record(vmi(), WARNING, "HooksOverwritten", "by somebody", recurring=True)
    async with setting.running():
        await setting.settled(1)
    assert (setting.api.only()["count"], setting.api.requests) == (5, ["post"])


async def test_what_recurs_is_counted_on_where_another_leader_began() -> None:
    first = Setting()
    second = Setting(api=first.api)
    for one in (first, second):
        for _ in range(3):
            one.record(vmi(), WARNING, "HooksOverwritten", "by somebody", recurring=True)
        async with one.running():
            await one.settled(1)
    assert first.api.only()["count"] == 6


async def test_a_count_whose_event_has_expired_starts_anew(setting: Setting) -> None:
    async with setting.running():
        setting.record(vmi(), WARNING, "HooksOverwritten", "by somebody", recurring=True)
        await setting.settled(1)
        setting.api.events.clear()
        setting.time.now += 3600
        setting.record(vmi(), WARNING, "HooksOverwritten", "by somebody", recurring=True)
        await setting.settled(2)
    assert (setting.api.only()["count"], setting.api.requests) == (1, ["post", "get", "post"])


async def test_the_rate_is_bounded(setting: Setting) -> None:
    for number in range(100):
        setting.record(vmi(f"vm-{number}"), NORMAL, "LevelChanged", "changed")
    async with setting.running():
        await setting.settled(100)
    assert setting.time.now - 100 == pytest.approx(5)  # 20 a second


async def test_too_many_at_once_are_counted_and_told_as_one() -> None:
    setting = Setting(max_waiting=10)
    for number in range(15):
        setting.record(vmi(f"vm-{number}"), NORMAL, "LevelChanged", "changed")
    setting.record(vmi(), WARNING, "RequestRefused", "no")
    async with setting.running():
        await setting.settled(17)
        [suppressed] = [one for one in setting.api.events.values() if one["reason"] == EVENTS_SUPPRESSED]
        assert suppressed["involvedObject"]["uid"] == "policy-uid"
        assert suppressed["message"] == (
            "6 Events were not written, there were too many at once: LevelChanged 5, RequestRefused 1"
        )
        assert setting.results.count(("LevelChanged", "dropped")) == 5
        assert setting.results.count(("LevelChanged", "sent")) == 10
        setting.record(vmi(), WARNING, "RequestRefused", "no")  # it has not been told yet
        await setting.settled(18)
        assert "no" in setting.api.said()


async def test_what_recurs_too_often_is_bounded_too() -> None:
    setting = Setting(max_waiting=3)
    async with setting.running():
        for number in range(5):
            setting.record(vmi(f"vm-{number}"), WARNING, "HooksOverwritten", "by somebody", recurring=True)
            await setting.settled(number + 1)
        for number in range(5):
            setting.record(vmi(f"vm-{number}"), WARNING, "HooksOverwritten", "by somebody", recurring=True)
        assert setting.results.count(("HooksOverwritten", "dropped")) == 2
        setting.record(vmi(), NORMAL, "LevelChanged", "others are not held up")
        await eventually(lambda: "others are not held up" in setting.api.said())


async def test_memory_is_bounded() -> None:
    setting = Setting(remembered=5)
    async with setting.running():
        for number in range(20):
            setting.record(vmi(f"vm-{number}"), NORMAL, "LevelChanged", "changed")
            await setting.settled(number + 1)
        setting.record(vmi("vm-15"), NORMAL, "LevelChanged", "changed")  # the oldest of those that are remembered
        setting.record(vmi("vm-14"), NORMAL, "LevelChanged", "changed")
        await eventually(lambda: len(setting.api.requests) > 20)
        await setting.settled(20)
        assert len(setting.api.requests) == 21, "the other one is forgotten"
        assert len(setting.results) == 20, "the server has it already"


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ApiUnavailable("no answer"), id="unavailable"),
        pytest.param(ApiError(429, "TooManyRequests", "later", 7), id="429"),
        pytest.param(ApiError(503, "ServiceUnavailable", "later"), id="503"),
    ],
)
async def test_trouble_is_waited_out(setting: Setting, error: KubeError, caplog: pytest.LogCaptureFixture) -> None:
    setting.api.refusals = [error] * 5
    for number in range(3):
        setting.record(vmi(f"vm-{number}"), NORMAL, "LevelChanged", "changed")
    async with setting.running():
        await setting.settled(3)
    assert setting.results == [("LevelChanged", "sent")] * 3
    assert setting.time.slept[4] >= (7 if isinstance(error, ApiError) and error.retry_after else 4)
    assert sum(setting.time.slept) > 10
    assert len(caplog.records) == 1


async def test_trouble_without_end_is_given_up(setting: Setting) -> None:
    setting.api.refused = lambda _: ApiUnavailable("no answer")
    for number in range(3):
        setting.record(vmi(f"vm-{number}"), NORMAL, "LevelChanged", "changed")
    async with setting.running():
        await setting.settled(3)
        assert setting.results == [("LevelChanged", "failed")] * 3
        assert len(setting.api.requests) == 24
        setting.api.refused = lambda _: None
        setting.record(vmi("vm-0"), NORMAL, "LevelChanged", "changed")
        await setting.settled(4)
        assert setting.results[-1] == ("LevelChanged", "sent")


async def test_one_that_the_server_can_not_take_holds_up_no_other(setting: Setting) -> None:
    setting.api.refused = lambda path: ApiError(500, "InternalError", "a webhook") if "/bad." in path else None
    setting.record(vmi("bad"), NORMAL, "LevelChanged", "changed")
    setting.record(vmi("good"), NORMAL, "LevelChanged", "changed")
    async with setting.running():
        await setting.settled(1)
        assert [event["involvedObject"]["name"] for event in setting.api.events.values()] == ["good"]
        await setting.settled(2)
        assert setting.results[-1] == ("LevelChanged", "failed")


@pytest.mark.parametrize("error", [None, ApiUnavailable("no answer")], ids=["answered", "unanswered"])
async def test_what_recurs_while_it_is_being_written(setting: Setting, error: KubeError | None) -> None:
    def meanwhile(_: str) -> KubeError | None:
        setting.api.refused = lambda _: None
        setting.record(vmi(), WARNING, "HooksOverwritten", "by somebody", recurring=True)
        return error

    setting.api.refused = meanwhile
    async with setting.running():
        setting.record(vmi(), WARNING, "HooksOverwritten", "by somebody", recurring=True)
        await setting.settled(1)
        assert setting.api.only()["count"] == (2 if error else 1)
        setting.time.now += 61
        setting.record(vmi("web"), NORMAL, "LevelChanged", "wakes it")
        await eventually(lambda: [event["count"] for event in setting.api.events.values()] == [2, 1])


@pytest.mark.parametrize(
    ("error", "result", "complaints"),
    [
        pytest.param(ApiError(404, "NotFound", 'namespaces "shop" not found'), "dropped", 0, id="no-namespace"),
        pytest.param(
            ApiError(403, "Forbidden", "namespace shop, because it is being terminated"), "dropped", 0, id="terminating"
        ),
        pytest.param(ApiError(403, "Forbidden", "cannot create resource"), "failed", 1, id="forbidden"),
        pytest.param(ApiError(422, "Invalid", "metadata.name"), "failed", 1, id="invalid"),
    ],
)
async def test_what_is_refused_for_good(
    setting: Setting, error: ApiError, result: str, complaints: int, caplog: pytest.LogCaptureFixture
) -> None:
    setting.api.refused = lambda _: error
    for number in range(3):
        setting.record(vmi(f"vm-{number}"), NORMAL, "LevelChanged", "changed")
    async with setting.running():
        await setting.settled(3)
    assert setting.results == [("LevelChanged", result)] * 3
    assert len(setting.api.requests) == 3
    assert len(caplog.records) == complaints


async def test_nonsense_never_ends_it(setting: Setting) -> None:
    async with setting.running():
        setting.record(ObjectRef("", "", "../x", "", ""), NORMAL, "LevelChanged", "\ud800\x00\n" * 5000)
        setting.record(vmi(), NORMAL, "LevelChanged", "changed")
        await setting.settled(2)
    assert setting.results == [("LevelChanged", "failed"), ("LevelChanged", "sent")]


@pytest.mark.parametrize("name", ["a" * 253, ".".join(["a" * 60] * 4), "a" * 235 + "-b", "db"])
async def test_names_of_events_are_names(setting: Setting, name: str) -> None:
    setting.record(vmi(name), NORMAL, "LevelChanged", "x" * 5000)
    async with setting.running():
        await setting.settled(1)
    event = setting.api.only()
    head, _, ending = event["metadata"]["name"].rpartition(".")
    assert len(event["metadata"]["name"]) <= 253
    assert name.startswith(head)
    assert head[-1].isalnum()
    assert len(ending) == 16
    assert len(event["message"]) == 1024


async def test_events_about_cluster_scoped_objects_are_in_default(setting: Setting) -> None:
    setting.record(ObjectRef("v1", "Namespace", "", "shop", "uid"), WARNING, "RequestRefused", "no")
    async with setting.running():
        await setting.settled(1)
    [(path, event)] = setting.api.events.items()
    assert path.startswith("/api/v1/namespaces/default/events/shop.")
    assert "namespace" not in event["involvedObject"]


async def test_what_waits_when_leadership_ends_is_forgotten_and_may_be_told_later(setting: Setting) -> None:
    def record() -> None:
        for number in range(3):
            setting.record(vmi(f"vm-{number}"), NORMAL, "LevelChanged", "changed")

    record()
    term = asyncio.create_task(setting.recorder.run(setting.api))

    def end(_: str) -> None:
        term.cancel()

    setting.api.refused = end  # after the first request
    await asyncio.wait({term})
    setting.api.refused = lambda _: None
    assert setting.api.requests == ["post"]
    async with setting.running():
        await asyncio.sleep(0.02)
        assert setting.api.requests == ["post"]
        record()
        await setting.settled(3)
    assert setting.api.requests == ["post"] * 3
    assert len(setting.api.events) == 3
