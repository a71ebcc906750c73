"""How fast the reconciler writes, how often to one pod, and when it waits."""

import asyncio
import time

import pytest

from app.controllers import restraint
from app.controllers.restraint import Gate, Rate, Restraint
from app.kube.client import ApiError, ApiUnavailable
from tests.infra.clock import Clock


async def test_no_rate_is_no_limit() -> None:
    rate = Rate(0)
    async with asyncio.timeout(0.5):
        for _ in range(10_000):
            await rate.take()


async def test_rate_spreads_writes() -> None:
    rate, started = Rate(100), time.monotonic()
    for _ in range(40):
        await rate.take()
    assert 0.25 < time.monotonic() - started < 1


async def test_rate_gives_no_credit_for_a_long_rest() -> None:
    rate = Rate(100)
    await rate.take()
    await asyncio.sleep(0.3)
    started = time.monotonic()
    for _ in range(30):
        await rate.take()
    assert time.monotonic() - started > 0.15


def test_a_few_writes_are_not_held_up() -> None:
    clock = Clock()
    writes: Restraint[str] = Restraint(5, clock)
    for _ in range(5):
        assert writes.delay("pod") == 0
        writes.wrote("pod")
    assert writes.delay("pod") > 0
    assert writes.delay("another") == 0


def test_more_writes_may_be_allowed_at_once() -> None:
    writes: Restraint[str] = Restraint(60, Clock())
    for _ in range(60):
        assert writes.delay("pod") == 0
        writes.wrote("pod")
    assert writes.delay("pod") > 0


def test_a_quarrel_slows_down_to_one_write_a_minute() -> None:
    clock = Clock()
    writes: Restraint[str] = Restraint(5, clock)
    times = []
    while clock.now < 1000 + 600:
        if pause := writes.delay("pod"):
            clock.now += pause
        writes.wrote("pod")
        times.append(clock.now)
    assert len(times) < 25
    assert times[-1] - times[-2] >= 50


def test_a_pod_at_rest_is_forgotten() -> None:
    clock = Clock()
    writes: Restraint[str] = Restraint(5, clock)
    for _ in range(8):
        writes.wrote("pod")
    clock.now += 601
    writes.prune()
    assert writes.delay("pod") == 0
    for _ in range(8):
        writes.wrote("pod")
    writes.forget("pod")
    assert writes.delay("pod") == 0


async def test_gate_waits_until_what_is_known_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restraint, "_LOOK_AGAIN_SECONDS", 0.01)
    known = False
    gate = Gate(lambda: known)
    passing = asyncio.create_task(gate.passed())
    await asyncio.sleep(0.05)
    assert not passing.done()
    known = True
    await asyncio.wait_for(passing, 1)


async def test_gate_waits_as_long_as_the_server_asks() -> None:
    gate, started = Gate(lambda: True), time.monotonic()
    gate.close(ApiError(429, "TooManyRequests", "slow down", 0.4))
    await gate.passed()
    assert 0.39 <= time.monotonic() - started < 2


async def test_gate_opens_later_after_each_failure_and_at_once_after_a_success() -> None:
    gate = Gate(lambda: True)
    for _ in range(3):
        gate.close(ApiUnavailable("no answer"))
        started = time.monotonic()
        await gate.passed()
    assert time.monotonic() - started > 0.9
    gate.succeeded()
    gate.close(ApiUnavailable("no answer"))
    started = time.monotonic()
    await gate.passed()
    assert time.monotonic() - started < 0.6


async def test_requests_that_fail_together_are_one_failure() -> None:
    gate, started = Gate(lambda: True), time.monotonic()
    for _ in range(8):
        gate.close(ApiUnavailable("no answer"))
    await gate.passed()
    assert time.monotonic() - started < 0.6
