"""A stand-in for the webhook that allows everything and remembers what it was asked."""

import json
import ssl
import threading
from base64 import b64encode
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from app.tls.x509 import new_ca, new_leaf

Request = dict[str, Any]


class RecordingWebhook:
    """Serves HTTPS on loopback while the context is open. `requests` are the AdmissionRequests so far, oldest first."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[Request] = []
        leaf = new_leaf(new_ca(datetime.now(UTC)), ["127.0.0.1"], datetime.now(UTC))
        pair = folder / "recorder.pem"
        pair.write_bytes(leaf.key_pem + leaf.cert_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True  # kept-alive connections of the API server outlive the test
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.client_config = {
            "url": f"https://127.0.0.1:{self._server.server_port}/mutate/pods",
            "caBundle": b64encode(leaf.ca_pem).decode(),
        }

    def __enter__(self) -> "RecordingWebhook":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        recorded = self.requests

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                recorded.append(review["request"])
                response = {"uid": review["request"]["uid"], "allowed": True}
                answer = json.dumps({**review, "request": None, "response": response}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it that
                pass

        return Handler
