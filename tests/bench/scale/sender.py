"""The bare client: sends many requests at once, or one again and again at a steady rate."""

import json
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tests.bench.rivals import RIVALS, LoadError
from tests.infra.controlplane.build import ensure

JSON = "application/json"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `body` is JSON."""

    method: str
    path: str
    body: Any
    type: str = JSON

    def line(self) -> bytes:
        """As the sender reads it."""
        fields = {"method": self.method, "path": self.path, "type": self.type, "body": self.body}
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


@dataclass(slots=True)
class Sent:
    """What came of it; latencies in milliseconds."""

    requests: int = 0
    seconds: float = 0.0
    per_second: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    uids: list[str] = field(default_factory=list, repr=False)

    def read(self, printed: bytes) -> None:
        """Take over what the sender printed; raises LoadError if any answer was wrong."""
        seen = json.loads(printed)
        if seen["failed"] or not seen["requests"]:
            raise LoadError(f"{seen['failed']} of {seen['failed'] + seen['requests']} failed: {seen.get('reason')}")
        self.requests, self.seconds, self.per_second = seen["requests"], seen["seconds"], seen["perSecond"]
        self.p50, self.p99, self.longest = (seen[f"{name}Milliseconds"] for name in ("p50", "p99", "max"))
        self.uids = seen.get("uids", [])


@dataclass(frozen=True, slots=True)
class Sender:
    """Requests to one API server with one token."""

    url: str
    ca: Path
    token: Path

    def send(
        self, requests: Iterable[Request], *, connections: int, accept: str = METADATA, uids: bool = False
    ) -> Sent:
        """Send each once; `uids`: keep the UIDs of the objects that come back, in the order of the requests."""
        command = self._command(connections, METADATA, *(["-uids"] if uids else []))
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            for request in requests:
                process.stdin.write(request.line())
            printed, _ = process.communicate()
        sent = Sent()
        sent.read(printed)
        return sent

    @contextmanager
    def trickle(self, request: Request, *, rate: float, expect: str, connections: int = 8) -> Iterator[Sent]:
        """Send one request at a steady rate until the block ends; what is yielded is filled in then."""
        command = self._command(connections, JSON, "-rate", str(rate), "-expect", expect)
        sent = Sent()
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            process.stdin.write(request.line())
            process.stdin.flush()
            try:
                yield sent
            finally:
                printed, _ = process.communicate()  # closes its standard input, at which it ends
        sent.read(printed)

    def _command(self, connections: int, accept: str, *flags: str) -> list[str]:
        target = ["-url", self.url, "-ca", str(self.ca), "-token", str(self.token)]
        return [str(ensure(RIVALS)["send"]), *target, "-connections", str(connections), "-accept", accept, *flags]
