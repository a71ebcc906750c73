"""Velero's objects (velero.io/v1), asked for as its own command line does (velero v1.18.3, pkg/cmd/util)."""

import asyncio
import base64
import contextlib
import uuid
from typing import Final, Literal

from app.kube.client import ApiError, Json, KubeClient, KubeError
from app.kube.resources import BACKUPS, SECRETS, Resource

BACKUP_STORAGE_LOCATIONS: Final = Resource("velero.io", "v1", "backupstoragelocations")
DOWNLOAD_REQUESTS: Final = Resource("velero.io", "v1", "downloadrequests")

Target = Literal["BackupLog", "BackupContents"]

URL_SECONDS = 60.0
"""How long Velero may take to answer a DownloadRequest; as `velero backup logs` has it."""
_POLL_SECONDS = 0.2
_MAX_NAME = 253


class Velero:
    """The installation of Velero in one namespace. Every method raises KubeError."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client, self._namespace = client, namespace

    async def backup(self, name: str) -> Json:
        """The Backup of that name."""
        try:
            return await self._client.get(BACKUPS.object(name, self._namespace))
        except ValueError as error:
            raise KubeError(f"{name!r} is no name of a backup") from error
        except ApiError as error:
            if error.status == 404:
                where = f"namespace {self._namespace}; --velero-namespace names another one"
                raise KubeError(f"{self._client.server}: there is no Backup {name} in {where}") from error
            raise KubeError(f"{self._client.server}: reading Backup {name}: {error}") from error

    async def download_url(self, target: Target, backup: str) -> str:
        """Where the object store has that part of a backup, for ten minutes, by the signature in the URL.

        The DownloadRequest is deleted again, if the caller may do so; else Velero deletes it when it has expired.
        """
        name = f"{backup[: _MAX_NAME - 37]}-{uuid.uuid4()}"
        request = {
            "apiVersion": "velero.io/v1",
            "kind": "DownloadRequest",
            "metadata": {"name": name, "namespace": self._namespace},
            "spec": {"target": {"kind": target, "name": backup}},
        }
        try:
            await self._client.post(DOWNLOAD_REQUESTS.collection(self._namespace), request)
        except ApiError as error:
            needed = f"permission to create and get downloadrequests.velero.io in namespace {self._namespace} is needed"
            hint = f"; {needed}" if error.status == 403 else ""
            raise KubeError(f"{self._client.server}: asking Velero for the {target}: {error}{hint}") from error
        path = DOWNLOAD_REQUESTS.object(name, self._namespace)
        try:
            async with asyncio.timeout(URL_SECONDS):
                return await self._answered(path)
        except TimeoutError as error:
            raise KubeError(
                f"Velero did not say within {URL_SECONDS:g} s where the {target} of {backup} is: does its server run "
                f"in namespace {self._namespace}, and is the backup storage location available? Its log tells"
            ) from error
        finally:
            with contextlib.suppress(KubeError):
                await self._client.delete(path)

    async def _answered(self, path: str) -> str:
        while True:
            request = await self._client.get(path)
            url = (request.get("status") or {}).get("downloadURL")
            if isinstance(url, str) and url:
                return url
            await asyncio.sleep(_POLL_SECONDS)

    async def authority(self, location: str) -> str:
        """The CA certificates (PEM) that a BackupStorageLocation names for its object store; empty without any.

        Like for Velero's command line it is no error if they can't be read: the download tells if they are needed.
        """
        try:
            storage = await self._client.get(BACKUP_STORAGE_LOCATIONS.object(location, self._namespace))
            store = storage["spec"]["objectStorage"]
            encoded = store.get("caCert")
            if reference := store.get("caCertRef"):
                secret = await self._client.get(SECRETS.object(reference["name"], self._namespace))
                encoded = secret["data"][reference["key"]]
            return base64.b64decode(encoded or "").decode("ascii")
        except (KubeError, KeyError, TypeError, ValueError, AttributeError):
            return ""
