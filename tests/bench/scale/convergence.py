"""How fast every pod is brought in line with another policy: by the product, and by the bare client."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from tests.bench.clocks import Clocks, cpu_seconds
from tests.bench.scale.pods import patches
from tests.bench.scale.requests import answered, since
from tests.bench.scale.stage import CONCURRENCY, Policy, ScaleStage
from tests.infra.controlplane import metrics, wait_for
from tests.infra.controlplane.progress import say
from tests.infra.installation import Replica

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Convergence:
    """One of them. `requests` by verb and resource, retries too; CPU time in milliseconds per pod."""

    pods: int
    seconds: float
    requests: Mapping[str, int]
    cpu: Mapping[str, float]
    elsewhere: float

    @property
    def per_second(self) -> float:
        """Pods per second."""
        return self.pods / self.seconds

    @property
    def requests_per_pod(self) -> float:
        """Requests to the API server of every kind, for each pod."""
        return sum(self.requests.values()) / self.pods

    def __str__(self) -> str:
        cpu = ", ".join(f"{who} {spent:.2f}" for who, spent in self.cpu.items())
        return f"{self.per_second:,.0f} pods/s in {self.seconds:.1f} s; CPU ms/pod: {cpu}; {dict(self.requests)}"


def by_product(stage: ScaleStage, replica: Replica, policy: Policy) -> Convergence:
    """Give the product another policy, until all pods carry what it says."""
    pids = _pids(stage) | {"product": replica.process.pid}
    before = written(replica)
    asked, clocks, cpu = answered(stage.control_plane), Clocks.read(pids.values()), _cpu(pids)
    started = time.monotonic()
    stage.installation.set_policy(policy)
    wait_for(
        lambda: written(replica) >= before + stage.pods,
        _PATIENCE_SECONDS,
        what=f"{stage.pods} writes by the product",
        interval=_POLL_SECONDS,
    )
    seconds = time.monotonic() - started
    elsewhere = Clocks.read(pids.values()).since(clocks).elsewhere
    spent = _spent(pids, cpu, stage.pods)
    result = Convergence(stage.pods, seconds, since(stage.control_plane, asked), spent, elsewhere)
    check_in_line(stage, policy)
    say(f"product: {result}")
    return result


def by_bare_client(stage: ScaleStage, policy: Policy) -> Convergence:
    """Send what the product would send, from a list that was made before."""
    requests = list(patches(stage.control_plane.client, policy))
    assert len(requests) == stage.pods, f"{len(requests)} of {stage.pods} pods would change"
    pids = _pids(stage)
    asked, clocks, cpu = answered(stage.control_plane), Clocks.read(pids.values()), _cpu(pids)
    client = Clocks.read([]).children
    sent = stage.bare.send(requests, connections=CONCURRENCY)
    elsewhere = Clocks.read(pids.values()).since(clocks).elsewhere
    own = (Clocks.read([]).children - client) * 1000 / stage.pods
    spent = _spent(pids, cpu, stage.pods) | {"bare client and bench": own}
    result = Convergence(stage.pods, sent.seconds, since(stage.control_plane, asked), spent, elsewhere)
    check_in_line(stage, policy)
    say(f"bare client: {result}")
    return result


def check_in_line(stage: ScaleStage, policy: Policy) -> None:
    """Every pod carries what `policy` says, digest included."""
    left = sum(1 for _ in patches(stage.control_plane.client, policy))
    assert left == 0, f"{left} of {stage.pods} pods are not in line"


def written(replica: Replica) -> float:
    """How many writes to pods a replica has made."""
    text, name = replica.ops("/metrics")[1], "vm_consistency_reconcile_writes_total"
    return metrics.total(text, name, {}) - metrics.total(text, name, {"reason": "failed"})


def _pids(stage: ScaleStage) -> dict[str, int]:
    return {"kube-apiserver": stage.control_plane.apiserver.pid, "etcd": stage.control_plane.etcd.pid}


def _cpu(pids: Mapping[str, int]) -> dict[str, float]:
    return {who: cpu_seconds(pid) for who, pid in pids.items()}


def _spent(pids: Mapping[str, int], before: Mapping[str, float], pods: int) -> dict[str, float]:
    """Milliseconds per pod."""
    return {who: (now - before[who]) * 1000 / pods for who, now in _cpu(pids).items()}
