"""When controllers look, try again and speak."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from app.controllers.reconcile_loop import ATTEMPTS, MAX_BACKOFF, PERIOD, Pace, Problem, ReconcileLoop, until_won
from app.kube.client import ApiError, ApiUnavailable

LOG = logging.getLogger("tests.loop")


class Script:
    """A reconcile that does one thing after the other, the last one for ever."""

    def __init__(self, *steps: float | Exception | None) -> None:
        self.steps = list(steps)
        self.passes = 0
        self.happened = asyncio.Condition()

    async def __call__(self) -> float | None:
        step = self.steps[min(self.passes, len(self.steps) - 1)]
        async with self.happened:
            self.passes += 1
            self.happened.notify_all()
        if isinstance(step, Exception):
            raise step
        return step

    async def reached(self, passes: int) -> None:
        async with asyncio.timeout(10), self.happened:
            await self.happened.wait_for(lambda: self.passes >= passes)


@asynccontextmanager
async def running(reconcile: Callable[[], Awaitable[float | None]]) -> AsyncIterator[ReconcileLoop]:
    loop = ReconcileLoop(reconcile, LOG)
    task = asyncio.create_task(loop.run())
    yield loop
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that are slept through; they take no time."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def instead(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr("app.controllers.reconcile_loop.asyncio.sleep", instead)
    return pauses


async def test_looks_at_the_start_and_whenever_woken() -> None:
    script = Script(None)
    async with running(script) as loop:
        for passes in (1, 2, 3):
            await script.reached(passes)
            await asyncio.sleep(0)
            assert script.passes == passes
            loop.wake(("namespace", "name"), None, "1")


async def test_looks_again_when_asked_to() -> None:
    script = Script(0.001, 0.001, None)
    async with running(script):
        await script.reached(3)


async def test_a_change_during_a_pass_is_looked_at() -> None:
    script = Script(None)

    async def woken_meanwhile() -> float | None:
        if script.passes == 0:
            loop.wake()
        return await script()

    async with running(woken_meanwhile) as loop:
        await script.reached(2)


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(ApiUnavailable("no answer"), id="unavailable"),
        pytest.param(Problem("apply the manifests"), id="problem"),
        pytest.param(KeyError("webhooks"), id="unforeseen"),
    ],
)
async def test_a_failure_is_kept_logged_once_and_resolved(
    failure: Exception, slept: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    script = Script(failure, failure, None)
    async with running(script) as loop:
        await script.reached(1)
        await asyncio.sleep(0)
        assert str(failure).strip("'") in (loop.error or "")
        loop.wake()
        await script.reached(2)
        loop.wake()
        await script.reached(3)
        await asyncio.sleep(0)
        assert loop.error is None
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in caplog.records][-1] == "resolved"
    assert len(warnings) == 1


async def test_waking_never_makes_a_tight_loop_of_a_failure(slept: list[float]) -> None:
    script = Script(ApiUnavailable("no answer"))
    async with running(script) as loop:
        for passes in range(1, 6):
            await script.reached(passes)
            loop.wake()
    assert len(slept) >= 4
    assert all(0.5 <= pause <= 1.0 for pause in slept)


@pytest.mark.parametrize(("failures", "least", "most"), [(1, 0.5, 1), (3, 2, 4), (7, MAX_BACKOFF / 2, MAX_BACKOFF)])
async def test_backoff_grows_to_its_limit(failures: int, least: float, most: float) -> None:
    loop = ReconcileLoop(Script(ApiUnavailable("no answer")), LOG)
    pauses = [await loop.step() for _ in range(failures)]
    assert least <= pauses[-1] <= most


async def test_backoff_begins_anew_after_a_success() -> None:
    loop = ReconcileLoop(Script(*[ApiUnavailable("no answer")] * 6, None, ApiUnavailable("no answer")), LOG)
    pauses = [await loop.step() for _ in range(8)]
    assert pauses[5] > 10
    assert pauses[7] <= 1


async def test_the_server_may_ask_for_a_longer_pause() -> None:
    busy = ApiError(429, "TooManyRequests", "try later", retry_after=30)
    wrapped = Problem("not written")
    wrapped.__cause__ = busy
    for failure in (busy, wrapped):
        assert await ReconcileLoop(Script(failure), LOG).step() == 30


async def test_time_alone_is_a_reason_to_look() -> None:
    assert PERIOD * 0.9 <= await ReconcileLoop(Script(None), LOG).step() <= PERIOD * 1.1


class Race:
    """Fails with one status after the other, then is won."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.attempts = 0

    async def __call__(self) -> str:
        self.attempts += 1
        if self.statuses:
            raise ApiError(self.statuses.pop(0), "Refused", "no")
        return "won"


async def test_a_lost_race_is_run_again() -> None:
    race = Race(*[409] * (ATTEMPTS - 1))
    assert await until_won(race) == "won"
    assert await until_won(Race(422, 409), (409, 422)) == "won"
    assert race.attempts == ATTEMPTS


@pytest.mark.parametrize(
    ("statuses", "attempts"),
    [([409] * ATTEMPTS, ATTEMPTS), ([422], 1), ([409, 403], 2)],
    ids=["lost", "invalid", "403"],
)
async def test_what_is_lost_for_good_is_raised(statuses: list[int], attempts: int) -> None:
    race = Race(*statuses)
    with pytest.raises(ApiError) as raised:
        await until_won(race)
    assert (raised.value.status, race.attempts) == (statuses[-1], attempts)


def test_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("app.controllers.reconcile_loop.time.monotonic", lambda: now[0])
    pace = Pace(5)
    assert pace.delay() == 0
    pace.wrote()
    assert pace.delay() == 5
    now[0] += 5
    assert pace.delay() == 0
