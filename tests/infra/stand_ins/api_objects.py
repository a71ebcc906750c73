"""A stand-in for the API server, for what is tested on the real one too: single objects, versions and refusals."""

import asyncio
from collections.abc import Callable
from copy import deepcopy

import jsonpatch

from app.kube.client import JSON_PATCH, MERGE_PATCH, ApiError, Json, KubeError


class StandInApi:
    """Objects by path. Every write gives a new resourceVersion, and one that names an older version is refused.

    Each request yields to the event loop first, so that controllers that run at once interleave as replicas do.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.requests: list[tuple[str, str]] = []
        self.refusals: dict[str, list[KubeError]] = {}
        """By verb: raised by the next requests, one after the other, instead of answering them."""
        self.before: dict[str, Callable[[], object]] = {}
        """By verb: called once before the next request is answered, as somebody else's write would come between."""
        self._version = 0

    def put(self, path: str, body: Json) -> Json:
        """Set an object, as somebody else would."""
        self._version += 1
        metadata = {**body.get("metadata", {}), "resourceVersion": str(self._version)}
        self.objects[path] = {**deepcopy(body), "metadata": metadata}
        return deepcopy(self.objects[path])

    def version(self, path: str) -> str:
        """The resourceVersion of an object."""
        version: str = self.objects[path]["metadata"]["resourceVersion"]
        return version

    @property
    def writes(self) -> int:
        """How many requests asked to change something."""
        return sum(verb != "get" for verb, _ in self.requests)

    async def get(self, path: str) -> Json:
        """GET an object."""
        await self._request("get", path)
        return deepcopy(self._object(path))

    async def patch(self, path: str, body: Json | list[Json], content_type: str = MERGE_PATCH) -> Json:
        """Merge patch, or JSON patch."""
        await self._request("patch", path)
        held = self._object(path)
        if content_type == JSON_PATCH:
            assert isinstance(body, list)
            try:
                return self.put(path, jsonpatch.apply_patch(held, body))
            except jsonpatch.JsonPatchException as error:
                raise ApiError(422, "Invalid", "the server rejected our request due to an error in it") from error
        assert isinstance(body, dict)
        if body.get("metadata", {}).get("resourceVersion", self.version(path)) != self.version(path):
            raise ApiError(409, "Conflict", "the object has been modified")
        return self.put(path, _merged(held, body))

    async def _request(self, verb: str, path: str) -> None:
        self.requests.append((verb, path))
        await asyncio.sleep(0)
        if verb in self.before:
            self.before.pop(verb)()
        if self.refusals.get(verb):
            raise self.refusals[verb].pop(0)

    def _object(self, path: str) -> Json:
        if path not in self.objects:
            raise ApiError(404, "NotFound", "not found")
        return self.objects[path]


def _merged(held: object, patch: Json) -> Json:
    """RFC 7386."""
    merged = dict(held) if isinstance(held, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value) if isinstance(value, dict) else value
    return merged
