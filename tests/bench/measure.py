"""The measurements: contenders in turn, round by round."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field

from tests.bench.clocks import resident
from tests.bench.rivals import Load
from tests.bench.stage import GO, LIMIT, NONE, OURS, POLICY, POLICY_AGAIN, Stage
from tests.infra.controlplane.progress import say

DIRECT = (OURS, GO, LIMIT)
CREATES = (NONE, LIMIT, OURS, POLICY, POLICY_AGAIN, GO)

Measure = Callable[[str, float, float], Load]
"""Measures a contender for so many seconds, after so many of warm-up."""

QUIET = 0.1
"""Share of the machine that others may take during a quiet run: kernel threads and etcd take some too."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure."""

    rounds: int = 8
    seconds: float = 2.5
    warm_up: float = 1.0
    attempts: int = 3
    """How often to try for a quiet run; the quietest one counts."""
    starts: int = 3
    settle: float = 3.0
    """After a start, until the memory counts."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """The rounds of every contender, in the same order."""

    loads: dict[str, list[Load]]

    def median(self, contender: str) -> Load:
        """The median of each figure."""
        loads = self.loads[contender]
        figures = zip(*(astuple(load) for load in loads), strict=True)
        return Load(*map(statistics.median, figures))

    @property
    def elsewhere(self) -> float:
        """The share of the machine that was taken by others, on average."""
        return statistics.fmean(load.elsewhere for loads in self.loads.values() for load in loads)

    def ratio(self, one: str, other: str, figure: Callable[[Load], float]) -> float:
        """The median, over the rounds, of the ratio within a round: what slows both down cancels out.

        Rounds that were quiet for both count, if there are any: noise does not hit one core and two alike.
        """
        pairs = list(zip(self.loads[one], self.loads[other], strict=True))
        quiet = [pair for pair in pairs if all(load.elsewhere <= QUIET for load in pair)]
        return statistics.median(figure(first) / figure(second) for first, second in quiet or pairs)


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that was measured; times in seconds, memory in MB (10^6 bytes)."""

    direct: Rounds
    creates: Rounds
    ready: list[float]
    idle: list[float]
    loaded: float
    plan: Plan = field(default_factory=Plan)


def run(stage: Stage, plan: Plan) -> Results:
    """Measure everything on a stage."""
    direct = _rounds("direct", DIRECT, plan, stage.direct)
    through_apiserver = _rounds("creates through kube-apiserver", CREATES, plan, stage.creates)
    loaded = resident(stage.webhooks[OURS].process.pid)
    ready, idle = _starts(stage, plan)
    return Results(direct, through_apiserver, ready, idle, loaded, plan)


def _rounds(what: str, contenders: Sequence[str], plan: Plan, measure: Measure) -> Rounds:
    loads: dict[str, list[Load]] = {name: [] for name in contenders}
    for number in range(plan.rounds):
        for name in contenders:
            load = _quietest(plan, lambda: measure(name, plan.seconds, plan.warm_up))  # noqa: B023 - called at once
            figures = f"{load.per_second:,.0f}/s, {load.elsewhere:.0%} of the machine elsewhere"
            say(f"{what}, round {number + 1} of {plan.rounds}: {name}: {figures}")
            loads[name].append(load)
    return Rounds(loads)


def _quietest(plan: Plan, measure: Callable[[], Load]) -> Load:
    """Measure until a run is quiet, a few times at most."""
    tried: list[Load] = []
    while len(tried) < plan.attempts and all(load.elsewhere > QUIET for load in tried):
        tried.append(measure())
    return min(tried, key=lambda load: load.elsewhere)


def _starts(stage: Stage, plan: Plan) -> tuple[list[float], list[float]]:
    """Start the webhook anew: seconds until it is ready, and its memory once it has nothing more to do."""
    process = stage.webhooks[OURS].process
    ready, idle = [], []
    with stage.admission(OURS):  # not ready without its registration
        for _ in range(plan.starts):
            process.stop()
            started = time.monotonic()
            process.start()
            ready.append(time.monotonic() - started)
            time.sleep(plan.settle)
            idle.append(resident(process.pid))
    return ready, idle
