"""A real uvicorn server on loopback, and clients that show what its TLS does."""

import http.client
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, Literal

import uvicorn

from app.tls.serving import ServingContext

LOOPBACK = "127.0.0.1"


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, *arguments: Any, **named: Any) -> None:
        await super().startup(*arguments, **named)
        self.listening.set()


@contextmanager
def server(
    serving: ServingContext, loop: Literal["asyncio", "uvloop"] = "asyncio", application: Any = _answer
) -> Iterator[int]:
    """Serve `application`, which says "ok", over TLS in a thread of its own; gives the port."""
    config = uvicorn.Config(
        application,
        host=LOOPBACK,
        port=0,
        loop=loop,
        lifespan="off",
        log_config=None,
        timeout_keep_alive=60,
        ssl_context_factory=serving.ssl_context_factory,
    )
    running = _Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        assert running.listening.wait(10)
        yield running.servers[0].sockets[0].getsockname()[1]
    finally:
        running.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def trusting(ca_pem: bytes, change: Callable[[ssl.SSLContext], None] = lambda context: None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca_pem.decode())
    change(context)
    return context


class Connection(http.client.HTTPSConnection):
    """One keep-alive connection, to the address, or by the name that the client expects."""

    def __init__(self, port: int, context: ssl.SSLContext, name: str | None = None) -> None:
        super().__init__(LOOPBACK, port, context=context, timeout=10)
        self._name = name or LOOPBACK
        self._trust = context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._trust.wrap_socket(self.sock, server_hostname=self._name)

    def status(self) -> int:
        """The status of one GET request on this connection."""
        self.request("GET", "/")
        response = self.getresponse()
        response.read()
        return response.status

    @property
    def tls(self) -> ssl.SSLSocket:
        assert isinstance(self.sock, ssl.SSLSocket)
        return self.sock

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate that this connection began with."""
        return sha256(self.tls.getpeercert(binary_form=True) or b"").hexdigest()
