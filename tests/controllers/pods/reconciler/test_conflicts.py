"""A write is made once, and a change that happens around it is not lost."""

from app.core.annotations import LEVEL
from tests.controllers.pods.reconciler.support import (
    ASKS_FOR_CRASH,
    ASKS_FOR_NONSENSE,
    CRASH,
    FILESYSTEM,
    ON_CRASH,
)
from tests.infra.stand_ins.cluster import StandInCluster
from tests.infra.virtual_time import in_virtual_time, pass_time


@in_virtual_time
async def test_a_write_is_not_repeated_before_the_watch_brings_it() -> None:
    cluster = StandInCluster()
    path = cluster.start_vm("db", missed=True)
    async with cluster.leads():
        cluster.api.requests.clear()
        cluster.api.lag = None
        cluster.set_policy(**CRASH)
        await pass_time()
        for _ in range(3):
            cluster.annotate_vm("db", ASKS_FOR_NONSENSE)
            cluster.annotate_vm("db")
            await pass_time(700)
    assert cluster.api.requests == [("patch", path)]


@in_virtual_time
async def test_a_change_of_the_vm_before_the_watch_brings_a_write_is_not_lost() -> None:
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    async with cluster.leads():
        cluster.api.lag = 0.3
        cluster.set_policy(**CRASH)
        await pass_time(0.1)
        cluster.annotate_vm("db", {LEVEL: "filesystem"})
        await pass_time(2)
        assert cluster.decided(path) == ("filesystem", "vm")


@in_virtual_time
async def test_a_policy_that_is_taken_back_before_the_watch_brings_its_write_is_not_lost() -> None:
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    async with cluster.leads():
        cluster.api.lag = 0.3
        cluster.set_policy(**CRASH)
        await pass_time(0.1)
        cluster.set_policy(**FILESYSTEM)
        await pass_time(2)
        assert cluster.decided(path) == ("filesystem", "default")


@in_virtual_time
async def test_an_edit_that_undoes_a_write_while_the_watch_brings_nothing_is_found_after_a_list() -> None:
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    async with cluster.leads():
        before = cluster.annotations(path)
        cluster.api.lag = None
        cluster.set_policy(**CRASH)
        await pass_time()
        cluster.replace_annotations(path, before)  # the list shows no difference
        cluster.api.relist()
        cluster.api.lag = 0.01
        await pass_time(3)
        assert cluster.decided(path) == ("crash", "default")


@in_virtual_time
async def test_an_edit_that_repeats_an_earlier_write_is_corrected() -> None:
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    async with cluster.leads():
        right = cluster.annotations(path)
        cluster.api.delay = 0.1  # the watch is faster than the answer
        cluster.set_policy(**CRASH)
        await pass_time()
        on_crash = cluster.annotations(path)
        cluster.api.before["patch"] = lambda: cluster.replace_annotations(path, right)  # as another leader does
        cluster.set_policy(**FILESYSTEM)
        await pass_time()
        cluster.replace_annotations(path, on_crash)
        await pass_time()
        assert cluster.decided(path) == ("filesystem", "default")


@in_virtual_time
async def test_after_a_conflict_the_pod_is_read_and_decided_on_again() -> None:
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    async with cluster.leads():
        cluster.api.lag = None
        cluster.api.before["patch"] = lambda: cluster.annotate_pod(path, {"note": "somebody was here"})
        cluster.set_policy(**CRASH)
        await pass_time()
        assert cluster.decided(path) == ("crash", "default")
        await pass_time(20)
        assert cluster.annotations(path)["note"] == "somebody was here"
    assert cluster.api.verbs == ["patch", "get", "patch"]
    assert cluster.writes("failed") == 0


@in_virtual_time
async def test_after_a_conflict_nothing_is_written_if_somebody_wrote_the_same() -> None:
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    model = cluster.start_pod("model", "db", in_line_with=ON_CRASH)
    right = cluster.annotations(model)
    cluster.api.remove(model)
    async with cluster.leads():
        cluster.api.before["patch"] = lambda: cluster.replace_annotations(path, right)
        cluster.set_policy(**CRASH)
        await pass_time()
    assert cluster.api.verbs == ["patch", "get"]


@in_virtual_time
async def test_a_pod_that_is_replaced_by_another_of_its_name_is_decided_on_as_the_other() -> None:
    cluster = StandInCluster(FILESYSTEM)
    cluster.start_vm("db")
    path = cluster.start_pod("db-pod", "db")
    async with cluster.leads():
        cluster.annotate_vm("other", ASKS_FOR_CRASH)
        cluster.start_instance("other")
        cluster.api.before["patch"] = lambda: cluster.start_pod("db-pod", "other", missed=True, uid="second")
        cluster.set_policy(**{**FILESYSTEM, "hooks": {"freeze": {"timeout": "90s"}}})
        await pass_time()
        assert cluster.decided(path) == ("crash", "vm")
        assert cluster.shown("pods") == {("filesystem", "default"): 1, ("crash", "vm"): 1}
