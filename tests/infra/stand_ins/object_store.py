"""A stand-in for the object store that Velero's download URLs lead to, and what lies in it."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Mapping

from app.tls.x509 import CertificateBundle
from tests.infra.stand_ins.http_server import HttpRequest, HttpResponse, StandInHttpServer


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


class StandInStore(StandInHttpServer):
    """Serves `files` by path on loopback while the context is open; what is not among them is 404.

    A value is what is sent, after a status if it isn't 200. The content of a redirect is its Location.
    """

    def __init__(self, certificate: CertificateBundle | None = None) -> None:
        super().__init__(self._answer, certificate)
        self.files: dict[str, bytes | tuple[int, bytes]] = {}
        self.asked: list[str] = []
        """The paths of the requests so far."""

    def _answer(self, request: HttpRequest) -> HttpResponse:
        path = request.path.partition("?")[0].lstrip("/")
        self.asked.append(path)
        found = self.files.get(path, (404, b"<Error><Code>NoSuchKey</Code></Error>"))
        status, content = found if isinstance(found, tuple) else (200, found)
        if 300 <= status < 400:
            return HttpResponse(status, headers={"Location": content.decode()})
        return HttpResponse(status, content)
