"""A stand-in for Velero's server: it answers DownloadRequests for the files of a stand-in object store."""

import threading
from types import TracebackType

from tests.infra.controlplane import ApiError, Client, Json
from tests.infra.stand_ins.object_store import StandInStore

SUFFIXES = {"BackupContents": ".tar.gz", "BackupLog": "-logs.gz"}


class StandInVelero:
    """Works in one namespace while the context is open; `store` has the backups' files.

    It sets status.downloadURL, phase and nothing else. It signs a URL for what is not stored as well, as Velero does.
    """

    def __init__(self, client: Client, namespace: str, store: StandInStore) -> None:
        self.client, self.namespace, self.store = client, namespace, store
        self.answers = True
        self.requested: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "StandInVelero":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def backup(self, name: str, status: Json, **spec: object) -> None:
        """A Backup with this status."""
        metadata = {"name": name, "namespace": self.namespace}
        spec = {"storageLocation": "default", **spec}
        backup = {"apiVersion": "velero.io/v1", "kind": "Backup", "metadata": metadata, "spec": spec, "status": status}
        self.client.create(backup)

    def requests(self) -> list[Json]:
        """The DownloadRequests that are there."""
        return self.client.list("downloadrequests", self.namespace)

    def _work(self) -> None:
        while not self._over.wait(0.05):
            for request in self.requests() if self.answers else ():
                if not request.get("status", {}).get("downloadURL"):
                    self._answer(request)

    def _answer(self, request: Json) -> None:
        target = request["spec"]["target"]
        self.requested.append(target["kind"])
        url = f"{self.store.url}/{target['name']}{SUFFIXES[target['kind']]}?signature=secret"
        status = {"status": {"phase": "Processed", "downloadURL": url}}
        try:
            self.client.patch("downloadrequests", request["metadata"]["name"], status, self.namespace)
        except ApiError as error:
            if error.status != 404:
                raise
