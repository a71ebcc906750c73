"""CPU time, and memory, of processes of this machine."""

import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process since its start."""
    # proc(5): utime and stime are fields 14 and 15 of stat.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident(pid: int) -> float:
    """The resident set of a process in MB (10^6 bytes)."""
    return _memory(pid, "VmRSS")


def peak(pid: int) -> float:
    """The largest that the resident set ever was, in MB."""
    return _memory(pid, "VmHWM")


def _memory(pid: int, field: str) -> float:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields[field].split()[0]) * 1024 / 1e6


@dataclass(frozen=True, slots=True)
class Clocks:
    """CPU time in seconds, at one moment or between two."""

    servers: float
    """Of the processes that take part in what is measured."""
    children: float
    """Of the processes that this one has started and waited for, such as a load generator, and its own."""
    machine: float
    """Of all processes, and of the host's that keep this machine waiting (steal)."""
    idle: float

    @classmethod
    def read(cls, servers: Iterable[int]) -> "Clocks":
        """Now; `servers` are process ids."""
        # proc(5): the machine's first line is user nice system idle iowait irq softirq steal.
        user, nice, system, idle, iowait, irq, softirq, steal, *_ = map(
            int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        )
        own = os.times()
        busy = user + nice + system + irq + softirq + steal
        processes = sum(map(cpu_seconds, servers))
        children = own.children_user + own.children_system + own.user + own.system
        return cls(processes, children, busy / _TICKS, (idle + iowait) / _TICKS)

    def since(self, before: "Clocks") -> "Clocks":
        """What passed from `before` to this one."""
        return Clocks(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))

    @property
    def elsewhere(self) -> float:
        """The share of the machine that neither the servers nor the children took: noise."""
        others = self.machine - self.servers - self.children
        return max(0.0, others / (self.machine + self.idle))
