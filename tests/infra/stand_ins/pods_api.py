"""A stand-in for the API server's pods: it refuses and delays as a test says, and its watch fills a store."""

import asyncio
import json
from copy import deepcopy

from app.cluster.pods import RunningPod, running_pod
from app.core.kubevirt_names import UPSTREAM
from app.kube.client import JSON_PATCH, MERGE_PATCH, Json, KubeError
from app.kube.store import Key, ObjectStore
from tests.infra.factories import NAMESPACE
from tests.infra.references import References
from tests.infra.stand_ins.api_objects import StandInApi

LAG = 0.01
"""Seconds until the watch brings a change, unless a test says otherwise."""


class PodsApi(StandInApi):
    """The API server's pods, with a watch that fills a store."""

    def __init__(self) -> None:
        super().__init__()
        self.pods: ObjectStore[RunningPod] = ObjectStore()
        self.pods.synced = True
        self.lag: float | None = LAG
        """Seconds until the watch brings a change; None is a watch that brings nothing."""
        self.delay = 0.0
        """Seconds from a write to its answer."""
        self.refused: dict[str, KubeError] = {}
        """By the pod's name: the answer to every patch."""
        self.discards_patches = False
        """Whether a patch is answered with the pod as it was, which is how it stays."""
        self._watched = 0
        self._names = References()

    @property
    def patches(self) -> list[str]:
        """The names of the pods that somebody tried to patch, in order."""
        return [_name(path) for verb, path in self.requests if verb == "patch"]

    @property
    def verbs(self) -> list[str]:
        """The verbs of all requests, in order."""
        return [verb for verb, _ in self.requests]

    @property
    def still_referred_to(self) -> set[str]:
        """The names of pods that the watch has brought and taken away, and whose key is still in memory."""
        return {name for name in self._names.texts() if self.pods.get(NAMESPACE, name) is None}

    def put(self, path: str, body: Json) -> Json:
        """Set a pod, which the watch brings."""
        stored = super().put(path, body)
        self._watch(path, stored)
        return stored

    def remove(self, path: str) -> None:
        """Delete a pod, which the watch brings."""
        del self.objects[path]
        self._watch(path, None)

    def relist(self) -> None:
        """Bring all pods at once, as a list does."""
        found = {self._key(path): running_pod(deepcopy(pod), UPSTREAM) for path, pod in self.objects.items()}
        self.pods.replace({key: pod for key, pod in found.items() if pod})

    async def get(self, path: str, *, metadata_only: bool = False) -> Json:
        """GET a pod."""
        assert metadata_only
        return await super().get(path)

    async def patch(self, path: str, body: Json | list[Json], content_type: str = MERGE_PATCH) -> Json:
        """Patch a pod, unless patches are discarded."""
        if not self.discards_patches:
            return await super().patch(path, body, content_type)
        await self._request("patch", path)
        return deepcopy(self._object(path))

    async def patch_unread(self, path: str, body: list[Json]) -> bytes:
        """Patch a pod with a JSON patch."""
        stored = await self.patch(path, body, JSON_PATCH)
        await asyncio.sleep(self.delay)
        return json.dumps(stored, separators=(",", ":")).encode()

    async def _request(self, verb: str, path: str) -> None:
        await super()._request(verb, path)
        if verb == "patch" and _name(path) in self.refused:
            raise self.refused[_name(path)]

    def _watch(self, path: str, pod: Json | None) -> None:
        if self.lag is not None:
            self._watched += 1
            in_order = self.lag + self._watched * 1e-7  # timers that are due together come in any order
            new = running_pod(deepcopy(pod), UPSTREAM) if pod else None
            asyncio.get_running_loop().call_later(in_order, self.pods.put, self._key(path), new)

    def _key(self, path: str) -> Key:
        return (NAMESPACE, self._names.text(_name(path)))


def _name(path: str) -> str:
    return path.rpartition("/")[2]
