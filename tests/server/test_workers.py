"""Workers of a process: one that fails is reported and started again, and the others go on."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import pytest

from app.server import run
from tests.kube.support import eventually
from tests.server.support import fields


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, without making them."""
    made: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        made.append(seconds)
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return made


def failing(times: int, then: asyncio.Event) -> Callable[[], Awaitable[None]]:
    """A worker that fails so many times before it works."""
    left = [None] * times

    async def work() -> None:
        if left:
            left.pop()
            raise RuntimeError("out of order")
        then.set()
        await asyncio.Event().wait()

    return work


async def test_a_worker_that_fails_is_started_again_after_a_growing_pause(
    pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    works = asyncio.Event()
    async with run._workers({"policy": failing(7, works)}), asyncio.timeout(5):
        await works.wait()

    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [fields(record)["seconds"] for record in records] == pauses
    assert {fields(record)["worker"] for record in records} == {"policy"}


async def test_what_fails_is_noted_until_it_has_worked_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_RESTART_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(run, "_SETTLED_SECONDS", 0.2)
    works = asyncio.Event()
    async with run._workers({"policy": failing(2, works)}) as troubles, asyncio.timeout(5):
        await works.wait()
        assert troubles == {"policy": "failed and is started again: RuntimeError: out of order"}
        await eventually(lambda: not troubles)


async def test_a_worker_that_worked_for_a_while_is_started_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_RESTART_SECONDS", (0.01, 60.0))
    monkeypatch.setattr(run, "_SETTLED_SECONDS", 0.0)
    works = asyncio.Event()
    async with run._workers({"policy": failing(14, works)}), asyncio.timeout(5):  # else: 0.01 s doubled 14 times
        await works.wait()


async def test_a_worker_that_just_ends_is_started_again_too(pauses: list[float]) -> None:
    runs, enough = [], asyncio.Event()

    async def work() -> None:
        runs.append(1)
        if len(runs) == 3:
            enough.set()

    async with run._workers({"brief": work}), asyncio.timeout(5):
        await enough.wait()

    assert pauses[:2] == [1, 2]


async def test_an_error_in_the_cleanup_of_a_worker_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_RESTART_SECONDS", (0.01, 0.01))
    starts = []

    async def work() -> None:
        starts.append(1)
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("the cleanup went wrong")

    async with asyncio.timeout(5):
        async with run._workers({"unclean": work}):
            await eventually(lambda: starts)
    assert starts == [1]


async def test_a_worker_that_does_not_end_is_named_and_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run, "_STOP_SECONDS", 0.05)
    let_go = asyncio.Event()

    async def work() -> None:
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()

    async with asyncio.timeout(5):
        async with run._workers({"stubborn": work}):
            await asyncio.sleep(0)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert fields(record)["workers"] == ["stubborn"]
    let_go.set()
    await asyncio.sleep(0)


@pytest.mark.usefixtures("pauses")
async def test_the_others_go_on_and_all_end_with_the_process() -> None:
    steps, ended = [], []
    enough = asyncio.Event()

    async def steady() -> None:
        try:
            while True:
                steps.append(1)
                if len(steps) == 50:
                    enough.set()
                await asyncio.sleep(0)
        finally:
            ended.append(1)

    async with run._workers({"bad": failing(10**6, asyncio.Event()), "steady": steady}), asyncio.timeout(5):
        await enough.wait()

    assert ended == [1]
