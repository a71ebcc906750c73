"""A policy that is deleted holds on for pods that run already."""

import pytest

from app.controllers.policy.active import PolicyKeeper
from app.core.policy import BUILT_IN, Standing
from tests.infra.clock import Clock
from tests.infra.factories import policy_text

CRASH = policy_text(default={"level": "crash"})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keeper(clock: Clock) -> PolicyKeeper:
    return PolicyKeeper(lambda *_: None, grace=300, clock=clock)


def test_policy_in_force_is_that_of_running_pods(keeper: PolicyKeeper) -> None:
    assert keeper.running() is keeper.current()
    keeper.read(CRASH)
    assert keeper.running() is keeper.current()
    keeper.read("broken")
    assert keeper.running() is keeper.current()
    assert keeper.running().standing is Standing.LAST_GOOD


def test_deleted_policy_holds_for_running_pods_until_the_grace_is_over(keeper: PolicyKeeper, clock: Clock) -> None:
    keeper.read(CRASH)
    before = keeper.current().policy
    keeper.absent()
    assert keeper.current().policy is BUILT_IN
    lingering = keeper.running()
    assert lingering.policy is before
    clock.now += 299
    keeper.absent()  # another look at a ConfigMap that is still gone doesn't start the grace anew
    assert keeper.running() is lingering
    clock.now += 2
    assert keeper.running() is keeper.current()


def test_policy_that_comes_back_ends_the_grace(keeper: PolicyKeeper, clock: Clock) -> None:
    keeper.read(CRASH)
    keeper.absent()
    clock.now += 100
    keeper.read(CRASH)
    assert keeper.running() is keeper.current()
    assert keeper.running().standing is Standing.VALID
    keeper.absent()
    clock.now += 250
    assert keeper.running() is not keeper.current()


def test_after_a_start_without_a_policy_nobody_knows_the_one_before(keeper: PolicyKeeper, clock: Clock) -> None:
    keeper.absent()
    assert keeper.running().policy is None
    assert keeper.running().error is None
    clock.now += 301
    assert keeper.running().policy is BUILT_IN


def test_last_good_policy_lingers_too(keeper: PolicyKeeper) -> None:
    keeper.read(CRASH)
    good = keeper.current().policy
    keeper.read("broken")
    keeper.absent()
    assert keeper.running().policy is good


def test_listeners_hear_of_every_policy_and_deletion_until_they_leave(keeper: PolicyKeeper) -> None:
    heard: list[Standing] = []
    leave = keeper.listen(lambda: heard.append(keeper.current().standing))
    keeper.read(CRASH)
    keeper.read("broken")
    keeper.absent()
    assert heard == [Standing.VALID, Standing.LAST_GOOD, Standing.ABSENT]
    leave()
    keeper.read(CRASH)
    assert len(heard) == 3
