"""A failure that is about one pod holds up that pod; one that is about the API server holds up everything."""

import logging

import pytest

from app.kube.client import ApiError, ApiUnavailable, KubeError
from app.kube.store import Key
from tests.controllers.pods.reconciler.support import CRASH, FILESYSTEM
from tests.infra.factories import NAMESPACE
from tests.infra.stand_ins.cluster import StandInCluster
from tests.infra.virtual_time import in_virtual_time, pass_time

KEY: Key = (NAMESPACE, "db")


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ApiError(422, "Invalid", "an annotation is not valid"), id="invalid"),
        pytest.param(ApiError(403, "Forbidden", "denied by somebody's policy"), id="forbidden"),
        pytest.param(ApiError(400, "BadRequest", "admission webhook denied the request"), id="denied"),
        pytest.param(ApiError(500, "InternalError", "failed calling webhook gone.example.com"), id="webhook-gone"),
    ],
)
@in_virtual_time
async def test_a_pod_that_is_refused_is_tried_ever_more_slowly_and_reported_once(
    error: KubeError, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vm-consistency.reconciler")
    cluster = StandInCluster(FILESYSTEM)
    refused = cluster.start_vm("refused")
    cluster.api.objects[refused]["metadata"]["ownerReferences"][0] |= {"kind": "Job", "name": "somebody"}
    cluster.api.put(refused, cluster.api.objects[refused])
    cluster.api.refused["refused"] = error
    async with cluster.leads():
        cluster.set_policy(**CRASH)
        await pass_time()
        others = cluster.start_vms(10, missed=True)
        await pass_time(0.2)
        assert {cluster.decided(path) for path in others} == {("crash", "default")}, "they are not held up"
        await pass_time(3600)
        tries = cluster.api.patches.count("refused")
        assert 10 <= tries <= 30
        [event] = [event for event in cluster.recorder.events if event.reason == "HooksNotWritten"]
        assert (event.about.kind, event.about.name, event.about.uid) == (
            "VirtualMachineInstance",
            "refused",
            "vmi-refused",
        )
        assert str(error) in event.message
        assert cluster.writes("failed") == tries - 1
        cluster.api.refused.clear()
        await pass_time(800)
        assert cluster.decided(refused) == ("crash", "default")
        cluster.set_policy(**FILESYSTEM)
        await pass_time(5)
        assert caplog.messages[-1] == "pods are in line", "none counts as failing any more"


@in_virtual_time
async def test_a_refusal_is_reported_only_if_it_is_repeated() -> None:
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    async with cluster.leads():
        for policy, level in ((CRASH, "crash"), (FILESYSTEM, "filesystem")):
            cluster.api.refusals["patch"] = [ApiError(403, "Forbidden", "RBAC: not found")]
            cluster.set_policy(**policy)
            await pass_time(5)
            assert cluster.decided(path) == (level, "default")
    assert cluster.recorder.reasons == ["LevelChanged", "LevelChanged"]
    assert cluster.writes("failed") == 0


@in_virtual_time
async def test_a_write_that_is_accepted_but_not_stored_is_reported_and_tried_ever_more_slowly() -> None:
    """As by a foreign webhook, or by our own where its registration doesn't know this process's user."""
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    cluster.api.discards_patches = True
    async with cluster.leads():
        cluster.set_policy(**CRASH)
        await pass_time(60)
        assert cluster.decided(path) == ("filesystem", "default")
        assert 4 <= len(cluster.api.patches) <= 9
        [event] = cluster.recorder.events
        assert event.reason == "HooksNotWritten"
        assert "not-our-own-write" in event.message
        assert cluster.reconciler.writes == 0


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ApiError(429, "TooManyRequests", "slow down", 5.0), id="too-many"),
        pytest.param(ApiError(500, "InternalError", "etcdserver: request timed out"), id="internal"),
        pytest.param(ApiError(503, "ServiceUnavailable", "starting"), id="unavailable"),
        pytest.param(ApiError(401, "Unauthorized", "token expired"), id="unauthorized"),
        pytest.param(ApiUnavailable("no answer within 30 s"), id="no-answer"),
    ],
)
@in_virtual_time
async def test_trouble_of_the_api_server_holds_up_all_writes_and_is_logged_once(
    error: KubeError, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vm-consistency.reconciler")
    cluster = StandInCluster(FILESYSTEM)
    paths = cluster.start_vms(100)
    async with cluster.leads():
        cluster.api.refusals["patch"] = [error] * 100_000
        cluster.set_policy(**CRASH)
        await pass_time(300)
        assert 10 <= len(cluster.api.patches) <= 150, "a request now and then, and not several for each pod"
        cluster.api.refusals.clear()
        await pass_time(60)
        assert {cluster.decided(path) for path in paths} == {("crash", "default")}
    assert "HooksNotWritten" not in cluster.recorder.reasons
    assert caplog.text.count("the API server is in trouble") == 1
    assert caplog.messages.count("resolved") == 1


@in_virtual_time
async def test_a_pod_that_is_not_found_is_not_tried_again() -> None:
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    async with cluster.leads():
        del cluster.api.objects[path]
        cluster.set_policy(**CRASH)
        await pass_time(500)
        assert cluster.api.requests == [("patch", path)]
        cluster.api.pods.put(KEY, None)
        await pass_time()
    assert cluster.recorder.events == []
    assert cluster.shown("pods") == {}
    assert cluster.api.still_referred_to == set()


@in_virtual_time
async def test_a_pod_that_is_not_found_after_a_conflict_is_forgotten() -> None:
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    async with cluster.leads():
        cluster.api.refusals["patch"] = [ApiError(409, "Conflict", "the object has been modified")]
        cluster.api.before["get"] = lambda: cluster.api.remove(path)
        cluster.set_policy(**CRASH)
        await pass_time()
    assert cluster.api.verbs == ["patch", "get"]
    assert cluster.api.still_referred_to == set()


@in_virtual_time
async def test_a_pod_that_is_deleted_while_it_is_written_to_is_forgotten() -> None:
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    async with cluster.leads():
        cluster.api.before["patch"] = lambda: cluster.api.pods.put(KEY, None)
        cluster.api.lag = None
        cluster.set_policy(**CRASH)
        await pass_time()
    assert cluster.api.requests == [("patch", path)]
    assert cluster.shown("pods") == {}
    assert cluster.api.still_referred_to == set()


@in_virtual_time
async def test_nothing_is_sent_while_the_stores_may_be_outdated() -> None:
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    async with cluster.leads():
        cluster.in_touch = False
        cluster.set_policy(**CRASH)
        await pass_time(100)
        assert cluster.api.requests == []
        cluster.in_touch = True
        await pass_time(1)
        assert cluster.decided(path) == ("crash", "default")


@in_virtual_time
async def test_nothing_is_sent_if_the_stores_became_outdated_while_a_write_waited_for_the_rate() -> None:
    cluster = StandInCluster(FILESYSTEM)
    paths = cluster.start_vms(8)
    async with cluster.leads(per_second=1):
        cluster.set_policy(**CRASH)
        await pass_time(2)
        cluster.in_touch = False
        sent = len(cluster.api.patches)
        await pass_time(100)
        assert 0 < len(cluster.api.patches) == sent < 4
        cluster.in_touch = True
        await pass_time(10)
        assert {cluster.decided(path) for path in paths} == {("crash", "default")}
