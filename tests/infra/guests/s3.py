"""An object store for Velero: moto's S3 server, which keeps everything in memory and checks no signatures.

It is installed into a virtual environment of its own in the cache folder: what it needs would disagree with what the
product needs.
"""

import io
import json
import tarfile
from gzip import decompress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.infra.controlplane import ControlPlane, Json
from tests.infra.controlplane.processes import accepts
from tests.infra.virtualenv import ensure_virtualenv

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
"""The lock of moto and what it needs."""

# Signatures are not checked, but nobody at all may not read what somebody has written.
_SOMEBODY = {"Authorization": "AWS any:any"}


class S3:
    """A server on loopback with one bucket; there once `process` was launched and `wait_ready` has returned."""

    bucket = "backups"

    def __init__(self, control_plane: ControlPlane) -> None:
        port = control_plane.port()
        self.url = f"http://127.0.0.1:{port}"
        self.process = control_plane.supervise(
            "s3",
            [ensure_moto(), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            ready=lambda: accepts(port),
        )

    def wait_ready(self) -> None:
        """Make the bucket as soon as the server answers."""
        self.process.wait_ready()
        with urlopen(Request(f"{self.url}/{self.bucket}", method="PUT"), timeout=30):
            pass

    def read(self, key: str) -> bytes:
        """An object's content. Raises KeyError where there is none."""
        try:
            with urlopen(Request(f"{self.url}/{self.bucket}/{key}", headers=_SOMEBODY), timeout=30) as answer:
                content: bytes = answer.read()
                return content
        except HTTPError as error:
            raise KeyError(f"{self.url}/{self.bucket}/{key}: {error}") from error

    def log(self, backup: str) -> str:
        """What Velero logged during a backup."""
        return decompress(self.read(f"backups/{backup}/{backup}-logs.gz")).decode()

    def contents(self, backup: str) -> dict[str, Json]:
        """The objects in a backup's tarball, by their path without `.json`: `resources/pods/namespaces/NS/NAME`."""
        archive = io.BytesIO(self.read(f"backups/{backup}/{backup}.tar.gz"))
        objects: dict[str, Json] = {}
        with tarfile.open(fileobj=archive, mode="r:gz") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.name.endswith(".json") else None
                if file:
                    objects[member.name.removesuffix(".json")] = json.load(file)
        return objects


def ensure_moto() -> Path:
    """Return the Python that has moto, installing it first when it is missing. Raises BuildError."""
    return ensure_virtualenv("moto", REQUIREMENTS, "moto's S3 server") / "bin" / "python"
