"""Results as a table for people and as JSON for tools, each goal with the word met or missed."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from tests.bench.measure import QUIET
from tests.bench.report import Goal
from tests.bench.scale.admission import RATE
from tests.bench.scale.convergence import Convergence
from tests.bench.scale.measure import ScaleResults
from tests.bench.scale.sender import Sent
from tests.bench.scale.stage import CONCURRENCY, FLIPS


def goals(results: ScaleResults) -> list[Goal]:
    """Every goal of the product's scale."""
    memory = max(_median(results.idle), _median(results.leading))
    looks = [*results.looks_at_start, *results.looks_at_change]
    quiet = _p99(results.quiet)
    return [
        Goal(f"start to ready with {results.pods:,} machines", _median(results.ready), 10.0, at_least=False, unit="s"),
        Goal(f"RSS with {results.pods:,} machines", memory, 150.0, at_least=False, unit="MB"),
        *(Goal(f"pods/s, flip of {flip} / bare client", share(results, flip), 0.7, at_least=True) for flip in FLIPS),
        Goal("create p99 during convergence / quiet", _p99(results.during) / quiet, 2.0, at_least=False),
        Goal("the same with the limit as shipped", _p99(results.during_gentle) / quiet, 2.0, at_least=False),
        Goal("PATCHes where nothing is to do", sum(look.patches for look in looks), 0, at_least=False, unit="requests"),
    ]


def share(results: ScaleResults, flip: str) -> float:
    """What of the bare client's rate the product reaches: the median over pairs of the same round and direction."""
    pairs = zip(results.product[flip], results.bare[flip], strict=True)
    return statistics.median(ours.per_second / bare.per_second for ours, bare in pairs)


def table(results: ScaleResults) -> str:
    """The figures and the goals as text."""
    plan = results.plan
    creation = f"Creation of a pod with dryRun=All, {RATE:g} a second"
    lines = [
        f"{results.pods:,} Namespaces, VirtualMachines, instances and launcher pods ({plan.rounds} rounds)",
        "",
        f"Start to ready: {_list(results.ready)} s, CPU time {_list(results.ready_cpu)} s.  "
        f"A look at every pod: {_list(look.seconds for look in results.looks_at_change)} s.",
        f"Resident: idle {_list(results.idle)} MB, as the leader {_list(results.leading)} MB, "
        f"after the convergences below {_list(results.flipped)} MB, at most {_list(results.peaks)} MB.",
        "",
        *_convergences(results),
        "",
        f"{creation:63}{'p50 ms':>10}{'p99 ms':>10}{'longest':>10}{'pods':>8}",
        *_creations("in peace", results.quiet),
        *_creations("while the product brings pods in line", results.during),
        *_creations("the same with the limit as shipped", results.during_gentle),
        *_creations("while the bare client writes", results.during_bare),
        "",
        *map(str, goals(results)),
        *_noise(results),
    ]
    return "\n".join(lines)


def _convergences(results: ScaleResults) -> list[str]:
    title = f"All pods brought in line ({CONCURRENCY} writes at once, no limit)"
    lines = [f"{title:62}{'pods/s':>11}{'lowest':>9}{'highest':>9}{'seconds':>9}{'requests/pod':>14}"]
    first = [results.first] if results.first else []
    lines.append(_convergence("product, after an outage (from its start)", first))
    for flip in FLIPS:
        lines.append(_convergence(f"product, another {flip}", results.product[flip]))
        lines.append(_convergence(f"bare client, another {flip}", results.bare[flip]))
    lines += ["", "CPU ms per pod, median"]
    for flip in FLIPS:
        lines.append(f"  product, another {flip}: {_cpu(results.product[flip])}")
        lines.append(f"  bare client, another {flip}: {_cpu(results.bare[flip])}")
    return lines


def _convergence(name: str, some: Sequence[Convergence]) -> str:
    rates = [one.per_second for one in some]
    figures = f"{_median(rates):>11,.0f}{min(rates):>9,.0f}{max(rates):>9,.0f}"
    seconds, requests = (_median([figure(one) for one in some]) for figure in (_seconds, _requests))
    return f"  {name:60}{figures}{seconds:>9.1f}{requests:>14.2f}"


def _seconds(one: Convergence) -> float:
    return one.seconds


def _requests(one: Convergence) -> float:
    return one.requests_per_pod


def _cpu(some: Sequence[Convergence]) -> str:
    return ", ".join(f"{who} {_median([one.cpu[who] for one in some]):.2f}" for who in some[0].cpu)


def _creations(name: str, some: Sequence[Sent]) -> list[str]:
    def median(figure: Callable[[Sent], float]) -> float:
        return _median([figure(one) for one in some])

    longest, pods = max(one.longest for one in some), sum(one.requests for one in some)
    figures = f"{median(lambda one: one.p50):>10.1f}{median(lambda one: one.p99):>10.1f}{longest:>10.1f}{pods:>8}"
    return [f"  {name:61}{figures}"]


def _noise(results: ScaleResults) -> list[str]:
    runs = [one for some in (*results.product.values(), *results.bare.values()) for one in some]
    taken = statistics.fmean(one.elsewhere for one in runs)
    if taken <= QUIET:
        return []
    return ["", f"Others took {taken:.0%} of this machine meanwhile: take the ratios with care, or try again in peace."]


def _p99(some: Sequence[Sent]) -> float:
    return _median([one.p99 for one in some])


def _median(figures: Sequence[float]) -> float:
    return statistics.median(figures)


def _list(figures: Iterable[float]) -> str:
    return ", ".join(f"{figure:.2f}" for figure in figures)


def as_json(results: ScaleResults) -> dict[str, Any]:
    """Everything, rounds included."""
    return {**asdict(results), "goals": [{**asdict(goal), "met": goal.met} for goal in goals(results)]}
