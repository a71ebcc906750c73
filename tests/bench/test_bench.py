"""The benchmark itself, for a moment: that it runs, that all contenders do the same work, that it tells the truth."""

import json
from dataclasses import replace

import pytest

from tests.bench.measure import CREATES, DIRECT, Plan, Results, Rounds, run
from tests.bench.report import as_json, goals, table
from tests.bench.rivals import Load
from tests.bench.stage import GO, LIMIT, OURS, stage


@pytest.mark.usefixtures("alone")
def test_everything_is_measured() -> None:
    with stage(namespaces=10) as built:  # fails where a contender's pod differs from the webhook's
        results = run(built, Plan(rounds=1, seconds=0.3, warm_up=0.1, attempts=1, starts=1, settle=0.0))
    assert results.direct.loads.keys() == set(DIRECT)
    assert results.creates.loads.keys() == set(CREATES)
    assert json.loads(json.dumps(as_json(results)))["goals"]
    for name in (*DIRECT, *CREATES):
        assert name in table(results)


def _rounds(*contenders: str) -> Rounds:
    return Rounds({name: [Load(100.0, 1.0, 2.0, 3.0, 0.0)] for name in contenders})


def test_quiet_rounds_are_what_counts() -> None:
    quiet, disturbed = Load(200.0, 1.0, 2.0, 3.0, 0.0), Load(10.0, 1.0, 2.0, 3.0, 0.5)
    rival = Load(100.0, 1.0, 2.0, 3.0, 0.0)
    some = Rounds({OURS: [disturbed, quiet, disturbed], GO: [rival] * 3})
    assert some.ratio(OURS, GO, lambda load: load.per_second) == 2.0
    none = Rounds({OURS: [disturbed] * 3, GO: [rival] * 3})
    assert none.ratio(OURS, GO, lambda load: load.per_second) == 0.1


def test_goals_compare_with_the_rival() -> None:
    slow, fast = Load(100.0, 1.0, 20.0, 3.0, 0.0), Load(300.0, 1.0, 10.0, 3.0, 0.0)
    direct = Rounds({OURS: [fast, fast, slow], GO: [slow, slow, fast], LIMIT: [fast, slow, slow]})
    results = Results(direct, _rounds(*CREATES), ready=[2.5, 1.0, 2.0], idle=[90.5], loaded=91.0)
    throughput, tail, *_, ready, idle = goals(results)
    assert (throughput.measured, throughput.met) == (3.0, True)
    assert (tail.measured, tail.met) == (0.5, True)
    assert (ready.measured, ready.met) == (2.0, True)
    assert not idle.met
    assert str(idle).startswith("MISSED")
    assert replace(idle, measured=90.0).met
    assert "Others took" not in table(results)


def test_noise_is_reported() -> None:
    noisy = Rounds({name: [Load(100.0, 1.0, 2.0, 3.0, 0.4)] for name in DIRECT})
    results = Results(noisy, _rounds(*CREATES), ready=[1.0], idle=[80.0], loaded=90.0)
    assert "Others took 40%" in table(results)
