"""Velero's server with its S3 plugin and the stand-in of a storage array, and what tests ask of it."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Self

import yaml

from tests.infra.controlplane import ControlPlane, Json, Process, wait_for
from tests.infra.controlplane.build import ensure_all
from tests.infra.controlplane.processes import accepts
from tests.infra.controlplane.servers import write_private
from tests.infra.guests.s3 import S3

NAMESPACE = "velero"
SNAPSHOTTER = "vm-consistency.test/disk-images"

_FINAL = ("Completed", "PartiallyFailed", "Failed", "FailedValidation")


class Velero:
    """Installed by `install`; the server runs from `start` and may be killed and started again (`process`).

    Backups go to `s3`, snapshots to the VolumeSnapshotLocation `default`, whose config snapshotter.py writes.
    """

    process: Process

    def __init__(self, control_plane: ControlPlane, s3: S3) -> None:
        self.cp = control_plane
        self.s3 = s3
        self._metrics = control_plane.port()
        self._binary = ensure_all("velero")["velero"]

    @classmethod
    def started(cls, control_plane: ControlPlane) -> Self:
        """Velero, installed and running, with an object store of its own."""
        s3 = S3(control_plane)
        s3.process.launch()
        velero = cls(control_plane, s3)
        velero.install()
        s3.wait_ready()
        velero.start()
        return velero

    def install(self) -> None:
        """CRDs, namespace and the two locations."""
        printed = subprocess.run(
            [self._binary, "install", "--crds-only", "--dry-run", "-o", "yaml"],
            capture_output=True,
            text=True,
            check=True,
        )
        crds: list[Json] = yaml.safe_load(printed.stdout)["items"]
        for crd in crds:
            self.cp.client.create(crd)
        names = [crd["metadata"]["name"] for crd in crds]
        self.cp.kubectl("wait", "--for=condition=Established", "--timeout=30s", *(f"crd/{name}" for name in names))
        self.cp.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        self._stand_in_deployment()
        self._create("BackupStorageLocation", "default", self._backup_location())
        location = {"provider": SNAPSHOTTER, "config": {"folder": str(self.cp.folder / "snapshots")}}
        self._create("VolumeSnapshotLocation", "default", location)

    def start(self) -> None:
        """Return when the server has found its backup storage."""
        plugins = self.cp.folder / "velero-plugins"
        plugins.mkdir()
        for name, binary in ensure_all("velero-plugin-aws", "snapshotter").items():
            (plugins / name).symlink_to(binary)
        secret = "[default]\naws_access_key_id = any\naws_secret_access_key = any\n"
        credentials = write_private(self.cp.folder / "s3-credentials", secret)
        self.process = self.cp.supervise(
            "velero",
            [
                self._binary,
                "server",
                f"--kubeconfig={self.cp.kubeconfig}",
                f"--namespace={NAMESPACE}",
                f"--plugin-dir={plugins}",
                f"--metrics-address=127.0.0.1:{self._metrics}",
                "--profiler-address=127.0.0.1:0",
            ],
            ready=lambda: accepts(self._metrics) and self._storage_is_available(),
            env={**os.environ, "VELERO_NAMESPACE": NAMESPACE, "AWS_SHARED_CREDENTIALS_FILE": str(credentials)},
        )
        self.process.start()

    def backup(
        self, name: str, *namespaces: str, timeout: float = 120.0, labels: Mapping[str, str] | None = None, **spec: Any
    ) -> Json:
        """A backup of `namespaces` from its creation to its end, whatever that is; returns the Backup."""
        self.start_backup(name, *namespaces, labels=labels, **spec)
        return self.ended_backup(name, timeout)

    def start_backup(self, name: str, *namespaces: str, labels: Mapping[str, str] | None = None, **spec: Any) -> None:
        """Create the Backup and return at once; `spec` adds fields of its spec or replaces them."""
        chosen = {"includedNamespaces": namespaces, "storageLocation": "default", **spec}
        self._create("Backup", name, chosen, labels)

    def ended_backup(self, name: str, timeout: float = 120.0) -> Json:
        """Wait for the end of a backup and return it."""
        return self._ended("backups", name, timeout)

    def restore(
        self,
        name: str,
        backup: str,
        *,
        namespace_mapping: Mapping[str, str],
        excluded: Sequence[str] = ("pods", "virtualmachineinstances.kubevirt.io"),
        timeout: float = 120.0,
        **spec: Any,
    ) -> Json:
        """A restore from its creation to its end.

        `excluded` does what KubeVirt's plugin for Velero, which is not here, would do: it leaves launcher pods and
        instances to virt-controller.
        """
        chosen = {"backupName": backup, "namespaceMapping": namespace_mapping, "excludedResources": excluded, **spec}
        self._create("Restore", name, chosen)
        return self._ended("restores", name, timeout)

    def log(self, backup: str) -> str:
        """What Velero logged during a backup that has ended."""
        return self.s3.log(backup)

    def contents(self, backup: str) -> dict[str, Json]:
        """The objects in a backup, by path: `resources/pods/namespaces/NS/NAME`."""
        return self.s3.contents(backup)

    def _ended(self, resource: str, name: str, timeout: float) -> Json:
        def ended() -> Json | None:
            found = self.cp.client.get(resource, name, NAMESPACE)
            return found if found.get("status", {}).get("phase") in _FINAL else None

        return wait_for(ended, timeout, what=f"{resource} {name} to end", interval=0.2)

    def _stand_in_deployment(self) -> None:
        # Restores look up how the server itself was deployed; nothing here makes pods of it.
        labels = {"deploy": "velero"}
        containers = [{"name": "velero", "image": "velero"}]
        spec = {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
        }
        metadata = {"name": "velero", "namespace": NAMESPACE}
        self.cp.client.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})

    def _storage_is_available(self) -> bool:
        location = self.cp.client.get("backupstoragelocations", "default", NAMESPACE)
        return bool(location.get("status", {}).get("phase") == "Available")

    def _backup_location(self) -> Json:
        config = {"region": "test", "s3ForcePathStyle": "true", "s3Url": self.s3.url}
        storage = {"bucket": self.s3.bucket}
        return {"provider": "aws", "default": True, "objectStorage": storage, "config": config}

    def _create(self, kind: str, name: str, spec: Json, labels: Mapping[str, str] | None = None) -> None:
        metadata = {"name": name, "namespace": NAMESPACE, "labels": dict(labels or {})}
        self.cp.client.create({"apiVersion": "velero.io/v1", "kind": kind, "metadata": metadata, "spec": spec})


def phase(ended: Json) -> str:
    """What a Backup or Restore that has ended says of itself, such as Completed or PartiallyFailed."""
    found: str = ended["status"]["phase"]
    return found


def hook_counts(backup: Json) -> tuple[int, int]:
    """How many hooks were attempted, and how many of them failed."""
    status = backup["status"].get("hookStatus", {})
    return status.get("hooksAttempted", 0), status.get("hooksFailed", 0)
