"""The webhook as a process of its own, without a cluster, and HTTPS connections to it."""

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPMessage
from pathlib import Path
from typing import Any

from app.tls.__main__ import write
from tests.infra.controlplane import Port, Process
from tests.infra.factories import policy_text
from tests.tls.https import LOOPBACK, Connection

ROOT = Path(__file__).parents[2]
_LOOKS_OFTEN = """
from functools import partial
from app.__main__ import main
from app.server import standalone
standalone.PolicyFile = partial(standalone.PolicyFile, period=0.1)
standalone.FileSource = partial(standalone.FileSource, poll=0.1)
main()
"""
"""`python -m app`, but it looks at its files ten times a second."""


class Served:
    """`serve --policy FILE --certs DIR` below one folder, with further `options`."""

    def __init__(
        self, folder: Path, port: Port, ops_port: Port, options: Sequence[str | Path], env: Mapping[str, str]
    ) -> None:
        self.port, self.ops_port = port, ops_port
        self.policy, self.certs = folder / "policy.yaml", folder / "certs"
        self._ops = f"http://{LOOPBACK}:{ops_port}"
        write(self.certs, [LOOPBACK])
        self.write_policy(default={"level": "filesystem"})
        settings = {"HOST": LOOPBACK, "PORT": str(port), "OPS_PORT": str(ops_port), **env}
        self.process = Process(
            "webhook",
            [sys.executable, "-c", _LOOKS_OFTEN, "serve", "--policy", self.policy, "--certs", self.certs, *options],
            folder / "log",
            ready=lambda: self.ops("/readyz")[0] == 200,
            env={**os.environ, **{f"VM_CONSISTENCY_{name}": value for name, value in settings.items()}},
        )

    def write_policy(self, text: str | None = None, **fields: Any) -> None:
        """Replace the policy as a whole, as a mounted ConfigMap does."""
        fresh = self.policy.with_suffix(".new")
        fresh.write_text(policy_text(**fields) if text is None else text)
        fresh.rename(self.policy)

    def connection(self) -> Connection:
        """A connection that trusts the CA in the folder."""
        return Connection(self.port.number, ssl.create_default_context(cafile=str(self.certs / "ca.crt")))

    def ops(self, path: str) -> tuple[int, str]:
        """Status and text of a path of the plain port."""
        try:
            with urllib.request.urlopen(f"{self._ops}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def shows(self, sample: str) -> bool:
        """Whether /metrics has this line."""
        return sample in self.ops("/metrics")[1].splitlines()

    def log(self) -> list[dict[str, Any]]:
        """The lines of the log, each of which must be a JSON object."""
        return [json.loads(line) for line in self.process.log.read_text().splitlines()]


@contextmanager
def served(folder: Path, *, start: bool = True, options: Sequence[str | Path] = (), **env: str) -> Iterator[Served]:
    """A process with `VM_CONSISTENCY_*` settings, ready on entry if it is to be started, and ended at the end."""
    port, ops_port = Port(), Port()
    try:
        webhook = Served(folder, port, ops_port, options, env)
        if start:
            webhook.process.start()
        try:
            yield webhook
        finally:
            webhook.process.kill()
    finally:
        port.release()
        ops_port.release()


def post(connection: Connection, body: bytes) -> tuple[int, str, HTTPMessage]:
    """Status, text and headers of the answer on a connection that may be kept."""
    connection.request("POST", "/mutate/pods", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.headers
