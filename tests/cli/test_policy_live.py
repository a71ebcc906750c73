"""`policy check --live` against a stand-in for the API server: what it tells, and what it says of a bad cluster."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from app.core.annotations import LEVEL
from app.core.policy import Level
from app.core.record import with_record
from tests.cli.support import Ran, kubeconfig, run, served, written
from tests.infra.factories import (
    NAME,
    NAMESPACE,
    UID,
    decide_pod,
    make_facts,
    make_owner,
    make_pod,
    make_policy,
    policy_text,
)
from tests.infra.stand_ins.api_server import Reply, Request, StandInServer, listed

Object = dict[str, Any]
PODS, NAMESPACES = "/api/v1/pods", "/api/v1/namespaces"
INSTANCES, MACHINES, KUBEVIRTS = (
    f"/apis/kubevirt.io/v1/{plural}" for plural in ("virtualmachineinstances", "virtualmachines", "kubevirts")
)
EVERYTHING = (PODS, NAMESPACES, INSTANCES, MACHINES, KUBEVIRTS)


class Cluster:
    """Lists of objects, and a status instead where a test wants one."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.lists: dict[str, list[Object]] = {path: [] for path in EVERYTHING}
        self.lists[NAMESPACES] = [{"metadata": {"name": NAMESPACE}}]
        self.faults: dict[str, int] = {}
        self.server = StandInServer(self._answer)

    async def _answer(self, request: Request, reply: Reply) -> None:
        if status := self.faults.get(request.path):
            await reply.status(status, "Scripted")
        elif request.path in self.lists:
            await reply.json(listed(*self.lists[request.path]))
        else:
            await reply.status(404, "NotFound")

    def add_vm(self, name: str = NAME, *, uid: str = UID, wishes: Mapping[str, str] | None = None) -> None:
        """A VirtualMachine and its instance."""
        vm = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": name, "uid": f"vm-{uid}"}
        place = {"namespace": NAMESPACE, "name": name}
        self.lists[MACHINES].append({"metadata": {**place, "uid": f"vm-{uid}", "annotations": dict(wishes or {})}})
        owners = [{**vm, "controller": True}]
        self.lists[INSTANCES].append({"metadata": {**place, "uid": uid, "ownerReferences": owners}})

    def add_pod(self, name: str = "virt-launcher-a", *, vm: str = NAME, uid: str = UID, **metadata: Any) -> None:
        """A launcher pod."""
        owned = {"ownerReferences": [make_owner(name=vm, uid=uid)], **metadata}
        pod = make_pod(name=name, generateName=None, **owned)
        self.lists[PODS].append({"metadata": {**pod["metadata"], "uid": f"uid-{name}", "resourceVersion": "1"}})

    def check(self, policy: str, *words: str, env: Mapping[str, str] | None = None) -> Ran:
        """Run the command."""
        where = ("--live", "--kubeconfig", self.kubeconfig)
        return run("policy", "check", "-", *where, *words, stdin=policy, env=env)

    def live(self, policy: str) -> Any:
        """Its JSON."""
        return self.check(policy, "-o", "json").json()["live"]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """An empty one."""
    cluster = Cluster(tmp_path / "kubeconfig")
    with served(cluster.server):
        written(cluster.kubeconfig, kubeconfig(cluster.server.url))
        yield cluster


def carrying(level: str) -> dict[str, str]:
    """The annotations of a pod that got a level by the default of its policy."""
    decision = decide_pod(make_pod(), make_facts(), make_policy(default={"level": level}))
    return dict(decision.annotations or {})


CRASH, FILESYSTEM = policy_text(default={"level": "crash"}), policy_text(default={"level": "filesystem"})


class TestWhatIsTold:
    def test_a_vm_that_would_change(self, cluster: Cluster) -> None:
        cluster.add_vm()
        cluster.add_pod(annotations=carrying("filesystem"))

        ran = cluster.check(CRASH)

        assert (ran.exit_code, ran.stderr) == (0, "")
        valid, head, row, summary = ran.stdout.splitlines()
        assert valid == "-: the policy is valid"
        assert head.split() == ["NAMESPACE", "VM", "POD", "NOW", "THEN", "DECIDED-BY"]
        assert row.split() == [NAMESPACE, NAME, "virt-launcher-a", "filesystem", "crash", "default"]
        assert summary == "1 of 1 VMs would change; after that: 1 crash"

    def test_one_that_would_not(self, cluster: Cluster) -> None:
        cluster.add_vm()
        cluster.add_pod(annotations=carrying("crash"))

        assert cluster.check(CRASH).stdout.splitlines()[1:] == ["0 of 1 VMs would change; after that: 1 crash"]

    def test_no_vm_at_all(self, cluster: Cluster) -> None:
        assert cluster.check(CRASH).stdout.splitlines()[1:] == ["0 of 0 VMs would change"]

    def test_columns_are_aligned(self, cluster: Cluster) -> None:
        for name in ("a", "a-very-long-name-of-a-virtual-machine"):
            cluster.add_vm(name, uid=name)
            cluster.add_pod(f"virt-launcher-{name}", vm=name, uid=name, annotations=carrying("filesystem"))

        head, *rows = cluster.check(CRASH).stdout.splitlines()[1:4]

        assert {row.index("virt-launcher-") for row in rows} == {head.index("POD")}
        assert {row.index("crash") for row in rows} == {head.index("THEN")}

    def test_what_is_refused_stands_below_its_vm(self, cluster: Cluster) -> None:
        cluster.add_vm(wishes={LEVEL: "filesystem"})
        cluster.add_pod(annotations=carrying("filesystem"))

        ran = cluster.check(policy_text(default={"level": "crash", "allow": ["crash"]}))

        refusal, *summary = ran.stdout.splitlines()[3:]
        assert refusal.startswith(f"    VirtualMachine {NAME}: level filesystem is not allowed")
        assert summary[-1] == "asking for what this policy does not grant: 1"

    def test_other_hooks_of_the_same_level(self, cluster: Cluster) -> None:
        cluster.add_vm()
        cluster.add_pod(annotations=carrying("filesystem"))

        ran = cluster.check(policy_text(default={"level": "filesystem"}, hooks={"freeze": {"timeout": "90s"}}))

        assert "filesystem  filesystem, other hooks  default" in ran.stdout

    def test_another_source_for_the_same_hooks_is_a_new_record_only(self, cluster: Cluster) -> None:
        cluster.add_vm()
        cluster.add_pod(annotations=carrying("filesystem"))
        rule = {"name": "all", "match": {"namespaces": ["*"]}, "level": "filesystem"}

        ran = cluster.check(policy_text(rules=[rule]))

        assert ran.stdout.splitlines()[1:] == [
            "0 of 1 VMs would change; after that: 1 filesystem",
            "new record only, with the same hooks: 1",
        ]

    def test_audit_mode_shows_what_enforce_would_write_and_says_so(self, cluster: Cluster) -> None:
        cluster.add_vm()
        cluster.add_pod(annotations=carrying("filesystem"))
        policy = policy_text(mode="audit", default={"level": "crash"})

        text, live = cluster.check(policy).stdout.splitlines(), cluster.live(policy)

        assert text[-1] == "mode is audit: nothing is written; this is what enforce would write"
        assert (live["mode"], live["changed"]) == ("audit", 1)

    def test_a_vm_that_migrates_is_one(self, cluster: Cluster) -> None:
        cluster.add_vm()
        cluster.add_pod("virt-launcher-target", annotations=carrying("filesystem"))
        cluster.add_pod("virt-launcher-source", annotations=carrying("filesystem"))

        live = cluster.live(CRASH)

        assert (live["total"], live["changed"], live["levels"]) == (1, 1, {"crash": 1})
        assert [vm["pod"] for vm in live["vms"]] == ["virt-launcher-source", "virt-launcher-target"]

    def test_the_report_for_programs(self, cluster: Cluster) -> None:
        cluster.add_vm(wishes={LEVEL: "bulletproof"})
        cluster.add_pod(annotations=carrying("filesystem"))

        ran = cluster.check(CRASH, "-o", "json")

        report = ran.json()
        live = report.pop("live")
        assert report == {"valid": True, "errors": [], "warnings": []}
        [warning] = live["vms"][0].pop("warnings")
        assert "bulletproof" in warning
        assert live == {
            "mode": "enforce",
            "total": 1,
            "changed": 1,
            "recordOnly": 0,
            "refused": 1,
            "levels": {"crash": 1},
            "vms": [
                {
                    "namespace": NAMESPACE,
                    "vm": NAME,
                    "pod": "virt-launcher-a",
                    "now": {"record": "intact", "level": "filesystem", "profile": None},
                    "then": {"result": "crash", "profile": None, "decidedBy": "default"},
                }
            ],
        }


class TestWhatStandsOnThePodNow:
    def test_without_a_record_nobody_knows(self, cluster: Cluster) -> None:
        cluster.add_vm()
        cluster.add_pod()

        assert cluster.check(CRASH).stdout.splitlines()[2].split()[3:5] == ["none", "crash"]

    def test_a_record_that_does_not_fit_is_foreign(self, cluster: Cluster) -> None:
        cluster.add_vm()
        edited = {**carrying("filesystem"), "pre.hook.backup.velero.io/timeout": "9h"}
        cluster.add_pod(annotations=edited)

        assert cluster.check(CRASH).stdout.splitlines()[2].split()[3:5] == ["foreign", "crash"]
        assert cluster.live(CRASH)["vms"][0]["now"] == {"record": "foreign", "level": None, "profile": None}

    def test_a_forged_record_writes_nothing_but_text_to_the_terminal(self, cluster: Cluster) -> None:
        cluster.add_vm()
        forged = with_record({"pre.hook.backup.velero.io/command": "x"}, Level.APPLICATION, "\x1b[2J\n" * 40, "vm")
        cluster.add_pod(annotations=forged)

        ran = cluster.check(CRASH)

        assert all(line.isprintable() for line in ran.stdout.splitlines())
        assert len(ran.stdout.splitlines()) == 4
        assert "application (" in ran.stdout

    def test_a_pod_whose_vm_is_gone_is_left_as_it_is(self, cluster: Cluster) -> None:
        cluster.add_vm()
        cluster.lists[MACHINES].clear()
        cluster.add_pod()

        assert cluster.check(CRASH).stdout.splitlines()[1:] == ["0 of 1 VMs would change; after that: 1 untouched"]

    def test_a_pod_that_could_not_take_the_hooks_is_told_of(self, cluster: Cluster) -> None:
        cluster.add_vm()
        cluster.add_pod(annotations={"example.com/large": "x" * (256 * 1024 - 50)})

        row, trouble, summary = cluster.check(FILESYSTEM).stdout.splitlines()[2:]

        assert row.split()[3:] == ["none", "untouched", "-"]
        assert trouble.startswith("    hooks are missing: the pod's annotations would exceed")
        assert summary == "0 of 1 VMs would change; after that: 1 untouched"

    def test_a_vm_of_a_rule_that_keeps_hands_off(self, cluster: Cluster) -> None:
        cluster.add_vm()
        cluster.add_pod(annotations=carrying("filesystem"))
        rule = {"name": "vendor", "match": {"namespaces": ["*"]}, "managed": False}

        [vm] = cluster.live(policy_text(rules=[rule]))["vms"]

        assert vm["then"] == {"result": "unmanaged", "profile": None, "decidedBy": "rule/vendor"}

    @pytest.mark.parametrize(
        "metadata",
        [
            {"ownerReferences": None},
            {"ownerReferences": [make_owner(uid="another")]},
            {"deletionTimestamp": "2026-01-01T00:00:00Z"},
            {"annotations": {"kubevirt.io/ephemeral-provisioning": "true"}},
        ],
        ids=["nobody-s", "of-an-instance-that-is-gone", "terminating", "provisioning"],
    )
    def test_pods_that_are_left_alone_are_not_counted(self, cluster: Cluster, metadata: Object) -> None:
        cluster.add_vm()
        cluster.add_pod(**metadata)

        assert cluster.live(CRASH)["total"] == 0

    def test_namespaces_that_the_webhook_leaves_out_are_left_out(self, cluster: Cluster) -> None:
        cluster.add_vm()
        cluster.add_pod(namespace="kube-system")

        assert cluster.live(CRASH)["total"] == 0


class TestTheCluster:
    def test_is_read_by_lists_of_metadata_only(self, cluster: Cluster) -> None:
        cluster.add_vm()
        cluster.add_pod()

        cluster.check(CRASH)

        requests = cluster.server.requests
        assert sorted(request.path for request in requests) == sorted(EVERYTHING)
        assert {request.method for request in requests} == {"GET"}
        assert not any(request.is_watch for request in requests)
        assert all("PartialObjectMetadataList" in request.headers["accept"] for request in requests)
        [pods] = [request for request in requests if request.path == PODS]
        assert pods.query["labelSelector"] == "kubevirt.io"
        assert pods.query["fieldSelector"] == "status.phase!=Succeeded,status.phase!=Failed"

    def test_is_not_asked_where_the_policy_has_errors(self, cluster: Cluster) -> None:
        ran = cluster.check("mode: enforced\n", "-o", "json")

        assert (ran.exit_code, "live" in ran.json()) == (1, False)
        assert cluster.server.requests == []

    def test_every_missing_permission_is_in_one_line(self, cluster: Cluster) -> None:
        cluster.faults = {PODS: 403, MACHINES: 403}

        ran = cluster.check(CRASH, "-o", "json")

        assert (ran.exit_code, ran.stdout) == (2, "")
        [line] = ran.stderr.splitlines()
        assert line.startswith("error: ")
        assert line.endswith("you need permission to list, in all namespaces: pods, virtualmachines.kubevirt.io")

    def test_without_kubevirt(self, cluster: Cluster) -> None:
        cluster.faults = dict.fromkeys((INSTANCES, MACHINES, KUBEVIRTS), 404)

        ran = cluster.check(CRASH)

        assert (ran.exit_code, ran.stdout) == (2, "-: the policy is valid\n")
        [line] = ran.stderr.splitlines()
        assert "virtualmachineinstances.kubevirt.io is not served: KubeVirt is not installed there" in line

    @pytest.mark.parametrize(("status", "says"), [(401, "401 Scripted"), (500, "500 Scripted")])
    def test_that_refuses(self, cluster: Cluster, status: int, says: str) -> None:
        cluster.faults = {PODS: status}

        ran = cluster.check(CRASH)

        assert ran.exit_code == 2
        assert f"listing pods: {says}" in ran.stderr

    def test_that_is_not_there(self, cluster: Cluster) -> None:
        written(cluster.kubeconfig, kubeconfig("http://127.0.0.1:1"))

        ran = cluster.check(CRASH)

        assert ran.exit_code == 2
        [line] = ran.stderr.splitlines()
        assert line.startswith("error: 127.0.0.1:1: ")

    @pytest.mark.parametrize("items", [["a"], [{}], [{"metadata": {"name": "a", "labels": 1, "namespace": "b"}}]])
    def test_that_is_none(self, cluster: Cluster, items: Any) -> None:
        cluster.lists[PODS] = items

        ran = cluster.check(CRASH)

        assert ran.exit_code == 2
        assert "the list of pods can't be read" in ran.stderr

    def test_that_nobody_has_named(self, cluster: Cluster) -> None:
        ran = run("policy", "check", "-", "--live", "--kubeconfig", "none", stdin=CRASH)

        assert (ran.exit_code, ran.stderr) == (2, "error: no such kubeconfig: none\n")

    def test_with_the_names_of_a_fork(self, cluster: Cluster) -> None:
        cluster.lists |= {path.replace("kubevirt.io/v1/", "example.com/v1/x"): [] for path in EVERYTHING[2:]}
        names = {"VM_CONSISTENCY_KUBEVIRT_API_GROUP": "example.com", "VM_CONSISTENCY_KUBEVIRT_KIND_PREFIX": "X"}

        assert cluster.check(CRASH, env=names).exit_code == 0


class TestPages:
    def test_all_are_read(self, cluster: Cluster) -> None:
        for name in ("a", "b"):
            cluster.add_vm(name, uid=name)
            cluster.add_pod(f"virt-launcher-{name}", vm=name, uid=name)
        first, second = cluster.lists[PODS]

        async def paged(request: Request, reply: Reply) -> None:
            if request.path != PODS:
                await reply.json(listed(*cluster.lists[request.path]))
            elif "continue" in request.query:
                await reply.json(listed(second))
            else:
                assert request.query["limit"]
                await reply.json(listed(first, more="two"))

        cluster.server.script = paged

        assert [vm["vm"] for vm in cluster.live(CRASH)["vms"]] == ["a", "b"]

    @pytest.mark.parametrize(("expiries", "code"), [(1, 0), (99, 2)])
    def test_of_a_version_that_is_gone_by_now_are_read_anew(self, cluster: Cluster, expiries: int, code: int) -> None:
        cluster.add_vm()
        cluster.add_pod()
        left = expiries

        async def expiring(request: Request, reply: Reply) -> None:
            nonlocal left
            if request.path == PODS and "continue" in request.query and left:
                left -= 1
                await reply.status(410, "Expired")
            elif request.path == PODS and "continue" not in request.query:
                await reply.json(listed(*cluster.lists[PODS], more="two"))
            else:
                await reply.json(listed(*cluster.lists[request.path] if request.path != PODS else []))

        cluster.server.script = expiring

        ran = cluster.check(CRASH)

        assert ran.exit_code == code
        assert ("1 of 1 VMs would change" in ran.stdout) is (code == 0)
        assert ("410 Expired" in ran.stderr) is (code == 2)


@pytest.mark.parametrize("words", [("--kubeconfig", "k"), ("--context", "c")], ids=str)
def test_without_live_a_cluster_means_nothing(words: tuple[str, ...]) -> None:
    ran = run("policy", "check", "-", *words, stdin=CRASH)

    assert (ran.exit_code, ran.stderr) == (2, "error: --kubeconfig and --context belong to --live\n")
