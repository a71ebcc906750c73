"""VMs start, and KubeVirt writes its hooks back, while no webhook answers."""

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from app.core.record import is_intact
from tests.apiserver.pods import decided, hooks, hooks_of, kubevirt_hooks, record
from tests.apiserver.routing import failed_open, lead_astray, lead_to
from tests.faults.ledger import Ledger, Watchman, assert_quiet
from tests.infra.controlplane import VIRT_CONTROLLER, Client, ControlPlane, Json, make_namespace, make_vm, wait_for
from tests.infra.installation import Installation, Replica, annotations

SPACE = "outage"
NAMES = [f"vm-{number}" for number in range(30)]
QUARREL_SECONDS = 20.0
AT_ONCE, LATER = 5, 5
"""Writes to one pod that its restraint allows at once, and in the twenty seconds after these: at 1, 3, 7 and 15 s."""


@pytest.fixture(scope="module")
def apart(real_parts: None, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """The product next to a real virt-controller, in a control plane whose webhook goes astray."""
    with ControlPlane() as cp:
        cp.install_kubevirt()
        cp.start_virt_controller()
        installed = Installation(cp)
        installed.apply()
        installed.start()
        installed.change_policy({"default": {"level": "filesystem"}})
        cp.client.create(make_namespace(SPACE))
        yield installed
        installed.remove()
        cp.keep |= request.session.testsfailed > 0


@pytest.fixture
def client(apart: Installation) -> Client:
    return apart.cp.client


@pytest.fixture
def replica(apart: Installation) -> Replica:
    replica = apart.replicas[0]
    wait_for(replica.leads, what="the replica to lead")
    return replica


def pods(client: Client) -> dict[str, Json]:
    """The launcher pods by the names of their VMs."""
    found = client.list("pods", SPACE, labels="kubevirt.io=virt-launcher")
    return {pod["metadata"]["ownerReferences"][0]["name"]: pod for pod in found}


def at(client: Client, level: str) -> bool:
    """Whether all pods are there with what that level writes."""
    found = pods(client)
    return set(found) == set(NAMES) and all(
        decided(pod) == (level, "default")
        and is_intact(annotations(pod))
        and hooks(pod) == hooks_of(level, name, SPACE)
        for name, pod in found.items()
    )


def go_astray(apart: Installation) -> None:
    port, before = apart.cp.port(), failed_open(apart)
    lead_astray(apart, f"https://127.0.0.1:{port}/mutate/pods", lambda: failed_open(apart) > before)


@pytest.fixture(scope="module")
def outage(apart: Installation) -> tuple[Watchman, Ledger]:
    """The webhook can't be reached, VMs are asked for, the policy says filesystem. Both have watched since before."""
    wait_for(apart.replicas[0].leads, what="the replica to lead")
    watched = Watchman(apart.replicas[0]), Ledger(apart.cp)
    go_astray(apart)
    for name in NAMES:
        apart.cp.client.create(make_vm(name, SPACE))
    return watched


def test_vms_start_during_an_outage(
    apart: Installation, client: Client, replica: Replica, outage: tuple[Watchman, Ledger]
) -> None:
    watchman, ledger = outage
    wait_for(lambda: at(client, "filesystem"), 120, what="every pod to have its hooks and record")
    print(f"30 VMs: {ledger}")
    assert created_without_us(apart, ledger) == len(NAMES)
    written = ledger.writes()
    assert {pod for _, pod in written} == {pod["metadata"]["name"] for pod in pods(client).values()}
    # KubeVirt may put its own five annotations, which are the same, over ours once more; the record shows no change.
    assert max(written.values()) <= 2
    assert ledger.lost_races() <= 3 * len(NAMES), "virt-controller writes to its new pods as well"
    watchman.assert_well()
    assert_quiet(apart.cp, replica)


def created_without_us(apart: Installation, ledger: Ledger) -> int:
    events = apart.cp.audit_events(
        since=ledger.since, user=VIRT_CONTROLLER, verb="create", resource="pods", namespace=SPACE
    )
    return len([event for event in events if any("failed-open" in key for key in event["annotations"])])


def test_a_quarrel_with_kubevirt_is_slow_and_ends_when_the_webhook_is_back(
    apart: Installation, client: Client, replica: Replica, outage: tuple[Watchman, Ledger]
) -> None:
    wait_for(lambda: at(client, "filesystem"), 120, what="the VMs that start during the outage")
    watchman, ledger = Watchman(replica), Ledger(apart.cp)
    apart.change_policy({"default": {"level": "crash"}})
    time.sleep(QUARREL_SECONDS)  # the length of the quarrel: KubeVirt writes its hooks back, and nobody keeps them out
    written = ledger.writes()
    print(f"writes per pod in {QUARREL_SECONDS:.0f} s: {sorted(Counter(written.values()).items())}; {ledger}")
    assert len(written) == len(NAMES)
    assert max(written.values()) <= AT_ONCE + LATER
    assert ledger.lost_races() <= 3 * (AT_ONCE + LATER) * len(NAMES)
    assert any(hooks(pod).items() >= kubevirt_hooks(name, SPACE).items() for name, pod in pods(client).items()), (
        "or else there was no quarrel"
    )
    wait_for(lambda: told(client) >= len(NAMES), what="HooksOverwritten about every VM")

    lead_to(apart, replica)
    back = time.monotonic()
    wait_for(lambda: at(client, "crash"), 120, what="every pod to be right for good")
    print(f"right {time.monotonic() - back:.1f} s after the webhook was back; {ledger}")
    assert all(set(record(pod)) for pod in pods(client).values())
    watchman.assert_well()
    assert_quiet(apart.cp, replica)


def told(client: Client) -> int:
    """About how many VMs it is said that somebody else overwrites their hooks."""
    events = client.list("events", SPACE)
    return len({event["involvedObject"]["uid"] for event in events if event["reason"] == "HooksOverwritten"})
