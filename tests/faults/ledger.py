"""What the product sent to the API server, by the audit log, and what it cost the machine."""

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tests.bench.clocks import cpu_seconds
from tests.faults.fleet import Fleet
from tests.infra.controlplane import ControlPlane, Json, wait_for
from tests.infra.installation import WEBHOOK_USER, Replica

_RACE_LOST = (409, 422)


@dataclass
class Ledger:
    """Everything that was answered since it was opened."""

    cp: ControlPlane
    since: int = field(init=False)
    opened: float = field(init=False)
    opened_at: datetime = field(init=False)

    def __post_init__(self) -> None:
        self.since, self.opened = self.cp.audit_position(), time.monotonic()
        self.opened_at = datetime.now(UTC)

    def seconds_to_first_patch(self) -> float:
        """How long after the opening the first PATCH of a pod reached the API server, by the API server's clock."""
        received = min(datetime.fromisoformat(one["requestReceivedTimestamp"]) for one in self.patches())
        return (received - self.opened_at) / timedelta(seconds=1)

    def patches(self) -> list[Json]:
        """The product's PATCHes of pods."""
        return self.cp.audit_events(since=self.since, user=WEBHOOK_USER, verb="patch", resource="pods")

    def writes(self) -> Counter[tuple[str, str]]:
        """Those that changed something, by Namespace and name of the pod."""
        return Counter(_pod(one) for one in self.patches() if _code(one) == 200)

    def answers(self) -> Counter[int]:
        """Those PATCHes by status code."""
        return Counter(map(_code, self.patches()))

    def lost_races(self) -> int:
        """Those that somebody else was faster than."""
        return sum(count for code, count in self.answers().items() if code in _RACE_LOST)

    def requests(self) -> Counter[str]:
        """All that the product asked for, by verb and resource."""
        events = self.cp.audit_events(since=self.since, user=WEBHOOK_USER)
        return Counter(f"{one['verb']} {one.get('objectRef', {}).get('resource', '?')}" for one in events)

    def __str__(self) -> str:
        answers, requests = dict(self.answers()), dict(self.requests())
        return f"after {time.monotonic() - self.opened:.1f} s: PATCHes of pods by status {answers}; all {requests}"


def _pod(event: Json) -> tuple[str, str]:
    return event["objectRef"]["namespace"], event["objectRef"]["name"]


def _code(event: Json) -> int:
    return int(event["responseStatus"]["code"])


def amidst(ledger: Ledger, fleet: Fleet, share: float = 0.1) -> None:
    """Wait until a part of the fleet has been written to, and make sure that another part has not."""
    wait_for(lambda: len(ledger.writes()) >= share * len(fleet.members), what="a change on its way")
    assert len(ledger.writes()) < len(fleet.members), "or the fault would come too late"


def all_arrived(cp: ControlPlane, still: float = 2.0) -> None:
    """Return when no PATCH of a pod was answered for a while.

    What a leader had under way when it lost its office arrives later: it is answered with 422 because somebody else
    wrote meanwhile, or with 504 because its sender gave it up.
    """
    ledger, answered, since = Ledger(cp), 0, time.monotonic()

    def silent() -> bool:
        nonlocal answered, since
        now_answered = len(ledger.patches())
        if now_answered != answered:
            answered, since = now_answered, time.monotonic()
        return time.monotonic() - since >= still

    wait_for(silent, what="what was under way to arrive")


def assert_quiet(cp: ControlPlane, *replicas: Replica, seconds: float = 3.0, a_second: float = 6.0) -> None:
    """No pod is written, little is asked for, and hardly any CPU time goes while nothing happens.

    Where a leader lost its office, `all_arrived` comes before. `a_second`: requests of each replica; watches that were
    lost may still come back. Events are not counted: they follow at their own bounded rate.
    """
    ledger, before = Ledger(cp), {replica: cpu_seconds(replica.process.pid) for replica in replicas}
    time.sleep(seconds)  # the length of a measurement, not a wait
    requests = ledger.requests()
    assert requests["patch pods"] == 0, ledger
    asked = sum(count for what, count in requests.items() if not what.endswith(" events"))
    assert asked <= a_second * len(replicas) * seconds, ledger
    for replica, spent in before.items():
        used = cpu_seconds(replica.process.pid) - spent
        assert used < seconds / 4, f"{replica.process.name} used {used:.2f} s of CPU in {seconds} s of rest"


@dataclass
class Watchman:
    """Sees that a process lives through a test, and does not spin meanwhile."""

    replica: Replica
    pid: int = field(init=False)
    cpu: float = field(init=False)
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.pid = self.replica.process.pid
        self.cpu, self.started = cpu_seconds(self.pid), time.monotonic()

    def assert_well(self, *, busiest: float = 0.5) -> None:
        """The same process answers /livez, and used at most the share `busiest` of one CPU since the start."""
        process = self.replica.process
        assert process.alive, process.log_tail()
        assert process.pid == self.pid
        assert self.replica.ops("/livez")[0] == 200
        share = (cpu_seconds(self.pid) - self.cpu) / (time.monotonic() - self.started)
        assert share < busiest, f"{process.name} used {share:.0%} of a CPU"
