"""When a running pod is looked at, what becomes of a write, and what the reconciler remembers."""

import asyncio
from typing import Any, cast

import pytest

from app.core.constants import DECIDED_BY, EFFECTIVE_LEVEL, LEVEL, PRE
from app.core.record import is_intact
from app.kube.client import ApiError, ApiUnavailable, KubeClient, KubeError
from tests.controllers.no_time import in_no_time
from tests.controllers.pods_stand_in import Cluster, rest
from tests.factories import NAMESPACE, make_policy

CRASH: dict[str, Any] = {"default": {"level": "crash"}}
FILESYSTEM: dict[str, Any] = {"default": {"level": "filesystem"}}
ON_CRASH, ON_FILESYSTEM = make_policy(**CRASH), make_policy(**FILESYSTEM)
ASKS_FOR_CRASH = {LEVEL: "crash"}


def decided(cluster: Cluster, path: str) -> tuple[str | None, str | None]:
    annotations = cluster.annotations(path)
    assert is_intact(annotations)
    return annotations.get(EFFECTIVE_LEVEL), annotations.get(DECIDED_BY)


def remembered(cluster: Cluster) -> dict[str, int]:
    """How much is kept about pods, by the name of what keeps it."""
    reconciler, queue, reports = cluster.reconciler, cluster.reconciler._queue, cluster.reports
    kept: dict[str, Any] = {
        "written": reconciler._written,
        "failures": reconciler._failures,
        "orphans": reconciler._orphans,
        "restraint": reconciler._restraint._writes,
        "timers": queue._timers,
        "waiting": queue._waiting,
        "taken": queue._taken,
        "again": queue._again,
        "standing": reports._standing,
    }
    return {name: len(one) for name, one in kept.items() if one}


class TestWakes:
    """Whatever a decision rests on wakes the pods that it is about, and no others."""

    @in_no_time
    async def test_pods_in_line_are_not_written_to_however_often_they_are_looked_at(self) -> None:
        cluster = Cluster(FILESYSTEM)
        for number in range(30):
            cluster.start_vm(f"vm-{number}", policy=ON_FILESYSTEM)
        async with cluster.leads():
            await rest(2000)
        assert cluster.api.requests == []
        assert cluster.recorder.told == []
        assert cluster.shown("pods") == {("filesystem", "default"): 30}

    @in_no_time
    async def test_a_policy_reaches_every_pod_with_one_request_each(self) -> None:
        cluster = Cluster(FILESYSTEM)
        paths = [cluster.start_vm(f"vm-{number}", policy=ON_FILESYSTEM) for number in range(50)]
        async with cluster.leads():
            cluster.set_policy(**CRASH)
            await rest()
            assert {decided(cluster, path) for path in paths} == {("crash", "default")}
            await rest(700)
        assert sorted(cluster.api.requests) == sorted(("patch", path) for path in paths)
        assert cluster.shown("pods") == {("crash", "default"): 50}

    @in_no_time
    async def test_an_annotation_on_the_vm_reaches_its_pods_and_no_others(self) -> None:
        cluster = Cluster(FILESYSTEM)
        source, other = cluster.start_vm("db", policy=ON_FILESYSTEM), cluster.start_vm("web", policy=ON_FILESYSTEM)
        target = cluster.start_pod("db-target", "db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            cluster.annotate_vm("db", ASKS_FOR_CRASH)
            await rest()
            assert decided(cluster, source) == decided(cluster, target) == ("crash", "vm")
            assert decided(cluster, other) == ("filesystem", "default")
            cluster.annotate_vm("db")
            await rest()
            assert decided(cluster, source) == decided(cluster, target) == ("filesystem", "default")
        assert sorted(cluster.api.patches) == ["db", "db", "db-target", "db-target"]

    @in_no_time
    async def test_an_annotation_on_the_namespace_reaches_all_its_pods(self) -> None:
        cluster = Cluster()
        paths = [cluster.start_vm(f"vm-{number}") for number in range(3)]
        async with cluster.leads():
            cluster.annotate_namespace(**ASKS_FOR_CRASH)
            await rest()
            assert {decided(cluster, path) for path in paths} == {("crash", "namespace")}

    @in_no_time
    async def test_a_change_at_one_vm_overtakes_a_policy_that_reaches_thousands(self) -> None:
        cluster = Cluster(FILESYSTEM)
        for number in range(200):
            cluster.start_vm(f"vm-{number}", policy=ON_FILESYSTEM)
        path = cluster.start_vm("urgent", policy=ON_FILESYSTEM)
        cluster.start_pod("urgent-target", "urgent", policy=ON_FILESYSTEM)  # it migrates
        reconciler = cluster.make_reconciler(cast("KubeClient", cluster.api), per_second=10)
        async with cluster.leads(reconciler):
            cluster.set_policy(**CRASH)
            await rest(2)
            assert reconciler.backlog > 150
            cluster.annotate_vm("urgent", {LEVEL: "application"})  # refused, so that the policy still decides
            cluster.annotate_vm("urgent", ASKS_FOR_CRASH)
            await rest(2)
            assert decided(cluster, path) == ("crash", "vm")
            assert reconciler.backlog > 120

    @in_no_time
    async def test_writes_come_no_faster_than_the_rate(self) -> None:
        cluster = Cluster(FILESYSTEM)
        for number in range(100):
            cluster.start_vm(f"vm-{number}", policy=ON_FILESYSTEM)
        reconciler = cluster.make_reconciler(cast("KubeClient", cluster.api), per_second=10)
        async with cluster.leads(reconciler):
            cluster.set_policy(**CRASH)
            await rest(5)
            assert 45 <= len(cluster.api.patches) <= 55
            await rest(6)
            assert len(cluster.api.patches) == 100

    @in_no_time
    async def test_what_changes_while_a_write_waits_for_its_turn_counts(self) -> None:
        cluster = Cluster(FILESYSTEM)
        for number in range(20):
            cluster.start_vm(f"vm-{number}", policy=ON_FILESYSTEM)
        reconciler = cluster.make_reconciler(cast("KubeClient", cluster.api), per_second=2)
        async with cluster.leads(reconciler):
            cluster.set_policy(**CRASH)
            await rest(3)
            written = len(cluster.api.patches)
            cluster.set_policy(**FILESYSTEM)
            await rest(60)
        assert written < 10
        assert len(cluster.api.patches) == 2 * written, "those that were not reached are left alone"


class TestWrites:
    """A write is made once, on what was decided on."""

    @in_no_time
    async def test_a_write_is_not_repeated_before_the_watch_brings_it(self) -> None:
        cluster = Cluster()
        cluster.start_vm("db", policy=None)
        async with cluster.leads():
            cluster.api.requests.clear()
            cluster.api.lag = None
            cluster.set_policy(**CRASH)
            await rest()
            for _ in range(3):
                cluster.annotate_vm("db", {LEVEL: "nonsense"})
                cluster.annotate_vm("db")
                await rest(700)
        assert cluster.api.requests == [("patch", "/api/v1/namespaces/" + NAMESPACE + "/pods/db")]

    @in_no_time
    async def test_what_changes_between_a_write_and_its_echo_is_not_lost(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            cluster.api.lag = 0.3
            cluster.set_policy(**CRASH)
            await rest(0.1)
            cluster.annotate_vm("db", {LEVEL: "filesystem"})
            await rest(2)
            assert decided(cluster, path) == ("filesystem", "vm")

    @in_no_time
    async def test_a_change_that_is_taken_back_before_the_echo_is_not_lost(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            cluster.api.lag = 0.3
            cluster.set_policy(**CRASH)
            await rest(0.1)
            cluster.set_policy(**FILESYSTEM)
            await rest(2)
            assert decided(cluster, path) == ("filesystem", "default")

    @in_no_time
    async def test_an_edit_while_the_watch_stood_still_is_found_when_a_list_brings_it(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            before = cluster.annotations(path)
            cluster.api.lag = None
            cluster.set_policy(**CRASH)
            await rest()
            cluster.write(
                path, {**dict.fromkeys(cluster.annotations(path)), **before}
            )  # as if nothing had been written
            cluster.api.relist()
            cluster.api.lag = 0.01
            await rest(3)
            assert decided(cluster, path) == ("crash", "default")

    @in_no_time
    async def test_an_edit_that_looks_like_an_old_write_is_put_right(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            cluster.api.lag = 0  # the echo is faster than the answer
            cluster.set_policy(**CRASH)
            await rest()
            crashed = cluster.annotations(path)
            cluster.set_policy(**FILESYSTEM)
            await rest()
            cluster.write(path, {**dict.fromkeys(cluster.annotations(path)), **crashed})
            await rest()
            assert decided(cluster, path) == ("filesystem", "default")

    @in_no_time
    async def test_a_lost_race_is_decided_anew_from_what_the_api_server_has(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            cluster.api.lag = None
            cluster.api.before["patch"] = lambda: cluster.edit(path, example_com__note="somebody was here")
            cluster.set_policy(**CRASH)
            await rest()
            assert decided(cluster, path) == ("crash", "default")
            assert cluster.annotations(path)["example-com/note"] == "somebody was here"
        assert [verb for verb, _ in cluster.api.requests] == ["patch", "get", "patch"]
        assert cluster.metric("reconcile_writes_total", reason="failed") == 0

    @in_no_time
    async def test_a_race_lost_to_somebody_who_wrote_the_same_ends_there(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        right = cluster.annotations(cluster.start_pod("model", "db", policy=ON_CRASH))
        cluster.api.remove("/api/v1/namespaces/" + NAMESPACE + "/pods/model")
        async with cluster.leads():
            cluster.api.before["patch"] = lambda: cluster.write(
                path, {**dict.fromkeys(cluster.annotations(path)), **right}
            )
            cluster.set_policy(**CRASH)
            await rest()
        assert [verb for verb, _ in cluster.api.requests] == ["patch", "get"]

    @in_no_time
    async def test_a_pod_that_changes_all_the_time_does_not_keep_a_worker(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            cluster.api.lag = None

            def once_more() -> None:
                cluster.edit(path, note=cluster.api.version(path))
                cluster.api.before["patch"] = once_more

            cluster.api.before["patch"] = once_more
            cluster.set_policy(**CRASH)
            await rest(10)
            assert 10 <= len(cluster.api.patches) <= 60
            cluster.api.before.clear()
            await rest(2)
            assert decided(cluster, path) == ("crash", "default")

    @in_no_time
    async def test_a_pod_that_was_replaced_under_its_name_is_another_one(self) -> None:
        cluster = Cluster(FILESYSTEM)
        cluster.start_vm("db", policy=ON_FILESYSTEM)
        path = cluster.start_pod("db-pod", "db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            cluster.annotate_vm("other", ASKS_FOR_CRASH)
            cluster.start_instance("other")
            cluster.api.before["patch"] = lambda: cluster.start_pod("db-pod", "other", policy=None, uid="second")
            cluster.set_policy(**{**FILESYSTEM, "hooks": {"freeze": {"timeout": "90s"}}})
            await rest()
            assert decided(cluster, path) == ("crash", "vm")
            assert cluster.shown("pods") == {("filesystem", "default"): 1, ("crash", "vm"): 1}

    @in_no_time
    async def test_a_quarrel_slows_down(self) -> None:
        cluster = Cluster()
        path = cluster.start_vm("db")
        async with cluster.leads():
            right = cluster.annotations(path)
            for _ in range(2 * 300):
                if cluster.annotations(path) == right:
                    cluster.write(path, {PRE + "timeout": "1s"})
                await rest()
            writes = len(cluster.api.patches)
            assert 8 <= writes <= 15, "five at once, then ever more slowly"
            other = cluster.start_vm("web", policy=None)
            await rest()
            assert is_intact(cluster.annotations(other)), "nobody else pays for it"
            await rest(60)
            assert cluster.annotations(path) == right
        assert cluster.metric("reconcile_writes_total", reason="overwritten") == writes + 1


class TestFailures:
    """What is about one pod is that pod's matter; what is about the server holds up everything."""

    @pytest.mark.parametrize(
        "error",
        [
            pytest.param(ApiError(422, "Invalid", "an annotation is not valid"), id="invalid"),
            pytest.param(ApiError(403, "Forbidden", "denied by somebody's policy"), id="forbidden"),
            pytest.param(ApiError(400, "BadRequest", "admission webhook denied the request"), id="denied"),
            pytest.param(ApiError(500, "InternalError", "failed calling webhook gone.example.com"), id="webhook-gone"),
        ],
    )
    def test_a_refusal_of_one_pod(self, error: KubeError) -> None:
        @in_no_time
        async def test() -> None:
            cluster = Cluster(FILESYSTEM)
            refused = cluster.start_vm("refused", policy=ON_FILESYSTEM)
            refusing(cluster, "refused", error)
            async with cluster.leads():
                cluster.set_policy(**CRASH)
                await rest()
                others = [cluster.start_vm(f"vm-{number}", policy=None) for number in range(10)]
                await rest(0.2)
                assert {decided(cluster, path) for path in others} == {("crash", "default")}, "at once"
                await rest(3600)
                tries = cluster.api.patches.count("refused")
                assert 10 <= tries <= 30, "ever more slowly"
                assert cluster.recorder.reasons.count("HooksNotWritten") == 1
                (told,) = (told for told in cluster.recorder.told if told.reason == "HooksNotWritten")
                assert (told.about.kind, told.about.name, told.about.uid) == (
                    "VirtualMachineInstance",
                    "refused",
                    "vmi-refused",
                )
                assert str(error) in told.message
                assert cluster.metric("reconcile_writes_total", reason="failed") == tries - 1
                cluster.api.refusals.clear()
                refusing(cluster, "", error)
                await rest(800)
                assert decided(cluster, refused) == ("crash", "default")
                assert remembered(cluster).get("failures") is None

        test()

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
    def test_trouble_of_the_server(self, error: KubeError, caplog: pytest.LogCaptureFixture) -> None:
        @in_no_time
        async def test() -> None:
            cluster = Cluster(FILESYSTEM)
            paths = [cluster.start_vm(f"vm-{number}", policy=ON_FILESYSTEM) for number in range(100)]
            async with cluster.leads():
                cluster.api.refusals["patch"] = [error] * 100_000
                cluster.set_policy(**CRASH)
                await rest(600)
                assert 20 <= len(cluster.api.patches) <= 150, "none pays for the others, the server least of all"
                cluster.api.refusals.clear()
                await rest(60)
                assert {decided(cluster, path) for path in paths} == {("crash", "default")}
            assert "HooksNotWritten" not in cluster.recorder.reasons
            assert caplog.text.count("the API server is in trouble") == 1

        test()

    @in_no_time
    async def test_a_pod_that_is_gone_is_left_at_that(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            del cluster.api.objects[path]
            cluster.set_policy(**CRASH)
            await rest(500)
            assert cluster.api.requests == [("patch", path)]
            cluster.api.pods.put((NAMESPACE, "db"), None)
            await rest()
        assert remembered(cluster) == {}
        assert cluster.recorder.told == []
        assert cluster.shown("pods") == {}

    @in_no_time
    async def test_a_pod_that_is_gone_after_a_lost_race(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            cluster.api.refusals["patch"] = [ApiError(409, "Conflict", "the object has been modified")]
            cluster.api.before["get"] = lambda: cluster.api.remove(path)
            cluster.set_policy(**CRASH)
            await rest()
        assert [verb for verb, _ in cluster.api.requests] == ["patch", "get"]
        assert remembered(cluster) == {}

    @in_no_time
    async def test_nothing_is_sent_while_what_is_known_may_be_outdated(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            cluster.in_touch = False
            cluster.set_policy(**CRASH)
            await rest(100)
            assert cluster.api.requests == []
            cluster.in_touch = True
            await rest(1)
            assert decided(cluster, path) == ("crash", "default")


def refusing(cluster: Cluster, name: str, error: KubeError) -> None:
    """Have every patch of the pod of that name refused."""
    answered = type(cluster.api).patch_unread

    async def patch_unread(path: str, body: list[dict[str, Any]]) -> None:
        if name and path.endswith("/" + name):
            cluster.api.requests.append(("patch", path))
            await asyncio.sleep(0)
            raise error
        await answered(cluster.api, path, body)

    cluster.api.patch_unread = patch_unread  # type: ignore[method-assign]
