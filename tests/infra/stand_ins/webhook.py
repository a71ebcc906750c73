"""Stand-ins for a webhook that misbehaves, and for a line to the API server that can go dead."""

import base64
import json
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from app.tls.x509 import Authority, new_ca, new_leaf, read_certificates, read_key
from tests.infra.controlplane import Client, Json
from tests.infra.installation import NAMESPACE

LOOPBACK = "127.0.0.1"
Answer: TypeAlias = Callable[[Json], tuple[int, bytes] | None]
"""From the `request` of a review to status and body; None hangs up."""


def allowing(request: Json, **response: object) -> tuple[int, bytes]:
    """The review that allows the request, with these fields of `response` besides or instead."""
    whole = {"uid": request["uid"], "allowed": True, **response}
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": whole}
    return 200, json.dumps(review).encode()


def patching(request: Json, patch: bytes) -> tuple[int, bytes]:
    """The review that allows the request with this as its JSONPatch."""
    return allowing(request, patchType="JSONPatch", patch=base64.b64encode(patch).decode())


def installed_ca(client: Client) -> Authority:
    """The CA that the API server trusts because the webhook's replicas share it."""
    data = client.get("secrets", "vm-consistency-certs", NAMESPACE)["data"]
    certificate, key = (base64.b64decode(data[name]) for name in ("ca.crt", "ca.key"))
    return Authority(read_certificates(certificate)[0], read_key(key, "ca.key"))  # type: ignore[arg-type]


def other_ca() -> Authority:
    """A CA that nobody trusts."""
    return new_ca(datetime.now(UTC))


class StandInWebhook:
    """Serves HTTPS on loopback while the context is open, and answers reviews of pods that have an owner by `answer`.

    Pods without an owner are probes: they are allowed, and counted in `probes`.
    """

    def __init__(self, folder: Path, authority: Authority, answer: Answer) -> None:
        self.probes = 0
        self.answered: list[str] = []
        """The uids of the reviews that `answer` has answered."""
        leaf = new_leaf(authority, [LOOPBACK], datetime.now(UTC))
        pair = folder / "stand-in.pem"
        pair.write_bytes(leaf.key_pem + leaf.cert_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair)
        self._answer = answer
        self._server = ThreadingHTTPServer((LOOPBACK, 0), self._handler())
        self._server.daemon_threads = True  # kept connections of the API server outlive the test
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"https://{LOOPBACK}:{self._server.server_port}/mutate/pods"

    def __enter__(self) -> "StandInWebhook":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _respond(self, request: Json) -> tuple[int, bytes] | None:
        if not request["object"]["metadata"].get("ownerReferences"):
            self.probes += 1
            return allowing(request)
        self.answered.append(request["uid"])
        return self._answer(request)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        respond = self._respond

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                answer = respond(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"])
                if answer is None:
                    self.close_connection = True
                    return
                with suppress(OSError):  # who had to wait too long has gone
                    self.send_response(answer[0])
                    self.send_header("Content-Length", str(len(answer[1])))
                    self.end_headers()
                    self.wfile.write(answer[1])

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it that
                pass

        return Handler
