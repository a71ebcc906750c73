"""The rivals and the load generator, built like the parts of the control plane."""

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.clocks import Clocks
from tests.infra.controlplane.build import PARTS, ensure

RIVALS = PARTS["rivals"]

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
        before = Clocks.read(pids)
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        used = Clocks.read(pids).since(before)
        seen = json.loads(ran.stdout)
        if seen["failed"] or not seen["requests"]:
            raise LoadError(
                f"{self.url}: {seen['failed']} of {seen['failed'] + seen['requests']}: {seen.get('reason')}"
            )
        latencies = (seen["p50Milliseconds"], seen["p99Milliseconds"])
        return Load(seen["perSecond"], *latencies, used.servers * 1000 / seen["sent"], used.elsewhere)
