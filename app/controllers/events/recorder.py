"""Events: what `kubectl describe` shows below an object, told once and never in the way of the work itself."""

import asyncio
import heapq
import itertools
import logging
import random
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, Literal, Protocol

from app.controllers.events.event import Budgets, ObjectRef, Occurrence, digest
from app.core.text import one_line
from app.kube.client import ApiError, Json, KubeError

__all__ = ["EVENTS_SUPPRESSED", "NORMAL", "WARNING", "EventApi", "EventRecorder", "ObjectRef", "Result"]

_log = logging.getLogger("vm-consistency.events")

NORMAL: Final = "Normal"
WARNING: Final = "Warning"
EVENTS_SUPPRESSED: Final = "EventsSuppressed"

Result = Literal["sent", "dropped", "failed"]

_ATTEMPTS: Final = 8
_LONGEST_PAUSE: Final = 30.0
_SECONDS_BETWEEN_COMPLAINTS: Final = 60.0


class EventApi(Protocol):
    """What the recorder asks of the API server; `app.kube.client.KubeClient` is one."""

    async def get(self, path: str) -> Json:
        """GET an object."""
        ...

    async def post(self, path: str, body: Json) -> Json:
        """Create an object in a collection."""
        ...

    async def patch(self, path: str, body: Json) -> Json:
        """Patch an object with a merge patch."""
        ...


class EventRecorder:
    """Writes Events at a bounded rate, from a queue of bounded length.

    What is recorded beyond that is dropped and counted, and told as one Event about `overflow_about` when the queue
    is empty again. An Event of the same object, reason and message is written once, by whichever replica is first.
    """

    def __init__(
        self,
        *,
        component: str = "vm-consistency",
        instance: str = "",
        overflow_about: ObjectRef | None = None,
        on_result: Callable[[str, Result], None] = lambda _reason, _result: None,
        max_waiting: int = 1000,
        per_second: float = 20.0,
        interval: float = 60.0,
        remembered: int = 20_000,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`instance` is this process; `on_result` is told the reason of each Event and what became of it.

        `interval`: at least so many seconds lie between two writes of an Event that recurs.
        """
        self._component, self._instance, self.overflow_about = component, instance, overflow_about
        self._on_result, self._max_waiting, self._spacing = on_result, max_waiting, 1 / per_second
        self._interval, self._remembered, self._clock, self._sleep = interval, remembered, clock, sleep
        self._told: OrderedDict[bytes, float] = OrderedDict()  # when each was last written, by the digest of it
        self._waiting: dict[bytes, Occurrence] = {}
        self._ready: deque[Occurrence] = deque()
        self._later: list[tuple[float, int, Occurrence]] = []
        self._order = itertools.count()
        self._suppressed: Counter[str] = Counter()
        self._budgets = Budgets(clock)
        self._failures = 0
        self._complaints: dict[str, float] = {}
        self._woken = asyncio.Event()

    def record(self, about: ObjectRef, event_type: str, reason: str, message: str, *, recurring: bool = False) -> None:
        """Have an Event written by `run`; returns at once and never raises.

        `event_type` is NORMAL or WARNING; `message` is cut to one line. An Event that is `recurring` has its count
        raised each time it is recorded; any other is told once and for all.
        """
        line = one_line(message)
        key = digest(about.uid, reason, line)
        now = datetime.now(UTC)
        if key in self._waiting:
            if recurring:
                entry = self._waiting[key]
                entry.count, entry.last = entry.count + 1, now
            return
        written = self._told.get(key)
        if written is not None:
            self._told.move_to_end(key)
            if not recurring:
                return
        is_known = written is not None
        due = self._clock() if written is None else written + self._interval
        self._enqueue(Occurrence(key, about, event_type, reason, line, recurring, is_known, now, now), due)

    async def run(self, client: EventApi) -> None:
        """Write what is recorded, until cancelled; what still waits then is forgotten."""
        try:
            while True:
                self._woken.clear()
                entry = self._next()
                if entry is not None:
                    await self._sleep(await self._send(client, entry))
                elif self._suppressed:
                    self._tell_suppressed()
                else:
                    await self._nothing_due()
        finally:
            for key in self._waiting:
                self._told.pop(key, None)
            self._waiting.clear()
            self._ready.clear()
            self._later.clear()
            self._suppressed.clear()

    def _enqueue(self, entry: Occurrence, due: float) -> None:
        is_due = due <= self._clock()
        is_too_much = len(self._ready if is_due else self._later) >= self._max_waiting
        if is_too_much or not (entry.is_known or self._budgets.spend(f"{entry.about.uid} {entry.reason}")):
            self._suppressed[entry.reason] += 1
            self._on_result(entry.reason, "dropped")
            return
        self._waiting[entry.key] = entry
        if is_due:
            self._remember(entry.key)
            self._ready.append(entry)
        else:
            heapq.heappush(self._later, (due, next(self._order), entry))
        self._woken.set()

    def _remember(self, key: bytes) -> None:
        self._told[key] = self._clock()
        self._told.move_to_end(key)
        if len(self._told) > self._remembered:
            self._told.popitem(last=False)

    def _next(self) -> Occurrence | None:
        while self._later and self._later[0][0] <= self._clock():
            self._ready.append(heapq.heappop(self._later)[2])
        return self._ready.popleft() if self._ready else None

    async def _nothing_due(self) -> None:
        pause = self._later[0][0] - self._clock() if self._later else None
        try:
            async with asyncio.timeout(pause):
                await self._woken.wait()
        except TimeoutError:
            pass

    def _tell_suppressed(self) -> None:
        _log.warning("Events were not written, there were too many at once", extra={"reasons": dict(self._suppressed)})
        if self.overflow_about is not None:
            kinds = ", ".join(f"{reason} {count}" for reason, count in self._suppressed.most_common())
            message = f"{self._suppressed.total()} Events were not written, there were too many at once: {kinds}"
            self.record(self.overflow_about, WARNING, EVENTS_SUPPRESSED, message, recurring=True)
        self._suppressed.clear()

    async def _send(self, client: EventApi, entry: Occurrence) -> float:
        """Write one Event, whatever comes of it; returns the seconds until the next may be written."""
        begin = self._clock()
        self._remember(entry.key)
        sent = replace(entry)  # what happens again meanwhile is counted in `entry`
        try:
            is_news = await self._write(client, sent)
        except KubeError as error:
            if not isinstance(error, ApiError) or error.status == 429 or error.status >= 500:
                return self._again(entry, error)
            self._give_up(entry, error)
        except Exception as error:
            self._give_up(entry, error)
        else:
            self._failures = 0
            self._end(entry, "sent" if is_news else None)
            if entry.count > sent.count:
                rest = replace(entry, is_known=True, first=entry.last, count=entry.count - sent.count, attempts=0)
                self._enqueue(rest, begin + self._interval)
        return max(0.0, begin + self._spacing - self._clock())

    async def _write(self, client: EventApi, entry: Occurrence) -> bool:
        """Write one Event; returns False where another replica has told it before."""
        if entry.is_known and await self._raise_count(client, entry):
            return True
        try:
            await client.post(entry.collection, entry.event(self._component, self._instance))
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            return entry.is_recurring and await self._raise_count(client, entry)
        return True

    async def _raise_count(self, client: EventApi, entry: Occurrence) -> bool:
        try:
            held = await client.get(entry.path)
            await client.patch(entry.path, entry.raised(held))
        except ApiError as error:
            if error.status == 404:
                return False  # API servers delete Events after an hour, by default
            raise
        return True

    def _again(self, entry: Occurrence, error: KubeError) -> float:
        self._failures += 1
        entry.attempts += 1
        if entry.attempts < _ATTEMPTS:
            self._complain("Event not written; tried again", entry, error)
            self._ready.append(entry)  # behind the others: it may be the only one that the server can't take
        else:
            self._give_up(entry, error)
        asked = error.retry_after if isinstance(error, ApiError) else None
        pause = min(_LONGEST_PAUSE, 2.0 ** min(self._failures, 10) / 2) * random.uniform(0.5, 1)  # noqa: S311
        return max(pause, min(asked or 0.0, 2 * _LONGEST_PAUSE))

    def _give_up(self, entry: Occurrence, error: Exception) -> None:
        is_gone = isinstance(error, ApiError) and (error.status == 404 or "being terminated" in error.message)
        if not is_gone:  # else the namespace goes, and with it what the Event is about
            self._complain("Event not written", entry, error)
        self._told.pop(entry.key, None)
        self._end(entry, "dropped" if is_gone else "failed")

    def _end(self, entry: Occurrence, result: Result | None) -> None:
        del self._waiting[entry.key]
        if result:
            self._on_result(entry.reason, result)

    def _complain(self, text: str, entry: Occurrence, error: Exception) -> None:
        kind = f"{error.status} {error.reason}" if isinstance(error, ApiError) else type(error).__name__
        last, now = self._complaints.get(kind), self._clock()
        if last is None or now >= last + _SECONDS_BETWEEN_COMPLAINTS:
            self._complaints[kind] = now
            fields = {"reason": entry.reason, "namespace": entry.about.namespace, "error": one_line(str(error))}
            _log.warning(text, extra=fields)
