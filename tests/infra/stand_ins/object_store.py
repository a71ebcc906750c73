"""A stand-in for the object store that Velero's download URLs lead to, and what lies in it."""

import gzip
import io
import json
import tarfile
import threading
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from types import TracebackType

from app.tls.x509 import CertificateBundle

LOOPBACK = "127.0.0.1"


def archive(objects: Mapping[str, object], *, names: Iterable[str] = ()) -> bytes:
    """A backup's contents: objects by `RESOURCE/NAMESPACE/NAME`, each under both of the paths that Velero gives it.

    `names` are further members, empty ones.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for key, obj in objects.items():
            resource, namespace, name = key.split("/")
            for folder in (resource, f"{resource}/v1-preferredversion"):
                _add(tar, f"resources/{folder}/namespaces/{namespace}/{name}.json", json.dumps(obj).encode())
        for path in names:
            _add(tar, path, b"")
    return packed.getvalue()


def _add(tar: tarfile.TarFile, path: str, content: bytes) -> None:
    member = tarfile.TarInfo(path)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def log_file(lines: Iterable[str]) -> bytes:
    """A backup's log."""
    return gzip.compress("".join(lines).encode())


class StandInStore:
    """Serves `files` by path on loopback while the context is open; what is not among them is 404.

    A value is what is sent, after a status if it isn't 200, and with the Location of a redirect as its content.
    """

    def __init__(self, folder: Path | None = None, certificate: CertificateBundle | None = None) -> None:
        self.files: dict[str, bytes | tuple[int, bytes]] = {}
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer((LOOPBACK, 0), self._handler())
        self._server.daemon_threads = True
        scheme = "http"
        if folder and certificate:
            scheme = "https"
            pair = folder / "store.pem"
            pair.write_bytes(certificate.key_pem + certificate.cert_pem)
            context = SSLContext(PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{scheme}://{LOOPBACK}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "StandInStore":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0].lstrip("/")
                store.asked.append(path)
                found = store.files.get(path, (404, b"<Error><Code>NoSuchKey</Code></Error>"))
                status, content = found if isinstance(found, tuple) else (200, found)
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", content.decode())
                    content = b""
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                """Nothing: tests look at `asked`."""

        return Handler
