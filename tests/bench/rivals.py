"""The rivals and the load generator, built like the parts of the control plane."""

import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

from tests.controlplane.build import Part, ensure

RIVALS = Part(
    "rivals",
    Path(__file__).parent / "rivals",
    {"controllerruntime": "./controllerruntime", "sameanswer": "./sameanswer", "load": "./load"},
)

CONNECTIONS = 8


class LoadError(Exception):
    """Some answers were not what they should be, so the figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of the load generator measured; latencies, and CPU time per request, in milliseconds.

    `elsewhere` is the share of the machine's CPU time that processes took which have no part in the run: what others do
    on a shared machine is noise here.
    """

    per_second: float
    p50: float
    p99: float
    cpu: float
    elsewhere: float


@dataclass(frozen=True, slots=True)
class Target:
    """A POST that is sent again and again; `expect` stands in every good answer."""

    url: str
    body: Path
    ca: Path
    expect: str
    token: Path | None = None

    def load(self, servers: Iterable[int], seconds: float, warm_up: float) -> Load:
        """Send it over CONNECTIONS connections for `seconds`; `servers` are the processes whose CPU time counts.

        Raises LoadError if any answer was wrong.
        """
        token = ["-token", str(self.token)] if self.token else []
        command = [
            str(ensure(RIVALS)["load"]),
            *("-url", self.url, "-body", str(self.body), "-ca", str(self.ca), "-expect", self.expect, *token),
            *("-connections", str(CONNECTIONS), "-warm-up", f"{warm_up}s", "-duration", f"{seconds}s"),
        ]
        pids = list(servers)
        before = _Clocks.read(pids)
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        used = _Clocks.read(pids).since(before)
        seen = json.loads(ran.stdout)
        if seen["failed"] or not seen["requests"]:
            raise LoadError(
                f"{self.url}: {seen['failed']} of {seen['failed'] + seen['requests']}: {seen.get('reason')}"
            )
        latencies = (seen["p50Milliseconds"], seen["p99Milliseconds"])
        return Load(seen["perSecond"], *latencies, used.servers * 1000 / seen["sent"], used.elsewhere)


@dataclass(frozen=True, slots=True)
class _Clocks:
    """CPU time in seconds."""

    servers: float
    generator: float
    machine: float
    """Of all processes, and of the host's that keep this machine waiting (steal)."""
    idle: float

    @classmethod
    def read(cls, servers: Iterable[int]) -> "_Clocks":
        second = os.sysconf("SC_CLK_TCK")
        # proc(5): utime and stime are fields 14 and 15 of stat; the machine's first line is user nice system idle
        # iowait irq softirq steal.
        stats = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in servers)
        processes = sum(int(fields[11]) + int(fields[12]) for fields in stats)
        user, nice, system, idle, iowait, irq, softirq, steal, *_ = map(
            int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        )
        children = os.times()
        busy = user + nice + system + irq + softirq + steal
        generator = children.children_user + children.children_system
        return cls(processes / second, generator, busy / second, (idle + iowait) / second)

    def since(self, before: "_Clocks") -> "_Clocks":
        return _Clocks(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))

    @property
    def elsewhere(self) -> float:
        """The share that neither the servers nor the load generator took."""
        others = self.machine - self.servers - self.generator
        return max(0.0, others / (self.machine + self.idle))
