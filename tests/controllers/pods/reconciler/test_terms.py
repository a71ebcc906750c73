"""What a term of the leader survives, what is kept during it, and what is left after it."""

import asyncio
import logging
from unittest.mock import patch

import pytest

from app.core.annotations import EFFECTIVE_LEVEL
from app.core.objects import Facts, OwnerReference
from app.kube.client import ApiError
from tests.controllers.pods.reconciler.support import ASKS_FOR_NONSENSE, CRASH, FILESYSTEM
from tests.infra.references import References
from tests.infra.stand_ins.cluster import WORKERS, StandInCluster
from tests.infra.subscriptions import counted_subscriptions
from tests.infra.virtual_time import in_virtual_time, pass_time


def forbidden() -> ApiError:
    """An error of its own for each pod, as one that was raised refers to what was done with the pod."""
    return ApiError(403, "Forbidden", "no")


@in_virtual_time
async def test_pods_that_are_deleted_are_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "vm-consistency.reconciler")  # a record that is kept refers to its pod
    cluster = StandInCluster(FILESYSTEM)
    cluster.annotate_namespace(ASKS_FOR_NONSENSE)
    async with cluster.leads():
        for turn in range(20):
            paths = [cluster.start_vm(f"vm-{turn}-{number}", missed=True) for number in range(10)]
            names = [path.rpartition("/")[2] for path in paths]
            cluster.annotate_vm(names[0], ASKS_FOR_NONSENSE)
            cluster.api.refused[names[1]] = forbidden()
            cluster.start_instance("orphan")
            paths.append(cluster.start_pod(f"orphan-{turn}", "orphan", missed=True))
            await pass_time(3)
            assert sum(cluster.shown("pods").values()) == 10
            cluster.api.refused.clear()
            for path in paths:
                cluster.api.remove(path)
            await pass_time()
            for name in names:
                cluster.delete_vm(name)
                cluster.delete_instance(name)
            await pass_time()
            assert cluster.shown("pods") == cluster.shown("pods_refused") == {}
        assert len(cluster.api.still_referred_to) <= WORKERS, "each worker has the pod that it took last"
    assert cluster.api.still_referred_to == set()


@in_virtual_time
async def test_ten_minutes_after_a_correction_its_time_is_forgotten() -> None:
    moments, now = References(), asyncio.get_running_loop().time
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    with patch("time.monotonic", lambda: moments.number(now())):
        async with cluster.leads():
            cluster.annotate_pod(path, {EFFECTIVE_LEVEL: "nonsense"})
            await pass_time(1)
            assert cluster.api.patches == ["db"]
            corrected = now()
            await pass_time(590)
            assert min(moments.numbers()) <= corrected
            await pass_time(30)
            assert min(moments.numbers()) > corrected


@in_virtual_time
async def test_a_pod_that_causes_an_unexpected_error_does_not_stop_the_work() -> None:
    cluster = StandInCluster(FILESYSTEM)
    odd, path = cluster.start_vm("odd"), cluster.start_vm("db")
    async with cluster.leads():
        del cluster.api.objects[odd]["metadata"]["uid"]
        cluster.api.objects[odd]["metadata"]["resourceVersion"] = "0"  # so that it is read again
        cluster.set_policy(**CRASH)
        await pass_time(2000)
        assert cluster.decided(path) == ("crash", "default")
    assert 1 <= cluster.api.patches.count("odd") <= 8


@in_virtual_time
async def test_an_unexpected_error_about_an_owner_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = StandInCluster(FILESYSTEM)
    odd, path = cluster.start_vm("odd"), cluster.start_vm("db")
    known = cluster.facts.known

    def failing(namespace: str, vmi: OwnerReference, *, is_orphan: bool = False) -> Facts | None:
        if vmi.name == "odd":
            raise LookupError
        return known(namespace, vmi, is_orphan=is_orphan)

    monkeypatch.setattr(cluster.facts, "known", failing)
    async with cluster.leads():
        cluster.set_policy(**CRASH)
        await pass_time()
        assert cluster.decided(path) == ("crash", "default")
        monkeypatch.undo()
        await pass_time(700)
        assert cluster.decided(odd) == ("crash", "default")


@in_virtual_time
async def test_the_end_of_a_term_leaves_no_task_subscription_or_timer() -> None:
    with counted_subscriptions() as subscriptions:
        cluster = StandInCluster(FILESYSTEM)
        cluster.start_vms(20, missed=True)
        cluster.start_instance("orphan")
        cluster.start_pod("orphan", "orphan")
        cluster.api.refused["vm-3"] = forbidden()
        tasks = asyncio.all_tasks()
        async with cluster.leads():
            await pass_time()
            assert len(asyncio.all_tasks()) > len(tasks)
            assert cluster.reconciler.backlog == 0
            assert cluster.api.patches.count("vm-3") > 0, "it is put off, as the orphan is"
        cluster.index.close()  # which lasts as long as the term
        assert subscriptions.count() == 0
    assert asyncio.all_tasks() == tasks
    cluster.set_policy(**CRASH)
    sent = len(cluster.api.requests)
    await pass_time(1000)
    assert len(cluster.api.requests) == sent
    assert cluster.reconciler.backlog == 0, "no timer of a pod that was put off has run out"


@in_virtual_time
async def test_terms_that_end_during_a_change_lose_and_repeat_no_write() -> None:
    cluster = StandInCluster(FILESYSTEM)
    paths = cluster.start_vms(60)
    cluster.set_policy(**CRASH)
    for _ in range(4):
        async with cluster.leads(per_second=10):
            await pass_time(1)
    async with cluster.leads():
        pass
    assert {cluster.decided(path) for path in paths} == {("crash", "default")}
    assert len(cluster.api.patches) == 60


@in_virtual_time
async def test_the_progress_of_a_policy_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vm-consistency.reconciler")
    cluster = StandInCluster(FILESYSTEM)
    cluster.start_vms(100)
    cluster.start_vm("refused")
    cluster.api.refused["refused"] = forbidden()
    async with cluster.leads(per_second=6):
        await pass_time(700)
        assert caplog.messages == [], "nothing was to be done"
        cluster.set_policy(**CRASH)
        await pass_time(30)
    lines = [vars(record) for record in caplog.records]
    first, *others = [line for line in lines if line["message"] == "bringing pods in line"]
    [end] = [line for line in lines if "seconds" in line]
    assert len(others) >= 1
    assert (first["why"], first["pods"]) == ("policy changed", 101)
    assert 20 <= first["written"] <= 50
    assert first["left"] + first["written"] in range(95, 103)
    assert end["message"] == "pods are in line, except those that can't be written"
    assert (end["written"], end["left"], end["failing"]) == (100, 0, 1)
    assert 15 <= end["seconds"] <= 19
