"""One term of a leader: what it starts, in which order, and that nothing of it is left when it ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from app.cluster.facts import StoreFacts
from app.cluster.pods import NOT_ENDED
from app.cluster.stores import ClusterStores
from app.controllers.events.recorder import EventRecorder
from app.controllers.leader_tasks import Duties
from app.controllers.policy.active import PolicyKeeper
from app.controllers.policy.status import PolicyStatus
from app.core.kubevirt_names import UPSTREAM
from app.kube.client import KubeClient
from app.kube.store import STALE_SECONDS
from app.server.metrics import Metrics
from app.settings import Settings
from tests.infra.factories import NAME, NAMESPACE, UID, decide_pod, make_facts, make_pod, patched, policy_text
from tests.infra.stand_ins.api_server import Json, Reply, Request, StandInServer, listed
from tests.infra.subscriptions import Subscriptions, counted_subscriptions
from tests.infra.virtual_time import in_virtual_time_with_sockets, pass_time
from tests.kube.support import plain_client

PODS, INSTANCES = "/api/v1/pods", "/apis/kubevirt.io/v1/virtualmachineinstances"
POD = f"/api/v1/namespaces/{NAMESPACE}/pods/pod"
HEADERS = {"resourceVersion": "7", "name": "pod", "uid": "pod"}


class Api:
    """The API server's side: one pod in line with the built-in default, its instance without an agent."""

    def __init__(self) -> None:
        pod = patched(make_pod(), decide_pod(make_pod()))
        pod["metadata"] |= HEADERS
        self.pod: Json = {"metadata": pod["metadata"]}
        metadata = {"namespace": NAMESPACE, "name": NAME, "uid": UID, "resourceVersion": "5"}
        self.instance: Json = {"metadata": metadata, "status": {"phase": "Running"}}
        self.lists_pods = asyncio.Event()
        self.lists_pods.set()
        self.other = {"metadata": {**pod["metadata"], "name": "other", "uid": "other"}}
        self.shows_pods = True
        self.server = StandInServer(self.answer)

    def sent(self, method: str, path: str = "") -> list[Request]:
        return [one for one in self.server.requests if one.method == method and one.path.startswith(path)]

    async def answer(self, request: Request, reply: Reply) -> None:
        if request.is_watch and request.path == PODS and not self.shows_pods:
            await reply.status(503, "ServiceUnavailable")
        elif request.is_watch:
            await reply.stream()
            await asyncio.Event().wait()
        elif request.method == "PATCH":
            await reply.json({"metadata": {}})
        elif request.method == "POST":
            await reply.json({"metadata": {}}, 201)
        elif request.path == PODS:
            await self.lists_pods.wait()
            await reply.json(listed(self.pod, self.other, version=10))
        elif request.path == INSTANCES:
            await reply.json(listed(self.instance, version=10))
        elif request.path.endswith("/configmaps"):
            await reply.json(listed(version=10))
        else:
            await reply.status(404, "NotFound")


class Replica:
    """What a replica has beside its duties, with everything known of the cluster."""

    def __init__(self, client: KubeClient, counted: Subscriptions, **settings: Any) -> None:
        self.counted = counted
        self.settings = Settings(namespace="vm-consistency", **settings)
        self.stores, self.metrics = ClusterStores(UPSTREAM), Metrics()
        for known in (self.stores.namespaces, self.stores.instances, self.stores.machines, self.stores.kubevirts):
            known.synced = True
        facts = make_facts()
        assert facts.vmi
        assert facts.vm
        self.stores.namespaces.put(("", NAMESPACE), facts.namespace)
        self.stores.instances.put((NAMESPACE, NAME), facts.vmi)
        self.stores.machines.put((NAMESPACE, NAME), facts.vm)
        self.keeper = PolicyKeeper(self.metrics.policy_changed)
        self.keeper.read(policy_text(default={"level": "crash"}))
        self.recorder = EventRecorder(on_result=self.metrics.event)
        self.status = PolicyStatus(client, self.keeper, self.recorder, namespace="vm-consistency", name="policy")
        self.in_touch = True
        self.duties = Duties(
            client,
            self.settings,
            self.stores,
            StoreFacts(client, self.stores, 1.0),
            self.keeper,
            self.recorder,
            self.status,
            self.metrics,
            lambda: self.in_touch,
        )

    def shown(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"vm_consistency_{name}", labels) or 0.0

    @property
    def subscriptions(self) -> int:
        """How many callbacks of duties hear of changes of what the replica knows."""
        stores = self.stores
        known = (stores.namespaces, stores.instances, stores.machines, stores.kubevirts, self.keeper)
        return self.counted.count(*known)

    @asynccontextmanager
    async def leads(self) -> AsyncIterator[None]:
        term = asyncio.create_task(self.duties.run())
        try:
            yield
            assert not term.done()
        finally:
            term.cancel()
            with suppress(asyncio.CancelledError):
                await term


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[tuple[Api, Replica]]:
    """An API server and a replica that doesn't lead."""
    api = Api()
    async with api.server.running(), plain_client(api.server.url) as client:
        with counted_subscriptions() as counted:
            yield api, Replica(client, counted, **settings)


async def until(look: Callable[[], object]) -> None:
    """Let time pass until `look` is true, a minute at most."""
    async with asyncio.timeout(60):
        while not look():
            await pass_time(0.1)


@in_virtual_time_with_sockets
async def test_a_term_brings_pods_in_line_reports_it_and_leaves_nothing() -> None:
    tasks = asyncio.all_tasks()
    async with running(agent_grace=0) as (api, replica):
        async with replica.leads():
            await until(lambda: api.sent("PATCH", POD))
            await until(lambda: replica.shown("pods", level="crash", source="default") == 2)
            await until(lambda: replica.shown("guest_agents_missing") == 1)
            await until(lambda: len(api.sent("POST", f"/api/v1/namespaces/{NAMESPACE}/events")) == 2)
            assert replica.subscriptions > 0
        assert replica.shown("pods", level="crash", source="default") == 0
        assert replica.shown("guest_agents_missing") == 0
        assert replica.shown("reconcile_backlog") == 0
        assert replica.shown("events_total", reason="LevelChanged", result="sent") == 1
        assert replica.subscriptions == 0
        assert replica.duties.note() is None
        (selected,) = {tuple(sorted(one.query.items())) for one in api.sent("GET", PODS) if not one.is_watch}
        query = dict(selected)
        assert (query["labelSelector"], query["fieldSelector"]) == ("kubevirt.io", NOT_ENDED)
    await until(lambda: asyncio.all_tasks() == tasks)


@in_virtual_time_with_sockets
async def test_each_term_looks_anew() -> None:
    async with running() as (api, replica):
        for term in range(1, 4):
            async with replica.leads():
                await until(lambda: len(api.sent("PATCH", POD)) >= term)  # noqa: B023 - it ends within the round
                await until(lambda: replica.shown("pods", level="crash", source="default") == 2)
            assert len(api.sent("PATCH", POD)) == term


@in_virtual_time_with_sockets
async def test_nothing_is_looked_at_before_all_pods_are_known() -> None:
    async with running() as (api, replica):
        api.lists_pods.clear()
        async with replica.leads():
            await until(lambda: api.sent("GET", PODS))
            await until(lambda: any(one.is_watch for one in api.sent("GET", INSTANCES)))
            note = replica.duties.note()
            assert note is not None
            assert "pods" in note
            assert not api.sent("PATCH")
            assert replica.subscriptions == 0
            api.lists_pods.set()
            await until(lambda: api.sent("PATCH", POD))
            assert replica.duties.note() is None


@in_virtual_time_with_sockets
async def test_nothing_is_written_while_the_cluster_is_out_of_sight() -> None:
    async with running(reconcile_concurrency=1) as (api, replica):
        replica.in_touch = False
        async with replica.leads():
            await until(lambda: replica.shown("reconcile_backlog") == 2)
        assert replica.shown("reconcile_backlog") == 0
        async with replica.leads():
            await until(lambda: replica.shown("reconcile_backlog") == 2)
            await pass_time(5)
            assert not api.sent("PATCH", POD)
            replica.in_touch = True
            await until(lambda: api.sent("PATCH", POD))


@in_virtual_time_with_sockets
async def test_nothing_is_written_while_the_pods_are_out_of_sight() -> None:
    async with running() as (api, replica):
        api.shows_pods = False
        replica.in_touch = False  # until the watch has been refused for too long
        async with replica.leads():
            await pass_time(STALE_SECONDS + 1)
            assert replica.duties.note() is not None
            replica.in_touch = True
            await pass_time(5)
            assert replica.shown("reconcile_backlog") == 2
            assert not api.sent("PATCH", POD)
            api.shows_pods = True
            await until(lambda: api.sent("PATCH", POD))
            assert replica.duties.note() is None


@pytest.mark.parametrize(
    ("change", "excluded"),
    [
        pytest.param({"deletionTimestamp": "2026-01-01T00:00:00Z"}, "", id="ending"),
        pytest.param({}, f"a,{NAMESPACE}", id="in-an-excluded-namespace"),
        pytest.param({"ownerReferences": []}, "", id="without-an-owner"),
    ],
)
@in_virtual_time_with_sockets
async def test_pods_that_are_left_alone(change: Json, excluded: str) -> None:
    async with running(excluded_namespaces=excluded) as (api, replica):
        api.pod["metadata"] |= change
        async with replica.leads():
            await until(lambda: replica.subscriptions > 0 and replica.shown("reconcile_backlog") == 0)
            await pass_time(5)
        assert not api.sent("PATCH", POD)


@in_virtual_time_with_sockets
async def test_a_term_that_ends_before_it_began_leaves_nothing() -> None:
    async with running() as (api, replica):
        api.lists_pods.clear()
        async with replica.leads():
            await asyncio.sleep(0)
        assert replica.subscriptions == 0
        assert replica.duties.note() is None
        assert not api.sent("PATCH")
