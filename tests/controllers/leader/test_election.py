"""Who leads, and when, by a clock that the test holds. What the stand-in imitates is in test_leader_live.py."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from app.controllers.leader.election import Leader, new_identity
from app.controllers.leader.lease import LeaseTimings
from app.kube.client import ApiError, ApiUnavailable, Json
from tests.infra.clock import Clock
from tests.infra.stand_ins.api_objects import StandInApi
from tests.kube.support import eventually

NAMESPACE = NAME = "vm-consistency"
PATH = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{NAME}"
EMPTY: Json = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME}}
DURATION, DEADLINE = LeaseTimings().duration, LeaseTimings().deadline
QUICK = LeaseTimings(duration=60, deadline=50, renew=0.02, request=5, stop=0.2, release=0.2, restart=0.01)
"""For the parts that no clock drives: renews at once, and never expires within a test."""


@pytest.fixture
def api() -> StandInApi:
    api = StandInApi()
    api.put(PATH, EMPTY)
    return api


@pytest.fixture
def clock() -> Clock:
    return Clock()


def candidate(api: StandInApi, clock: Clock, identity: str, timings: LeaseTimings | None = None) -> Leader:
    return Leader(api, namespace=NAMESPACE, name=NAME, identity=identity, timings=timings, clock=clock)


def leads(one: Leader) -> bool:
    """Asked anew each time, which a type checker takes a property for not to be."""
    return one.leading


def spec(api: StandInApi) -> Json:
    found: Json = api.objects[PATH]["spec"]
    return found


async def test_the_first_one_takes_the_empty_lease_and_keeps_it(api: StandInApi, clock: Clock) -> None:
    a, b = candidate(api, clock, "a"), candidate(api, clock, "b")
    assert LeaseTimings().renew * 0.8 <= await a.attempt() <= LeaseTimings().renew
    first = dict(spec(api))
    assert await b.attempt() >= DURATION
    for _ in range(20):
        clock.now += DURATION - 3
        await b.attempt()
        clock.now -= 3  # b's view is older than the renewal
        await a.attempt()
        assert (leads(a), leads(b)) == (True, False)
    assert spec(api)["acquireTime"] == first["acquireTime"]
    assert spec(api)["renewTime"] > first["renewTime"]
    assert (spec(api)["holderIdentity"], spec(api)["leaseDurationSeconds"], spec(api)["leaseTransitions"]) == (
        "a",
        DURATION,
        1,
    )


async def test_of_several_that_find_it_free_one_leads(api: StandInApi, clock: Clock) -> None:
    candidates = [candidate(api, clock, f"candidate-{number}") for number in range(5)]
    await asyncio.gather(*(one.attempt() for one in candidates))
    [leader] = [one for one in candidates if leads(one)]
    assert spec(api)["holderIdentity"] == f"candidate-{candidates.index(leader)}"
    assert spec(api)["leaseTransitions"] == 1
    assert sum(verb == "patch" for verb, _ in api.requests) > 1  # they did race


async def test_a_renewal_is_one_request(api: StandInApi, clock: Clock) -> None:
    a = candidate(api, clock, "a")
    await a.attempt()
    api.requests.clear()
    await a.attempt()
    assert api.requests == [("patch", PATH)]


async def test_it_is_taken_from_a_dead_one_only_when_it_has_expired(api: StandInApi, clock: Clock) -> None:
    a, b = candidate(api, clock, "a"), candidate(api, clock, "b")
    await a.attempt()
    await b.attempt()
    clock.now += DURATION - 0.1
    await b.attempt()
    assert not leads(b)
    clock.now += 0.2
    await b.attempt()
    assert leads(b)
    assert not leads(a)
    assert spec(api)["leaseTransitions"] == 2


async def test_time_stamps_of_other_machines_mean_nothing(api: StandInApi, clock: Clock) -> None:
    times = {"acquireTime": "1999-01-01T00:00:00.000000Z", "renewTime": "1999-01-01T00:00:00.000000Z"}
    api.put(PATH, {**EMPTY, "spec": {"holderIdentity": "a", "leaseDurationSeconds": DURATION, **times}})
    b = candidate(api, clock, "b")
    await b.attempt()
    assert not leads(b)  # by its own clock it has only just seen it
    clock.now += DURATION
    await b.attempt()
    assert leads(b)


@pytest.mark.parametrize(("asked", "waits"), [(1, DURATION), (30, 30), (86_400, 60), (None, DURATION)])
async def test_the_holder_may_ask_for_longer_within_reason(
    api: StandInApi, clock: Clock, asked: int | None, waits: int
) -> None:
    duration = {} if asked is None else {"leaseDurationSeconds": asked}
    api.put(PATH, {**EMPTY, "spec": {"holderIdentity": "a", "renewTime": "now", **duration}})
    b = candidate(api, clock, "b")
    await b.attempt()
    clock.now += waits - 0.1
    await b.attempt()
    assert not leads(b)
    clock.now += 0.1
    await b.attempt()
    assert leads(b)


async def test_it_stops_before_another_may_start(api: StandInApi, clock: Clock) -> None:
    a, b = candidate(api, clock, "a"), candidate(api, clock, "b")
    await a.attempt()
    await b.attempt()
    api.refusals["patch"] = [ApiUnavailable("no answer")] * 100
    api.refusals["get"] = [ApiUnavailable("no answer")] * 100
    begin = clock.now
    while leads(a):
        clock.now += min(await a.attempt() or 0.1, 0.5)
        assert clock.now - begin < DURATION
    assert DEADLINE <= clock.now - begin <= DEADLINE + 0.5
    assert await a.attempt() == 0  # its duties end first
    api.refusals.clear()
    await a.attempt()
    assert leads(a)  # nobody took it meanwhile
    assert spec(api)["leaseTransitions"] == 1


async def test_the_deadline_counts_from_before_the_request_was_sent(api: StandInApi, clock: Clock) -> None:
    a = candidate(api, clock, "a")

    def slow() -> None:
        clock.now += 2.5

    api.before["patch"] = slow
    await a.attempt()
    clock.now += DEADLINE - 2.5 - 0.1
    assert leads(a)
    clock.now += 0.1
    assert not leads(a)


async def test_a_replica_that_slept_knows_at_once_that_it_no_longer_leads(api: StandInApi, clock: Clock) -> None:
    a = candidate(api, clock, "a")
    await a.attempt()
    clock.now += 3600
    assert not leads(a)
    api.requests.clear()
    assert await a.attempt() == 0
    assert api.requests == []  # its duties end before it asks again


async def test_a_takeover_is_noticed(api: StandInApi, clock: Clock) -> None:
    a = candidate(api, clock, "a")
    await a.attempt()
    api.put(PATH, {**EMPTY, "spec": {"holderIdentity": "b", "renewTime": "now"}})
    assert await a.attempt() == 0
    assert not leads(a)
    assert await a.attempt() >= DURATION


async def test_an_edit_by_somebody_else_costs_nothing(api: StandInApi, clock: Clock) -> None:
    a = candidate(api, clock, "a")
    await a.attempt()
    edited = api.objects[PATH]
    api.put(PATH, {**edited, "metadata": {**edited["metadata"], "labels": {"team": "storage"}}})
    await a.attempt()
    assert leads(a)
    assert api.objects[PATH]["metadata"]["labels"] == {"team": "storage"}


async def test_a_request_that_was_carried_out_but_not_answered(api: StandInApi, clock: Clock) -> None:
    a = candidate(api, clock, "a")
    answer = api.patch

    async def lost(path: str, body: Json | list[Json], content_type: str = "") -> Json:
        await answer(path, body)
        api.patch = answer  # type: ignore[method-assign]
        raise ApiUnavailable("connection reset")

    api.patch = lost  # type: ignore[method-assign]
    await a.attempt()
    assert not leads(a)
    await a.attempt()
    assert leads(a)
    assert spec(api)["leaseTransitions"] == 1


async def test_a_lease_that_does_not_exist(api: StandInApi, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    del api.objects[PATH]
    a = candidate(api, clock, "a")
    for _ in range(3):
        assert 1 <= await a.attempt() <= 3
    [record] = caplog.records
    assert record.getMessage() == f"Lease {NAMESPACE}/{NAME} does not exist: apply the manifests, which bring it"
    api.put(PATH, EMPTY)
    await a.attempt()
    assert leads(a)
    del api.objects[PATH]
    assert await a.attempt() == 0
    assert not leads(a)  # anybody may take the next one


async def test_a_lease_made_anew_leaves_the_last_leader_its_time(api: StandInApi, clock: Clock) -> None:
    a, b = candidate(api, clock, "a"), candidate(api, clock, "b")
    await a.attempt()
    await b.attempt()
    api.put(PATH, EMPTY)
    clock.now += 1
    await b.attempt()
    assert (leads(a), leads(b)) == (True, False)
    clock.now += DURATION
    await b.attempt()
    assert leads(b)


@pytest.mark.parametrize("error", [ApiError(403, "Forbidden", "no"), ApiError(429, "TooManyRequests", "later", 5)])
async def test_refusals_are_told_once_and_tried_again(
    api: StandInApi, clock: Clock, error: ApiError, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    a = candidate(api, clock, "a")
    api.refusals["get"] = [error] * 3
    for _ in range(3):
        assert (await a.attempt()) >= (4 if error.retry_after else 1.6)
    await a.attempt()
    assert leads(a)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "resolved" in caplog.messages


class Duties:
    """Notes how often it was started and ended."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.started = self.ended = 0
        self.stubborn = False
        self.set_free = asyncio.Event()

    async def __call__(self) -> None:
        self.started += 1
        if self.failures:
            raise self.failures.pop(0)
        try:
            await asyncio.Event().wait()
        finally:
            if self.stubborn:
                await self.set_free.wait()
            self.ended += 1


@asynccontextmanager
async def campaigning(leader: Leader, duties: Duties) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(leader.campaign(duties))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_duties_run_while_it_leads_and_end_before_the_release(api: StandInApi, clock: Clock) -> None:
    duties, holders = Duties(), []

    class Watched(StandInApi):
        async def patch(self, path: str, body: Json | list[Json], content_type: str = "") -> Json:
            assert isinstance(body, dict)
            holders.append((body["spec"]["holderIdentity"], duties.ended))
            return await super().patch(path, body)

    api = Watched()
    api.put(PATH, EMPTY)
    changes: list[bool] = []
    leader = Leader(api, namespace=NAMESPACE, name=NAME, identity="a", timings=QUICK, on_change=changes.append)
    async with campaigning(leader, duties):
        await eventually(lambda: len(holders) > 3)
        assert (duties.started, duties.ended, changes) == (1, 0, [True])
    assert (duties.ended, changes) == (1, [True, False])
    assert holders[-1] == ("", 1)
    assert not leads(leader)
    b = candidate(api, clock, "b")
    await b.attempt()
    assert leads(b)


async def test_a_new_leader_waits_for_its_own_old_duties(api: StandInApi) -> None:
    duties = Duties()
    duties.stubborn = True
    leader = candidate(api, Clock(), "a", QUICK)
    async with campaigning(leader, duties):
        await eventually(lambda: duties.started)
        api.put(PATH, {**EMPTY, "spec": {"holderIdentity": "", "renewTime": "now"}})
        await eventually(lambda: not leads(leader))
        api.requests.clear()
        await asyncio.sleep(2 * QUICK.stop)
        assert (api.requests, duties.started) == ([], 1)  # neither renewed nor taken
        duties.set_free.set()
        await eventually(lambda: duties.started == 2)
        assert leads(leader)


async def test_duties_that_do_not_end_hold_up_neither_shutdown_nor_the_expiry(
    api: StandInApi, caplog: pytest.LogCaptureFixture
) -> None:
    duties = Duties()
    duties.stubborn = True
    async with campaigning(candidate(api, Clock(), "a", QUICK), duties) as task:
        await eventually(lambda: duties.started)
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        assert task.done()
        assert spec(api)["holderIdentity"] == "a"  # not released, as it still works
        version = api.version(PATH)
        await asyncio.sleep(0.1)
        assert api.version(PATH) == version
        duties.set_free.set()
        await eventually(lambda: duties.ended)
    assert any("do not end" in message for message in caplog.messages)


async def test_duties_that_keep_the_cancellation_to_themselves(api: StandInApi) -> None:
    started = asyncio.Event()

    async def duties() -> None:
        started.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    task = asyncio.create_task(candidate(api, Clock(), "a", replace(QUICK, restart=60)).campaign(duties))
    await started.wait()
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    assert task.done()
    assert spec(api)["holderIdentity"] == ""


async def test_a_release_that_is_not_answered_holds_up_nothing(api: StandInApi) -> None:
    duties = Duties()
    leader = candidate(api, Clock(), "a", QUICK)
    async with campaigning(leader, duties) as task:
        await eventually(lambda: duties.started)
        never = asyncio.Event()

        async def silent(path: str, body: Json | list[Json], content_type: str = "") -> Json:
            await never.wait()
            raise AssertionError

        api.patch = silent  # type: ignore[method-assign]
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        assert task.done()
        assert duties.ended == 1


async def test_duties_in_a_task_group_that_fail_are_started_again_and_again(api: StandInApi) -> None:
    """Before Python 3.13 a TaskGroup that fails leaves a count of cancellations behind (CPython issue 116720)."""
    starts = []

    async def fails() -> None:
        await asyncio.sleep(0)
        raise RuntimeError("out of order")

    async def duties() -> None:
        starts.append(1)
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())

    leader = Leader(api, namespace=NAMESPACE, name=NAME, identity="a", timings=QUICK)
    campaign = asyncio.create_task(leader.campaign(duties))
    await eventually(lambda: len(starts) >= 4)
    assert leader.leading
    campaign.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.wait_for(campaign, 5)
    assert spec(api)["holderIdentity"] == ""


async def test_duties_that_fail_are_started_again(api: StandInApi, caplog: pytest.LogCaptureFixture) -> None:
    duties = Duties(KeyError("spec"), ValueError("bad"))
    leader = candidate(api, Clock(), "a", QUICK)
    async with campaigning(leader, duties):
        await eventually(lambda: duties.started == 3)
        assert leads(leader)
    assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR] == [True] * 2


async def test_an_unanswered_renewal_ends_leadership_in_time() -> None:
    """By the real clock: the last request is cut off, and the duties end, before the Lease could be another's."""
    api = StandInApi()
    api.put(PATH, EMPTY)
    duties, silent = Duties(), asyncio.Event()
    timings = LeaseTimings(duration=1, deadline=0.5, renew=0.05, request=60)
    leader = Leader(api, namespace=NAMESPACE, name=NAME, identity="a", timings=timings)

    async def no_answer(path: str, body: object = None, content_type: str = "") -> Json:
        await silent.wait()
        raise ApiUnavailable("at last")

    async with campaigning(leader, duties):
        await eventually(lambda: duties.started)
        api.patch = api.get = no_answer  # type: ignore[method-assign]
        begin = asyncio.get_running_loop().time()
        await eventually(lambda: duties.ended)
        assert 0.4 <= asyncio.get_running_loop().time() - begin < 1
        assert not leads(leader)


def test_identities_differ() -> None:
    assert len({new_identity() for _ in range(100)}) == 100


@pytest.mark.parametrize("wrong", [{"deadline": 10}, {"renew": 8}, {"renew": 0}])
def test_timings_by_which_two_could_lead(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="renew < deadline < duration"):
        LeaseTimings(**wrong)  # type: ignore[arg-type]
