"""One term of a leader: what it starts, in which order, and that nothing of it is left when it ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from app.controllers.duties import Duties
from app.controllers.events import EventRecorder
from app.controllers.policy_keeper import PolicyKeeper
from app.controllers.policy_status import PolicyStatus
from app.core.constants import UPSTREAM
from app.kube import store
from app.kube.client import KubeClient
from app.kube.cluster import ClusterStores
from app.kube.lookup import StoreFacts
from app.kube.pods import NOT_ENDED
from app.server.metrics import Metrics
from app.settings import Settings
from tests.infra.factories import NAME, NAMESPACE, UID, decide_pod, make_facts, make_pod, patched, policy_text
from tests.infra.stand_ins.api_server import Json, Reply, Request, StandInServer, listed
from tests.kube.support import eventually, plain_client

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

    def __init__(self, client: KubeClient, **settings: Any) -> None:
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
        stores = self.stores
        lists: list[list[Any]] = [
            stores.namespaces._callbacks,
            stores.instances._callbacks,
            stores.machines._callbacks,
            stores.kubevirts._callbacks,
            self.keeper._listeners,
        ]
        return sum(map(len, lists))

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


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    api = Api()
    async with api.server.running():
        yield api


async def test_a_term_brings_pods_in_line_tells_it_and_ends_without_a_trace(api: Api) -> None:
    async with plain_client(api.server.url) as client:
        replica = Replica(client, agent_grace=0)
        subscribed, tasks = replica.subscriptions, asyncio.all_tasks()
        async with replica.leads():
            await eventually(lambda: api.sent("PATCH", POD), what="the pod to be written to")
            await eventually(lambda: replica.shown("pods", level="crash", source="default") == 2)
            await eventually(lambda: replica.shown("guest_agents_missing") == 1)
            await eventually(lambda: len(api.sent("POST", f"/api/v1/namespaces/{NAMESPACE}/events")) == 2)
            assert replica.subscriptions > subscribed
        assert replica.shown("pods", level="crash", source="default") == 0
        assert replica.shown("guest_agents_missing") == 0
        assert replica.shown("reconcile_backlog") == 0
        assert replica.shown("events_total", reason="LevelChanged", result="sent") == 1
        assert replica.subscriptions == subscribed
        assert replica.duties.note() is None
        left = {task for task in asyncio.all_tasks() - tasks if task not in api.server._connections}
        await eventually(lambda: all(task.done() for task in left), what=f"the end of {left}")
    (selected,) = {tuple(sorted(one.query.items())) for one in api.sent("GET", PODS) if not one.is_watch}
    query = dict(selected)
    assert (query["labelSelector"], query["fieldSelector"]) == ("kubevirt.io", NOT_ENDED)


async def test_each_term_looks_anew(api: Api) -> None:
    async with plain_client(api.server.url) as client:
        replica = Replica(client)
        for term in range(1, 4):
            async with replica.leads():
                await eventually(lambda: len(api.sent("PATCH", POD)) >= term)  # noqa: B023 - it ends within the round
                await eventually(lambda: replica.shown("pods", level="crash", source="default") == 2)
            assert len(api.sent("PATCH", POD)) == term


async def test_nothing_is_looked_at_before_all_pods_are_known(api: Api) -> None:
    api.lists_pods.clear()
    async with plain_client(api.server.url) as client:
        replica = Replica(client)
        subscribed = replica.subscriptions
        async with replica.leads():
            await eventually(lambda: api.sent("GET", PODS))
            await eventually(lambda: any(one.is_watch for one in api.sent("GET", INSTANCES)))
            note = replica.duties.note()
            assert note is not None
            assert "pods" in note
            assert not api.sent("PATCH")
            assert replica.subscriptions == subscribed
            api.lists_pods.set()
            await eventually(lambda: api.sent("PATCH", POD))
            assert replica.duties.note() is None


async def test_nothing_is_written_while_the_cluster_is_out_of_sight(api: Api) -> None:
    async with plain_client(api.server.url) as client:
        replica = Replica(client, reconcile_concurrency=1)
        replica.in_touch = False
        async with replica.leads():
            await eventually(lambda: replica.shown("reconcile_backlog") == 2)
        assert replica.shown("reconcile_backlog") == 0
        async with replica.leads():
            await eventually(lambda: replica.shown("reconcile_backlog") == 2)
            assert not api.sent("PATCH", POD)
            replica.in_touch = True
            await eventually(lambda: api.sent("PATCH", POD))


async def test_nothing_is_written_while_the_pods_are_out_of_sight(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "STALE_SECONDS", 0.0)
    api.shows_pods = False
    async with plain_client(api.server.url) as client:
        replica = Replica(client)
        replica.in_touch = False  # until the watch was refused
        async with replica.leads():
            await eventually(lambda: any(one.is_watch for one in api.sent("GET", PODS)))
            await eventually(lambda: replica.duties.note() is not None)
            replica.in_touch = True
            await eventually(lambda: len([one for one in api.sent("GET", PODS) if one.is_watch]) > 1)
            assert replica.shown("reconcile_backlog") == 2
            assert not api.sent("PATCH", POD)
            api.shows_pods = True
            await eventually(lambda: api.sent("PATCH", POD), seconds=30)
            assert replica.duties.note() is None


@pytest.mark.parametrize(
    ("change", "excluded"),
    [
        pytest.param({"deletionTimestamp": "2026-01-01T00:00:00Z"}, "", id="ending"),
        pytest.param({}, f"a,{NAMESPACE}", id="in-a-namespace-that-is-excluded"),
        pytest.param({"ownerReferences": []}, "", id="nobodys"),
    ],
)
async def test_pods_that_are_left_alone(api: Api, change: Json, excluded: str) -> None:
    api.pod["metadata"] |= change
    async with plain_client(api.server.url) as client:
        replica = Replica(client, excluded_namespaces=excluded)
        subscribed = replica.subscriptions
        async with replica.leads():
            await eventually(lambda: replica.subscriptions > subscribed and replica.shown("reconcile_backlog") == 0)
        assert not api.sent("PATCH", POD)


async def test_a_term_that_ends_before_it_began_leaves_nothing(api: Api) -> None:
    api.lists_pods.clear()
    async with plain_client(api.server.url) as client:
        replica = Replica(client)
        subscribed = replica.subscriptions
        async with replica.leads():
            await asyncio.sleep(0)
        assert replica.subscriptions == subscribed
        assert replica.duties.note() is None
        assert not api.sent("PATCH")
