"""The copy of the last good policy, in a ConfigMap of its own, that outlives a restart."""

import asyncio
import logging

from app.core.policy_v1alpha1.config_map import KEY
from app.kube.client import ApiError, Json, KubeClient, KubeError
from app.kube.resources import CONFIG_MAPS

_log = logging.getLogger("vm-consistency.policy")

SOURCE_UID = "vm-consistency.io/policy-uid"
SOURCE_VERSION = "vm-consistency.io/policy-resource-version"
"""With the UID: which ConfigMap was copied, and at which version, so that a slow replica puts no older one back."""

_RECALL_AGAIN_SECONDS = 1.0
_READ_SECONDS = 5.0
"""A policy that comes meanwhile waits for the answer."""
_CONFLICT = 409
_FINAL = (403, 404)


class LastGoodCopy:
    """Reads and writes the copy; each kind of trouble is logged once, however often it is met."""

    def __init__(self, client: KubeClient, namespace: str, name: str) -> None:
        self._client = client
        self._path = CONFIG_MAPS.object(name, namespace)
        self._trouble = ""

    async def recall(self, until: asyncio.Event) -> tuple[bool, str | None]:
        """Return whether the answer is known, and the text; asks until it is, or until `until` is set."""
        while not until.is_set():
            try:
                return True, (await self._read())[0]
            except KubeError as error:
                self._report("the last good policy can't be read", str(error))
                if isinstance(error, ApiError) and error.status in _FINAL:
                    return True, None
            await asyncio.sleep(_RECALL_AGAIN_SECONDS)
        return False, None

    async def save(self, text: str, uid: str, resource_version: str) -> bool:
        """Keep a copy of `text`; returns False where it has to be tried again."""
        try:
            await self._save(text, uid, resource_version)
        except KubeError as error:
            if not (isinstance(error, ApiError) and error.status == _CONFLICT):  # another replica was first
                self._report("the policy in force can't be kept for a restart", str(error))
            return False
        self._trouble = ""
        return True

    async def _read(self) -> tuple[str | None, Json]:
        config_map = await self._client.get(self._path, timeout=_READ_SECONDS)
        return (config_map.get("data") or {}).get(KEY), config_map["metadata"]

    async def _save(self, text: str, uid: str, resource_version: str) -> None:
        copied, metadata = await self._read()
        annotations = metadata.get("annotations") or {}
        newest = annotations.get(SOURCE_VERSION, "")
        # Versions of another ConfigMap, as after a restore into another cluster, say nothing about this one. API
        # servers since 1.35 promise that those of one resource compare as integers; etcd always made it so.
        same = annotations.get(SOURCE_UID) == uid and newest.isdecimal()
        if copied == text or (same and int(newest) > int(resource_version)):
            return
        source = {SOURCE_UID: uid, SOURCE_VERSION: resource_version}
        guarded = {"resourceVersion": metadata["resourceVersion"], "annotations": source}
        await self._client.patch(self._path, {"metadata": guarded, "data": {KEY: text}})

    def _report(self, message: str, error: str) -> None:
        if error != self._trouble:
            _log.warning(message, extra={"path": self._path, "error": error})
        self._trouble = error
