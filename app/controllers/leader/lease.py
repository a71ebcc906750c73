"""What a Lease says, and the patches that take, renew and release it."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from app.kube.client import Json


@dataclass(frozen=True, slots=True)
class LeaseTimings:
    """Seconds.

    After a crash nobody leads for at most `duration`: 10 s, not client-go's 15, as a write to one small object every
    2 s is no load. What leads stops 3 s before another may start, which is room for requests already sent.
    """

    duration: int = 10
    """For this long after a renewal that it saw, no replica takes the Lease from its holder."""
    deadline: float = 7.0
    """The holder stops leading when its last successful renewal was sent this long ago."""
    renew: float = 2.0
    request: float = 3.0
    """For one renewal, so that within the deadline a second one, on another connection, is tried."""
    stop: float = 5.0
    """For the duties to end when the process does."""
    release: float = 2.0
    restart: float = 5.0
    """Between duties that failed and their next start, doubled each time."""
    settled: float = 60.0
    """Duties that lived as long have been well; the longest pause, too."""

    def __post_init__(self) -> None:
        """Raise ValueError for timings by which two could lead at once."""
        if not 0 < self.renew < self.deadline < self.duration:
            raise ValueError(f"not 0 < renew < deadline < duration: {self}")


def elapsed() -> float:
    """Seconds that pass also while the machine sleeps, where it has such a clock, and that nobody sets back."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, slots=True)
class LeaseView:
    """What the Lease says; `holder` is empty where nobody has it, `renewed` where nobody ever had."""

    version: str
    holder: str
    renewed: str
    acquired: str
    duration: int
    transitions: int


def decode(item: Json) -> LeaseView:
    """Read a Lease."""
    spec = item.get("spec") or {}
    return LeaseView(
        item["metadata"]["resourceVersion"],
        spec.get("holderIdentity") or "",
        spec.get("renewTime") or "",
        spec.get("acquireTime") or "",
        spec.get("leaseDurationSeconds") or 0,
        spec.get("leaseTransitions") or 0,
    )


def claim(lease: LeaseView, identity: str, duration: int) -> Json:
    """The merge patch that takes `lease`, or renews it for its holder; refused (409) if somebody else wrote since.

    leaseTransitions are counted as client-go does: every change of the holder (tools/leaderelection).
    """
    mine, now = lease.holder == identity, _now()
    spec = {
        "holderIdentity": identity,
        "leaseDurationSeconds": duration,
        "acquireTime": (mine and lease.acquired) or now,
        "renewTime": now,
        "leaseTransitions": lease.transitions + (not mine),
    }
    return {"metadata": {"resourceVersion": lease.version}, "spec": spec}


def release(lease: LeaseView) -> Json:
    """The merge patch by which its holder gives up `lease`; what it writes is what client-go does."""
    now = _now()
    spec = {"holderIdentity": "", "leaseDurationSeconds": 1, "acquireTime": now, "renewTime": now}
    return {"metadata": {"resourceVersion": lease.version}, "spec": spec}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # MicroTime of apimachinery
