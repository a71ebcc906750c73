"""The clock of the machine jumps while the product runs: an hour ahead, then an hour back."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.faults.fleet import Fleet, policy
from tests.faults.ledger import Ledger, assert_quiet
from tests.infra.controlplane import Client, wait_for
from tests.infra.installation import NAME, NAMESPACE, ROOT, Installation, Replica

pytestmark = pytest.mark.usefixtures("well")

HOUR = 3600

# Stands in for the machine's clock: both ways in which Python code asks for the time of day. Python reads this file at
# its start (documentation of the module `site`).
STAND_IN_CLOCK = """
import datetime, pathlib, time

_time, _file = time.time, pathlib.Path({file!r})

def off():
    return float(_file.read_text() or 0)

class Jumping(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=off())

time.time = lambda: _time() + off()
datetime.datetime = Jumping
"""


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the seconds by which the replicas' clocks are off."""
    file = tmp_path_factory.mktemp("clock") / "off"
    file.write_text("0")
    return file


@pytest.fixture(scope="module")
def settings(clock: Path) -> dict[str, str]:
    (clock.parent / "sitecustomize.py").write_text(STAND_IN_CLOCK.format(file=str(clock)))
    return {"PYTHONPATH": f"{clock.parent}:{ROOT}", "VM_CONSISTENCY_RECONCILE_RATE": "0"}


def shown(client: Client) -> float:
    """By how many seconds the last renewal of the Lease is in the future."""
    renewed = datetime.fromisoformat(client.get("leases", NAME, NAMESPACE)["spec"]["renewTime"])
    return (renewed - datetime.now(UTC)) / timedelta(seconds=1)


@pytest.mark.parametrize(("jump", "timeout"), [(HOUR, 31), (-HOUR, 32)], ids=["ahead", "back"])
def test_a_jump_changes_nothing(
    cluster: Installation,
    fleet: Fleet,
    replicas: tuple[Replica, Replica],
    leader: Replica,
    clock: Path,
    jump: int,
    timeout: int,
) -> None:
    client, ledger = cluster.cp.client, Ledger(cluster.cp)
    lease = client.get("leases", NAME, NAMESPACE)["spec"]
    logged = {replica: len(replica.log_lines()) for replica in replicas}
    try:
        clock.write_text(str(jump))
        wait_for(lambda: abs(shown(client) - jump) < HOUR / 10, what="a renewal by the other time")
        assert_quiet(cluster.cp, *replicas)
        assert ledger.patches() == []
        cluster.change_policy(policy(timeout))
        fleet.right(fleet.frozen(timeout))  # and not in an hour
    finally:
        clock.write_text("0")
    wait_for(lambda: abs(shown(client)) < HOUR / 10, what="a renewal by the true time")
    assert leader.leads()
    assert client.get("leases", NAME, NAMESPACE)["spec"]["leaseTransitions"] == lease["leaseTransitions"]
    assert max(ledger.writes().values()) == 1
    for replica in replicas:
        assert replica.is_ready()
        lines = replica.log_lines()[logged[replica] :]
        assert [line for line in lines if line["severity"] not in ("info", "debug")] == []
