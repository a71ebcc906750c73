"""How fast pods are written to, in which order, and what slows down."""

import asyncio
import itertools
from unittest.mock import patch

from app.core.annotations import LEVEL, PRE
from app.core.record import is_intact
from tests.controllers.pods.reconciler.support import ASKS_FOR_CRASH, CRASH, FILESYSTEM, TAMPERED
from tests.infra.stand_ins.cluster import StandInCluster
from tests.infra.virtual_time import in_virtual_time, pass_time


@in_virtual_time
async def test_a_change_at_one_vm_overtakes_a_policy_that_reaches_many() -> None:
    cluster = StandInCluster(FILESYSTEM)
    cluster.start_vms(200)
    path = cluster.start_vm("urgent")
    cluster.start_pod("urgent-target", "urgent")  # it migrates
    async with cluster.leads(per_second=10):
        cluster.set_policy(**CRASH)
        await pass_time(2)
        assert cluster.reconciler.backlog > 150
        cluster.annotate_vm("urgent", {LEVEL: "application"})  # refused, so that the policy still decides
        cluster.annotate_vm("urgent", ASKS_FOR_CRASH)
        await pass_time(2)
        assert cluster.decided(path) == ("crash", "vm")
        assert cluster.reconciler.backlog > 120


@in_virtual_time
async def test_writes_come_no_faster_than_the_rate() -> None:
    cluster = StandInCluster(FILESYSTEM)
    cluster.start_vms(100)
    async with cluster.leads(per_second=10):
        cluster.set_policy(**CRASH)
        await pass_time(5)
        assert 45 <= len(cluster.api.patches) <= 55
        await pass_time(6)
        assert len(cluster.api.patches) == 100


@in_virtual_time
async def test_a_change_counts_for_pods_whose_write_still_waits_for_the_rate() -> None:
    cluster = StandInCluster(FILESYSTEM)
    cluster.start_vms(20)
    async with cluster.leads(per_second=2):
        cluster.set_policy(**CRASH)
        await pass_time(3)
        written = len(cluster.api.patches)
        cluster.set_policy(**FILESYSTEM)
        await pass_time(60)
    assert written < 10
    assert len(cluster.api.patches) == 2 * written, "those that were not reached are left alone"


@in_virtual_time
async def test_other_tasks_run_while_many_pods_are_looked_at() -> None:
    cluster = StandInCluster(FILESYSTEM)
    cluster.start_vms(200)
    now, reads, turns = asyncio.get_running_loop().time, itertools.count(), 0
    async with cluster.leads():
        # Looking takes time only by this clock, which advances whenever it is read.
        with patch("time.monotonic", lambda: now() + next(reads) * 0.0001):
            cluster.set_policy(**FILESYSTEM)
            while cluster.reconciler.backlog:
                turns += 1
                await asyncio.sleep(0)
    assert turns >= 20
    assert cluster.api.requests == []


@in_virtual_time
async def test_an_annotation_that_changes_all_the_time_is_followed_ever_more_slowly() -> None:
    cluster = StandInCluster()
    path = cluster.start_vm("db")

    async def change(times: int) -> None:
        for _ in range(times):
            for annotations in (ASKS_FOR_CRASH, {}):
                cluster.annotate_vm("db", annotations)
                await pass_time(0.1)

    async with cluster.leads():
        await change(25)
        assert len(cluster.api.patches) == 50, "so many changes are followed at once"
        await change(250)
        assert len(cluster.api.patches) < 70
        await pass_time(100)
        assert cluster.decided(path) == ("filesystem", "built-in")


@in_virtual_time
async def test_a_pod_that_somebody_keeps_changing_is_corrected_ever_more_slowly() -> None:
    cluster = StandInCluster()
    path = cluster.start_vm("db")
    async with cluster.leads():
        right = cluster.annotations(path)
        for _ in range(2 * 300):
            if cluster.annotations(path) == right:
                cluster.annotate_pod(path, TAMPERED)
            await pass_time()
        writes = len(cluster.api.patches)
        assert 8 <= writes <= 15, "five at once, then ever more slowly"
        other = cluster.start_vm("web", missed=True)
        await pass_time()
        assert is_intact(cluster.annotations(other)), "other pods are not held up"
        await pass_time(60)
        assert cluster.annotations(path) == right
    assert cluster.writes("overwritten") == writes + 1


@in_virtual_time
async def test_a_new_pod_is_not_held_up_by_the_corrections_of_the_one_that_had_its_name() -> None:
    cluster = StandInCluster()
    path = cluster.start_vm("db")
    async with cluster.leads():
        for _ in range(20):
            cluster.annotate_pod(path, TAMPERED)
            await pass_time(0.1)
        assert cluster.annotations(path)[PRE + "timeout"] == "1s"
        cluster.start_pod("db", "db", missed=True, uid="second")
        await pass_time(0.1)
        assert cluster.decided(path) == ("filesystem", "built-in")


@in_virtual_time
async def test_a_pod_that_changes_before_every_write_does_not_keep_a_worker_busy() -> None:
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    async with cluster.leads():
        cluster.api.lag = None

        def change_again() -> None:
            cluster.annotate_pod(path, {"note": cluster.api.version(path)})
            cluster.api.before["patch"] = change_again

        cluster.api.before["patch"] = change_again
        cluster.set_policy(**CRASH)
        await pass_time(10)
        assert 10 <= len(cluster.api.patches) <= 60
        cluster.api.before.clear()
        await pass_time(2)
        assert cluster.decided(path) == ("crash", "default")
