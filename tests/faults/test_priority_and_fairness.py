"""The API server has no time for us: a priority level of our own, with few seats or none, that rejects the rest."""

import time
from collections.abc import Iterator

import pytest

from tests.faults.fleet import Fleet, policy
from tests.faults.ledger import Ledger
from tests.infra.controlplane import Client, wait_for
from tests.infra.installation import NAME, NAMESPACE, Installation, Replica

pytestmark = pytest.mark.usefixtures("well")

UNDER_WAY = 16
"""Requests at once."""
GROUP = "flowcontrol.apiserver.k8s.io/v1"
LEVELS, SCHEMAS = "prioritylevelconfigurations", "flowschemas"
REJECTED = "apiserver_flowcontrol_rejected_requests_total"


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    """As many writes as the API server takes, and more at once than it will."""
    return {"VM_CONSISTENCY_RECONCILE_RATE": "0", "VM_CONSISTENCY_RECONCILE_CONCURRENCY": str(UNDER_WAY)}


@pytest.fixture
def squeezed(cluster: Installation, fleet: Fleet) -> Iterator[Client]:
    """Our ServiceAccount has five of the API server's 600 seats, fewer than the product has requests under way."""
    client = cluster.cp.client
    limited = {
        "nominalConcurrencyShares": 2,
        "lendablePercent": 0,
        "borrowingLimitPercent": 0,
        "limitResponse": {"type": "Reject"},
    }
    everything = {
        "verbs": ["*"],
        "apiGroups": ["*"],
        "resources": ["*"],
        "namespaces": ["*"],
        "clusterScope": True,
    }
    us = {"kind": "ServiceAccount", "serviceAccount": {"name": NAME, "namespace": NAMESPACE}}
    level = {
        "apiVersion": GROUP,
        "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "squeezed"},
        "spec": {"type": "Limited", "limited": limited},
    }
    schema = {
        "apiVersion": GROUP,
        "kind": "FlowSchema",
        "metadata": {"name": "squeezed"},
        "spec": {
            "priorityLevelConfiguration": {"name": "squeezed"},
            "matchingPrecedence": 100,
            "rules": [{"subjects": [us], "resourceRules": [everything]}],
        },
    }
    client.create(level)
    client.create(schema)
    yield client
    for plural in (SCHEMAS, LEVELS):
        if client.find(plural, "squeezed"):
            client.delete(plural, "squeezed")


def rejected(cluster: Installation) -> float:
    return cluster.cp.metric(REJECTED, priority_level="squeezed")


def test_few_seats_slow_a_change_down_and_do_not_stop_it(
    cluster: Installation, fleet: Fleet, squeezed: Client, leader: Replica
) -> None:
    wait_for(
        lambda: cluster.cp.metric("apiserver_flowcontrol_nominal_limit_seats", priority_level="squeezed") > 0,
        what="the priority level",
    )
    ledger, started = Ledger(cluster.cp), time.monotonic()
    cluster.change_policy(policy(93))
    fleet.right(fleet.frozen(93), 120)
    took = time.monotonic() - started
    print(f"all right after {took:.1f} s, {rejected(cluster):.0f} rejected; {ledger}")
    assert max(ledger.writes().values()) == 1
    assert ledger.lost_races() == 0
    assert 0 < ledger.answers()[429] <= UNDER_WAY * (took + 1), "Retry-After asks for a second at least"
