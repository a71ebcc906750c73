"""Keeps a store equal to a collection of the API server: list, then watch, whatever happens in between."""

import asyncio
import logging
import random
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.kube.client import ApiError, Event, Json, KubeClient, KubeError, Params
from app.kube.resources import Resource
from app.kube.store import Key, ObjectStore

T = TypeVar("T")

_log = logging.getLogger("vm-consistency.watch")


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds, and the page size of lists. The back-off is client-go's: 0.8 s, doubled up to 30 s, with jitter."""

    first_backoff: float = 0.8
    longest_backoff: float = 30.0
    longest_retry_after: float = 120.0
    absent: float = 2.0
    """Between looks for a resource that the server doesn't serve (yet)."""
    settled: float = 5.0
    """A watch that lives as long is a success; one that ends sooner is followed by a back-off."""
    watch: tuple[int, int] = (300, 600)
    """What the server is asked to end a watch after, drawn anew each time so that replicas don't reconnect together."""
    grace: float = 30.0
    """How much longer a silent connection is kept; bookmarks come about every minute, but aren't promised."""
    request: float = 30.0
    page: int = 100
    """Objects of one page are in memory as they came, some ten times as large as what is kept of them."""


class Reflector(Generic[T]):
    """List and watch of one resource into one store.

    `decode` makes an object's view, or None for an object to leave out. `namespace` and `name` narrow the collection
    (by path and field selector, as RBAC's resourceNames require), `selectors` (labelSelector, fieldSelector) do as
    well. `run()` ends by cancellation only.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        store: ObjectStore[T],
        decode: Callable[[Json], T | None],
        *,
        namespace: str | None = None,
        name: str | None = None,
        selectors: Mapping[str, str] | None = None,
        metadata_only: bool = False,
        timings: Timings | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        dice: random.Random | None = None,
    ) -> None:
        self.store = store
        self.title = " ".join(filter(None, [str(resource), "/".join(filter(None, [namespace, name]))]))
        self.last_error: str | None = None
        self._client, self._decode, self._metadata_only = client, decode, metadata_only
        self._path = resource.collection(namespace)
        self._selector = {"fieldSelector": f"metadata.name={name}"} if name else dict(selectors or {})
        self._timings, self._sleep = timings or Timings(), sleep
        self._dice = dice or random.Random()  # noqa: S311 - spreads load, protects nothing
        self._synced = asyncio.Event()
        self._version: str | None = None  # None: the next step is a list
        self._attempts = 0
        self._absent = False

    @property
    def synced(self) -> bool:
        """The store has been complete once; also where the server doesn't serve the resource at all."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Wait until the store has been complete once."""
        await self._synced.wait()

    @property
    def stale_seconds(self) -> float:
        """How long no watch has been open; 0 while one is, or while the server doesn't serve the resource."""
        return self.store.stale_seconds

    def state(self) -> str:
        """What is held and what went wrong last, in one line that changes only when one of these does."""
        return self._line("")

    def describe(self) -> str:
        """The same with the time since when, for the readiness page."""
        return self._line(f", {self.stale_seconds:.0f} s without a watch")

    def _line(self, trouble: str) -> str:
        if not self.synced:
            held = "not read yet"
        else:
            held = "not served by this cluster" if self._absent else f"{len(self.store)} objects"
        return f"{self.title}: {held}" + ("" if self.last_error is None else f"{trouble}: {self.last_error}")

    async def run(self) -> None:
        """Keep the store up to date until cancelled."""
        self.store.out_of_touch_since = time.monotonic()
        while True:
            delay = await self._step()
            if delay > 0:
                await self._sleep(delay)

    async def _step(self) -> float:
        """One list or one watch; returns the seconds to wait before the next."""
        try:
            return await (self._list() if self._version is None else self._watch())
        except ApiError as error:
            return self._after_refusal(error)
        except KubeError as error:
            return self._after_failure(str(error))
        except Exception as error:
            _log.exception("unexpected", extra={"resource": self.title})
            self._version = None
            return self._after_failure(f"{type(error).__name__}: {error}")

    async def _list(self) -> float:
        # Without resourceVersion: the newest state, not resourceVersion=0, which any API server answers from a cache
        # of any age. After a reconnect to another server that could undo what was already seen here, and a VM's level
        # is often set a moment before the VM starts. It costs one consistent read per start or 410 and replica, which
        # from Kubernetes 1.31 on is served from the watch cache too; and only so does the server heed `limit`.
        objects: dict[Key, T] = {}
        params: dict[str, str | int | bool] = {"limit": self._timings.page, **self._selector}
        while True:
            try:
                version, token = await self._list_page(params, objects)
            except ApiError as error:
                if error.status != 404:
                    raise  # 410: the continue token expired; after a back-off the list starts anew
                return self._not_served()
            if not token:
                break
            params["continue"] = token
        self._version, self._absent = version, False
        self.store.replace(objects)
        self._synced.set()
        return 0.0

    async def _list_page(self, params: Params, objects: dict[Key, T]) -> tuple[str, str]:
        """Add a page's views to `objects`; returns the list's version and the token of the next page, if any."""
        page = await self._client.list_page(
            self._path, params=params, metadata_only=self._metadata_only, timeout=self._timings.request
        )
        for item in page.items:
            key, view = self._read(item)
            if key and view is not None:
                objects[key] = view
        return page.resource_version, page.continue_token

    def _not_served(self) -> float:
        if not self._absent:
            fields = {"resource": self.title, "seconds": self._timings.absent}
            _log.info("not served by this cluster; it is looked for again and again", extra=fields)
        self._absent, self._attempts, self.store.out_of_touch_since = True, 0, None
        self.last_error = None
        self.store.replace({})
        self._synced.set()
        return self._timings.absent * self._dice.uniform(0.75, 1.25)

    async def _watch(self) -> float:
        timings = self._timings
        seconds = self._dice.randint(*timings.watch)
        assert self._version is not None
        params: dict[str, str | int | bool] = {
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": seconds,
            **self._selector,
        }
        stream = self._client.watch(
            self._path,
            params=params,
            metadata_only=self._metadata_only,
            timeout=timings.request,
            silence=seconds + timings.grace,
        )
        async with stream as events:
            self.store.out_of_touch_since = None
            opened = time.monotonic()
            settled = asyncio.get_running_loop().call_later(timings.settled, self._recovered)
            try:
                async for event in events:
                    self._apply(event)
            finally:
                settled.cancel()
                self.store.out_of_touch_since = time.monotonic()
                lived = self.store.out_of_touch_since - opened
        if lived >= timings.settled:
            return 0.0
        return self._after_failure("the server ends each watch at once")

    def _recovered(self) -> None:
        self._attempts = 0
        if self.last_error is not None:
            _log.info("watching again", extra={"resource": self.title})
            self.last_error = None

    def _apply(self, event: Event) -> None:
        if event.type in {"ADDED", "MODIFIED", "DELETED"}:
            key, view = self._read(event.object, decode=event.type != "DELETED")
            if key:
                self.store.put(key, view)
                self._attempts = 0
        elif event.type != "BOOKMARK":
            fields = {"resource": self.title, "type": event.type}
            _log.warning("skipped an event of unknown type", extra=fields)
        metadata = event.object.get("metadata") if isinstance(event.object, dict) else None
        version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
        if isinstance(version, str):
            self._version = version

    def _read(self, item: Json, *, decode: bool = True) -> tuple[Key | None, T | None]:
        """An object's key, None where it has none, and its view, the one held so far where decoding fails."""
        key: Key | None = None
        try:
            metadata = item["metadata"]
            key = (sys.intern(metadata.get("namespace", "")), metadata["name"])
            return key, self._decode(item) if decode else None
        except Exception:
            fields = {"resource": self.title, "object": "/".join(filter(None, key)) if key else None}
            _log.exception("skipped an object that can't be read", extra=fields)
            return key, self.store.get(*key) if key else None

    def _after_refusal(self, error: ApiError) -> float:
        if error.status != 429 and error.status < 500:
            self._version = None  # 410: too old; others: nothing says that the same watch will ever be accepted
        delay = self._after_failure(str(error), quiet=error.status == 410)
        asked = min(error.retry_after or 0.0, self._timings.longest_retry_after)
        return max(delay, asked * self._dice.uniform(1.0, 1.25))

    def _after_failure(self, text: str, *, quiet: bool = False) -> float:
        if text != self.last_error:
            level = logging.INFO if quiet else logging.WARNING
            _log.log(level, "out of touch; trying again", extra={"resource": self.title, "error": text})
        self.last_error = text
        if self.store.out_of_touch_since is None:
            self.store.out_of_touch_since = time.monotonic()
        self._attempts += 1
        if self._attempts >= 3:
            self._version = None  # such as one from before etcd was restored, which is answered by 504 for ever
        grown = self._timings.first_backoff * 2.0 ** min(self._attempts - 1, 16)
        return min(self._timings.longest_backoff, grown) * self._dice.uniform(0.5, 1.0)
