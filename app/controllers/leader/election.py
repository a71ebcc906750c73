"""Which replica leads: all of them campaign for one Lease, and who holds it has the duties."""

import asyncio
import contextlib
import logging
import random
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from app.controllers.leader.lease import LeaseTimings, LeaseView, claim, decode, elapsed, release
from app.controllers.reconcile_loop import ObjectApi, until_won
from app.core.text import one_line
from app.kube.client import ApiError, KubeClient, KubeError
from app.kube.reflector import Reflector
from app.kube.resources import LEASES
from app.kube.store import Key, ObjectStore

_log = logging.getLogger("vm-consistency.leader")

Duties = Callable[[], Awaitable[None]]
"""Runs for ever, until cancelled."""

_LONGEST_DURATION: Final = 60
"""Seconds; a Lease that asks for longer was edited by somebody, who would keep every replica from leading."""


def new_identity() -> str:
    """A name for this process in the Lease: the host's, which in a cluster is the pod's, and something random."""
    return f"{socket.gethostname()}_{secrets.token_hex(4)}"


class Leader:
    """Campaigns for the Lease, and runs the duties while it holds it.

    Times in the Lease are for people to read. Whether another's lease has expired is judged by the local clock, from
    the moment at which this replica saw it change, so clocks that differ or jump do no harm. Every write carries the
    resourceVersion of what was read: of several that find the Lease free, one gets it.

    A request that was sent before leadership ended may be carried out after another replica has begun to lead;
    duties guard what they write by resourceVersion.
    """

    def __init__(
        self,
        api: ObjectApi,
        *,
        namespace: str,
        name: str,
        identity: str,
        timings: LeaseTimings | None = None,
        clock: Callable[[], float] = elapsed,
        on_change: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """`identity` is this process's alone. `on_change` is told when leadership begins and ends."""
        self._api, self._identity = api, identity
        self._namespace, self._name = namespace, name
        self._timings, self._clock, self._on_change = timings or LeaseTimings(), clock, on_change
        self._woken = asyncio.Event()
        self._leads = False
        self._ends = False  # the duties of this term are to end
        self._failing: str | None = None  # in this term
        self._until = 0.0  # while it leads: when it must stop
        self._own: LeaseView | None = None  # as our last write left it; None: it has to be read
        self._seen: LeaseView | None = None  # the last one that was not ours
        self._expires = 0.0  # when that one ends
        self._trouble: str | None = None

    @property
    def leading(self) -> bool:
        """Whether this replica leads at this moment, even if the process slept since it renewed the Lease."""
        return self._leads and self._clock() < self._until

    def note(self) -> str | None:
        """What is wrong with the Lease, or with what this replica does while it leads; None if nothing is."""
        return self._trouble or self._failing

    async def run(self, client: KubeClient, duties: Duties) -> None:
        """Campaign until cancelled; a watch through `client` shows at once when the Lease is released."""
        store: ObjectStore[LeaseView] = ObjectStore()
        store.subscribe(self._watched)
        watch = Reflector(client, LEASES, store, decode, namespace=self._namespace, name=self._name)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch.run())
            tasks.create_task(self.campaign(duties))

    async def campaign(self, duties: Duties) -> None:
        """The same without a watch: a released Lease is taken when it would have expired.

        Where it is cancelled, the duties end before the Lease is released; it isn't if they don't.
        """
        work: asyncio.Task[None] | None = None
        try:
            while True:
                self._woken.clear()
                pause = await self.attempt()
                if self._leads and (work is None or work.done()):
                    self._ends, self._failing = False, None
                    work = asyncio.create_task(self._work(duties))
                elif work is not None and not self._leads:
                    if not await self._end(work):
                        await asyncio.wait({work})
                    work = None
                await self._rest(pause)
        finally:
            self._leave("this process stops")
            if work is None or await self._end(work):
                await self._release()

    async def attempt(self) -> float:
        """Renew the Lease or take it, if that may be done; returns the seconds until the next attempt.

        Leadership that has ended begins anew with a later attempt at the earliest.
        """
        if self._leads and not self.leading:
            return self._leave("the Lease was not renewed in time")
        patience = self._timings.request
        if self._leads:
            patience = min(patience, self._until - self._clock())
        try:
            async with asyncio.timeout(patience):
                pause = await until_won(self._try)
        except TimeoutError:
            return self._failed(f"Lease {self._where}: no answer in time", None)
        except KubeError as error:
            return self._failed(f"Lease {self._where}: {error}", error)
        if self._trouble:
            _log.info("resolved", extra={"reason": self._trouble})
            self._trouble = None
        return pause

    @property
    def _where(self) -> str:
        return f"{self._namespace}/{self._name}"

    @property
    def _path(self) -> str:
        return LEASES.object(self._name, self._namespace)

    async def _try(self) -> float:
        lease, self._own = self._own or decode(await self._api.get(self._path)), None
        if lease.holder != self._identity:
            self._observe(lease)
            if self._leads:
                return self._leave(f"{lease.holder or 'nobody'} holds the Lease")
            wait = self._expires - self._clock()
            if wait > 0:
                return wait + random.uniform(0, self._timings.renew / 10)  # noqa: S311 - spreads replicas
        sent = self._clock()
        self._own = decode(await self._api.patch(self._path, claim(lease, self._identity, self._timings.duration)))
        self._until = sent + self._timings.deadline
        if not self._leads:
            self._leads = True
            _log.info("leading", extra={"identity": self._identity})
            self._on_change(True)
        return self._timings.renew * random.uniform(0.8, 1)  # noqa: S311

    def _watched(self, _key: Key, _old: LeaseView | None, lease: LeaseView | None) -> None:
        if lease is not None and lease.holder == self._identity:
            return
        if lease is not None:
            self._observe(lease)
        if self._leads or lease is None or not lease.holder:
            self._woken.set()

    def _observe(self, lease: LeaseView) -> None:
        if lease == self._seen:
            return
        before, self._seen = self._seen, lease
        if lease.holder:
            asked = min(lease.duration, _LONGEST_DURATION)
            self._expires = self._clock() + max(asked, self._timings.duration)
            if before is None or before.holder != lease.holder:
                _log.info("another replica leads", extra={"holder": one_line(lease.holder)})
        elif lease.renewed:
            self._expires = self._clock()
        # Else it was made anew: whoever held the one before may not have noticed yet, and has its time.

    def _failed(self, text: str, error: KubeError | None) -> float:
        self._own = None
        absent = isinstance(error, ApiError) and error.status == 404
        if absent:
            text = f"Lease {self._where} does not exist: apply the manifests, which bring it"
        if text != self._trouble:
            _log.warning(text)
        self._trouble = text
        if self._leads and (absent or not self.leading):
            return self._leave(text)
        if self._leads:
            return min(self._timings.renew / 2, self._until - self._clock())
        asked = error.retry_after if isinstance(error, ApiError) else None
        return max(self._timings.renew, min(asked or 0.0, 10.0)) * random.uniform(0.8, 1.2)  # noqa: S311

    def _leave(self, reason: str) -> float:
        if self._leads:
            self._leads = False
            _log.info("no longer leading", extra={"identity": self._identity, "reason": reason})
            self._on_change(False)
        return 0.0

    async def _rest(self, seconds: float) -> None:
        if self._trouble:
            await asyncio.sleep(seconds)  # a stream of events must not turn a failure into a tight loop
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    async def _work(self, duties: Duties) -> None:
        pause = self._timings.restart
        while True:
            started = self._clock()
            try:
                await duties()
                self._failing = "the leader's duties ended; they start again"
                _log.error(self._failing, extra={"seconds": pause})
            except Exception as error:
                self._failing = f"the leader's duties failed and start again: {type(error).__name__}"
                _log.exception("the leader's duties failed; they start again", extra={"seconds": pause})
            # Not by cancelling(): a TaskGroup may leave its count behind (CPython issue 116720, before Python 3.13).
            if self._ends:
                return  # the duties kept the cancellation to themselves
            if self._clock() - started > self._timings.settled:
                pause = self._timings.restart
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._timings.settled)

    async def _end(self, work: "asyncio.Task[None]") -> bool:
        self._ends = True
        work.cancel()
        done, _ = await asyncio.wait({work}, timeout=self._timings.stop)
        if not done:
            _log.error("the leader's duties do not end; meanwhile the Lease is neither renewed nor released")
        return bool(done)

    async def _release(self) -> None:
        try:
            async with asyncio.timeout(self._timings.release):
                await until_won(self._give_up)
        except (KubeError, TimeoutError) as error:
            _log.warning("the Lease is not released; if it is held, it expires", extra={"reason": str(error)})

    async def _give_up(self) -> None:
        # Also where it isn't known to be held: a request to take it may have been under way.
        lease, self._own = self._own or decode(await self._api.get(self._path)), None
        if lease.holder == self._identity:
            await self._api.patch(self._path, release(lease))
