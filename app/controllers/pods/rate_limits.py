"""What keeps the reconciler from doing harm: how fast it writes, how often to one pod, and when it had better wait."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from app.kube.client import ApiError, KubeError

K = TypeVar("K")

_log = logging.getLogger("vm-consistency.reconciler")

_LOOK_AGAIN_SECONDS: Final = 0.5


class Rate:
    """At most so many writes a second; those of the last tenth of a second may come at once."""

    def __init__(self, per_second: float) -> None:
        """`per_second`: 0 sets no limit."""
        self._interval = 1 / per_second if per_second else 0.0
        self._next = 0.0

    async def take(self) -> bool:
        """Wait until one more may be made; returns whether that took time."""
        if not self._interval:
            return False
        now = time.monotonic()
        self._next = max(self._next, now - 0.1) + self._interval
        if self._next <= now:
            return False
        await asyncio.sleep(self._next - now)
        return True


class Restraint(Generic[K]):
    """Ends a quarrel over one object: whoever has to be corrected again and again is corrected ever more slowly.

    In ten minutes `at_once` writes are made at once; each further one waits twice as long as the one before, a minute
    at most.
    """

    _LONGEST: Final = 60.0
    _REMEMBERED: Final = 600.0

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._writes: dict[K, list[float]] = {}

    def delay(self, key: K) -> float:
        """Seconds until the next write to `key` may be made; 0 if it may be made now."""
        writes, now = self._writes.get(key, []), time.monotonic()
        lately = sum(now - at < self._REMEMBERED for at in writes)
        if lately < self._at_once:
            return 0.0
        return max(0.0, writes[-1] + min(self._LONGEST, 2.0 ** (lately - self._at_once)) - now)

    def wrote(self, key: K) -> None:
        """Count a write."""
        writes = self._writes.setdefault(key, [])
        writes.append(time.monotonic())
        del writes[: -self._at_once - 8]

    def forget(self, key: K) -> None:
        """The object is gone."""
        self._writes.pop(key, None)

    def prune(self) -> None:
        """Let go of what no longer matters."""
        now = time.monotonic()
        for key in [key for key, writes in self._writes.items() if now - writes[-1] > self._REMEMBERED]:
            del self._writes[key]


class Gate:
    """Closed while the API server is in trouble, and while what is known of the cluster may be outdated."""

    def __init__(self, in_touch: Callable[[], bool]) -> None:
        """`in_touch`: whether decisions can rest on what is known."""
        self._in_touch = in_touch
        self._opens = 0.0
        self._failures = 0
        self._error: str | None = None

    async def passed(self) -> None:
        """Wait until it is open."""
        while True:
            pause = self._opens - time.monotonic()
            if pause <= 0 and self._in_touch():
                return
            await asyncio.sleep(max(pause, 0) or _LOOK_AGAIN_SECONDS)

    def close(self, error: KubeError) -> None:
        """Close it for a while that grows with every failure, as long at least as the API server asks for.

        Requests that were under way together and fail one after the other are one failure.
        """
        text = str(error)
        if text != self._error:
            _log.warning("the API server is in trouble; trying again", extra={"error": text})
        self._error = text
        asked, now = error.retry_after or 0.0 if isinstance(error, ApiError) else 0.0, time.monotonic()
        if now >= self._opens:
            self._failures += 1
            self._opens = now + min(30.0, 2.0 ** min(self._failures, 10) / 4) * random.uniform(0.5, 1.0)  # noqa: S311
        self._opens = max(self._opens, now + asked)

    def succeeded(self) -> None:
        """A request was answered."""
        if self._error is not None:
            _log.info("resolved", extra={"error": self._error})
        self._failures, self._error = 0, None
