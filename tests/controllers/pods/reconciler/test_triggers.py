"""Whatever a decision rests on makes the reconciler look at the pods that it is about, and at no others."""

import logging

import pytest

from app.cluster.stores import KubeVirtView
from app.kube.client import ApiError
from tests.controllers.pods.reconciler.support import ASKS_FOR_CRASH, CRASH, FILESYSTEM
from tests.infra.stand_ins.cluster import StandInCluster
from tests.infra.virtual_time import in_virtual_time, pass_time


@in_virtual_time
async def test_pods_in_line_are_not_written_to_however_often_they_are_looked_at() -> None:
    cluster = StandInCluster(FILESYSTEM)
    cluster.start_vms(30)
    async with cluster.leads():
        await pass_time(2000)
    assert cluster.api.requests == []
    assert cluster.recorder.events == []
    assert cluster.shown("pods") == {("filesystem", "default"): 30}


@in_virtual_time
async def test_a_policy_reaches_every_pod_with_one_request_each() -> None:
    cluster = StandInCluster(FILESYSTEM)
    paths = cluster.start_vms(50)
    async with cluster.leads():
        cluster.set_policy(**CRASH)
        await pass_time()
        assert {cluster.decided(path) for path in paths} == {("crash", "default")}
        await pass_time(700)
    assert sorted(cluster.api.requests) == sorted(("patch", path) for path in paths)
    assert cluster.shown("pods") == {("crash", "default"): 50}


@in_virtual_time
async def test_an_annotation_on_the_vm_reaches_its_pods_and_no_others() -> None:
    cluster = StandInCluster(FILESYSTEM)
    source, other = cluster.start_vm("db"), cluster.start_vm("web")
    target = cluster.start_pod("db-target", "db")
    async with cluster.leads():
        cluster.annotate_vm("db", ASKS_FOR_CRASH)
        await pass_time()
        assert cluster.decided(source) == cluster.decided(target) == ("crash", "vm")
        assert cluster.decided(other) == ("filesystem", "default")
        cluster.annotate_vm("db")
        await pass_time()
        assert cluster.decided(source) == cluster.decided(target) == ("filesystem", "default")
    assert sorted(cluster.api.patches) == ["db", "db", "db-target", "db-target"]


@in_virtual_time
async def test_an_annotation_on_the_namespace_reaches_all_its_pods() -> None:
    cluster = StandInCluster()
    paths = cluster.start_vms(3)
    async with cluster.leads():
        cluster.annotate_namespace(ASKS_FOR_CRASH)
        await pass_time()
        assert {cluster.decided(path) for path in paths} == {("crash", "namespace")}


@in_virtual_time
async def test_an_instance_that_appears_after_its_pod_has_the_pod_looked_at() -> None:
    cluster = StandInCluster(FILESYSTEM)
    cluster.annotate_vm("db")
    path = cluster.start_pod("db", "db", missed=True)
    async with cluster.leads():
        assert cluster.api.requests == []
        cluster.start_instance("db")
        await pass_time()
        assert cluster.decided(path) == ("filesystem", "default")


@in_virtual_time
async def test_a_change_of_the_kubevirt_object_has_all_pods_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "vm-consistency.reconciler")
    cluster = StandInCluster(FILESYSTEM)
    cluster.start_vms(3)
    async with cluster.leads():
        cluster.stores.kubevirts.put(("kubevirt", "kubevirt"), KubeVirtView("true"))
        await pass_time(2)
    last = vars(caplog.records[-1])
    assert (last["message"], last["why"], last["pods"]) == ("pods are in line", "KubeVirt object changed", 3)


@in_virtual_time
async def test_all_pods_are_looked_at_every_ten_minutes_without_a_change() -> None:
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    async with cluster.leads():
        cluster.api.refusals["patch"] = [ApiError(404, "NotFound", "pods not found")]  # which is not tried again
        cluster.set_policy(**CRASH)
        await pass_time(500)
        assert len(cluster.api.patches) == 1
        await pass_time(200)
        assert cluster.decided(path) == ("crash", "default")
