"""Which running guests have no agent although their backups are to freeze them."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from app.cluster.pods import PodIndex, RunningPod
from app.controllers.events.recorder import WARNING, EventRecorder, ObjectRef
from app.core.annotations import EFFECTIVE_LEVEL
from app.core.kubevirt_names import KubeVirtNames
from app.core.policy import Level
from app.kube.client import Json, KubeClient
from app.kube.reflector import Reflector
from app.kube.resources import virtual_machine_instances
from app.kube.store import Key, ObjectStore

GUEST_AGENT_NOT_CONNECTED: Final = "GuestAgentNotConnected"

_TICK_SECONDS: Final = 5.0
_TOLD_AT_ONCE: Final = 50
_LOOKED_AT_AT_A_STRETCH: Final = 100


@dataclass(frozen=True, slots=True)
class Guest:
    """What an instance's status says of its guest (kubevirt v1.8.4, api/core/v1/types.go: AgentConnected)."""

    uid: str
    is_running: bool
    has_agent: bool


def guest(item: Json) -> Guest:
    """Read a VirtualMachineInstance."""
    status = item.get("status") or {}
    conditions: Iterable[Any] = status.get("conditions") or ()
    has_agent = any(one.get("type") == "AgentConnected" and one.get("status") == "True" for one in conditions)
    return Guest(item["metadata"]["uid"], status.get("phase") == "Running", has_agent)


class GuestAgents:
    """Tells of each guest that runs without its agent for longer than a booting one does.

    `virt-freezer` exits 0 without an agent (kubevirt v1.8.4, cmd/virt-freezer/virt-freezer.go): the backup looks
    frozen and is not.
    """

    def __init__(
        self,
        pods: ObjectStore[RunningPod],
        index: PodIndex,
        recorder: EventRecorder,
        gauge: Callable[[int], None],
        names: KubeVirtNames,
        *,
        grace: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`index` is that of `pods`; `gauge` is told how many guests lack their agent; `grace` is in seconds."""
        self._pods, self._index, self._recorder, self._gauge, self._names = pods, index, recorder, gauge, names
        self._grace, self._clock = grace, clock
        self._store: ObjectStore[Guest] = ObjectStore()
        self._without: dict[Key, float] = {}
        self._store.subscribe(self._changed)

    def reflector(self, client: KubeClient) -> Reflector[Guest]:
        """What keeps this up to date; whole objects, as the agent's condition is in the status."""
        resource = virtual_machine_instances(self._names)
        return Reflector(client, resource, self._store, guest)

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        told: set[str] = set()
        try:
            while True:
                told = await self.look(told)
                await asyncio.sleep(_TICK_SECONDS)
        finally:
            self._gauge(0)

    async def look(self, told: set[str]) -> set[str]:
        """Tell of those that lack their agent and are not among `told`; returns the UIDs of all that are told by now.

        Not of all at once, as Events of other things wait in the same queue.
        """
        due = self._clock() - self._grace
        lacking, still, room = 0, set[str](), _TOLD_AT_ONCE
        for number, (key, since) in enumerate(tuple(self._without.items())):
            if number % _LOOKED_AT_AT_A_STRETCH == 0:
                await asyncio.sleep(0)  # reviews get their turn
            held = self._store.get(*key)
            level = self._frozen_at(held) if held and since <= due else None
            if held is None or level is None:
                continue
            lacking += 1
            if held.uid in told:
                still.add(held.uid)
            elif room:
                room -= 1
                still.add(held.uid)
                self._tell(key, held, level)
        self._gauge(lacking)
        return still

    def _tell(self, key: Key, held: Guest, level: str) -> None:
        message = f"level {level} is asked for, but the guest agent is not connected: no backup freezes this guest"
        where = ObjectRef(self._names.api_version, self._names.instance_kind, *key, held.uid)
        self._recorder.record(where, WARNING, GUEST_AGENT_NOT_CONNECTED, message, recurring=True)

    def _frozen_at(self, held: Guest) -> str | None:
        """The level of the guest's pod, if that freezes it."""
        for key in self._index.of_owner(held.uid):
            pod = self._pods.get(*key)
            level = (pod.view.annotations or {}).get(EFFECTIVE_LEVEL, "") if pod else ""
            if level in (Level.FILESYSTEM, Level.APPLICATION):
                return level
        return None

    def _changed(self, key: Key, old: Guest | None, new: Guest | None) -> None:
        if old is not None and new is not None and old.uid != new.uid:
            self._without.pop(key, None)  # another guest, which is booting
        if new is not None and new.is_running and not new.has_agent:
            self._without.setdefault(key, self._clock())
        else:
            self._without.pop(key, None)
