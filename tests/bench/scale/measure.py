"""The measurements on the full API server, round by round."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.bench.clocks import cpu_seconds, peak, resident
from tests.bench.scale.admission import creations
from tests.bench.scale.convergence import Convergence, by_bare_client, by_product, check_in_line, written
from tests.bench.scale.requests import answered, since
from tests.bench.scale.sender import Sent
from tests.bench.scale.stage import FILESYSTEM, FLIPS, UNCHANGED, ScaleStage
from tests.infra.controlplane import metrics, wait_for
from tests.infra.controlplane.progress import say
from tests.infra.installation import Replica


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """How often, and how long in seconds."""

    rounds: int = 2
    quiet: float = 20.0
    """How long the creation of pods is measured where nothing else happens."""
    gentle: float = 20.0
    """The same while the product, as shipped, brings pods in line."""
    settle: float = 5.0
    patience: float = 900.0


@dataclass(frozen=True, slots=True)
class Look:
    """A look at every pod: how long it took, and what the API server was asked for."""

    seconds: float
    requests: dict[str, int]

    @property
    def patches(self) -> int:
        """The PATCHes of pods."""
        return sum(count for what, count in self.requests.items() if what.startswith("PATCH pods"))


@dataclass(slots=True)
class ScaleResults:
    """Everything that was measured. Memory in MB; convergences by the name of the flip, forth and back in turn."""

    pods: int
    plan: ScalePlan
    ready: list[float] = field(default_factory=list)
    ready_cpu: list[float] = field(default_factory=list)
    """CPU time of the product until then, in seconds."""
    idle: list[float] = field(default_factory=list)
    """Resident when ready and not leading."""
    leading: list[float] = field(default_factory=list)
    """Resident as the leader, after a look at every pod."""
    flipped: list[float] = field(default_factory=list)
    """Resident after all convergences of a round."""
    peaks: list[float] = field(default_factory=list)
    first: Convergence | None = None
    """From pods that nobody had a hand in, as an outage of the webhook leaves them."""
    looks_at_start: list[Look] = field(default_factory=list)
    looks_at_change: list[Look] = field(default_factory=list)
    product: dict[str, list[Convergence]] = field(default_factory=dict)
    bare: dict[str, list[Convergence]] = field(default_factory=dict)
    quiet: list[Sent] = field(default_factory=list)
    during: list[Sent] = field(default_factory=list)
    """While the product brings pods in line without limit."""
    during_bare: list[Sent] = field(default_factory=list)
    """While the bare client writes as fast as it can."""
    during_gentle: list[Sent] = field(default_factory=list)
    """While the product brings pods in line as shipped."""


def run(stage: ScaleStage, plan: ScalePlan) -> ScaleResults:
    """Measure everything."""
    results = ScaleResults(stage.pods, plan)
    _after_an_outage(stage, results)
    for number in range(plan.rounds):
        say(f"round {number + 1} of {plan.rounds}: the bare client")
        _round_of_bare_client(stage, results)
        say(f"round {number + 1} of {plan.rounds}: the product")
        _round_of_product(stage, results)
    say("creations of pods meanwhile")
    _creations_beside_bare_client(stage, results)
    _creations_beside_product(stage, results)
    _creations_as_shipped(stage, results)
    return results


def _after_an_outage(stage: ScaleStage, results: ScaleResults) -> None:
    """The first start of all: no pod has a record."""
    replica = stage.leader
    asked = answered(stage.control_plane)
    stage.installation.route_to(replica.url)
    started = time.monotonic()
    replica.process.start()
    with stage.running(replica):
        wait_for(lambda: written(replica) >= stage.pods, results.plan.patience, what="the first writes", interval=0.2)
        seconds = time.monotonic() - started
        results.first = Convergence(stage.pods, seconds, since(stage.control_plane, asked), {}, 0.0)
        check_in_line(stage, FILESYSTEM)
        say(f"after an outage: {results.first}")


def _started(stage: ScaleStage, replica: Replica, results: ScaleResults) -> None:
    stage.installation.route_to(replica.url)
    started = time.monotonic()
    replica.process.start()
    results.ready.append(time.monotonic() - started)
    results.ready_cpu.append(cpu_seconds(replica.process.pid))
    say(f"ready after {results.ready[-1]:.2f} s, {results.ready_cpu[-1]:.2f} s of CPU time")


def _round_of_bare_client(stage: ScaleStage, results: ScaleResults) -> None:
    """With a replica that serves reviews and doesn't lead."""
    replica, plan = stage.follower, results.plan
    _started(stage, replica, results)
    with stage.running(replica):
        time.sleep(plan.settle)
        results.idle.append(resident(replica.process.pid))
        say(f"idle: {results.idle[-1]:.1f} MB")
        for flip, policy in FLIPS.items():
            for wanted in (policy, FILESYSTEM):
                results.bare.setdefault(flip, []).append(by_bare_client(stage, wanted))


def _round_of_product(stage: ScaleStage, results: ScaleResults) -> None:
    """Four flips in one life of a replica: it would hold back the sixth write to a pod within ten minutes."""
    replica, plan = stage.leader, results.plan
    asked = answered(stage.control_plane)
    _started(stage, replica, results)
    with stage.running(replica):
        results.looks_at_start.append(_look(stage, replica, asked, lambda: _knows_all(stage, replica)))
        time.sleep(plan.settle)
        results.leading.append(resident(replica.process.pid))
        say(f"leading: {results.leading[-1]:.1f} MB")
        results.looks_at_change.append(_changed(stage, replica))
        for flip, policy in FLIPS.items():
            for wanted in (policy, FILESYSTEM):
                results.product.setdefault(flip, []).append(by_product(stage, replica, wanted))
        time.sleep(plan.settle)
        results.flipped.append(resident(replica.process.pid))
        results.peaks.append(peak(replica.process.pid))
        say(f"afterwards: {results.flipped[-1]:.1f} MB, at most {results.peaks[-1]:.1f} MB")


def _creations_beside_bare_client(stage: ScaleStage, results: ScaleResults) -> None:
    _started(stage, stage.follower, results)
    with stage.running(stage.follower):
        time.sleep(results.plan.settle)
        for policy in (FLIPS["timeout"], FILESYSTEM):
            with creations(stage) as sent:
                by_bare_client(stage, policy)
            results.during_bare.append(_told("creations beside the bare client", sent))


def _creations_beside_product(stage: ScaleStage, results: ScaleResults) -> None:
    _started(stage, stage.leader, results)
    with stage.running(stage.leader):
        _wait_until_all_is_known(stage, stage.leader, results.plan)
        _creations_in_peace(stage, results)
        for policy in (FLIPS["timeout"], FILESYSTEM):
            with creations(stage) as sent:
                by_product(stage, stage.leader, policy)
            results.during.append(_told("creations beside the product", sent))
        time.sleep(results.plan.settle)
        _creations_in_peace(stage, results)


def _creations_in_peace(stage: ScaleStage, results: ScaleResults) -> None:
    with creations(stage) as sent:
        time.sleep(results.plan.quiet)
    results.quiet.append(_told("creations in peace", sent))


def _creations_as_shipped(stage: ScaleStage, results: ScaleResults) -> None:
    """With the default limit a convergence takes minutes; its beginning will do."""
    replica, plan = stage.gentle, results.plan
    _started(stage, replica, results)
    with stage.running(replica):
        _wait_until_all_is_known(stage, replica, plan)
        before = written(replica)
        stage.installation.set_policy(FLIPS["timeout"])
        wait_for(lambda: written(replica) > before, plan.patience, what="the first write")
        with creations(stage) as sent:
            time.sleep(plan.gentle)
        results.during_gentle.append(_told("creations beside the product as shipped", sent))


def _wait_until_all_is_known(stage: ScaleStage, replica: Replica, plan: ScalePlan) -> None:
    wait_for(lambda: _knows_all(stage, replica), plan.patience, what="a look at every pod", interval=0.1)
    time.sleep(plan.settle)


def _knows_all(stage: ScaleStage, replica: Replica) -> bool:
    """Whether every pod was looked at since it began to lead."""
    text = replica.ops("/metrics")[1]
    known = metrics.total(text, "vm_consistency_pods", {})
    return known == stage.pods and not metrics.total(text, "vm_consistency_reconcile_backlog", {})


def _look(stage: ScaleStage, replica: Replica, asked: Counter[str], done: Callable[[], bool]) -> Look:
    started = time.monotonic()
    wait_for(done, 120, what=f"{replica.process.name} to look at every pod", interval=0.05)
    look = Look(time.monotonic() - started, since(stage.control_plane, asked))
    check_in_line(stage, FILESYSTEM)
    say(f"a look at every pod: {look.seconds:.2f} s, {look.requests}")
    return look


def _changed(stage: ScaleStage, replica: Replica) -> Look:
    """Change the policy so that every pod has to be looked at, and none is to be changed; and back again."""
    asked, loads = answered(stage.control_plane), replica.policy_loads()

    def done() -> bool:
        text = replica.ops("/metrics")[1]
        read = metrics.total(text, "vm_consistency_policy_loads_total", {}) > loads
        return read and not metrics.total(text, "vm_consistency_reconcile_backlog", {})

    stage.installation.set_policy(UNCHANGED)
    return _look(stage, replica, asked, done)


def _told(what: str, sent: Sent) -> Sent:
    say(f"{what}: {sent.requests} pods, p50 {sent.p50:.1f} ms, p99 {sent.p99:.1f} ms, at most {sent.longest:.1f} ms")
    return sent
