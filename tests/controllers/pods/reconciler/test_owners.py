"""Pods whose owner is not known yet, or not any more."""

from app.core.annotations import LEVEL
from tests.controllers.pods.reconciler.support import ASKS_FOR_CRASH, CRASH, FILESYSTEM, ON_FILESYSTEM
from tests.infra.stand_ins.cluster import StandInCluster
from tests.infra.virtual_time import in_virtual_time, pass_time

ASKS_FOR_FILESYSTEM = {LEVEL: "filesystem"}


def without_its_vm() -> tuple[StandInCluster, str]:
    """A pod that the policy would change, of an instance whose VirtualMachine is missing."""
    cluster = StandInCluster(CRASH)
    cluster.start_instance("db")
    return cluster, cluster.start_pod("db", "db", in_line_with=ON_FILESYSTEM)


@in_virtual_time
async def test_nothing_is_decided_before_the_vm_is_known() -> None:
    cluster, path = without_its_vm()
    async with cluster.leads():
        await pass_time(55)
        assert cluster.api.requests == []
        cluster.annotate_vm("db", ASKS_FOR_FILESYSTEM)
        await pass_time(700)
        assert cluster.decided(path) == ("filesystem", "vm")
    assert cluster.api.patches == ["db"]


@in_virtual_time
async def test_a_pod_whose_vm_is_missing_for_a_minute_is_decided_without_it() -> None:
    cluster, path = without_its_vm()
    async with cluster.leads():
        await pass_time(58)
        assert cluster.api.requests == []
        await pass_time(2)
        assert cluster.decided(path) == ("crash", "default")


@in_virtual_time
async def test_a_vm_that_is_missing_again_has_a_full_minute_again() -> None:
    cluster, path = without_its_vm()
    async with cluster.leads():
        await pass_time(30)
        cluster.annotate_vm("db", ASKS_FOR_FILESYSTEM)
        await pass_time(100)
        cluster.delete_vm("db")
        await pass_time(58)
        assert cluster.decided(path) == ("filesystem", "vm")
        await pass_time(3)
        assert cluster.decided(path) == ("crash", "default")


@in_virtual_time
async def test_a_vm_that_appears_late_decides_nevertheless() -> None:
    cluster, path = without_its_vm()
    async with cluster.leads():
        await pass_time(70)
        cluster.annotate_vm("db", ASKS_FOR_FILESYSTEM)
        await pass_time()
        assert cluster.decided(path) == ("filesystem", "vm")


@in_virtual_time
async def test_a_vm_that_is_deleted_shortly_before_its_pods_changes_nothing() -> None:
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    async with cluster.leads():
        cluster.annotate_vm("db", ASKS_FOR_CRASH)
        await pass_time()
        cluster.delete_vm("db")
        await pass_time(20)
        cluster.delete_instance("db")
        await pass_time(20)
        cluster.api.remove(path)
        await pass_time(200)
    assert cluster.api.patches == ["db"]
    assert cluster.api.still_referred_to == set()


@in_virtual_time
async def test_a_pod_whose_instance_is_gone_is_not_written_to() -> None:
    cluster = StandInCluster(FILESYSTEM)
    cluster.start_vm("db")
    cluster.start_pod("stranger", "nobody", missed=True)
    async with cluster.leads():
        cluster.start_instance("db", uid="the-next-one")
        cluster.set_policy(**CRASH)
        await pass_time(1000)
    assert cluster.api.requests == []
