"""The API server, or the etcd behind it, is away for a while, or has no time for us."""

import time

import pytest

from tests.faults.fleet import Fleet, policy
from tests.faults.ledger import Ledger, amidst
from tests.infra.controlplane import ControlPlane, wait_for
from tests.infra.installation import Installation, Replica
from tests.infra.tcp_line import Line

pytestmark = pytest.mark.usefixtures("well")


@pytest.fixture
def cp(cluster: Installation) -> ControlPlane:
    return cluster.cp


def test_killed_and_started_again_at_rest(
    cp: ControlPlane, fleet: Fleet, replicas: tuple[Replica, Replica], lines: dict[Replica, Line]
) -> None:
    before, ledger = fleet.versions(), Ledger(cp)
    calls = {replica: lines[replica].calls for replica in replicas}
    cp.apiserver.kill()
    time.sleep(5)  # the length of the outage
    tried = [lines[replica].calls - calls[replica] for replica in replicas]
    cp.apiserver.start()
    assert max(tried) <= 60, "attempts of some ten watches and controllers in five seconds"
    wait_for(lambda: any(replica.leads() for replica in replicas), what="a leader")
    print(f"attempts to connect while it was away: {tried}; {ledger}")
    assert fleet.versions() == before
    assert ledger.patches() == []


def test_killed_and_started_again_amidst_a_change(cluster: Installation, cp: ControlPlane, fleet: Fleet) -> None:
    ledger = Ledger(cp)
    cluster.set_policy(policy(91))
    amidst(ledger, fleet)
    cp.apiserver.kill()
    cp.apiserver.start()
    back = time.monotonic()
    fleet.right(fleet.frozen(91))
    print(f"all right {time.monotonic() - back:.1f} s after it was back; {ledger}")
    assert max(ledger.writes().values()) == 1
    assert ledger.lost_races() <= 8, "requests under way at once"


def test_etcd_stands_still_amidst_a_change(cluster: Installation, cp: ControlPlane, fleet: Fleet) -> None:
    ledger = Ledger(cp)
    cluster.set_policy(policy(92))
    amidst(ledger, fleet)
    cp.etcd.pause()
    time.sleep(8)  # the length of the outage, longer than a leader may go without renewing its Lease
    cp.etcd.resume()
    back = time.monotonic()
    fleet.right(fleet.frozen(92))
    print(f"all right {time.monotonic() - back:.1f} s after it was back; {ledger}")
    assert max(ledger.writes().values()) == 1
    assert ledger.lost_races() <= 16
