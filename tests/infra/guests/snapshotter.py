"""The storage array that isn't there: disk images as PersistentVolumes, and copies of them as their snapshots."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.infra.controlplane import Client, ControlPlane, Json, wait_for
from tests.infra.guests.velero import NAMESPACE

_BOUND = {"phase": "Bound"}
_SETTINGS = ("delay", "gate", "failure")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of `volume`, taken between two moments (UTC, by this machine's clock); no `end` until it is there."""

    volume: Path
    copy: Path
    backup: str
    start: datetime
    end: datetime | None


class DiskArray:
    """Claims for disk images, and the snapshots that Velero's plugin took of them."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self.client: Client = control_plane.client
        self._folder = control_plane.folder / "snapshots"

    def claim(self, name: str, namespace: str, image: Path) -> Json:
        """A PersistentVolumeClaim bound to a PersistentVolume that is the file `image`; returns the claim."""
        volume = f"{namespace}-{name}"
        size = {"storage": "1Gi"}
        modes = {"accessModes": ["ReadWriteOnce"], "volumeMode": "Block", "storageClassName": ""}
        claim: Json = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {**modes, "volumeName": volume, "resources": {"requests": size}},
        }
        created = self.client.create(claim)
        reference = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": name, "namespace": namespace}
        spec = {
            **modes,
            "capacity": size,
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(image)},
            "claimRef": {**reference, "uid": created["metadata"]["uid"]},
        }
        self.client.create({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume}, "spec": spec})
        self.client.patch("persistentvolumes", volume, {"status": _BOUND}, subresource="status")
        bound = {**_BOUND, "accessModes": modes["accessModes"], "capacity": size}
        return self.client.patch("persistentvolumeclaims", name, {"status": bound}, namespace, subresource="status")

    @contextmanager
    def behaving(self, *, delay: str | None = None, failure: str | None = None) -> Iterator[None]:
        """For backups that start meanwhile: every snapshot takes `delay` longer (a Go duration) or fails so."""
        self._configure(delay=delay, failure=failure)
        yield
        self._configure()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Snapshots of backups that start meanwhile are not taken before the block ends."""
        self._folder.mkdir(exist_ok=True)
        gate = self._folder / "gate"
        gate.touch()
        self._configure(gate=str(gate))
        try:
            yield
        finally:
            gate.unlink()
            self._configure()

    def snapshots(self, backup: str) -> list[Snapshot]:
        """Those of a backup in the order in which they started, the unfinished ones too."""
        log = self._folder / "log.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        latest = {line["snapshot"]: line for line in lines if line["backup"] == backup}
        return [self._snapshot(line) for line in latest.values()]

    def wait_started(self, backup: str) -> Snapshot:
        """Return when the first snapshot of a backup has begun: its pre hooks have run, its post hooks have not."""
        return wait_for(lambda: self.snapshots(backup), 60, what=f"a snapshot of backup {backup}")[0]

    def _snapshot(self, line: Json) -> Snapshot:
        end = datetime.fromisoformat(line["end"]) if "end" in line else None
        copy = self._folder / line["snapshot"]
        return Snapshot(Path(line["volume"]), copy, line["backup"], datetime.fromisoformat(line["start"]), end)

    def _configure(self, **settings: str | None) -> None:
        config = {name: settings.get(name) for name in _SETTINGS}  # null removes
        self.client.patch("volumesnapshotlocations", "default", {"spec": {"config": config}}, NAMESPACE)
