"""An HTTP server on loopback that answers by a function."""

import ssl
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

from app.tls.x509 import CertificateBundle

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class HttpRequest:
    """A request as it arrived; `path` includes the query, and the names of `headers` are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class HttpResponse:
    """A response; the server adds Content-Length."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Answer: TypeAlias = Callable[[HttpRequest], HttpResponse | None]
"""Gives the response to a request; None hangs up. It is called in a thread of the connection's own."""


class StandInHttpServer:
    """Serves HTTP while the context is open, or HTTPS if there is a certificate."""

    def __init__(self, answer: Answer, certificate: CertificateBundle | None = None) -> None:
        self._server = _Server((LOOPBACK, 0), _handler(answer))
        if certificate:
            # The handshake is the connection's: a client that never begins it must not hold up the others.
            self._server.socket = _tls_context(certificate).wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"{'https' if certificate else 'http'}://{LOOPBACK}:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # clients may keep their connections for longer than the test lasts

    def handle_error(self, request: object, client_address: object) -> None:
        """Show what `answer` raised; a client that went away, or that refused the certificate, is no error."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _tls_context(certificate: CertificateBundle) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:  # the ssl module reads files only
        pair = Path(folder, "pair.pem")
        pair.write_bytes(certificate.key_pem + certificate.cert_pem)
        context.load_cert_chain(pair)
    return context


def _handler(answer: Answer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            response = answer(HttpRequest(self.command, self.path, headers, body))
            if response is None:
                self.close_connection = True
                return
            with suppress(OSError):  # a client whose patience ended has gone
                self.send_response(response.status)
                for name, value in response.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(response.body)))
                self.end_headers()
                self.wfile.write(response.body)

        do_GET = do_POST = _respond  # noqa: N815 - the base class looks for these names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it that
            """Write nothing to the standard error."""

    return Handler
