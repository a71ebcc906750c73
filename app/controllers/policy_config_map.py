"""The policy from its ConfigMap, with a copy of the last good one in another that outlives a restart."""

import asyncio
import logging
from dataclasses import dataclass

from app.controllers.policy_keeper import KEY, PolicyKeeper
from app.kube.client import ApiError, Json, KubeClient, KubeError
from app.kube.reflector import Reflector
from app.kube.resources import CONFIG_MAPS
from app.kube.store import ObjectStore
from app.settings import Settings

_log = logging.getLogger("vm-consistency.policy")

SOURCE_VERSION = "vm-consistency.io/policy-resource-version"
"""On the copy: the resourceVersion that the policy ConfigMap had, so that a slow replica puts no older one back."""

_RECALL_AGAIN_SECONDS = 1.0
_SAVE_AGAIN_SECONDS = (1.0, 60.0)


@dataclass(frozen=True, slots=True)
class _Written:
    """The ConfigMap as an admin left it."""

    text: str | None
    resource_version: str


def _decode(config_map: Json) -> _Written:
    data = config_map.get("data") or {}
    return _Written(data.get(KEY), config_map["metadata"]["resourceVersion"])


class ConfigMapPolicy:
    """Keeps `keeper` at the newest policy of the cluster."""

    def __init__(self, client: KubeClient, settings: Settings, keeper: PolicyKeeper) -> None:
        self._client = client
        self._keeper = keeper
        self._key = (settings.namespace, settings.policy_config_map)
        self._copy_path = CONFIG_MAPS.object(settings.last_good_config_map, settings.namespace)
        self._store = ObjectStore[_Written]()
        self._changed = asyncio.Event()
        self._store.subscribe(lambda *_: self._changed.set())
        self.reflector = Reflector(client, CONFIG_MAPS, self._store, _decode, namespace=self._key[0], name=self._key[1])

    async def run(self) -> None:
        """Follow the ConfigMap until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.reflector.run())
            group.create_task(self._follow())

    async def _follow(self) -> None:
        await self.reflector.wait_synced()
        await self._recall()
        seen: str | None = "\0"  # no text of a policy: the first one always counts
        while True:
            self._changed.clear()
            written = self._store.get(*self._key)
            if written is None:
                seen = "\0"
                self._keeper.absent()
            elif written.text != seen:
                seen = written.text
                # In a thread: a policy of the largest size takes half a second, and reviews must not wait for it.
                if await asyncio.to_thread(self._keeper.read, seen) and not self._changed.is_set():
                    await self._save(written)
            await self._changed.wait()

    async def _recall(self) -> None:
        """Learn the last good policy of an earlier life, however long the API server takes to tell.

        Without it, an invalid policy would count as one with nothing to fall back on.
        """
        while True:
            try:
                text = (await self._copy())[0]
            except KubeError as error:
                fields = {"path": self._copy_path, "error": str(error)}
                _log.warning("the last good policy can't be read", extra=fields)
                if isinstance(error, ApiError) and error.status in (403, 404):
                    return
                await asyncio.sleep(_RECALL_AGAIN_SECONDS)
            else:
                break
        if text is not None:
            await asyncio.to_thread(self._keeper.remember, text)

    async def _copy(self) -> tuple[str | None, Json]:
        config_map = await self._client.get(self._copy_path)
        return (config_map.get("data") or {}).get(KEY), config_map["metadata"]

    async def _save(self, written: _Written) -> None:
        """Keep a copy of the policy in force; tried again until it works or the policy changes."""
        pause, longest = _SAVE_AGAIN_SECONDS
        while True:
            try:
                await self._save_once(written)
            except KubeError as error:
                if not (isinstance(error, ApiError) and error.status == 409):
                    fields = {"path": self._copy_path, "error": str(error), "retrySeconds": pause}
                    _log.warning("the policy in force can't be kept for a restart", extra=fields)
            else:
                return
            try:
                await asyncio.wait_for(self._changed.wait(), pause)
            except TimeoutError:
                pause = min(2 * pause, longest)
            else:
                return

    async def _save_once(self, written: _Written) -> None:
        text, metadata = await self._copy()
        newest = (metadata.get("annotations") or {}).get(SOURCE_VERSION, "")
        # API servers since 1.35 promise that resourceVersions of one resource can be compared as integers; etcd always
        # made it so.
        is_older = newest.isdecimal() and int(newest) > int(written.resource_version)
        if text == written.text or is_older:
            return
        annotations = {SOURCE_VERSION: written.resource_version}
        body: Json = {"metadata": {"resourceVersion": metadata["resourceVersion"], "annotations": annotations}}
        await self._client.patch(self._copy_path, {**body, "data": {KEY: written.text}})
