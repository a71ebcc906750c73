"""What the tests of this folder share."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from app.kube.client import Json, KubeClient
from app.kube.connection import Configuration
from app.kube.reflector import Reflector, Timings
from app.kube.resources import NAMESPACES, Resource
from app.kube.store import ObjectStore

QUICK = Timings(first_backoff=0.01, longest_backoff=0.1, absent=0.05, settled=0.2)
"""For waits that a test sits through; what is waited for is counted and judged with the real timings elsewhere."""


async def eventually(look: Callable[[], object], *, seconds: float = 60.0, what: str = "") -> None:
    """Poll `look` until it is true."""
    end = time.monotonic() + seconds
    while not look():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what or look}")
        await asyncio.sleep(0.005)


async def no_refresh(refused: bool) -> None:
    """Credentials that never change."""


@contextlib.asynccontextmanager
async def plain_client(url: str) -> AsyncIterator[KubeClient]:
    """A client without credentials."""
    client = KubeClient(Configuration(host=url), no_refresh)
    try:
        yield client
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def client_of(kubeconfig: Path) -> AsyncIterator[KubeClient]:
    """A client as the product makes it."""
    client = await KubeClient.connect(kubeconfig)
    try:
        yield client
    finally:
        await client.close()
        await connections_closed()


async def connections_closed() -> None:
    """Wait until this event loop has no connection any more.

    A TLS connection whose watch was cancelled is closed only when the server said goodbye too. One that is left when
    the loop ends is a ResourceWarning in whichever test runs at the next garbage collection.
    """
    registered = vars(asyncio.get_running_loop())["_selector"].get_map()
    async with asyncio.timeout(60):
        while len(registered) > 1:  # noqa: ASYNC110 - asyncio tells nobody; the one that stays is the loop's own
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(*reflectors: Reflector[Any]) -> AsyncIterator[None]:
    """The reflectors run meanwhile; one that ends by itself fails the test."""
    tasks = [asyncio.create_task(reflector.run()) for reflector in reflectors]
    try:
        yield
        for task in tasks:
            assert not task.done(), task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Naps:
    """A stand-in for `asyncio.sleep` that takes no time and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await asyncio.sleep(0)


def version_of(obj: Json) -> str:
    """A view that is enough to see updates."""
    return str(obj["metadata"]["resourceVersion"])


def reflector_of(
    client: KubeClient,
    resource: Resource = NAMESPACES,
    *,
    timings: Timings = QUICK,
    naps: Callable[[float], Awaitable[None]] | None = None,
    decode: Callable[[Json], str | None] = version_of,
    name: str | None = None,
    namespace: str | None = None,
) -> Reflector[str]:
    """A reflector into a store of its own."""
    store: ObjectStore[str] = ObjectStore()
    sleep = naps or asyncio.sleep
    return Reflector(client, resource, store, decode, timings=timings, sleep=sleep, name=name, namespace=namespace)


def healthy(reflector: Reflector[Any]) -> bool:
    """Synced, and the last exchange with the server succeeded."""
    return reflector.synced and reflector.last_error is None


def names(reflector: Reflector[str]) -> dict[str, str]:
    """Name and view of all that is stored."""
    return {name: view for (_, name), view in reflector.store.items()}
