"""The policy is deleted and comes back, or has errors when a replica starts."""

import time

import pytest

from tests.faults.fleet import Fleet, policy
from tests.faults.ledger import Ledger, assert_quiet
from tests.infra.controlplane import wait_for
from tests.infra.installation import LAST_GOOD, NAMESPACE, Installation, Replica, policy_text

GRACE = 6.0
BROKEN = policy_text({"default": {"level": "bulletproof"}})


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"VM_CONSISTENCY_POLICY_GRACE": str(GRACE), "VM_CONSISTENCY_RECONCILE_RATE": "0"}


@pytest.mark.usefixtures("well")
def test_deleted_and_created_again_as_tools_do(cluster: Installation, fleet: Fleet) -> None:
    before, ledger = fleet.versions(), Ledger(cluster.cp)
    cluster.change_policy(None)
    time.sleep(GRACE / 3)  # the length of the absence
    cluster.change_policy(policy(60))
    time.sleep(GRACE)  # in which the grace would have come to its end
    assert ledger.patches() == []
    assert fleet.versions() == before


@pytest.mark.usefixtures("well")
def test_deleted_and_created_again_with_something_else_in_it(cluster: Installation, fleet: Fleet) -> None:
    ledger = Ledger(cluster.cp)
    cluster.change_policy(None)
    back = Ledger(cluster.cp)
    cluster.set_policy(policy(71))
    fleet.right(fleet.frozen(71))
    print(f"first write {back.seconds_to_first_patch():.1f} s after it was back; {ledger}")
    assert back.seconds_to_first_patch() < GRACE / 2, "not held up by the grace of the one before"
    assert set(ledger.writes().values()) == {1}


@pytest.mark.usefixtures("well")
def test_deleted_for_good(cluster: Installation, fleet: Fleet, replicas: tuple[Replica, Replica]) -> None:
    ledger, before, gone = Ledger(cluster.cp), fleet.versions(), time.monotonic()
    cluster.change_policy(None)
    while time.monotonic() < gone + GRACE - 2:
        assert fleet.versions() == before, "running pods have their grace"
    fleet.right(fleet.frozen(60, "built-in"))
    print(f"right {time.monotonic() - gone:.1f} s after it was gone; {ledger}")
    assert set(ledger.writes().values()) == {1}
    back = Ledger(cluster.cp)
    cluster.set_policy(policy(72))
    fleet.right(fleet.frozen(72))
    assert back.seconds_to_first_patch() < GRACE / 2
    assert set(ledger.writes().values()) == {2}


def restart(replicas: tuple[Replica, Replica], standing: str) -> None:
    """Stop both, start them, and wait until they have read the policy and one of them leads."""
    for replica in replicas:
        replica.process.stop()
    for replica in replicas:
        replica.process.launch()
    for replica in replicas:
        wait_for(lambda: replica.problems() is not None, what="answers")  # noqa: B023
        wait_for(lambda: replica.policy_state() == standing, what=f"the policy to be {standing}")  # noqa: B023
    wait_for(lambda: any(replica.leads() for replica in replicas), what="a leader")


def test_a_restart_on_a_policy_with_errors_leaves_running_pods_as_the_last_good_one_has_them(
    cluster: Installation, fleet: Fleet, replicas: tuple[Replica, Replica]
) -> None:
    before = fleet.versions()
    cluster.change_policy(BROKEN)
    ledger = Ledger(cluster.cp)
    restart(replicas, "last-good")
    for replica in replicas:
        replica.wait_ready()
    assert_quiet(cluster.cp, *replicas)
    assert ledger.patches() == []
    assert fleet.versions() == before
    namespace, name = fleet.members[0]
    edit = {"metadata": {"annotations": {"vm-consistency.io/decided-by": None}}}
    cluster.cp.client.patch("pods", name, edit, namespace, subresource="status")
    fleet.right(fleet.frozen(60))
    assert ledger.writes() == {(namespace, name): 1}, "the last good one is put right by"


def test_a_restart_on_a_policy_with_errors_and_no_good_one_known_touches_nothing(
    cluster: Installation, fleet: Fleet, replicas: tuple[Replica, Replica]
) -> None:
    before = fleet.versions()
    cluster.change_policy(BROKEN)
    kept = cluster.cp.client.get("configmaps", LAST_GOOD, NAMESPACE).get("data") or {}
    cluster.cp.client.patch("configmaps", LAST_GOOD, {"data": dict.fromkeys(kept)}, NAMESPACE)
    ledger = Ledger(cluster.cp)
    restart(replicas, "invalid")
    assert_quiet(cluster.cp, *replicas)
    assert ledger.patches() == []
    assert fleet.versions() == before
    for replica in replicas:
        assert replica.ops("/livez")[0] == 200
        assert "policy" in (replica.problems() or {})
    cluster.change_policy(policy(73))
    for replica in replicas:
        replica.wait_ready()
    fleet.right(fleet.frozen(73))
    assert set(ledger.writes().values()) == {1}
