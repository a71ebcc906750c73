"""What the leading replica does beside answering reviews."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.cluster.pods import PodIndex, RunningPod, launcher_reflector
from app.cluster.stores import ClusterStores
from app.controllers.events.recorder import EventRecorder
from app.controllers.gc_freeze import settle
from app.controllers.pods.guest_agents import GuestAgents
from app.controllers.pods.reconciler import KnownFacts, PodReconciler, RunningPolicies
from app.controllers.pods.reports import PodMetrics, PodReports
from app.controllers.policy.status import PolicyStatus
from app.kube.client import KubeClient
from app.kube.reflector import Reflector
from app.kube.store import ObjectStore
from app.settings import Settings


class DutyMetrics(PodMetrics, Protocol):
    """Shows what the leader does."""

    def agents_missing(self, count: int) -> None:
        """So many guests lack the agent that their level needs."""
        ...

    def show_backlog(self, backlog: Callable[[], int]) -> None:
        """Ask `backlog` for the number of pods that wait."""
        ...


@dataclass(frozen=True, slots=True)
class Duties:
    """Everything that only one replica does. Each term starts with empty hands: what another leader did is unknown."""

    client: KubeClient
    settings: Settings
    stores: ClusterStores
    facts: KnownFacts
    policies: RunningPolicies
    recorder: EventRecorder
    policy_status: PolicyStatus
    metrics: DutyMetrics
    in_touch: Callable[[], bool]
    """Whether `stores` are complete and up to date."""
    _watches: list[Reflector[Any]] = field(default_factory=list)

    def note(self) -> str | None:
        """Why running pods are not brought in line by this replica, which leads; None if they are, or it doesn't."""
        troubles = (watch.describe() for watch in self._watches if not watch.synced or watch.store.stale)
        return next(troubles, None)

    async def run(self) -> None:
        """Do the duties of one term, until cancelled."""
        pods: ObjectStore[RunningPod] = ObjectStore()
        index, settings = PodIndex(pods), self.settings
        launchers = launcher_reflector(self.client, pods, settings.names, settings.spared_namespaces)
        agents = GuestAgents(
            pods, index, self.recorder, self.metrics.agents_missing, settings.names, grace=settings.agent_grace
        )
        guests = agents.reflector(self.client)
        reports = PodReports(self.recorder, self.metrics)
        reconciler = PodReconciler(
            self.client,
            pods,
            index,
            self.stores,
            self.facts,
            self.policies,
            reports,
            lambda: self.in_touch() and not pods.stale,
            per_second=settings.reconcile_rate,
            concurrency=settings.reconcile_concurrency,
        )

        async def when_known(task: Callable[[], Coroutine[Any, Any, None]]) -> None:
            await launchers.wait_synced()
            await task()

        async def settled() -> None:
            settle()

        with ExitStack() as ends:
            ends.callback(index.close)
            ends.callback(reports.close)
            self.metrics.show_backlog(lambda: reconciler.backlog)
            ends.callback(self.metrics.show_backlog, lambda: 0)
            self._watches.extend((launchers, guests))
            ends.callback(self._watches.clear)
            async with asyncio.TaskGroup() as group:
                group.create_task(launchers.run())
                group.create_task(guests.run())
                group.create_task(self.recorder.run(self.client))
                group.create_task(self.policy_status.run(self.client))
                group.create_task(when_known(settled))
                group.create_task(when_known(reconciler.run))
                group.create_task(when_known(agents.run))
