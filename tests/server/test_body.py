"""Bodies that come slowly, or from many at once, or never to an end."""

import asyncio
import json
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from app.admission.review import MAX_REVIEW_BYTES
from app.server.body import Budget
from app.server.http import AdmissionServer
from app.server.metrics import Metrics
from tests.infra.controlplane import wait_for
from tests.kube.support import eventually
from tests.server.process import post, served
from tests.server.support import Endpoint, make_review
from tests.tls.https import LOOPBACK

BODY = json.dumps(make_review()).encode()


class Call:
    """One request to the application, of which a test gives the body piece by piece."""

    def __init__(self, server: AdmissionServer, **headers: str) -> None:
        self.pieces: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.reads = 0
        self.answers: list[dict[str, Any]] = []
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/mutate/pods", "headers": raw, "query_string": b""}
        self.task = asyncio.create_task(self._run(server, scope))

    async def _run(self, server: AdmissionServer, scope: dict[str, Any]) -> None:
        await server.app(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        self.reads += 1
        return await self.pieces.get()

    async def _send(self, message: Any) -> None:
        self.answers.append(message)

    def give(self, body: bytes, *, more: bool = True) -> None:
        self.pieces.put_nowait({"type": "http.request", "body": body, "more_body": more})

    async def answer(self) -> tuple[int, bytes | None]:
        """Status, and what the header Connection says."""
        async with asyncio.timeout(5):
            await self.task
        start = self.answers[0]
        return start["status"], dict(start["headers"]).get(b"connection")


def server_of(metrics: Metrics, *, deadline: float = 5.0, budget: Budget | None = None) -> AdmissionServer:
    return AdmissionServer(Endpoint().server._mutator, metrics, deadline, budget)


def errors(metrics: Metrics, kind: str) -> float | None:
    return metrics.registry.get_sample_value("vm_consistency_errors_total", {"kind": kind})


async def test_a_body_announced_too_large_is_refused_unread() -> None:
    metrics = Metrics()
    call = Call(server_of(metrics), content_length=str(MAX_REVIEW_BYTES + 1))

    assert (await call.answer())[0] == 413
    assert call.reads == 0
    assert errors(metrics, "too-large") == 1


@pytest.mark.parametrize("begun", [True, False])
async def test_a_body_that_does_not_come_to_an_end_is_given_up(begun: bool) -> None:
    metrics, budget = Metrics(), Budget(100)
    call = Call(server_of(metrics, deadline=0.05, budget=budget))
    if begun:
        call.give(b"{")

    assert await call.answer() == (408, b"close")
    assert errors(metrics, "timeout") == 1
    assert budget.left == 100


async def test_all_bodies_together_have_a_bound_and_an_end_makes_room() -> None:
    metrics, budget = Metrics(), Budget(len(BODY) + 100)
    server = server_of(metrics, budget=budget)
    first = Call(server)
    first.give(b" " * 101)
    await eventually(lambda: budget.left < len(BODY))

    second = Call(server)
    second.give(BODY, more=False)
    assert await second.answer() == (503, b"close")
    assert errors(metrics, "busy") == 1

    first.give(b"nonsense", more=False)
    assert (await first.answer())[0] == 400
    third = Call(server)
    third.give(BODY, more=False)
    assert (await third.answer())[0] == 200
    assert budget.left == len(BODY) + 100


async def test_a_caller_that_hangs_up_gives_back_what_it_held() -> None:
    budget = Budget(1000)
    call = Call(server_of(Metrics(), budget=budget))
    call.give(b" " * 500)
    call.pieces.put_nowait({"type": "http.disconnect"})

    assert (await call.answer())[0] == 400
    assert budget.left == 1000


def test_half_sent_bodies_do_not_fill_the_memory(tmp_path: Path) -> None:
    with served(tmp_path, DEADLINE="1") as webhook:
        context = ssl.create_default_context(cafile=str(webhook.certs / "ca.crt"))
        before = resident(webhook.ops("/metrics")[1])
        held = []
        for _ in range(24):
            raw = socket.create_connection((LOOPBACK, webhook.port.number))
            held.append(context.wrap_socket(raw, server_hostname=LOOPBACK))
            head = f"POST /mutate/pods HTTP/1.1\r\nHost: webhook\r\nContent-Length: {MAX_REVIEW_BYTES}\r\n\r\n"
            try:
                held[-1].sendall(head.encode() + b" " * (MAX_REVIEW_BYTES - 100_000))
            except OSError:
                continue  # refused while it was still sending
        peak = resident(webhook.ops("/metrics")[1])

        wait_for(lambda: answers(webhook), 5, what="an answer to an honest client")
        for one in held:
            one.close()
        assert peak - before < 110 * 2**20


def answers(webhook: Any) -> bool:
    connection = webhook.connection()
    try:
        return post(connection, BODY)[0] == 200
    finally:
        connection.close()


def resident(metrics: str) -> float:
    [line] = [line for line in metrics.splitlines() if line.startswith("process_resident_memory_bytes")]
    return float(line.split()[1])


def test_both_address_families_are_served(tmp_path: Path) -> None:
    """The default host: a pod of a cluster whose first family is IPv6 is probed and called there."""
    with served(tmp_path, HOST="") as webhook:
        for address in ("127.0.0.1", "::1"):
            for port in (webhook.port.number, webhook.ops_port.number):
                socket.create_connection((address, port), timeout=5).close()
