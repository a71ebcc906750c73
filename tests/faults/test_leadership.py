"""The replica that leads is gone, stopped or asleep amidst a change of all pods; and clocks that don't agree."""

import time
from datetime import UTC, datetime, timedelta

from tests.faults.conftest import RATE
from tests.faults.fleet import Fleet, policy
from tests.faults.ledger import Ledger, Watchman, all_arrived, amidst, assert_quiet
from tests.infra.controlplane import Client, wait_for
from tests.infra.installation import NAME, NAMESPACE, Installation, Replica
from tests.infra.tcp_line import Line

DURATION = 10
"""Seconds of the Lease."""
MARGIN = 15.0
"""Seconds for a busy machine."""
UNDER_WAY = 8
"""Requests at once, as the product is set by default: so many may still arrive after their sender lost its office."""


def leads_after(replica: Replica, since: float) -> float:
    """Wait until it leads; returns how long that took since a moment."""
    wait_for(replica.leads, DURATION + MARGIN, what=f"{replica.process.name} to lead")
    return time.monotonic() - since


def logged(replica: Replica, message: str, since: datetime) -> datetime:
    """When the replica first logged this about its office after a moment."""
    lines = [line for line in replica.log_lines() if line["logger"] == "vm-consistency.leader"]
    times = [datetime.fromisoformat(line["time"]) for line in lines if line["message"] == message]
    return min(time for time in times if time > since)


def all_idle(*replicas: Replica) -> bool:
    return all(replica.metric("vm_consistency_reconcile_backlog") == 0 for replica in replicas)


def test_the_leader_is_killed_amidst_a_change(
    cluster: Installation, fleet: Fleet, leader: Replica, follower: Replica
) -> None:
    watchman, ledger = Watchman(follower), Ledger(cluster.cp)
    cluster.set_policy(policy(81))
    amidst(ledger, fleet)
    leader.process.kill()
    killed, done = time.monotonic(), len(ledger.writes())
    gap = leads_after(follower, killed)
    fleet.right(fleet.frozen(81))
    right = time.monotonic() - killed
    print(f"killed after {done} writes, led again after {gap:.1f} s, right after {right:.1f} s; {ledger}")
    assert gap <= DURATION + MARGIN
    assert max(ledger.writes().values()) == 1
    assert ledger.lost_races() <= UNDER_WAY
    watchman.assert_well()
    leader.process.start()
    assert_quiet(cluster.cp, leader, follower)


def test_the_leader_is_stopped_amidst_a_change(
    cluster: Installation, fleet: Fleet, leader: Replica, follower: Replica
) -> None:
    watchman, ledger = Watchman(follower), Ledger(cluster.cp)
    cluster.set_policy(policy(82))
    amidst(ledger, fleet)
    asked = time.monotonic()
    leader.process.terminate()
    assert leader.process.exit_code(20) == 0
    stopped = time.monotonic()
    gap = leads_after(follower, stopped)
    fleet.right(fleet.frozen(82))
    print(f"stopped within {stopped - asked:.1f} s, led again {gap:.2f} s after that; {ledger}")
    assert gap < DURATION / 2, "the Lease was released, not left to expire"
    assert max(ledger.writes().values()) == 1
    assert ledger.lost_races() <= UNDER_WAY
    watchman.assert_well()
    leader.process.start()
    assert_quiet(cluster.cp, leader, follower)


def test_two_leaders_for_a_moment(cluster: Installation, fleet: Fleet, leader: Replica, follower: Replica) -> None:
    watchmen, ledger = [Watchman(leader), Watchman(follower)], Ledger(cluster.cp)
    cluster.set_policy(policy(83))
    amidst(ledger, fleet)
    leader.process.pause()
    try:
        asleep = time.monotonic()
        gap = leads_after(follower, asleep)
        cluster.set_policy(policy(84))  # which the sleeper has not heard of
        fleet.right(fleet.frozen(84))
        before, after = fleet.versions(), Ledger(cluster.cp)
    finally:
        leader.process.resume()
    woken = time.monotonic()
    wait_for(lambda: not leader.leads(), what="the sleeper to notice")
    noticed = time.monotonic() - woken
    wait_for(lambda: all_idle(leader, follower), what="nothing to be left")
    all_arrived(cluster.cp)
    assert_quiet(cluster.cp, leader, follower)
    print(
        f"led again after {gap:.1f} s, the sleeper noticed {noticed:.2f} s after it woke; {ledger}; since then {after}"
    )
    assert fleet.versions() == before, "nobody wrote"
    assert after.lost_races() <= UNDER_WAY
    assert max(ledger.writes().values()) <= 2, "two changes"
    assert follower.leads()
    for watchman in watchmen:
        watchman.assert_well()


def test_what_the_leader_sent_arrives_when_another_leads(
    cluster: Installation, fleet: Fleet, leader: Replica, follower: Replica, lines: dict[Replica, Line]
) -> None:
    watchmen, ledger = [Watchman(leader), Watchman(follower)], Ledger(cluster.cp)
    cluster.set_policy(policy(86))
    amidst(ledger, fleet)
    lines[leader].go_silent()
    try:
        silent, since = time.monotonic(), datetime.now(UTC)
        wait_for(lambda: not leader.leads(), DURATION + MARGIN, what="the leader to stop by itself")
        gap = leads_after(follower, silent)
        fleet.right(fleet.frozen(86))
        before, after = fleet.versions(), Ledger(cluster.cp)
    finally:
        lines[leader].deliver()
    all_arrived(cluster.cp)
    assert_quiet(cluster.cp, leader, follower)
    print(f"led again after {gap:.1f} s; {ledger}; since it was heard again: {after}")
    assert logged(leader, "no longer leading", since) < logged(follower, "leading", since), "never two at once"
    assert fleet.versions() == before
    assert after.lost_races() <= UNDER_WAY
    assert max(ledger.writes().values()) == 1
    assert follower.leads()
    for watchman in watchmen:
        watchman.assert_well()


def stranger(client: Client, off: timedelta, transitions: int) -> None:
    """Somebody whose clock is off takes or renews the Lease."""
    now = (datetime.now(UTC) + off).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {
        "holderIdentity": "stranger",
        "leaseDurationSeconds": DURATION,
        "acquireTime": now,
        "renewTime": now,
        "leaseTransitions": transitions,
    }
    client.patch("leases", NAME, {"spec": spec}, NAMESPACE)


def test_clocks_that_are_hours_off_change_nothing(
    cluster: Installation, fleet: Fleet, replicas: tuple[Replica, Replica]
) -> None:
    client = cluster.cp.client
    transitions = client.get("leases", NAME, NAMESPACE)["spec"]["leaseTransitions"] + 1
    before = fleet.versions()
    for _ in range(6):  # it lives, whatever its clock says: by that, its Lease has long expired
        stranger(client, timedelta(hours=-1), transitions)
        time.sleep(2)
        assert not any(replica.leads() for replica in replicas)
    stranger(client, timedelta(hours=1), transitions)
    gone = time.monotonic()  # and is not waited for an hour
    wait_for(lambda: any(replica.leads() for replica in replicas), DURATION + MARGIN, what="a leader")
    gap = time.monotonic() - gone
    print(f"led again {gap:.1f} s after the last renewal by a clock that is an hour ahead")
    assert gap > DURATION - 1, "it had its time"
    wait_for(lambda: all_idle(*replicas), what="nothing to be left")
    assert fleet.versions() == before
    cluster.change_policy(policy(85))
    fleet.right(fleet.frozen(85), len(fleet.members) / RATE + MARGIN + 20)
