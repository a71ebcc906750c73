"""The policy from its ConfigMap."""

import asyncio
import contextlib
from dataclasses import dataclass

from app.controllers.policy.active import PolicyKeeper
from app.controllers.policy.last_good import LastGoodCopy
from app.core.policy_v1alpha1.config_map import PolicyText, parse
from app.kube.client import Json, KubeClient
from app.kube.reflector import Reflector
from app.kube.resources import CONFIG_MAPS
from app.kube.store import ObjectStore
from app.settings import Settings

_SAVE_AGAIN_SECONDS = (1.0, 60.0)


@dataclass(frozen=True, slots=True)
class _Written:
    """The ConfigMap as an admin left it."""

    policy: PolicyText
    uid: str
    resource_version: str


def _decode(config_map: Json) -> _Written:
    metadata = config_map["metadata"]
    return _Written(PolicyText.of(config_map), metadata["uid"], metadata["resourceVersion"])


class ConfigMapPolicy:
    """Keeps `keeper` at the newest policy of the cluster."""

    def __init__(self, client: KubeClient, settings: Settings, keeper: PolicyKeeper) -> None:
        self._keeper = keeper
        self._copy = LastGoodCopy(client, settings.namespace, settings.last_good_config_map)
        self._key = (settings.namespace, settings.policy_config_map)
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
        taken: PolicyText | None = None
        saved: str | None = None
        pause, longest = _SAVE_AGAIN_SECONDS
        while True:
            self._changed.clear()
            written = self._store.get(*self._key)
            if written is None:
                taken = None
                self._keeper.absent()
            elif written.policy != taken:
                taken = written.policy if await self._take(written) else None
            if written is None or written.policy.text == saved or not self._keeper.is_valid:
                await self._changed.wait()
            elif await self._copy.save(written.policy.text or "", written.uid, written.resource_version):
                saved, pause = written.policy.text, _SAVE_AGAIN_SECONDS[0]
            else:
                await self._changed_within(pause)
                pause = min(2 * pause, longest)

    async def _take(self, written: _Written) -> bool:
        """Give the policy to the keeper; returns False if a newer one came before that could be done."""
        # In a thread: a policy of the largest size takes half a second, and reviews must not wait for it.
        parsed = await asyncio.to_thread(written.policy.parse)
        if isinstance(parsed, list) and not self._keeper.knows_a_good_one:
            known, text = await self._copy.recall(until=self._changed)
            if not known:
                return False
            if text is not None:
                self._keeper.remember(text, await asyncio.to_thread(parse, text))
        self._keeper.take(written.policy.text or "", parsed)
        return True

    async def _changed_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)
