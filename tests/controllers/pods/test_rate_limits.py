"""How fast the reconciler writes, how often to one pod, and when it waits."""

import asyncio
import time
from unittest.mock import patch

import pytest

from app.controllers.pods.rate_limits import Gate, Rate, Restraint
from app.kube.client import ApiError, ApiUnavailable
from tests.infra.references import References
from tests.infra.virtual_time import in_virtual_time, pass_time


async def seconds_for(rate: Rate, writes: int) -> float:
    started = time.monotonic()
    for _ in range(writes):
        await rate.take()
    return time.monotonic() - started


async def seconds_until_open(gate: Gate) -> float:
    started = time.monotonic()
    await gate.passed()
    return time.monotonic() - started


@in_virtual_time
async def test_no_rate_is_no_limit() -> None:
    assert await seconds_for(Rate(0), 10_000) == 0


@in_virtual_time
async def test_a_rate_spreads_writes() -> None:
    assert await seconds_for(Rate(100), 40) == pytest.approx(0.3)  # those of the first 0.1 s are made at once


@in_virtual_time
async def test_a_rate_gives_no_credit_for_a_long_rest() -> None:
    rate = Rate(100)
    await rate.take()
    await pass_time(100)
    assert await seconds_for(rate, 40) == pytest.approx(0.3)


@pytest.mark.parametrize("at_once", [5, 60])
@in_virtual_time
async def test_a_few_writes_are_made_at_once(at_once: int) -> None:
    writes: Restraint[str] = Restraint(at_once)
    for _ in range(at_once):
        assert writes.delay("pod") == 0
        writes.wrote("pod")
    assert writes.delay("pod") > 0
    assert writes.delay("another") == 0


@in_virtual_time
async def test_repeated_writes_slow_down_to_one_a_minute() -> None:
    writes: Restraint[str] = Restraint(5)
    pauses = []
    for _ in range(20):
        pauses.append(writes.delay("pod"))
        await pass_time(pauses[-1])
        writes.wrote("pod")
    assert pauses[:11] == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32]
    assert pauses[11:] == [60] * 9


@in_virtual_time
async def test_a_pod_that_was_not_written_to_for_ten_minutes_starts_again() -> None:
    writes: Restraint[str] = Restraint(5)
    for _ in range(8):
        writes.wrote("pod")
    await pass_time(599)
    writes.prune()
    assert writes.delay("pod") == 0, "the pause of the last one is over"
    writes.wrote("pod")
    assert writes.delay("pod") > 0, "but the earlier ones still count"
    await pass_time(601)
    writes.prune()
    writes.wrote("pod")
    assert writes.delay("pod") == 0


@in_virtual_time
async def test_of_many_writes_only_those_that_count_are_remembered() -> None:
    writes: Restraint[str] = Restraint(5)
    moments = References()
    with patch("time.monotonic", lambda: moments.number(1000.0)):
        for _ in range(100):
            writes.wrote("pod")
        assert len(moments.numbers()) == 13


@in_virtual_time
async def test_a_pod_that_is_deleted_is_forgotten() -> None:
    writes: Restraint[str] = Restraint(5)
    for _ in range(8):
        writes.wrote("pod")
    writes.forget("pod")
    assert writes.delay("pod") == 0


@in_virtual_time
async def test_the_gate_is_closed_until_the_stores_are_up_to_date() -> None:
    known = False
    gate = Gate(lambda: known)
    passing = asyncio.create_task(gate.passed())
    await pass_time(100)
    assert not passing.done()
    known = True
    await pass_time(1)
    assert passing.done()


@in_virtual_time
async def test_the_gate_is_closed_as_long_as_the_server_asks() -> None:
    gate = Gate(lambda: True)
    gate.close(ApiError(429, "TooManyRequests", "slow down", 7))
    assert await seconds_until_open(gate) == pytest.approx(7)


@in_virtual_time
async def test_the_gate_opens_later_after_each_failure_and_soon_again_after_a_success() -> None:
    gate = Gate(lambda: True)
    closed = []
    for _ in range(8):
        gate.close(ApiUnavailable("no answer"))
        closed.append(await seconds_until_open(gate))
    for seconds, longest in zip(closed, (0.5, 1, 2, 4, 8, 16, 30, 30), strict=True):
        assert longest / 2 <= seconds <= longest + 0.001
    gate.succeeded()
    gate.close(ApiUnavailable("no answer"))
    assert await seconds_until_open(gate) <= 0.501


@in_virtual_time
async def test_requests_that_fail_together_are_one_failure() -> None:
    gate = Gate(lambda: True)
    for _ in range(8):
        gate.close(ApiUnavailable("no answer"))
    assert await seconds_until_open(gate) <= 0.501
