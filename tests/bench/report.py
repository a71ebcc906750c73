"""Results as a table for people and as JSON for tools, each goal with the word met or missed."""

import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench.measure import CREATES, DIRECT, QUIET, Results, Rounds
from tests.bench.rivals import CONNECTIONS, Load
from tests.bench.stage import GO, LIMIT, NAMESPACES, OURS, POLICY


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure, and what it should be at least or at most."""

    what: str
    measured: float
    wanted: float
    at_least: bool
    unit: str = "x"

    @property
    def met(self) -> bool:
        """Whether the figure is as good as wanted."""
        return self.measured >= self.wanted if self.at_least else self.measured <= self.wanted

    def __str__(self) -> str:
        bound = ">=" if self.at_least else "<="
        verdict = "met   " if self.met else "MISSED"
        return f"{verdict}  {self.what}: {self.measured:.2f} {self.unit} (goal {bound} {self.wanted:g} {self.unit})"


def _rate(load: Load) -> float:
    return load.per_second


def _p99(load: Load) -> float:
    return load.p99


def goals(results: Results) -> list[Goal]:
    """Every goal of the product's speed."""

    def at_least(what: str, rounds: Rounds, rival: str, wanted: float) -> Goal:
        return Goal(f"{what} / {rival}", rounds.ratio(OURS, rival, _rate), wanted, at_least=True)

    tail = results.direct.ratio(OURS, GO, _p99)
    ready, idle = statistics.median(results.ready), statistics.median(results.idle)
    return [
        at_least("direct throughput", results.direct, GO, 3.0),
        Goal(f"direct p99 / {GO}", tail, 0.5, at_least=False),
        at_least("creates", results.creates, GO, 1.3),
        at_least("creates", results.creates, LIMIT, 0.95),
        at_least("creates", results.creates, POLICY, 1.0),
        Goal(f"start to ready with {NAMESPACES:,} namespaces", ready, 2.0, at_least=False, unit="s"),
        Goal(f"idle RSS with {NAMESPACES:,} namespaces", idle, 90.0, at_least=False, unit="MB"),
    ]


def table(results: Results) -> str:
    """The figures and the goals as text."""
    plan = results.plan
    scope = f"median of {plan.rounds} rounds of {plan.seconds:g} s, {CONNECTIONS} connections"
    lines = [
        *_loads(f"One review, straight to the webhook ({scope})", "reviews/s", DIRECT, results.direct),
        "",
        *_loads(
            f"One pod, created through kube-apiserver with dryRun=All ({scope})", "creates/s", CREATES, results.creates
        ),
        "",
        "CPU: of the webhook, and of kube-apiserver where it takes part, per request. Lowest, highest: of the rounds.",
        "Sent straight to it, the limit is held up by the load generator, which has one core.",
        "",
        f"Start to ready: {_list(results.ready)} s.  Resident: idle {_list(results.idle)} MB, "
        f"after the load above {results.loaded:.1f} MB.",
        "",
        *map(str, goals(results)),
        *_noise(results),
    ]
    return "\n".join(lines)


def _loads(title: str, unit: str, contenders: tuple[str, ...], rounds: Rounds) -> list[str]:
    lines = [title, f"  {'':36}{unit:>12}{'p50 ms':>10}{'p99 ms':>10}{'CPU ms':>10}{'lowest':>10}{'highest':>10}"]
    for name in contenders:
        load, rates = rounds.median(name), [one.per_second for one in rounds.loads[name]]
        figures = f"{load.per_second:>12,.0f}{load.p50:>10.2f}{load.p99:>10.2f}{load.cpu:>10.2f}"
        lines.append(f"  {name:36}{figures}{min(rates):>10,.0f}{max(rates):>10,.0f}")
    return lines


def _noise(results: Results) -> list[str]:
    share = max(results.direct.elsewhere, results.creates.elsewhere)
    if share <= QUIET:
        return []
    return ["", f"Others took {share:.0%} of this machine meanwhile: take the ratios with care, or try again in peace."]


def _list(figures: list[float]) -> str:
    return ", ".join(f"{figure:.2f}" for figure in figures)


def as_json(results: Results) -> dict[str, Any]:
    """Everything, rounds included."""

    def every(rounds: Rounds, convert: Callable[[Load], dict[str, Any]] = asdict) -> dict[str, Any]:
        return {name: [convert(load) for load in loads] for name, loads in rounds.loads.items()}

    return {
        "plan": asdict(results.plan),
        "direct": every(results.direct),
        "creates": every(results.creates),
        "startToReadySeconds": results.ready,
        "idleResidentMB": results.idle,
        "loadedResidentMB": results.loaded,
        "goals": [{**asdict(goal), "met": goal.met} for goal in goals(results)],
    }


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
