"""What the product sees of the cluster is cut off, too old to go on from, or no longer to be had."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.apiserver.pods import LEVEL
from tests.faults.fleet import Fleet, crashed, frozen, policy
from tests.faults.ledger import Ledger
from tests.infra.controlplane import Client, ControlPlane, wait_for
from tests.infra.installation import NAME, Installation, Replica
from tests.infra.tcp_line import Line

pytestmark = pytest.mark.usefixtures("well")

CHOSEN = [("team-a", f"vm-{number}") for number in range(10)]
"""The VirtualMachines that ask for something else."""


@pytest.fixture(autouse=True)
def _as_before(cluster: Installation) -> Iterator[None]:
    yield
    ask(cluster.cp.client, None)


def ask(client: Client, level: str | None) -> None:
    change = {"metadata": {"annotations": {LEVEL: level}}}
    with ThreadPoolExecutor(len(CHOSEN)) as pool:  # while replicas are paused, each waits for the one that validates
        list(pool.map(lambda one: client.patch("virtualmachines", one[1], change, one[0]), CHOSEN))


def asked_for_crash(namespace: str, name: str) -> dict[str, str]:
    return crashed("vm") if (namespace, name) in CHOSEN else frozen(namespace, name, 60)


def test_every_connection_is_cut_again_and_again(
    cluster: Installation, fleet: Fleet, replicas: tuple[Replica, Replica], lines: dict[Replica, Line]
) -> None:
    client, ledger, began = cluster.cp.client, Ledger(cluster.cp), time.monotonic()
    calls = sum(lines[replica].calls for replica in replicas)
    for round_ in range(6):
        for replica in replicas:
            lines[replica].cut()
        if round_ == 3:
            ask(client, "crash")
        time.sleep(1)  # between two cuts
    fleet.right(asked_for_crash)
    called = sum(lines[replica].calls for replica in replicas) - calls
    print(f"6 cuts; right after {time.monotonic() - began:.1f} s, {called} connections; {ledger}")
    assert set(ledger.writes()) <= set(CHOSEN), "one whose answer was cut off counts as failed"
    assert max(ledger.writes().values()) == 1
    assert called <= 6 * 2 * 24, "ten watches and a few requests of each replica"


def test_history_is_compacted_behind_a_lost_watch(
    cluster: Installation, fleet: Fleet, replicas: tuple[Replica, Replica]
) -> None:
    client, ledger = cluster.cp.client, Ledger(cluster.cp)
    logged = {replica: len(replica.log_lines()) for replica in replicas}
    for replica in replicas:
        replica.process.pause()  # so that the first that they notice of the loss is that it is too late
    try:
        ask(client, "crash")
        compact(cluster.cp)
        cluster.cp.apiserver.kill()  # or its cache would have what etcd has forgotten
        cluster.cp.apiserver.start()
        cluster.set_policy(policy(60))  # writes that lead the versions further away
    finally:
        for replica in replicas:
            replica.process.resume()
    woken = time.monotonic()
    fleet.right(asked_for_crash)
    print(f"right {time.monotonic() - woken:.1f} s after waking; {ledger}")
    for replica in replicas:
        expired = [line for line in replica.log_lines()[logged[replica] :] if "410 Expired" in line.get("error", "")]
        assert expired, replica.process.name
    assert set(ledger.writes()) == set(CHOSEN)
    assert max(ledger.writes().values()) == 1


def compact(cp: ControlPlane) -> None:
    flag = "--listen-client-urls="
    url = next(word.removeprefix(flag) for word in cp.etcd.command if word.startswith(flag))
    with httpx2.Client(base_url=url, trust_env=False) as etcd:
        revision = etcd.post("/v3/kv/range", json={"key": "AA=="}).json()["header"]["revision"]
        etcd.post("/v3/kv/compaction", json={"revision": revision, "physical": True}).raise_for_status()


@pytest.fixture
def blinded(cluster: Installation, replicas: tuple[Replica, Replica], lines: dict[Replica, Line]) -> Iterator[None]:
    """VirtualMachines and instances may be neither listed nor watched any more; all else goes on."""
    client = cluster.cp.client
    rules = client.get("clusterroles", NAME)["rules"]
    fewer = [{**rule, "verbs": ["get"]} if "virtualmachines" in rule["resources"] else rule for rule in rules]
    client.patch("clusterroles", NAME, {"rules": fewer})
    for replica in replicas:
        lines[replica].cut()
    yield
    client.patch("clusterroles", NAME, {"rules": rules})


def stale_seconds(replica: Replica) -> float:
    return replica.metric("vm_consistency_store_stale_seconds", resource="virtualmachines.kubevirt.io")


def test_nothing_is_decided_on_a_picture_older_than_half_a_minute(
    cluster: Installation, fleet: Fleet, leader: Replica, blinded: None, request: pytest.FixtureRequest
) -> None:
    cluster.change_policy(policy(61))
    fleet.right(fleet.frozen(61))
    assert stale_seconds(leader) < 30, "a gap such as any reconnect has stops nobody"
    wait_for(lambda: stale_seconds(leader) > 31, 60, what="the picture to be too old", interval=0.5)
    before, ledger = fleet.versions(), Ledger(cluster.cp)
    cluster.change_policy(policy(62))
    wait_for(lambda: leader.metric("vm_consistency_reconcile_backlog") > 0, what="the change to be under way")
    time.sleep(3)  # in which all would be written
    assert (fleet.versions(), ledger.patches()) == (before, [])
    assert leader.leads()
    rules = cluster.cp.client.get("clusterroles", NAME)["rules"]
    full = [
        {**rule, "verbs": ["get", "list", "watch"]} if "virtualmachines" in rule["resources"] else rule
        for rule in rules
    ]
    cluster.cp.client.patch("clusterroles", NAME, {"rules": full})
    allowed = time.monotonic()
    fleet.right(fleet.frozen(62))
    print(f"right {time.monotonic() - allowed:.1f} s after it may look again; {ledger}")
    assert max(ledger.writes().values()) == 1
