"""Metrics of one process. Names and labels are documented in the README; times are in seconds."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from app.core.decision import Decision
from app.core.level_source import Refusal
from app.core.policy import PolicyState, Standing
from app.kube.store import ObjectStore

_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

CONTENT_TYPE = CONTENT_TYPE_LATEST

prometheus_client.disable_created_metrics()  # a second series for each counter, which nobody asks for


class Metrics:
    """Owns its registry, so that tests can have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._decisions = Counter(
            "vm_consistency_decisions",
            "Decisions on pods, by what was done and why, the level, and the kind of source that decided.",
            ("action", "reason", "level", "source"),
            registry=self.registry,
        )
        self._refusals = Counter(
            "vm_consistency_refusals",
            "Levels, profiles and switches that were asked for and did not count, by source and reason.",
            ("source", "reason"),
            registry=self.registry,
        )
        self._errors = Counter(
            "vm_consistency_errors",
            "Reviews that got no proper decision: malformed requests, and faults of the webhook itself.",
            ("kind",),
            registry=self.registry,
        )
        for kind in ("malformed", "too-large", "timeout", "busy", "internal"):
            self._errors.labels(kind)
        self.admission_seconds = Histogram(
            "vm_consistency_admission_seconds",
            "Time from the whole request read to the answer ready.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._policy = Gauge(
            "vm_consistency_policy_state",
            "1 for the state the policy is in: unknown, absent, valid, last-good or invalid.",
            ("state",),
            registry=self.registry,
        )
        self._policy_loads = Counter(
            "vm_consistency_policy_loads",
            "Policies read, by whether they could be used.",
            ("result",),
            registry=self.registry,
        )
        for result in ("good", "bad"):
            self._policy_loads.labels(result)
        self._leader = self._gauge("leader", "1 in the replica that leads, that is, brings running pods in line.")
        self._backlog = self._gauge("reconcile_backlog", "Running pods that wait to be looked at; of the leader.")
        self._pods = self._gauge(
            "pods", "Running launcher pods by what they should carry; of the leader.", "level", "source"
        )
        self._pods_refused = self._gauge(
            "pods_refused",
            "Running launcher pods for which something was asked that does not count; of the leader.",
            "source",
            "reason",
        )
        self._agents_missing = self._gauge(
            "guest_agents_missing", "Running guests without the agent that their level needs; of the leader."
        )
        self._writes = Counter(
            "vm_consistency_reconcile_writes",
            "Writes to running pods, by why: changed, handed-back, missing, overwritten; failed ones too.",
            ("reason",),
            registry=self.registry,
        )
        for reason in ("changed", "handed-back", "missing", "overwritten", "failed"):
            self._writes.labels(reason)
        self._events = Counter(
            "vm_consistency_events",
            "Kubernetes Events by reason, and by result: sent, dropped or failed.",
            ("reason", "result"),
            registry=self.registry,
        )
        self.policy_changed(PolicyState(), None)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"vm_consistency_{name}", text, labels, registry=self.registry)

    def show_stores(self, stores: Mapping[str, ObjectStore[Any]]) -> None:
        """Show how many objects of each kind are known, and how far they can be trusted."""
        sizes = Gauge(
            "vm_consistency_store_objects",
            "Objects of the cluster that are known without asking, by resource.",
            ("resource",),
            registry=self.registry,
        )
        ages = Gauge(
            "vm_consistency_store_stale_seconds",
            "Time without an open watch, by resource; 0 while there is one.",
            ("resource",),
            registry=self.registry,
        )
        for resource, store in stores.items():
            sizes.labels(resource).set_function(partial(len, store))
            ages.labels(resource).set_function(partial(getattr, store, "stale_seconds"))

    def decided(self, decision: Decision) -> None:
        """Count a decision."""
        source = (decision.decided_by or "").partition("/")[0]
        self._decisions.labels(decision.action, decision.reason, decision.level or "", source).inc()
        for refusal in decision.refusals:
            self._refusals.labels(refusal.source.partition("/")[0], refusal.reason).inc()

    def leading(self, is_leader: bool) -> None:
        """Show whether this replica leads."""
        self._leader.set(is_leader)

    def show_backlog(self, backlog: Callable[[], int]) -> None:
        """Ask `backlog` for the number of pods that wait."""
        self._backlog.set_function(backlog)

    def pods(self, level: str, source: str, change: int) -> None:
        """There are `change` more running pods of that level, decided by that source."""
        self._pods.labels(level, source).inc(change)

    def pods_refused(self, refusal: Refusal, change: int) -> None:
        """There are `change` more running pods for which something was asked that does not count."""
        self._pods_refused.labels(refusal.source.partition("/")[0], refusal.reason).inc(change)

    def pod_written(self, reason: str) -> None:
        """Count a write to a running pod."""
        self._writes.labels(reason).inc()

    def agents_missing(self, count: int) -> None:
        """Show how many guests lack the agent that their level needs."""
        self._agents_missing.set(count)

    def event(self, reason: str, result: str) -> None:
        """Count a Kubernetes Event."""
        self._events.labels(reason, result).inc()

    def error(self, kind: str) -> None:
        """Count a review without a proper decision."""
        self._errors.labels(kind).inc()

    def policy_changed(self, state: PolicyState, good: bool | None) -> None:
        """Show the standing of the policy in force, and count the one just read, if there was one."""
        for standing in Standing:
            self._policy.labels(standing).set(standing is state.standing)
        if good is not None:
            self._policy_loads.labels("good" if good else "bad").inc()

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
