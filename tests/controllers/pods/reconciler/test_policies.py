"""Which policy holds for pods that run already, and when."""

from app.core.annotations import EFFECTIVE_LEVEL
from tests.controllers.pods.reconciler.support import ASKS_FOR_CRASH, CRASH, FILESYSTEM, ON_CRASH, ON_FILESYSTEM
from tests.infra.stand_ins.cluster import StandInCluster
from tests.infra.virtual_time import in_virtual_time, pass_time


@in_virtual_time
async def test_nothing_is_written_before_the_policy_has_been_read() -> None:
    cluster = StandInCluster(policy_is_read=False)
    cluster.start_vm("db", missed=True)
    cluster.start_vm("web", in_line_with=ON_CRASH)
    async with cluster.leads():
        await pass_time(700)
    assert cluster.api.requests == []
    assert cluster.shown("pods") == {}


@in_virtual_time
async def test_nothing_is_written_under_an_invalid_policy_until_a_valid_one_comes() -> None:
    cluster = StandInCluster(policy_is_read=False)
    cluster.start_vm("db", missed=True)
    path = cluster.start_vm("web", in_line_with=ON_CRASH)
    cluster.keeper.read("broken")
    async with cluster.leads():
        await pass_time(700)
        assert cluster.api.requests == []
        cluster.set_policy(**FILESYSTEM)
        await pass_time()
        assert cluster.decided(path) == ("filesystem", "default")
        assert sorted(cluster.api.patches) == ["db", "web"]


@in_virtual_time
async def test_the_last_good_policy_holds_for_new_and_running_pods() -> None:
    cluster = StandInCluster(CRASH)
    running = cluster.start_vm("db", in_line_with=ON_FILESYSTEM)
    cluster.keeper.read("broken")
    async with cluster.leads():
        new = cluster.start_vm("web", missed=True)
        await pass_time()
        assert cluster.decided(running) == cluster.decided(new) == ("crash", "default")


@in_virtual_time
async def test_a_deleted_policy_holds_for_its_pods_until_the_grace_is_over() -> None:
    cluster = StandInCluster(CRASH)
    running = cluster.start_vm("db")
    async with cluster.leads():
        cluster.keeper.absent()
        await pass_time(295)
        assert cluster.api.requests == []
        await pass_time(10)
        assert cluster.decided(running) == ("filesystem", "built-in")
    assert cluster.api.patches == ["db"]


@in_virtual_time
async def test_new_pods_get_the_built_in_default_during_the_grace_and_keep_it() -> None:
    cluster = StandInCluster(CRASH)
    async with cluster.leads():
        cluster.keeper.absent()
        by_webhook, missed = cluster.start_vm("db"), cluster.start_vm("web", missed=True)
        await pass_time(250)
        assert cluster.decided(by_webhook) == cluster.decided(missed) == ("filesystem", "built-in")
        await pass_time(500)
    assert cluster.api.patches == ["web"]


@in_virtual_time
async def test_an_edit_during_the_grace_is_corrected_to_the_deleted_policy() -> None:
    cluster = StandInCluster(CRASH)
    path = cluster.start_vm("db")
    async with cluster.leads():
        cluster.keeper.absent()
        await pass_time()
        cluster.annotate_pod(path, {EFFECTIVE_LEVEL: "application"})
        await pass_time(200)
        assert cluster.decided(path) == ("crash", "default")
        await pass_time(200)
        assert cluster.decided(path) == ("filesystem", "built-in")
    assert cluster.api.patches == ["db", "db"]


@in_virtual_time
async def test_an_annotation_during_the_grace_takes_effect_at_once() -> None:
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    async with cluster.leads():
        cluster.keeper.absent()
        await pass_time()
        cluster.annotate_vm("db", ASKS_FOR_CRASH)
        await pass_time()
        assert cluster.decided(path) == ("crash", "vm")
        cluster.annotate_vm("db")
        await pass_time()
        assert cluster.decided(path) == ("filesystem", "default"), "the deleted policy, until the grace is over"


@in_virtual_time
async def test_a_policy_that_comes_back_unchanged_during_the_grace_writes_nothing() -> None:
    cluster = StandInCluster(CRASH)
    cluster.start_vm("db")
    async with cluster.leads():
        cluster.keeper.absent()
        await pass_time(100)
        cluster.set_policy(**CRASH)
        await pass_time(1000)
    assert cluster.api.requests == []


@in_virtual_time
async def test_in_audit_mode_pods_are_counted_and_not_written_to() -> None:
    cluster = StandInCluster({**CRASH, "mode": "audit"})
    cluster.start_vm("db", in_line_with=ON_FILESYSTEM)
    cluster.start_vm("web", missed=True)
    async with cluster.leads():
        await pass_time(700)
    assert cluster.api.requests == []
    assert cluster.shown("pods") == {("crash", "default"): 2}
