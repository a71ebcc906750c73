"""What every controller's loop has in common: when to look, how soon to try again, and saying each problem once."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Container
from typing import Final, Protocol, TypeVar

from app.kube.client import ApiError, Json, KubeClient, KubeError
from app.kube.reflector import Reflector
from app.kube.resources import Resource
from app.kube.store import ObjectStore

PERIOD: Final = 600.0
"""Seconds after which a controller looks even if nothing woke it: time passes, and a watch may be silently late."""

MAX_BACKOFF: Final = 60.0
"""Seconds between tries at something that keeps failing."""

ATTEMPTS: Final = 5
"""Reads and writes in one pass before it is left to the next one: each lost race means that somebody else won."""

T = TypeVar("T")


class ObjectApi(Protocol):
    """What a controller of one object asks of the API server; `app.kube.client.KubeClient` is one."""

    async def get(self, path: str) -> Json:
        """GET an object."""
        ...

    async def patch(self, path: str, body: Json | list[Json], content_type: str = ...) -> Json:
        """Patch an object, by default with a merge patch."""
        ...


class Problem(Exception):  # noqa: N818 - a state of the cluster, not a fault of ours
    """Something that somebody else has to put right; the message is one line that says what and where."""


class Pace:
    """Keeps two parties that undo each other's writes from doing so in a tight loop."""

    def __init__(self, interval: float = 5.0) -> None:
        """At most one write per `interval` seconds."""
        self._interval = interval
        self._next = 0.0

    def delay(self) -> float:
        """Seconds until the next write may be made; 0 if it may be made now."""
        return max(0.0, self._next - time.monotonic())

    def wrote(self) -> None:
        """Count a write."""
        self._next = time.monotonic() + self._interval


class ReconcileLoop:
    """Runs `reconcile` at the start, whenever woken, and every PERIOD seconds.

    `reconcile` returns the seconds after which to look again, or None. When it raises, that is logged once, kept in
    `error` and tried again after a growing pause, or after a second if something wakes the loop meanwhile.
    """

    def __init__(self, reconcile: Callable[[], Awaitable[float | None]], log: logging.Logger) -> None:
        """`log` gets the problems."""
        self._reconcile, self._log = reconcile, log
        self._woken = asyncio.Event()
        self._failures = 0
        self.error: str | None = None
        """Why the last pass failed, in one line; None if it did not."""

    def wake(self, *_: object) -> None:
        """Look again soon; takes and ignores what callbacks of all kinds are given."""
        self._woken.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            self._woken.clear()
            pause = await self.step()
            if self.error:
                await asyncio.sleep(min(1.0, pause))  # a stream of events must not turn a failure into a tight loop
            try:
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def step(self) -> float:
        """One pass; returns the seconds until the next."""
        try:
            wanted = await self._reconcile()
        except (KubeError, Problem) as error:
            cause = error.__cause__ if isinstance(error, Problem) else error
            return self._failed(str(error), cause.retry_after if isinstance(cause, ApiError) else None)
        except Exception as error:  # an object that nobody foresaw must not end the process
            self._log.exception("unexpected failure")
            return self._failed(f"unexpected failure: {type(error).__name__}: {error}", None)
        if self.error:
            self._log.info("resolved", extra={"reason": self.error})
        self.error, self._failures = None, 0
        return PERIOD * random.uniform(0.9, 1.1) if wanted is None else wanted  # noqa: S311 - spreads replicas

    def _failed(self, error: str, retry_after: float | None) -> float:
        if error != self.error:
            self._log.warning(error)
        self.error = error
        self._failures += 1
        backoff = min(MAX_BACKOFF, 2.0 ** min(self._failures, 10) / 2) * random.uniform(0.5, 1)  # noqa: S311
        return max(backoff, retry_after or 0.0)


async def until_won(attempt: Callable[[], Awaitable[T]], lost: Container[int] = (409,)) -> T:
    """Read and write by `attempt`, again where another's write came between; raises the last ApiError after ATTEMPTS.

    `lost` are the HTTP status codes that say so; every other error is raised at once.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return await attempt()
        except ApiError as error:
            if error.status not in lost:
                raise
    return await attempt()


def waking(
    client: KubeClient, resource: Resource, name: str, wake: Callable[..., None], *, namespace: str | None = None
) -> Reflector[str]:
    """A watch of one object's metadata that calls `wake` on every change, for whoever then reads the object itself."""
    store: ObjectStore[str] = ObjectStore()
    store.subscribe(wake)
    return Reflector(client, resource, store, _version, namespace=namespace, name=name, metadata_only=True)


def _version(item: Json) -> str:
    return str(item["metadata"]["resourceVersion"])
