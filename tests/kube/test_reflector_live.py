"""Reflectors against a real kube-apiserver."""

import asyncio
import gc
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from app.kube.client import ApiError, Json, Params
from app.kube.reflector import Reflector, Timings
from app.kube.resources import CONFIG_MAPS, NAMESPACES, SECRETS, Resource
from app.kube.store import ObjectStore
from tests.infra.controlplane import ApiError as RefusedByServer
from tests.infra.controlplane import ControlPlane, make_namespace
from tests.kube.support import QUICK, client_of, eventually, healthy, names, reflector_of, running

_MANY = 450


@pytest.fixture(scope="module")
def many_namespaces(api: ControlPlane) -> set[str]:
    created = [f"many-{number:04}" for number in range(_MANY)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: api.client.create(make_namespace(name)), created))
    return set(created)


async def test_namespaces_are_read_in_pages_and_changes_arrive_by_the_watch(
    api: ControlPlane, many_namespaces: set[str]
) -> None:
    position = api.audit_position()
    async with client_of(api.kubeconfig) as client:
        reflector = Reflector(client, NAMESPACES, ObjectStore(), _labels, metadata_only=True)
        async with running(reflector):
            spent = time.process_time()
            await reflector.wait_synced()
            assert time.process_time() - spent < 2
            assert many_namespaces <= {name for (_, name), _ in reflector.store.items()}
            await eventually(lambda: reflector.stale_seconds == 0)
            for change in ({"tier": "data"}, {"tier": "web"}):
                patch = {"metadata": {"labels": change}}
                await asyncio.to_thread(api.client.patch, "namespaces", "many-0007", patch)
                await eventually(lambda: _tier(reflector) == change["tier"])  # noqa: B023 - awaited at once
            await asyncio.to_thread(api.client.create, make_namespace("one-more"))
            await eventually(lambda: reflector.store.get("", "one-more"))
            assert healthy(reflector)
    queries = [parse_qs(urlsplit(event["requestURI"]).query) for event in _ours(api, position, "list")]
    assert [query["limit"] for query in queries] == [["100"]] * len(queries)
    assert sum("continue" not in query for query in queries) == 1, "listed once; what changed later came by the watch"
    assert [query.get("resourceVersion") for query in queries] == [None] * len(queries)


def _labels(obj: Json) -> dict[str, str]:
    assert set(obj) <= {"apiVersion", "kind", "metadata"}, "PartialObjectMetadata"
    return dict(obj["metadata"]["labels"])


def _tier(reflector: Reflector[dict[str, str]]) -> str | None:
    labels = reflector.store.get("", "many-0007")
    return labels.get("tier") if labels else None


def _ours(api: ControlPlane, position: int, verb: str) -> list[Json]:
    events = api.audit_events(since=position, verb=verb, resource="namespaces")
    return [event for event in events if event.get("userAgent", "").startswith("vm-consistency/")]


_GADGETS = Resource("fork.example", "v1", "gadgets")
_CRD: Json = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "gadgets.fork.example"},
    "spec": {
        "group": "fork.example",
        "scope": "Namespaced",
        "names": {"plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


def _gadget(name: str) -> Json:
    return {"apiVersion": "fork.example/v1", "kind": "Gadget", "metadata": {"name": name, "namespace": "default"}}


def _create_when_served(api: ControlPlane, obj: Json) -> None:
    path = _GADGETS.collection("default")
    for _ in range(200):
        try:
            api.client.request("POST", path, obj)
        except RefusedByServer:  # 404 or 503 until the new kind is served
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"{path} is not served")


async def test_a_crd_that_comes_and_goes_and_comes_again(api: ControlPlane) -> None:
    async with client_of(api.kubeconfig) as client:
        reflector = reflector_of(client, _GADGETS)
        async with running(reflector):
            await reflector.wait_synced()
            assert (healthy(reflector), len(reflector.store)) == (True, 0)
            assert reflector.describe() == "gadgets.fork.example: not served by this cluster"
            for round_ in ("first", "second"):
                await asyncio.to_thread(api.client.create, _CRD)
                await asyncio.to_thread(_create_when_served, api, _gadget(round_))
                await eventually(lambda: round_ in names(reflector))  # noqa: B023 - awaited at once
                await asyncio.to_thread(api.client.delete, "customresourcedefinitions", "gadgets.fork.example")
                await eventually(lambda: not names(reflector))
                await eventually(lambda: "not served" in reflector.describe())


def _account(api: ControlPlane, name: str) -> None:
    metadata = {"name": name, "namespace": "default"}
    api.client.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})


def _allow(api: ControlPlane, account: str, rule: Json) -> None:
    group = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": account}, "rules": [rule]}
    api.client.apply(role)
    api.client.apply(
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": account},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": account},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": "default"}],
        }
    )


async def test_rights_that_are_granted_later(api: ControlPlane) -> None:
    _account(api, "late")
    async with client_of(api.kubeconfig_for("default", "late")) as client:
        reflector = reflector_of(client)
        async with running(reflector):
            await eventually(lambda: reflector.last_error)
            assert reflector.last_error is not None
            assert reflector.last_error.startswith("403 Forbidden: ")
            assert 'cannot list resource "namespaces"' in reflector.describe()
            assert not reflector.synced
            _allow(api, "late", {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]})
            await reflector.wait_synced()
            await eventually(lambda: healthy(reflector))
            assert "default" in names(reflector)


@pytest.mark.parametrize("resource", [SECRETS, CONFIG_MAPS], ids=str)
async def test_one_object_with_rights_to_its_name_only(api: ControlPlane, resource: Resource) -> None:
    account = f"narrow-{resource.plural}"
    _account(api, account)
    rule = {"apiGroups": [""], "resources": [resource.plural], "resourceNames": ["mine"], "verbs": ["list", "watch"]}
    _allow(api, account, rule)
    kind = "Secret" if resource is SECRETS else "ConfigMap"
    for name in ("mine", "other"):
        metadata = {"name": name, "namespace": "default"}
        api.client.apply({"apiVersion": "v1", "kind": kind, "metadata": metadata, "data": {"key": "dmFsdWU="}})

    async with client_of(api.kubeconfig_for("default", account)) as client:
        reflector = reflector_of(
            client, resource, namespace="default", name="mine", decode=lambda obj: str(obj["data"]["key"])
        )
        async with running(reflector):
            await reflector.wait_synced()
            assert names(reflector) == {"mine": "dmFsdWU="}
            patch = {"data": {"key": "bmV3"}}
            await asyncio.to_thread(api.client.patch, resource.plural, "mine", patch, "default")
            await eventually(lambda: names(reflector) == {"mine": "bmV3"})


async def test_an_api_server_that_dies_and_comes_back(api: ControlPlane) -> None:
    async with client_of(api.kubeconfig) as client:
        reflector = reflector_of(client)
        async with running(reflector):
            await reflector.wait_synced()
            api.apiserver.kill()
            await eventually(lambda: not healthy(reflector))
            assert reflector.synced, "what was read is still there"
            assert "default" in names(reflector)
            await eventually(lambda: reflector.stale_seconds > 0.1)
            assert "without a watch" in reflector.describe()
            await asyncio.to_thread(api.apiserver.start)
            await asyncio.to_thread(api.client.create, make_namespace("after-the-restart"))
            await eventually(lambda: "after-the-restart" in names(reflector))
            await eventually(lambda: healthy(reflector))
            assert reflector.stale_seconds == 0


# A TLS handshake that is given up leaves its socket to the garbage collector (asyncio's ssl transport, Python 3.11).
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_api_server_that_stands_still_is_noticed(api: ControlPlane) -> None:
    impatient = Timings(first_backoff=0.01, longest_backoff=0.1, settled=0.2, watch=(1, 1), grace=0.5, request=0.5)
    async with client_of(api.kubeconfig) as client:
        reflector = reflector_of(client, timings=impatient)
        async with running(reflector):
            await eventually(lambda: reflector.synced and reflector.stale_seconds == 0)
            api.apiserver.pause()
            try:
                await eventually(lambda: not healthy(reflector))
                assert reflector.last_error is not None
                assert "no answer within" in reflector.last_error
            finally:
                api.apiserver.resume()
            await eventually(lambda: healthy(reflector))
    gc.collect()  # here, where the warning is expected


@pytest.mark.usefixtures("real_parts")
async def test_a_compacted_etcd_is_listed_anew(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "vm-consistency.watch")
    with ControlPlane(apiserver_flags=["--watch-cache=false"], audit_level="None") as api:
        async with client_of(api.kubeconfig) as client:
            page = await client.list_page(NAMESPACES.collection(), params={"limit": 1})
            reflector = reflector_of(client, timings=QUICK)
            async with running(reflector):
                await reflector.wait_synced()
            for name in ("unseen", "unseen-too"):  # two: the revision that compaction names can still be watched from
                api.client.create(make_namespace(name))
            _compact(api)
            params: Params = {"limit": 1, "continue": page.continue_token}
            with pytest.raises(ApiError) as caught:
                await client.list_page(NAMESPACES.collection(), params=params)
            assert (caught.value.status, caught.value.reason) == (410, "Expired")
            async with running(reflector):  # goes on with a version that etcd has forgotten
                await eventually(lambda: "unseen-too" in names(reflector))
                await eventually(lambda: healthy(reflector))
    lost = [getattr(record, "error", "") for record in caplog.records if record.name == "vm-consistency.watch"]
    assert any(error.startswith("410 Expired") for error in lost)


def _compact(api: ControlPlane) -> None:
    flag = "--listen-client-urls="
    url = next(word.removeprefix(flag) for word in api.etcd.command if word.startswith(flag))
    with httpx2.Client(base_url=url, trust_env=False) as etcd:
        revision = etcd.post("/v3/kv/range", json={"key": "AA=="}).json()["header"]["revision"]
        etcd.post("/v3/kv/compaction", json={"revision": revision, "physical": True}).raise_for_status()
