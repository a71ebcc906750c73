"""Metrics: names and labels that dashboards rely on, and as many series as there are kinds, not tenants."""

import time

import pytest

from app.core.annotations import LEVEL
from app.core.decision import Action, Reason
from app.core.level_source import Refusal, Refused
from app.core.policy import BUILT_IN, PolicyState, Standing
from app.kube.store import ObjectStore
from app.server.metrics import Metrics
from tests.infra.factories import make_facts, make_policy
from tests.server.support import Endpoint, make_review

DOCUMENTED = {
    ("vm_consistency_decisions", "counter"): {"action", "reason", "level", "source"},
    ("vm_consistency_refusals", "counter"): {"source", "reason"},
    ("vm_consistency_errors", "counter"): {"kind"},
    ("vm_consistency_admission_seconds", "histogram"): set(),
    ("vm_consistency_policy_state", "gauge"): {"state"},
    ("vm_consistency_policy_loads", "counter"): {"result"},
    ("vm_consistency_store_objects", "gauge"): {"resource"},
    ("vm_consistency_store_stale_seconds", "gauge"): {"resource"},
    ("vm_consistency_leader", "gauge"): set(),
    ("vm_consistency_pods", "gauge"): {"level", "source"},
    ("vm_consistency_pods_refused", "gauge"): {"source", "reason"},
    ("vm_consistency_guest_agents_missing", "gauge"): set(),
    ("vm_consistency_reconcile_backlog", "gauge"): set(),
    ("vm_consistency_reconcile_writes", "counter"): {"reason"},
    ("vm_consistency_events", "counter"): {"reason", "result"},
}
RULES = make_policy(rules=[{"name": "db", "match": {"namespaces": ["*"]}, "level": "crash", "allow": ["crash"]}])


def test_names_types_and_labels_are_the_documented_ones() -> None:
    endpoint = Endpoint(
        facts=make_facts(vm={LEVEL: "filesystem"}), state=PolicyState(Standing.VALID, RULES, digest="d")
    )
    endpoint.metrics.show_stores({"namespaces": ObjectStore()})
    endpoint.response(make_review())  # so that each of them has a sample
    endpoint.metrics.pods("crash", "vm", 1)
    endpoint.metrics.pods_refused(Refusal("vm", Refused.UNKNOWN_LEVEL, "what"), 1)
    endpoint.metrics.event("LevelChanged", "sent")

    own = [family for family in endpoint.metrics.registry.collect() if family.name.startswith("vm_consistency")]

    assert {(family.name, family.type) for family in own} == DOCUMENTED.keys()
    for family in own:
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == DOCUMENTED[family.name, family.type], sample
        assert family.documentation.endswith("."), family.name


def test_a_decision_is_counted_by_kind_of_source_and_not_by_rule() -> None:
    endpoint = Endpoint(facts=make_facts(vm={LEVEL: "filesystem"}), state=PolicyState(Standing.VALID, RULES))

    endpoint.response(make_review())

    labels = {"action": "patch", "reason": "decided", "level": "crash", "source": "rule"}
    assert endpoint.sample("vm_consistency_decisions_total", **labels) == 1
    assert endpoint.sample("vm_consistency_refusals_total", source="vm", reason="level-not-allowed") == 1


def test_labels_hold_nothing_that_a_tenant_chose() -> None:
    for value in ("x" * 50, "most", "application"):
        endpoint = Endpoint(facts=make_facts(vm={LEVEL: value}, namespace={LEVEL: value}))
        endpoint.response(make_review())
        known = {*Action, *Reason, *Refused, "", "filesystem", "vm", "namespace", "built-in"}
        for family in endpoint.metrics.registry.collect():
            for sample in family.samples:
                if sample.name.startswith(("vm_consistency_decisions", "vm_consistency_refusals")):
                    assert set(sample.labels.values()) <= known


@pytest.mark.parametrize("standing", Standing)
def test_exactly_one_policy_state_holds(standing: Standing) -> None:
    metrics = Metrics()

    metrics.policy_changed(PolicyState(standing, BUILT_IN), good=None)

    states = {one: metrics.registry.get_sample_value("vm_consistency_policy_state", {"state": one}) for one in Standing}
    assert states == {one: float(one is standing) for one in Standing}


def test_policies_are_counted_as_they_are_read() -> None:
    metrics = Metrics()
    for good in (True, True, False, None):
        metrics.policy_changed(PolicyState(Standing.VALID, BUILT_IN), good)

    def loads(result: str) -> float | None:
        return metrics.registry.get_sample_value("vm_consistency_policy_loads_total", {"result": result})

    assert (loads("good"), loads("bad")) == (2, 1)


def test_a_fresh_process_shows_zeros_where_an_alert_looks_for_growth() -> None:
    text = Metrics().exposition().decode()

    for sample in (
        'vm_consistency_errors_total{kind="internal"} 0.0',
        'vm_consistency_errors_total{kind="malformed"} 0.0',
        'vm_consistency_policy_loads_total{result="bad"} 0.0',
        'vm_consistency_policy_state{state="unknown"} 1.0',
    ):
        assert sample in text.splitlines()
    assert "_created" not in text
    assert "process_resident_memory_bytes" in text


def test_store_sizes_are_read_when_asked_for() -> None:
    metrics, store = Metrics(), ObjectStore[str]()
    metrics.show_stores({"pods": store})
    store.put(("team", "a"), "a")

    assert metrics.registry.get_sample_value("vm_consistency_store_objects", {"resource": "pods"}) == 1


def test_how_long_a_store_is_without_a_watch() -> None:
    metrics, store = Metrics(), ObjectStore[str]()
    metrics.show_stores({"pods": store})

    def shown() -> float | None:
        return metrics.registry.get_sample_value("vm_consistency_store_stale_seconds", {"resource": "pods"})

    assert shown() == 0
    store.out_of_touch_since = time.monotonic() - 40
    assert 40 <= (shown() or 0) < 60
