"""Keys that wait to be looked at."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

K = TypeVar("K")


class WorkQueue(Generic[K]):
    """Each key waits once, however often it is added, and is never with two workers at the same time.

    One that is added while a worker has it waits again when that worker is done. Urgent keys overtake the others, so
    that a single change doesn't wait behind thousands.
    """

    def __init__(self) -> None:
        self._urgent: deque[K] = deque()
        self._bulk: deque[K] = deque()
        self._waiting: dict[K, bool] = {}
        self._taken: set[K] = set()
        self._again: dict[K, bool] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._some = asyncio.Event()

    def __len__(self) -> int:
        """How many keys wait or are with a worker; those that are put off are not counted."""
        return len(self._waiting) + len(self._taken)

    def add(self, key: K, *, urgent: bool = False) -> None:
        """Have `key` looked at soon."""
        if key in self._taken:
            self._again[key] = urgent or self._again.get(key, False)
        elif key not in self._waiting or (urgent and not self._waiting[key]):
            (self._urgent if urgent else self._bulk).append(key)  # a place further back is passed over later
            self._waiting[key] = urgent
            self._some.set()

    def add_later(self, key: K, seconds: float) -> None:
        """Have `key` looked at in `seconds`; the earliest of several such wishes counts."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self._due, key)

    def forget(self, key: K) -> None:
        """Take back what `add_later` was told."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    async def take(self) -> K:
        """Return the next key; `done` must be called for it."""
        while not self._waiting:
            self._some.clear()
            await self._some.wait()
        key = self._next()
        del self._waiting[key]
        self._taken.add(key)
        return key

    def done(self, key: K) -> None:
        """The worker that took `key` has finished with it."""
        self._taken.discard(key)
        if key in self._again:
            self.add(key, urgent=self._again.pop(key))

    def close(self) -> None:
        """Cancel what was put off."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _next(self) -> K:
        while self._urgent:
            key = self._urgent.popleft()
            if self._waiting.get(key):
                return key
        while True:
            key = self._bulk.popleft()
            if self._waiting.get(key) is False:
                return key

    def _due(self, key: K) -> None:
        del self._timers[key]
        self.add(key)
