"""The benchmark of scale itself, with a few objects: that it runs, and that it tells the truth."""

import json
from typing import Any

import pytest

from tests.bench.scale import kubevirt
from tests.bench.scale.convergence import Convergence
from tests.bench.scale.measure import Look, ScalePlan, ScaleResults, run
from tests.bench.scale.report import as_json, goals, share, table
from tests.bench.scale.sender import Sent
from tests.bench.scale.stage import FLIPS, scale_stage

MACHINES = 20


@pytest.mark.usefixtures("alone")
def test_everything_is_measured() -> None:
    with scale_stage(MACHINES) as built:
        results = run(built, ScalePlan(rounds=1, quiet=0.3, gentle=0.3, settle=0.0))

    assert results.first is not None
    everyone = [
        results.first,
        *(one for some in (results.product, results.bare) for runs in some.values() for one in runs),
    ]
    assert {(one.pods, one.requests["PATCH pods"]) for one in everyone} == {(MACHINES + 1, MACHINES + 1)}
    assert all(look.patches == 0 for look in (*results.looks_at_start, *results.looks_at_change))
    assert json.loads(json.dumps(as_json(results)))["goals"]
    assert "bare client, another level" in table(results)


@pytest.mark.usefixtures("alone")
def test_what_virt_controller_does_is_counted() -> None:
    with kubevirt.kubevirt_stage(3) as built:
        results = kubevirt.run(built, kubevirt.KubeVirtPlan(idle=0.5, still=0.7))

    _, _, flip, idle, _, again, back = results.windows
    assert flip.by_product == back.by_product == {200: 3}
    assert not idle.by_controller
    assert not idle.by_product
    assert again.by_controller == {200: 3}, "it writes its hooks back, and the webhook keeps what was decided"
    assert not again.by_product
    assert "crash, idle" in kubevirt.table(results)


def _results(**changed: Any) -> ScaleResults:
    def converged(*seconds: float) -> list[Convergence]:
        return [Convergence(100, one, {"PATCH pods": 100}, {"etcd": 1.0}, 0.0) for one in seconds]

    def sent(p99: float) -> list[Sent]:
        return [Sent(100, 1.0, 100.0, 1.0, p99, 30.0)]

    figures: dict[str, Any] = {
        "ready": [9.0, 1.0, 12.0],
        "ready_cpu": [2.0],
        "idle": [100.0],
        "leading": [151.0],
        "flipped": [160.0],
        "peaks": [170.0],
        "first": converged(10.0)[0],
        "looks_at_start": [Look(1.0, {"LIST pods": 1})],
        "looks_at_change": [Look(1.0, {"PATCH configmaps": 1})],
        "product": {flip: converged(10.0, 20.0) for flip in FLIPS},
        "bare": {flip: converged(8.0, 10.0) for flip in FLIPS},
        "quiet": sent(10.0),
        "during": sent(20.0),
        "during_bare": sent(30.0),
        "during_gentle": sent(21.0),
    }
    return ScaleResults(100, ScalePlan(), **figures | changed)


def test_goals_take_the_worse_of_both_memories_and_the_median_of_pairs() -> None:
    ready, memory, timeout, level, unlimited, shipped, patched = goals(_results())
    assert (ready.measured, ready.met) == (9.0, True)
    assert (memory.measured, memory.met) == (151.0, False)
    assert timeout.measured == level.measured == pytest.approx((8 / 10 + 10 / 20) / 2)
    assert (unlimited.measured, unlimited.met) == (2.0, True)
    assert (shipped.measured, shipped.met) == (2.1, False)
    assert (patched.measured, patched.met) == (0, True)


def test_a_pair_is_of_the_same_round_and_direction() -> None:
    slow, fast = (Convergence(100, seconds, {}, {}, 0.0) for seconds in (20.0, 10.0))
    results = _results(product={"level": [fast, slow]}, bare={"level": [fast, slow]})
    assert share(results, "level") == 1.0


def test_one_patch_where_nothing_is_to_do_misses_the_goal() -> None:
    *_, patched = goals(_results(looks_at_change=[Look(1.0, {"PATCH pods": 1, "PATCH pods 409": 1})]))
    assert (patched.measured, patched.met) == (2, False)


def test_noise_is_reported() -> None:
    noisy = [Convergence(100, 1.0, {"PATCH pods": 100}, {"etcd": 1.0}, 0.4)] * 2
    assert "Others took" not in table(_results())
    assert "Others took 40%" in table(_results(product=dict.fromkeys(FLIPS, noisy), bare=dict.fromkeys(FLIPS, noisy)))
