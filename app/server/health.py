"""The plain side: liveness, readiness and metrics, independent of the certificate."""

from collections.abc import Callable, Mapping

from fastapi import Request
from fastapi.responses import PlainTextResponse, Response

from app.server.http import bare_app
from app.server.metrics import CONTENT_TYPE, Metrics

Check = Callable[[], str | None]
"""Returns what is wrong, in one line, or None."""


class OpsServer:
    """`/livez`, `/readyz` and `/metrics`."""

    def __init__(self, checks: Mapping[str, Check], notes: Mapping[str, Check], metrics: Metrics) -> None:
        """`checks` decide readiness; `notes` are shown beside them and decide nothing."""
        self._checks = checks
        self._notes = notes
        self._metrics = metrics
        self.app = bare_app()
        self.app.add_route("/livez", self.livez)
        self.app.add_route("/readyz", self.readyz)
        self.app.add_route("/metrics", self.metrics)

    def problems(self) -> dict[str, str]:
        """Return every check that fails, with what is wrong."""
        return {name: problem for name, check in self._checks.items() if (problem := check())}

    async def livez(self, _: Request) -> Response:
        """`GET /livez`: 200 as long as the event loop turns, while draining too."""
        return PlainTextResponse("ok\n")

    async def readyz(self, _: Request) -> Response:
        """`GET /readyz`: a line for each check; 503 if one fails."""
        problems = self.problems()
        lines = [f"[-] {name}: {problems[name]}" if name in problems else f"[+] {name}" for name in self._checks]
        lines += [f"[!] {name}: {note}" for name, check in self._notes.items() if (note := check())]
        return PlainTextResponse("\n".join(lines) + "\n", 503 if problems else 200)

    async def metrics(self, _: Request) -> Response:
        """`GET /metrics` in Prometheus' text format."""
        return Response(self._metrics.exposition(), media_type=CONTENT_TYPE)
