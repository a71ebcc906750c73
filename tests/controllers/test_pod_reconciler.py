"""When a running pod is looked at, what becomes of a write, and what the reconciler remembers."""

import asyncio
import json
import logging
from typing import Any, cast

import pytest

from app.controllers.policy_keeper import PolicyKeeper
from app.core.constants import (
    DECIDED_BY,
    EFFECTIVE_LEVEL,
    HOOKS_DIGEST,
    KUBEVIRT_HOOK_KEYS,
    LEVEL,
    MANAGED,
    MAX_ANNOTATIONS_BYTES,
    PRE,
    RECORD_KEYS,
)
from app.core.objects import Facts, OwnerReference
from app.core.policy import PolicyState
from app.core.record import digest, is_intact
from app.kube.client import ApiError, ApiUnavailable, KubeClient, KubeError
from app.kube.store import ObjectStore
from tests.controllers.no_time import in_no_time
from tests.controllers.pods_stand_in import Cluster, rest
from tests.infra.factories import NAMESPACE, make_policy

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
        "haste": reconciler._haste._writes,
        "timers": queue._timers,
        "waiting": queue._waiting,
        "taken": queue._taken,
        "again": queue._again,
        "standing": reports._standing,
        "troubled": reports._troubled,
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


async def test_others_get_their_turn_while_thousands_of_pods_are_looked_at() -> None:
    cluster = Cluster(FILESYSTEM)
    for number in range(1500):
        cluster.start_vm(f"vm-{number}", policy=ON_FILESYSTEM)
    turns = 0
    async with cluster.leads():
        cluster.set_policy(**FILESYSTEM)
        while cluster.reconciler.backlog:
            turns += 1
            await asyncio.sleep(0)
    assert turns >= 10
    assert cluster.api.requests == []


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
            cluster.replace(path, before)  # as if nothing had been written
            cluster.api.relist()
            cluster.api.lag = 0.01
            await rest(3)
            assert decided(cluster, path) == ("crash", "default")

    @in_no_time
    async def test_an_edit_that_looks_like_an_old_write_is_put_right(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            right = cluster.annotations(path)
            cluster.api.delay = 0.1  # the echo is faster than the answer
            cluster.set_policy(**CRASH)
            await rest()
            crashed = cluster.annotations(path)
            cluster.api.before["patch"] = lambda: cluster.replace(path, right)  # as another leader does
            cluster.set_policy(**FILESYSTEM)
            await rest()
            cluster.replace(path, crashed)
            await rest()
            assert decided(cluster, path) == ("filesystem", "default")

    @in_no_time
    async def test_a_lost_race_is_decided_anew_from_what_the_api_server_has(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            cluster.api.lag = None
            cluster.api.before["patch"] = lambda: cluster.edit(path, note="somebody was here")
            cluster.set_policy(**CRASH)
            await rest()
            assert decided(cluster, path) == ("crash", "default")
            await rest(20)
            assert cluster.annotations(path)["note"] == "somebody was here"
        assert [verb for verb, _ in cluster.api.requests] == ["patch", "get", "patch"]
        assert cluster.metric("reconcile_writes_total", reason="failed") == 0

    @in_no_time
    async def test_a_race_lost_to_somebody_who_wrote_the_same_ends_there(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        right = cluster.annotations(cluster.start_pod("model", "db", policy=ON_CRASH))
        cluster.api.remove("/api/v1/namespaces/" + NAMESPACE + "/pods/model")
        async with cluster.leads():
            cluster.api.before["patch"] = lambda: cluster.replace(path, right)
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
    async def test_whoever_changes_an_annotation_all_the_time_is_followed_ever_more_slowly(self) -> None:
        cluster = Cluster()
        path = cluster.start_vm("db")
        async with cluster.leads():
            for _ in range(25):
                for annotations in (ASKS_FOR_CRASH, {}):
                    cluster.annotate_vm("db", annotations)
                    await rest(0.1)
            assert len(cluster.api.patches) == 50, "an honest change is made at once"
            for _ in range(250):
                for annotations in (ASKS_FOR_CRASH, {}):
                    cluster.annotate_vm("db", annotations)
                    await rest(0.1)
            assert len(cluster.api.patches) < 70
            await rest(100)
            assert decided(cluster, path) == ("filesystem", "built-in")

    @in_no_time
    async def test_a_pod_does_not_pay_for_the_quarrel_over_one_that_had_its_name(self) -> None:
        cluster = Cluster()
        path = cluster.start_vm("db")
        async with cluster.leads():
            for _ in range(20):
                cluster.write(path, {PRE + "timeout": "1s"})
                await rest(0.1)
            assert cluster.annotations(path)[PRE + "timeout"] == "1s"
            cluster.start_pod("db", "db", policy=None, uid="second")
            await rest(0.1)
            assert decided(cluster, path) == ("filesystem", "built-in")

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
            cluster.api.objects[refused]["metadata"]["ownerReferences"][0] |= {"kind": "Job", "name": "somebody"}
            cluster.api.put(refused, cluster.api.objects[refused])
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

    @in_no_time
    async def test_a_refusal_that_does_not_last_is_not_told_and_forgotten(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            cluster.api.refusals["patch"] = [ApiError(403, "Forbidden", "RBAC: not found")]
            cluster.set_policy(**CRASH)
            await rest(5)
            assert decided(cluster, path) == ("crash", "default")
            assert remembered(cluster) == {"standing": 1, "haste": 1}
        assert cluster.recorder.reasons == ["LevelChanged"]
        assert cluster.metric("reconcile_writes_total", reason="failed") == 0

    @in_no_time
    async def test_what_nobody_tells_of_is_found_in_time(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            cluster.api.refusals["patch"] = [ApiError(404, "NotFound", "pods not found")]
            cluster.set_policy(**CRASH)
            await rest(500)
            assert len(cluster.api.patches) == 1
            await rest(200)
            assert decided(cluster, path) == ("crash", "default")

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
        caplog.set_level(logging.INFO, "vm-consistency.reconciler")

        @in_no_time
        async def test() -> None:
            cluster = Cluster(FILESYSTEM)
            paths = [cluster.start_vm(f"vm-{number}", policy=ON_FILESYSTEM) for number in range(100)]
            async with cluster.leads():
                cluster.api.refusals["patch"] = [error] * 100_000
                cluster.set_policy(**CRASH)
                await rest(300)
                assert 10 <= len(cluster.api.patches) <= 150, "none pays for the others, the server least of all"
                cluster.api.refusals.clear()
                await rest(60)
                assert {decided(cluster, path) for path in paths} == {("crash", "default")}
            assert "HooksNotWritten" not in cluster.recorder.reasons
            assert caplog.text.count("the API server is in trouble") == 1
            assert caplog.messages.count("resolved") == 1

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
    async def test_nothing_is_sent_when_touch_was_lost_while_a_write_waited_for_its_turn(self) -> None:
        cluster = Cluster(FILESYSTEM)
        paths = [cluster.start_vm(f"vm-{number}", policy=ON_FILESYSTEM) for number in range(8)]
        async with cluster.leads(cluster.make_reconciler(cast("KubeClient", cluster.api), per_second=1)):
            cluster.set_policy(**CRASH)
            await rest(2)
            cluster.in_touch = False
            sent = len(cluster.api.patches)
            await rest(100)
            assert 0 < len(cluster.api.patches) == sent < 4
            cluster.in_touch = True
            await rest(10)
            assert {decided(cluster, path) for path in paths} == {("crash", "default")}

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


class TestPolicies:
    """Which policy holds for pods that run already, and when."""

    @in_no_time
    async def test_policy_that_nobody_has_read_yet_touches_nothing(self) -> None:
        cluster = Cluster(FILESYSTEM)
        cluster.start_vm("db", policy=None)
        cluster.start_vm("web", policy=ON_CRASH)
        cluster.keeper._state = PolicyState()  # as it is after a start
        async with cluster.leads():
            await rest(700)
        assert cluster.api.requests == []
        assert cluster.shown("pods") == {}

    @in_no_time
    async def test_invalid_policy_touches_nothing_and_the_next_good_one_everything(self) -> None:
        cluster = Cluster(FILESYSTEM)
        cluster.start_vm("db", policy=None)
        path = cluster.start_vm("web", policy=ON_CRASH)
        cluster.keeper = PolicyKeeper(lambda *_: None, clock=asyncio.get_running_loop().time)
        cluster.keeper.read("broken")
        reconciler = cluster.make_reconciler(cast("KubeClient", cluster.api))
        async with cluster.leads(reconciler):
            await rest(700)
            assert cluster.api.requests == []
            cluster.set_policy(**FILESYSTEM)
            await rest()
            assert decided(cluster, path) == ("filesystem", "default")
            assert sorted(cluster.api.patches) == ["db", "web"]

    @in_no_time
    async def test_last_good_policy_holds_for_new_and_running_pods(self) -> None:
        cluster = Cluster(CRASH)
        running = cluster.start_vm("db", policy=ON_FILESYSTEM)
        cluster.keeper.read("broken")
        async with cluster.leads():
            new = cluster.start_vm("web", policy=None)
            await rest()
            assert decided(cluster, running) == decided(cluster, new) == ("crash", "default")

    @in_no_time
    async def test_a_deleted_policy_holds_for_pods_that_have_it_until_the_grace_is_over(self) -> None:
        cluster = Cluster(CRASH)
        running = cluster.start_vm("db", policy=ON_CRASH)
        async with cluster.leads():
            cluster.keeper.absent()
            await rest(295)
            assert cluster.api.requests == []
            await rest(10)
            assert decided(cluster, running) == ("filesystem", "built-in")
        assert cluster.api.patches == ["db"]

    @in_no_time
    async def test_new_pods_get_the_built_in_default_during_the_grace_and_keep_it(self) -> None:
        cluster = Cluster(CRASH)
        async with cluster.leads():
            cluster.keeper.absent()
            by_webhook, missed = cluster.start_vm("db"), cluster.start_vm("web", policy=None)
            await rest(250)
            assert decided(cluster, by_webhook) == decided(cluster, missed) == ("filesystem", "built-in")
            await rest(500)
        assert cluster.api.patches == ["web"]

    @in_no_time
    async def test_an_edit_during_the_grace_is_put_right_as_the_deleted_policy_has_it(self) -> None:
        cluster = Cluster(CRASH)
        path = cluster.start_vm("db", policy=ON_CRASH)
        async with cluster.leads():
            cluster.keeper.absent()
            await rest()
            cluster.write(path, {EFFECTIVE_LEVEL: "application"})
            await rest(200)
            assert decided(cluster, path) == ("crash", "default")
            await rest(200)
            assert decided(cluster, path) == ("filesystem", "built-in")
        assert cluster.api.patches == ["db", "db"]

    @in_no_time
    async def test_an_annotation_during_the_grace_takes_effect_at_once(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            cluster.keeper.absent()
            await rest()
            cluster.annotate_vm("db", ASKS_FOR_CRASH)
            await rest()
            assert decided(cluster, path) == ("crash", "vm")
            cluster.annotate_vm("db")
            await rest()
            assert decided(cluster, path) == ("filesystem", "default"), "the deleted policy, for now"

    @in_no_time
    async def test_a_policy_that_comes_back_the_same_writes_nothing(self) -> None:
        cluster = Cluster(CRASH)
        cluster.start_vm("db", policy=ON_CRASH)
        async with cluster.leads():
            cluster.keeper.absent()
            await rest(100)
            cluster.set_policy(**CRASH)
            await rest(1000)
        assert cluster.api.requests == []

    @in_no_time
    async def test_audit_counts_and_writes_nothing(self) -> None:
        cluster = Cluster({**CRASH, "mode": "audit"})
        cluster.start_vm("db", policy=ON_FILESYSTEM)
        cluster.start_vm("web", policy=None)
        async with cluster.leads():
            await rest(700)
        assert cluster.api.requests == []
        assert cluster.shown("pods") == {("crash", "default"): 2}

    @in_no_time
    async def test_a_vm_that_is_taken_out_is_handed_back_once(self) -> None:
        allow = {"default": {"level": "filesystem", "allow": ["filesystem", "unmanaged"]}}
        cluster = Cluster(allow)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            cluster.annotate_vm("db", {MANAGED: "false"})
            await rest()
            handed_back = cluster.annotations(path)
            assert not {*RECORD_KEYS} & handed_back.keys()
            assert set(KUBEVIRT_HOOK_KEYS) <= handed_back.keys()
            cluster.write(path, {PRE + "timeout": "1s"})
            await rest(700)
            assert cluster.annotations(path)[PRE + "timeout"] == "1s", "not ours any more"
        assert cluster.api.patches == ["db"]
        assert cluster.shown("pods") == {("unmanaged", "vm"): 1}
        assert cluster.metric("reconcile_writes_total", reason="handed-back") == 1

    @in_no_time
    async def test_a_forged_record_is_put_right(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            forged = {**cluster.annotations(path), PRE + "command": '["/bin/sh"]', DECIDED_BY: "vm\n" + "x" * 5000}
            cluster.write(path, {**forged, HOOKS_DIGEST: digest(forged)})
            assert is_intact(cluster.annotations(path))
            await rest()
            assert decided(cluster, path) == ("filesystem", "default")
            assert cluster.annotations(path)[PRE + "command"] != '["/bin/sh"]'
        assert cluster.api.patches == ["db"]

    @in_no_time
    async def test_a_pod_without_room_loses_the_wrong_hooks_and_that_is_told_once(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            kept = {key: text for key, text in cluster.annotations(path).items() if key not in RECORD_KEYS}
            room = MAX_ANNOTATIONS_BYTES - sum(len(key) + len(text) for key, text in kept.items())
            notes = "x" * (room - 100)
            cluster.write(path, {PRE + "command": "[]", "notes": notes, **dict.fromkeys(RECORD_KEYS)})
            await rest(3000)
            left = cluster.annotations(path)
            assert PRE + "command" not in left
            assert left["notes"] == notes
            assert cluster.shown("pods") == {("filesystem", "default"): 1}, "what it should carry"
            cluster.api.remove(path)
            await rest()
            assert remembered(cluster) == {}
        assert cluster.api.patches == ["db"]
        assert cluster.recorder.reasons == ["HooksNotWritten"]
        assert cluster.metric("reconcile_writes_total", reason="failed") == 1
        assert cluster.metric("reconcile_writes_total", reason="overwritten") == 1


class TestOwners:
    """An owner that is not there yet, or not any more."""

    @in_no_time
    async def test_nothing_is_decided_before_the_vm_is_known(self) -> None:
        cluster = Cluster(CRASH)
        cluster.start_instance("db")
        path = cluster.start_pod("db", "db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            await rest(55)
            assert cluster.api.requests == []
            cluster.annotate_vm("db", {LEVEL: "filesystem"})
            await rest(700)
        assert decided(cluster, path) == ("filesystem", "vm")
        assert cluster.api.patches == ["db"]
        assert remembered(cluster).get("orphans") is None

    @in_no_time
    async def test_an_instance_whose_vm_stays_away_is_decided_without_it(self) -> None:
        cluster = Cluster(CRASH)
        cluster.start_instance("db")
        path = cluster.start_pod("db", "db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            await rest(58)
            assert cluster.api.requests == []
            await rest(2)
            assert decided(cluster, path) == ("crash", "default")

    @in_no_time
    async def test_a_vm_that_comes_late_decides_after_all(self) -> None:
        cluster = Cluster(CRASH)
        cluster.start_instance("db")
        path = cluster.start_pod("db", "db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            await rest(70)
            cluster.annotate_vm("db", {LEVEL: "filesystem"})
            await rest()
            assert decided(cluster, path) == ("filesystem", "vm")

    @in_no_time
    async def test_a_vm_that_is_deleted_changes_nothing_while_its_pods_follow(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            cluster.annotate_vm("db", ASKS_FOR_CRASH)
            await rest()
            cluster.stores.machines.put((NAMESPACE, "db"), None)
            await rest(20)
            cluster.stores.instances.put((NAMESPACE, "db"), None)
            await rest(20)
            cluster.api.remove(path)
            await rest(200)
        assert cluster.api.patches == ["db"]
        assert remembered(cluster) == {}

    @in_no_time
    async def test_the_pod_of_an_instance_that_is_gone_is_left_alone(self) -> None:
        cluster = Cluster(FILESYSTEM)
        cluster.start_vm("db", policy=ON_FILESYSTEM)
        cluster.start_pod("stranger", "nobody", policy=None)
        async with cluster.leads():
            cluster.start_instance("db", uid="the-next-one")
            cluster.set_policy(**CRASH)
            await rest(1000)
        assert cluster.api.requests == []

    @in_no_time
    async def test_an_instance_that_comes_after_its_pod_wakes_it(self) -> None:
        cluster = Cluster(FILESYSTEM)
        cluster.annotate_vm("db")
        path = cluster.start_pod("db", "db", policy=None)
        async with cluster.leads():
            assert cluster.api.requests == []
            cluster.start_instance("db")
            await rest()
            assert decided(cluster, path) == ("filesystem", "default")


class TestLife:
    """Surprises, the end of a term, and what is kept meanwhile."""

    @in_no_time
    async def test_pods_that_come_and_go_leave_nothing_behind(self) -> None:
        cluster = Cluster(FILESYSTEM)
        cluster.annotate_namespace(**{LEVEL: "nonsense"})
        async with cluster.leads():
            for term in range(20):
                paths = [cluster.start_vm(f"vm-{term}-{number}", policy=None) for number in range(10)]
                cluster.annotate_vm(f"vm-{term}-0", {LEVEL: "nonsense"})
                cluster.start_instance("orphan")
                paths.append(cluster.start_pod(f"orphan-{term}", "orphan", policy=None))
                refusing(cluster, paths[1].rpartition("/")[2], ApiError(403, "Forbidden", "no"))
                await rest(3)
                assert remembered(cluster)["standing"] == 10
                for path in paths:
                    cluster.api.remove(path)
                    name = path.rpartition("/")[2]
                    cluster.stores.machines.put((NAMESPACE, name), None)
                    cluster.stores.instances.put((NAMESPACE, name), None)
                await rest()
                assert remembered(cluster) == {}
            assert cluster.shown("pods") == cluster.shown("pods_refused") == {}
            assert len(cluster.reports._shared) <= 2
            assert len(cluster.reports._troubles) <= 2

    @in_no_time
    async def test_pods_at_rest_take_no_memory_but_their_standing(self) -> None:
        cluster = Cluster(FILESYSTEM)
        for number in range(30):
            path = cluster.start_vm(f"vm-{number}", policy=ON_FILESYSTEM)
        async with cluster.leads():
            cluster.set_policy(**CRASH)
            await rest()
            cluster.write(path, {EFFECTIVE_LEVEL: "nonsense"})
            await rest()
            assert remembered(cluster) == {"standing": 30, "haste": 30, "restraint": 1}
            await rest(700)
            assert remembered(cluster) == {"standing": 30}

    @in_no_time
    async def test_a_pod_that_goes_while_it_is_written_to_leaves_nothing_behind(self) -> None:
        cluster = Cluster(FILESYSTEM)
        path = cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            cluster.api.before["patch"] = lambda: cluster.api.pods.put((NAMESPACE, "db"), None)
            cluster.api.lag = None
            cluster.set_policy(**CRASH)
            await rest()
            assert cluster.api.requests == [("patch", path)]
            assert remembered(cluster) == {}
            assert cluster.shown("pods") == {}

    @in_no_time
    async def test_a_pod_that_nobody_foresaw_does_not_end_the_work(self) -> None:
        cluster = Cluster(FILESYSTEM)
        odd, path = cluster.start_vm("odd", policy=ON_FILESYSTEM), cluster.start_vm("db", policy=ON_FILESYSTEM)
        async with cluster.leads():
            del cluster.api.objects[odd]["metadata"]["uid"]
            cluster.api.objects[odd]["metadata"]["resourceVersion"] = "0"  # so that it is read anew
            cluster.set_policy(**CRASH)
            await rest(2000)
            assert decided(cluster, path) == ("crash", "default")
        assert cluster.api.patches.count("odd") <= 8

    @in_no_time
    async def test_facts_that_can_not_be_told_do_not_end_the_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = Cluster(FILESYSTEM)
        paths = [cluster.start_vm(name, policy=ON_FILESYSTEM) for name in ("odd", "db")]
        known = cluster.facts.known

        def surprising(namespace: str, vmi: OwnerReference, *, is_orphan: bool = False) -> Facts | None:
            if vmi.name == "odd":
                raise LookupError
            return known(namespace, vmi, is_orphan=is_orphan)

        monkeypatch.setattr(cluster.facts, "known", surprising)
        async with cluster.leads():
            cluster.set_policy(**CRASH)
            await rest()
            assert decided(cluster, paths[1]) == ("crash", "default")
            monkeypatch.undo()
            await rest(700)
            assert decided(cluster, paths[0]) == ("crash", "default")

    @in_no_time
    async def test_the_end_of_a_term_leaves_no_task_subscription_or_timer(self) -> None:
        cluster = Cluster(FILESYSTEM)
        for number in range(20):
            cluster.start_vm(f"vm-{number}", policy=None)
        cluster.start_instance("orphan")
        cluster.start_pod("orphan", "orphan")
        refusing(cluster, "vm-3", ApiError(403, "Forbidden", "no"))
        tasks = asyncio.all_tasks()
        async with cluster.leads():
            await rest()
            assert len(asyncio.all_tasks()) > len(tasks)
            assert remembered(cluster)["timers"] == 2
        cluster.index.close()  # which is the term's
        stores = cluster.stores
        for store in (cluster.api.pods, stores.namespaces, stores.instances, stores.machines, stores.kubevirts):
            assert cast("ObjectStore[object]", store)._callbacks == []
        assert cluster.keeper._listeners == []
        assert asyncio.all_tasks() == tasks
        assert not cluster.reconciler._queue._timers
        cluster.set_policy(**CRASH)
        sent = len(cluster.api.requests)
        await rest(1000)
        assert len(cluster.api.requests) == sent

    @in_no_time
    async def test_terms_amidst_a_change_lose_and_repeat_nothing(self) -> None:
        cluster = Cluster(FILESYSTEM)
        paths = [cluster.start_vm(f"vm-{number}", policy=ON_FILESYSTEM) for number in range(60)]
        cluster.set_policy(**CRASH)
        for _ in range(4):
            async with cluster.leads(cluster.make_reconciler(cast("KubeClient", cluster.api), per_second=10)):
                await rest(1)
        async with cluster.leads():
            pass
        assert {decided(cluster, path) for path in paths} == {("crash", "default")}
        assert len(cluster.api.patches) == 60

    @in_no_time
    async def test_progress_is_told(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "vm-consistency.reconciler")
        cluster = Cluster(FILESYSTEM)
        for number in range(100):
            cluster.start_vm(f"vm-{number}", policy=ON_FILESYSTEM)
        cluster.start_vm("refused", policy=ON_FILESYSTEM)
        refusing(cluster, "refused", ApiError(403, "Forbidden", "no"))
        reconciler = cluster.make_reconciler(cast("KubeClient", cluster.api), per_second=6)
        async with cluster.leads(reconciler):
            await rest(700)
            assert caplog.messages == [], "nothing was to be done"
            cluster.set_policy(**CRASH)
            await rest(30)
        told = [vars(record) for record in caplog.records if "in line" in record.message]
        under_way, (end,) = told[:-1], [one for one in told if "seconds" in one]
        assert [one["message"] for one in under_way if "seconds" not in one].count("bringing pods in line") >= 2
        first = under_way[0]
        assert (first["why"], first["pods"]) == ("policy changed", 101)
        assert 20 <= first["written"] <= 50
        assert first["left"] + first["written"] in range(95, 103)
        assert end["message"] == "pods are in line, except those that can't be written"
        assert (end["written"], end["left"], end["failing"]) == (100, 0, 1)
        assert 15 <= end["seconds"] <= 19


def refusing(cluster: Cluster, name: str, error: KubeError) -> None:
    """Have every patch of the pod of that name refused."""
    answered = type(cluster.api).patch_unread

    async def patch_unread(path: str, body: list[dict[str, Any]]) -> bytes:
        if name and path.endswith("/" + name):
            cluster.api.requests.append(("patch", path))
            await asyncio.sleep(0)
            raise error
        return await answered(cluster.api, path, body)

    cluster.api.patch_unread = patch_unread  # type: ignore[method-assign]


@in_no_time
async def test_a_write_that_is_taken_and_not_stored_is_told_and_tried_ever_more_slowly() -> None:
    """As by a foreign webhook, or by our own where its registration doesn't know this process's user."""
    cluster = Cluster(FILESYSTEM)
    path = cluster.start_vm("db", policy=ON_FILESYSTEM)

    async def patch_unread(path: str, body: list[dict[str, Any]]) -> bytes:
        assert body
        cluster.api.requests.append(("patch", path))
        return json.dumps(cluster.api.objects[path], separators=(",", ":")).encode()

    cluster.api.patch_unread = patch_unread  # type: ignore[method-assign]
    async with cluster.leads():
        cluster.set_policy(**CRASH)
        await rest(60)
        assert decided(cluster, path) == ("filesystem", "default")
        assert 4 <= len(cluster.api.patches) <= 9
        [told] = cluster.recorder.told
        assert (told.reason, "not-our-own-write" in told.message) == ("HooksNotWritten", True)
        assert cluster.reconciler.writes == 0
