"""Each key once, urgent ones first, none with two workers."""

import asyncio

import pytest

from app.controllers.pods.work_queue import WorkQueue
from tests.infra.virtual_time import in_virtual_time


async def _drain(queue: WorkQueue[str]) -> list[str]:
    taken = []
    while len(queue):
        key = await asyncio.wait_for(queue.take(), 1)
        taken.append(key)
        queue.done(key)
    return taken


async def test_a_key_waits_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "a", "b"):
        queue.add(key)
    assert len(queue) == 2
    assert await _drain(queue) == ["a", "b"]


async def test_urgent_keys_overtake_and_are_not_taken_twice() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "c"):
        queue.add(key)
    queue.add("c", urgent=True)
    queue.add("d", urgent=True)
    queue.add("d")
    assert await _drain(queue) == ["c", "d", "a", "b"]


async def test_an_urgent_key_that_was_done_may_wait_again() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add("a", urgent=True)  # its place among the others stays behind
    assert await queue.take() == "a"
    queue.done("a")
    queue.add("b")
    queue.add("a")
    assert sorted(await _drain(queue)) == ["a", "b"]
    assert len(queue) == 0


@in_virtual_time
async def test_a_key_that_changes_while_a_worker_has_it_comes_again_afterwards() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert await queue.take() == "a"
    queue.add("a")
    queue.add("a", urgent=True)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.take(), 100)
    assert len(queue) == 1
    queue.done("a")
    assert await _drain(queue) == ["a"]


async def test_a_worker_that_waits_is_woken() -> None:
    queue: WorkQueue[str] = WorkQueue()
    waiting = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.add("a")
    assert await asyncio.wait_for(waiting, 1) == "a"


@in_virtual_time
async def test_of_several_delays_the_shortest_counts() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_later("a", 30)
    queue.add_later("a", 10)
    queue.add_later("a", 30)
    assert len(queue) == 0
    assert await asyncio.wait_for(queue.take(), 11) == "a"
    queue.done("a")
    queue.add_later("a", 50)  # the earlier delays are over
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.take(), 49)


@in_virtual_time
async def test_a_delay_can_be_forgotten() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_later("a", 10)
    queue.add_later("b", 20)
    queue.forget("a")
    queue.forget("unknown")
    assert await asyncio.wait_for(queue.take(), 100) == "b"


@in_virtual_time
async def test_nothing_comes_after_close() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_later("a", 10)
    queue.close()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.take(), 100)


async def test_ten_thousand_keys_take_no_time_that_grows_with_their_square() -> None:
    queue: WorkQueue[int] = WorkQueue()
    for key in range(10_000):
        queue.add(key)
    for key in range(0, 10_000, 2):
        queue.add(key, urgent=True)
    async with asyncio.timeout(2):
        for _ in range(10_000):
            queue.done(await queue.take())
    assert len(queue) == 0
