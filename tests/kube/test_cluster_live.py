"""The cluster's objects as KubeVirt's own CRDs and a real API server give them."""

import asyncio
from typing import Any

import pytest

from app.cluster.facts import StoreFacts
from app.cluster.stores import ClusterStores, cluster_reflectors
from app.core.kubevirt_names import UPSTREAM
from app.core.objects import OwnerReference
from app.kube.client import JSON_PATCH, ApiError, KubeClient
from app.kube.resources import CONFIG_MAPS, virtual_machine_instances
from tests.infra.controlplane import ControlPlane, Json, make_namespace, make_vm, make_vmi
from tests.kube.support import QUICK, client_of, eventually, running

_LEVEL = "vm-consistency.io/level"
_SKIP = "kubevirt.io/skip-backup-hooks"


def _reference(obj: Json) -> OwnerReference:
    return OwnerReference(obj["apiVersion"], obj["kind"], obj["metadata"]["name"], obj["metadata"]["uid"])


def _machine_with_instance(api: ControlPlane, namespace: str, level: str) -> OwnerReference:
    """What virt-controller would make; it isn't running."""
    vm = api.client.create(make_vm("db", namespace, annotations={_LEVEL: level}, run_strategy="Halted"))
    vmi = make_vmi("db", namespace, annotations={_LEVEL: "filesystem"})
    owner = {key: vm[key] for key in ("apiVersion", "kind")} | {key: vm["metadata"][key] for key in ("name", "uid")}
    vmi["metadata"]["ownerReferences"] = [{**owner, "controller": True}]
    return _reference(api.client.create(vmi))


def _count_requests(client: KubeClient, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []
    get = client.get

    async def counted(path: str, **options: Any) -> Json:
        asked.append(path)
        return await get(path, **options)

    monkeypatch.setattr(client, "get", counted)
    return asked


async def test_facts_by_request_and_then_from_memory(api: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    api.client.create(make_namespace("facts", labels={"tier": "data"}))
    vmi = _machine_with_instance(api, "facts", "crash")
    async with client_of(api.kubeconfig) as client:
        asked = _count_requests(client, monkeypatch)
        stores = ClusterStores(UPSTREAM)
        source = StoreFacts(client, stores, 2.0)
        by_request = await source.facts("facts", vmi)
        assert len(asked) == 3
        async with running(*cluster_reflectors(client, stores, QUICK)):
            await eventually(lambda: stores.namespaces.synced and len(stores.machines) and len(stores.instances))
            await eventually(lambda: stores.kubevirts.synced)
            from_memory = await source.facts("facts", vmi)
            assert len(asked) == 3
        assert from_memory == by_request
    facts = from_memory
    assert facts.vm is not None
    assert facts.vmi is not None
    assert facts.namespace.labels["tier"] == "data"
    assert (facts.vmi.uid, facts.vmi.wishes.level, facts.vm.wishes.level) == (vmi.uid, "filesystem", "crash")


async def test_a_kubevirt_object_that_says_skip(api: ControlPlane) -> None:
    api.client.create(make_namespace("skipped"))
    vmi = OwnerReference("kubevirt.io/v1", "VirtualMachineInstance", "nobody", "none")
    async with client_of(api.kubeconfig) as client:
        stores = ClusterStores(UPSTREAM)
        source = StoreFacts(client, stores, 2.0)
        async with running(*cluster_reflectors(client, stores, QUICK)):
            await eventually(lambda: stores.kubevirts.synced)
            assert (await source.facts("skipped", vmi)).kubevirt_skip is None
            annotate = {"metadata": {"annotations": {_SKIP: "true"}}}
            await asyncio.to_thread(api.client.patch, "kubevirts", "kubevirt", annotate, "kubevirt")
            try:
                await eventually(lambda: any(view.skip == "true" for _, view in stores.kubevirts.items()))
                assert (await source.facts("skipped", vmi)).kubevirt_skip == "true"
                assert (
                    await StoreFacts(client, ClusterStores(UPSTREAM), 2.0).facts("skipped", vmi)
                ).kubevirt_skip == "true"
            finally:
                annotate["metadata"]["annotations"][_SKIP] = None  # type: ignore[assignment]
                await asyncio.to_thread(api.client.patch, "kubevirts", "kubevirt", annotate, "kubevirt")


async def test_an_instance_made_anew_under_the_same_name(api: ControlPlane) -> None:
    api.client.create(make_namespace("reborn"))
    old = _reference(api.client.create(make_vmi("db", "reborn")))
    async with client_of(api.kubeconfig) as client:
        stores = ClusterStores(UPSTREAM)
        reflectors = cluster_reflectors(client, stores, QUICK)
        async with running(*reflectors):
            await eventually(lambda: stores.instances.get("reborn", "db"))
        # nobody watches now: the stores hold the old picture
        api.client.patch("virtualmachineinstances", "db", {"metadata": {"finalizers": None}}, "reborn")
        api.client.delete("virtualmachineinstances", "db", "reborn")
        new = _reference(api.client.create(make_vmi("db", "reborn", annotations={_LEVEL: "crash"})))
        source = StoreFacts(client, stores, 2.0)
        facts = await source.facts("reborn", new)
        assert facts.vmi is not None
        assert (facts.vmi.uid, facts.vmi.wishes.level) == (new.uid, "crash")
        remembered = await source.facts("reborn", old)
        assert remembered.vmi is not None
        assert remembered.vmi.uid == old.uid


async def test_only_metadata_is_sent_also_of_custom_resources(api: ControlPlane) -> None:
    api.client.create(make_namespace("lean"))
    api.client.create(make_vmi("db", "lean"))
    instances = virtual_machine_instances(UPSTREAM)
    async with client_of(api.kubeconfig) as client:
        one = await client.get(instances.object("db", "lean"), metadata_only=True)
        page = await client.list_page(instances.collection("lean"), metadata_only=True)
        async with client.watch(
            instances.collection("lean"), params={"resourceVersion": "0"}, metadata_only=True
        ) as events:
            event = await anext(events)
    for obj in (one, *page.items, event.object):
        assert obj["metadata"]["name"] == "db"
        assert "spec" not in obj
    assert event.type == "ADDED"


async def test_writes(api: ControlPlane) -> None:
    async with client_of(api.kubeconfig) as client:
        content = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "writes"}, "data": {"a": "1"}}
        made = await client.post(CONFIG_MAPS.collection("default"), content)
        path = CONFIG_MAPS.object("writes", "default")
        merged = await client.patch(path, {"data": {"b": "2"}})
        assert merged["data"] == {"a": "1", "b": "2"}
        with pytest.raises(ApiError) as conflict:
            await client.put(path, made)
        assert (conflict.value.status, conflict.value.reason) == (409, "Conflict")
        merged["data"] = {"c": "3"}
        assert (await client.put(path, merged))["data"] == {"c": "3"}
        operations = [
            {"op": "test", "path": "/data/c", "value": "3"},
            {"op": "replace", "path": "/data/c", "value": "4"},
        ]
        assert (await client.patch(path, operations, JSON_PATCH))["data"] == {"c": "4"}
        with pytest.raises(ApiError) as untrue:
            await client.patch(path, operations, JSON_PATCH)
        assert untrue.value.status == 422
        with pytest.raises(ApiError) as missing:
            await client.get(CONFIG_MAPS.object("absent", "default"))
        assert (missing.value.status, missing.value.reason) == (404, "NotFound")
