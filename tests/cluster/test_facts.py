"""Which requests a lookup sends, and what it makes of the answers."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.admission.ports import LookupFailed
from app.cluster.facts import StoreFacts
from app.cluster.stores import ClusterStores, KubeVirtView
from app.core.kubevirt_names import UPSTREAM, KubeVirtNames
from app.core.objects import OwnerReference
from app.kube.store import STALE_SECONDS, ObjectStore
from tests.infra.stand_ins.api_server import Json, Reply, Request, StandInServer, forever, item, listed
from tests.kube.support import eventually, plain_client

_GROUP = "/apis/kubevirt.io/v1"
_NAMESPACE = "/api/v1/namespaces/team"
_INSTANCE = f"{_GROUP}/namespaces/team/virtualmachineinstances/db"
_MACHINE = f"{_GROUP}/namespaces/team/virtualmachines/db"
_KUBEVIRTS = f"{_GROUP}/kubevirts"
_LEVEL = "vm-consistency.io/level"


def _owner(uid: str, kind: str = "VirtualMachine", api_version: str = "kubevirt.io/v1", name: str = "db") -> Json:
    return {"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": True}


_VMI = OwnerReference("kubevirt.io/v1", "VirtualMachineInstance", "db", "vmi-1")
_SPACE = item("team", labels={"tier": "data"})
_DB_INSTANCE = item("db", 1, "team", uid="vmi-1", ownerReferences=[_owner("vm-1")])
_DB_MACHINE = item("db", 1, "team", uid="vm-1", annotations={_LEVEL: "crash"})


class Cluster:
    """Stores, the server behind them, and what the server holds (a status code stands for a refusal)."""

    def __init__(self) -> None:
        self.stores = ClusterStores(UPSTREAM)
        self.objects: dict[str, Json | int] = {
            _NAMESPACE: _SPACE,
            _INSTANCE: _DB_INSTANCE,
            _MACHINE: _DB_MACHINE,
            _KUBEVIRTS: listed(item("kubevirt", 1, "kubevirt")),
        }
        self.server = StandInServer(self._answer)
        self.held = asyncio.Event()
        self.held.set()
        self.source: StoreFacts

    async def _answer(self, request: Request, reply: Reply) -> None:
        await self.held.wait()
        found = self.objects.get(request.path, 404)
        await (reply.status(found, "Scripted") if isinstance(found, int) else reply.json(found))

    def remember(self, space: Json = _SPACE, instance: Json = _DB_INSTANCE, machine: Json = _DB_MACHINE) -> None:
        stores = self.stores
        stores.namespaces.replace({("", "team"): stores.namespace(space)})
        stores.instances.replace({("team", "db"): stores.instance(instance)})
        stores.machines.replace({("team", "db"): stores.machine(machine)})
        stores.kubevirts.replace({})

    @property
    def asked(self) -> list[str]:
        return sorted(request.path for request in self.server.requests)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    async with _connected(made, deadline=5.0):
        yield made


@asynccontextmanager
async def _connected(made: Cluster, *, deadline: float) -> AsyncIterator[None]:
    async with made.server.running() as server, plain_client(server.url) as client:
        made.source = StoreFacts(client, made.stores, deadline)
        yield


async def test_nothing_is_asked_when_everything_is_known(cluster: Cluster) -> None:
    cluster.remember()
    facts = await cluster.source.facts("team", _VMI)
    assert cluster.asked == []
    assert facts.namespace.labels == {"tier": "data"}
    assert facts.vmi is not None
    assert facts.vm is not None
    assert (facts.vmi.uid, facts.vm.uid, facts.vm.wishes.level) == ("vmi-1", "vm-1", "crash")


async def test_a_hit_does_not_even_yield_to_the_event_loop(cluster: Cluster) -> None:
    cluster.remember()
    with pytest.raises(StopIteration):
        cluster.source.facts("team", _VMI).send(None)


async def test_everything_is_asked_once_while_nothing_is_known(cluster: Cluster) -> None:
    facts = await cluster.source.facts("team", _VMI)
    assert cluster.asked == sorted([_NAMESPACE, _INSTANCE, _MACHINE, _KUBEVIRTS])
    assert facts.vm is not None
    assert facts.vm.wishes.level == "crash"
    assert all("PartialObjectMetadata" in request.headers["accept"] for request in cluster.server.requests)
    stores = cluster.stores
    sizes = [len(stores.namespaces), len(stores.instances), len(stores.machines), len(stores.kubevirts)]
    assert sizes == [0, 0, 0, 0]


async def test_a_namespace_alone(cluster: Cluster) -> None:
    assert (await cluster.source.namespace("team")).labels == {"tier": "data"}
    assert cluster.asked == [_NAMESPACE]
    cluster.remember()
    assert (await cluster.source.namespace("team")).labels == {"tier": "data"}
    assert cluster.asked == [_NAMESPACE]
    with pytest.raises(LookupFailed, match="namespace elsewhere does not exist"):
        await cluster.source.namespace("elsewhere")


async def test_a_namespace_is_not_waited_for_beyond_the_deadline() -> None:
    cluster = Cluster()
    cluster.held.clear()
    async with _connected(cluster, deadline=0.05):
        with pytest.raises(LookupFailed, match="looking up Namespace team: the API server did not answer within"):
            await cluster.source.namespace("team")
        cluster.held.set()


async def test_only_what_is_missing_is_asked(cluster: Cluster) -> None:
    cluster.remember()
    cluster.stores.instances.replace({})
    facts = await cluster.source.facts("team", _VMI)
    assert cluster.asked == [_INSTANCE]
    assert facts.vm is not None


async def test_the_kubevirt_object_is_asked_for_until_its_store_is_synced(cluster: Cluster) -> None:
    cluster.remember()
    cluster.stores.kubevirts.synced = False
    cluster.objects[_KUBEVIRTS] = listed(item("a", 1, "kubevirt", annotations={"kubevirt.io/skip-backup-hooks": "1"}))
    assert (await cluster.source.facts("team", _VMI)).kubevirt_skip == "1"
    assert cluster.asked == [_KUBEVIRTS]


@pytest.mark.parametrize(
    ("store", "path"),
    [("namespaces", _NAMESPACE), ("instances", _INSTANCE), ("machines", _MACHINE), ("kubevirts", _KUBEVIRTS)],
)
async def test_what_was_long_without_a_watch_is_asked_for(cluster: Cluster, store: str, path: str) -> None:
    cluster.remember()
    lost: ObjectStore[object] = getattr(cluster.stores, store)
    lost.out_of_touch_since = time.monotonic() - STALE_SECONDS / 2
    await cluster.source.facts("team", _VMI)
    assert cluster.asked == [], "a reconnect is no reason to ask"

    lost.out_of_touch_since = time.monotonic() - STALE_SECONDS - 1
    await cluster.source.facts("team", _VMI)
    assert cluster.asked == [path]
    cluster.objects[path] = 500
    with pytest.raises(LookupFailed):
        await cluster.source.facts("team", _VMI)
    lost.out_of_touch_since = None
    await cluster.source.facts("team", _VMI)
    assert cluster.asked == [path] * 2


async def test_a_remembered_instance_with_another_uid_is_asked_for(cluster: Cluster) -> None:
    cluster.remember(instance=item("db", 1, "team", uid="vmi-0"))
    facts = await cluster.source.facts("team", _VMI)
    assert cluster.asked == [_INSTANCE]
    assert facts.vmi is not None
    assert facts.vmi.uid == "vmi-1"
    known = cluster.stores.instances.get("team", "db")
    assert known is not None
    assert known.uid == "vmi-0", "the store belongs to its watch"


async def test_a_remembered_machine_with_another_uid_is_asked_for(cluster: Cluster) -> None:
    cluster.remember(machine=item("db", 1, "team", uid="vm-0", annotations={_LEVEL: "application"}))
    facts = await cluster.source.facts("team", _VMI)
    assert cluster.asked == [_MACHINE]
    assert facts.vm is not None
    assert facts.vm.wishes.level == "crash"


async def test_an_instance_that_has_another_uid_on_the_server_too_is_none(cluster: Cluster) -> None:
    cluster.objects[_INSTANCE] = item("db", 1, "team", uid="vmi-0", ownerReferences=[_owner("vm-1")])
    facts = await cluster.source.facts("team", _VMI)
    assert (facts.vmi, facts.vm) == (None, None)
    assert cluster.asked.count(_INSTANCE) == 1


async def test_a_machine_that_has_another_uid_on_the_server_too_is_none(cluster: Cluster) -> None:
    cluster.objects[_MACHINE] = item("db", 1, "team", uid="vm-9", annotations={_LEVEL: "crash"})
    facts = await cluster.source.facts("team", _VMI)
    assert facts.vmi is not None
    assert facts.vm is None
    assert cluster.asked.count(_MACHINE) == 1


async def test_not_found_is_none_and_is_not_remembered(cluster: Cluster) -> None:
    cluster.remember()
    cluster.stores.instances.replace({})
    cluster.objects[_INSTANCE] = 404
    facts = await cluster.source.facts("team", _VMI)
    assert (facts.vmi, facts.vm) == (None, None)
    cluster.objects[_INSTANCE] = _DB_INSTANCE
    assert (await cluster.source.facts("team", _VMI)).vmi is not None


@pytest.mark.parametrize(
    "owner",
    [
        pytest.param(_owner("rs-1", kind="VirtualMachineInstanceReplicaSet"), id="replica-set"),
        pytest.param(_owner("vm-1", api_version="kubevirt.example/v1"), id="another-group"),
        pytest.param({**_owner("vm-1"), "controller": False}, id="not-the-controller"),
        pytest.param(_owner("vm-1", name="../../../secrets/db"), id="name-that-leads-elsewhere"),
    ],
)
async def test_no_machine_is_asked_for_where_none_controls(cluster: Cluster, owner: Json) -> None:
    cluster.remember(instance=item("db", 1, "team", uid="vmi-1", ownerReferences=[owner]), machine=item("other"))
    cluster.stores.machines.replace({})
    facts = await cluster.source.facts("team", _VMI)
    assert facts.vmi is not None
    assert facts.vm is None
    assert cluster.asked == []


async def test_a_fork_has_its_own_group() -> None:
    made = Cluster()
    made.stores = ClusterStores(KubeVirtNames(api_group="fork.example", skip_annotation="fork.example/skip"))
    own = [_owner("vm-1", api_version="fork.example/v1")]
    forked = {path.replace("kubevirt.io", "fork.example"): found for path, found in made.objects.items()}
    instance, machine, kubevirts = (
        path.replace("kubevirt.io", "fork.example") for path in (_INSTANCE, _MACHINE, _KUBEVIRTS)
    )
    made.objects = forked
    made.objects[instance] = item("db", 1, "team", uid="vmi-1", ownerReferences=own)
    made.objects[machine] = item("db", 1, "team", uid="vm-1", annotations={"fork.example/skip": "true"})
    made.objects[kubevirts] = listed(item("x", 1, "x", annotations={"fork.example/skip": "t"}))
    async with _connected(made, deadline=5):
        facts = await made.source.facts("team", _VMI)
    assert facts.vm is not None
    assert (facts.vm.wishes.skip, facts.kubevirt_skip) == ("true", "t")


async def test_a_namespace_that_does_not_exist_is_a_failure(cluster: Cluster) -> None:
    cluster.objects[_NAMESPACE] = 404
    with pytest.raises(LookupFailed, match=r"^namespace team does not exist$"):
        await cluster.source.facts("team", _VMI)


@pytest.mark.parametrize("path", [_NAMESPACE, _INSTANCE, _MACHINE, _KUBEVIRTS])
@pytest.mark.parametrize("answer", [403, 500, {"not": "an object"}])
async def test_refusals_and_nonsense_are_failures_on_one_line(cluster: Cluster, path: str, answer: Json | int) -> None:
    cluster.objects[path] = answer
    with pytest.raises(LookupFailed) as caught:
        await cluster.source.facts("team", _VMI)
    assert str(caught.value).startswith("reading ")
    assert "\n" not in str(caught.value)


async def test_without_kubevirt_there_is_nothing_to_find(cluster: Cluster) -> None:
    cluster.objects = {_NAMESPACE: _SPACE}
    facts = await cluster.source.facts("team", _VMI)
    assert (facts.vmi, facts.vm, facts.kubevirt_skip) == (None, None, None)


async def test_the_skip_annotation_of_kubevirt_itself(cluster: Cluster) -> None:
    skip = {"kubevirt.io/skip-backup-hooks": "true"}
    silent, loud = item("a", 1, "kubevirt"), item("b", 1, "kubevirt", annotations=skip)
    cluster.objects[_KUBEVIRTS] = listed(silent, loud)
    assert (await cluster.source.facts("team", _VMI)).kubevirt_skip == "true"
    cluster.remember()
    cluster.stores.kubevirts.replace({("kubevirt", "a"): KubeVirtView(None), ("kubevirt", "b"): KubeVirtView("TRUE")})
    assert (await cluster.source.facts("team", _VMI)).kubevirt_skip == "TRUE"


async def test_the_same_question_at_the_same_time_is_asked_once(cluster: Cluster) -> None:
    cluster.held.clear()
    lookups = [asyncio.create_task(cluster.source.facts("team", _VMI)) for _ in range(10)]
    await eventually(lambda: len(cluster.server.requests) == 3)
    cluster.held.set()
    answers = await asyncio.gather(*lookups)
    assert all(facts.vm for facts in answers)
    assert cluster.asked == sorted([_NAMESPACE, _INSTANCE, _MACHINE, _KUBEVIRTS])


async def test_a_question_for_another_uid_is_another_question(cluster: Cluster) -> None:
    cluster.remember()
    cluster.stores.instances.replace({})
    cluster.held.clear()
    reborn = OwnerReference(_VMI.api_version, _VMI.kind, _VMI.name, "vmi-2")
    lookups = [asyncio.create_task(cluster.source.facts("team", vmi)) for vmi in (_VMI, reborn)]
    await eventually(lambda: len(cluster.server.requests) == 2)
    cluster.held.set()
    first, second = await asyncio.gather(*lookups)
    assert first.vmi is not None
    assert second.vmi is None


async def test_who_is_cancelled_leaves_the_request_to_the_others(cluster: Cluster) -> None:
    cluster.held.clear()
    first, second = (asyncio.create_task(cluster.source.facts("team", _VMI)) for _ in range(2))
    await eventually(lambda: len(cluster.server.requests) == 3)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    cluster.held.set()
    assert (await second).vm is not None
    assert cluster.asked.count(_INSTANCE) == 1


async def test_the_deadline_is_for_all_requests_together() -> None:
    made = Cluster()

    async def slow(request: Request, reply: Reply) -> None:
        if request.path == _MACHINE:
            return await forever()
        return await reply.json(made.objects[request.path])

    made.server = StandInServer(slow)
    async with _connected(made, deadline=0.2):
        started = time.monotonic()
        with pytest.raises(LookupFailed, match=r"the API server did not answer within 0\.2 s"):
            await made.source.facts("team", _VMI)
        assert time.monotonic() - started < 2


async def test_a_server_that_is_gone_is_a_failure() -> None:
    made = Cluster()
    async with made.server.running() as server:
        pass
    async with plain_client(server.url) as client:
        with pytest.raises(LookupFailed, match="reading "):
            await StoreFacts(client, made.stores, 5).facts("team", _VMI)
