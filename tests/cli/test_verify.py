"""`verify` against a stand-in for the API server: what it refuses, what it runs, and that it always thaws."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.cli import verify
from app.cli.verify_run import Pace
from app.core.annotations import POST, PRE
from app.core.hooks.render import render_hooks
from app.core.kubevirt_names import UPSTREAM
from app.core.policy import Hooks, Level
from app.core.profiles import NO_STEPS
from app.core.record import with_record
from tests.cli.support import Ran, kubeconfig, run, served, written
from tests.infra.factories import NAME, NAMESPACE, UID, make_owner, make_pod
from tests.infra.stand_ins.api_server import Json, Reply, Request, StandInServer, listed
from tests.infra.stand_ins.exec_server import Terminal
from tests.kube.support import eventually

Does = Callable[[Terminal], Awaitable[None]]

POD = "virt-launcher-a"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
INSTANCE = f"/apis/kubevirt.io/v1/namespaces/{NAMESPACE}/virtualmachineinstances/{NAME}"
BACKUPS = "/apis/velero.io/v1/namespaces/velero/backups"
EXEC = f"{PODS}/{POD}/exec"
FREEZE = ["/usr/bin/virt-freezer", "--freeze", "--name", NAME, "--namespace", NAMESPACE]
UNFREEZE = ["/usr/bin/virt-freezer", "--unfreeze", "--name", NAME, "--namespace", NAMESPACE]
PRE_HOOK, POST_HOOK = ["/bin/pre"], ["/bin/post"]
BY_HAND = f"kubectl exec -n {NAMESPACE} {POD} -c compute -- {' '.join(UNFREEZE)}"
QUICK = Pace(late=1.5, outlast=0.2, patience=1.0, pause=0.05, look=0.05, settle=0.3, unbounded=5.0)


def hooks(pre: list[str] | None = None, post: list[str] | None = None, **timeouts: str) -> dict[str, str]:
    """Annotations of a foreign pair of hooks; KubeVirt's own five keys are on every pod of these tests otherwise."""
    return {
        PRE + "command": json.dumps(PRE_HOOK if pre is None else pre),
        PRE + "on-error": "Continue",
        PRE + "timeout": timeouts.get("pre_timeout", "60s"),
        POST + "command": json.dumps(POST_HOOK if post is None else post),
        POST + "on-error": "Continue",
        POST + "timeout": timeouts.get("post_timeout", "60s"),
    }


def rendered(level: str, **settings: Any) -> dict[str, str]:
    """What the product writes on a pod."""
    made = render_hooks(Level(level), NO_STEPS, Hooks(**settings), NAMESPACE, NAME, UPSTREAM)
    return with_record(made, Level(level), None, "vm")


def freezer(message: str, **fields: str) -> str:
    """A line of virt-freezer."""
    return json.dumps({"component": "freezer", "level": "info", "msg": message, **fields}) + "\n"


def says(code: int, stdout: str = "", stderr: str = "", after: float = 0) -> Does:
    """A command that prints, and ends."""

    async def script(terminal: Terminal) -> None:
        await asyncio.sleep(after)
        await terminal.stdout(stdout)
        await terminal.stderr(stderr)
        await terminal.exit(code)

    return script


FROZEN = says(0, "vm-consistency: frozen\n")
THAWED = says(0, "vm-consistency: thawed, was frozen until then\n")
DONE = says(0, stderr=freezer("Operation completed successfully"))
NO_AGENT = says(0, stderr=freezer("No guest agent, exiting"))


class Vm:
    """A cluster with one VM that runs; what its hooks do is up to the test."""

    def __init__(self, folder: Path) -> None:
        self.kubeconfig = folder / "kubeconfig"
        self.status: Json = {"phase": "Running", "conditions": [{"type": "AgentConnected", "status": "True"}]}
        self.backups: list[Json] = []
        self.pods: list[Json] = []
        self.add_pod(POD)
        self.does: dict[str, list[Does]] = {
            "/bin/pre": [FROZEN],
            "/bin/post": [THAWED],
            "--freeze": [],
            "--unfreeze": [],
        }
        self.ran: list[str] = []
        self.faults: dict[str, Callable[[Reply], Awaitable[None]]] = {}
        self.server = StandInServer(self._answer)

    def add_pod(self, name: str, uid: str = UID, phase: str = "Running", **metadata: Any) -> Json:
        """A launcher pod; it carries foreign hooks."""
        owned = {"ownerReferences": [make_owner(uid=uid)], "annotations": hooks(), **metadata}
        pod = make_pod(name=name, generateName=None, **owned)
        pod["metadata"] |= {"uid": f"uid-{name}", "resourceVersion": "1"}
        self.pods.append({**pod, "status": {"phase": phase}})
        return pod

    def carry(self, annotations: Mapping[str, str]) -> None:
        """Put these annotations on the pod instead of its own."""
        self.pods[0]["metadata"]["annotations"] = dict(annotations)

    def add_backup(self, phase: str | None, name: str = "nightly", **spec: Any) -> None:
        """A Backup of Velero."""
        status = {} if phase is None else {"status": {"phase": phase}}
        self.backups.append({"metadata": {"name": name, "resourceVersion": "1"}, "spec": spec, **status})

    async def _answer(self, request: Request, reply: Reply) -> None:
        if fault := self.faults.get(request.path):
            await fault(reply)
        elif request.path == INSTANCE:
            owner = {"namespace": NAMESPACE, "name": NAME, "uid": UID}
            await reply.json({"metadata": owner, "status": self.status})
        elif request.path == PODS:
            await reply.json(listed(*({"metadata": pod["metadata"]} for pod in self.pods)))
        elif request.path == BACKUPS:
            await reply.json(listed(*self.backups))
        elif request.path == EXEC:
            await self._execute(request, reply)
        elif found := [pod for pod in self.pods if request.path == f"{PODS}/{pod['metadata']['name']}"]:
            await reply.json(found[0])
        elif request.path == "/api/v1/namespaces/velero":
            await reply.json({"metadata": {"name": "velero"}})
        else:
            await reply.status(404, "NotFound")

    async def _execute(self, request: Request, reply: Reply) -> None:
        [word] = [word for word in self.does if word in request.command]
        self.ran.append(word)
        scripts = self.does[word]
        terminal = await Terminal.accept(request, reply)
        await (scripts.pop(0) if len(scripts) > 1 else scripts[0])(terminal)

    @property
    def looks(self) -> int:
        """How often the instance was asked for."""
        return sum(request.path == INSTANCE for request in self.server.requests)

    def verify(self, *words: str, stdin: str | None = None) -> Ran:
        """Run the command."""
        where = ("--kubeconfig", self.kubeconfig)
        return run("verify", NAME, "-n", NAMESPACE, *where, *words, stdin=stdin)

    def told(self) -> Json:
        """Its JSON after a run with --yes; its exit code is right for its findings."""
        ran = self.verify("--yes", "-o", "json")
        told: Json = ran.json()
        assert ran.exit_code == (1 if told["findings"] else 0)
        return told

    def refused(self, *words: str) -> str:
        """The one line that says why nothing was run."""
        ran = self.verify(*(words or ("--yes",)))
        assert (ran.exit_code, ran.stdout, self.ran) == (2, "", [])
        [line] = ran.stderr.splitlines()
        return line.removeprefix("error: ")


@pytest.fixture
def vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vm]:
    monkeypatch.setattr(verify, "PACE", QUICK)
    vm = Vm(tmp_path)
    with served(vm.server):
        written(vm.kubeconfig, kubeconfig(vm.server.url))
        yield vm


def status(code: int, reason: str = "Scripted") -> Callable[[Reply], Awaitable[None]]:
    return lambda reply: reply.status(code, reason)


async def page_not_found(reply: Reply) -> None:
    """What the API server says of a kind that it does not serve."""
    await reply.raw(b"404 page not found\n", 404)


class TestRefusals:
    def test_without_a_terminal_it_has_to_be_told_yes(self, vm: Vm) -> None:
        assert "give --yes" in vm.refused("-o", "text")
        assert vm.server.requests == []

    def test_a_namespace_has_to_be_given(self, vm: Vm) -> None:
        assert run("verify", NAME, "--yes").exit_code == 2

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"phase": "Scheduled"}, "is Scheduled, not Running"),
            ({"phase": None}, "is not started yet"),
            (
                {"fsFreezeStatus": "frozen"},
                f"the guest is frozen: another backup or snapshot is at work. If none is: {BY_HAND}",
            ),
            ({"migrationState": {"startTimestamp": "t"}}, "migrates"),
        ],
    )
    def test_state_of_the_vm(self, vm: Vm, change: Json, why: str) -> None:
        vm.status |= change

        assert why in vm.refused()

    @pytest.mark.parametrize("ending", ["completed", "failed"])
    def test_a_migration_that_is_over_is_none(self, vm: Vm, ending: str) -> None:
        vm.status["migrationState"] = {"startTimestamp": "t", ending: True}

        assert vm.told()["ran"]

    def test_no_such_vm(self, vm: Vm) -> None:
        vm.faults[INSTANCE] = status(404, "NotFound")

        assert vm.refused() == f"nothing was run: the VM {NAMESPACE}/{NAME} does not run, or does not exist"

    def test_no_kubevirt(self, vm: Vm) -> None:
        vm.faults[INSTANCE] = page_not_found

        assert "KubeVirt is not installed there, or runs under other names" in vm.refused()

    def test_no_permission(self, vm: Vm) -> None:
        vm.faults[INSTANCE] = status(403, "Forbidden")

        assert "403 Forbidden" in vm.refused()

    def test_names_that_lead_elsewhere(self, vm: Vm) -> None:
        ran = run("verify", "../x", "-n", NAMESPACE, "--yes", "--kubeconfig", vm.kubeconfig)

        assert (ran.exit_code, vm.server.requests) == (2, [])
        assert "'../x' is no name of a VM" in ran.stderr

    def test_two_launcher_pods(self, vm: Vm) -> None:
        vm.add_pod("virt-launcher-b")

        assert "has 2 launcher pods: it migrates" in vm.refused()

    @pytest.mark.parametrize("phase", ["Pending", "Unknown"])
    def test_a_pod_that_does_not_run(self, vm: Vm, phase: str) -> None:
        vm.pods[0]["status"]["phase"] = phase

        assert "no launcher pod that runs" in vm.refused()

    def test_pods_of_others_are_not_taken_for_its_own(self, vm: Vm) -> None:
        vm.pods.clear()
        vm.add_pod("virt-launcher-a", uid="another")  # of the same name, before it was deleted and made again
        vm.add_pod("virt-launcher-b", ownerReferences=None)
        vm.add_pod("virt-launcher-c", deletionTimestamp="2026-01-01T00:00:00Z")

        assert "no launcher pod that runs" in vm.refused()

    @pytest.mark.parametrize("phase", [None, "New", "Queued", "ReadyToStart", "InProgress"])
    def test_a_backup_that_runs_hooks_or_will(self, vm: Vm, phase: str | None) -> None:
        vm.add_backup(phase, includedNamespaces=[NAMESPACE])

        assert "Velero's backup nightly is in progress or about to start" in vm.refused()

    def test_a_backup_that_started_while_the_person_thought(self, vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verify, "has_terminal", lambda: True)

        monkeypatch.setattr(verify, "_confirm", lambda _: vm.add_backup("InProgress"))

        ran = vm.verify()

        assert (ran.exit_code, vm.ran) == (2, [])
        assert "Velero's backup nightly is in progress" in ran.stderr

    def test_velero_somewhere_else(self, vm: Vm) -> None:
        vm.faults["/api/v1/namespaces/velero"] = status(404, "NotFound")

        assert "there is no namespace velero: say with --velero-namespace" in vm.refused()

    def test_backups_that_the_api_server_can_t_list_now(self, vm: Vm) -> None:
        vm.faults[BACKUPS] = status(500, "InternalError")

        assert "500 InternalError" in vm.refused()

    @pytest.mark.parametrize(("code", "why"), [(403, "get and create pods/exec"), (500, "500: Internal Server Error")])
    def test_a_pre_hook_that_may_not_be_run(self, vm: Vm, code: int, why: str) -> None:
        vm.faults[EXEC] = status(code)

        ran = vm.verify("--yes")

        assert (ran.exit_code, ran.stdout) == (2, "")
        assert why in ran.stderr.splitlines()[-1]


class TestWhatIsInNobodysWay:
    def test_backups_of_others_and_backups_past_their_hooks(self, vm: Vm) -> None:
        vm.add_backup("InProgress", "a", includedNamespaces=["elsewhere"])
        vm.add_backup("Completed", "b")
        vm.add_backup("WaitingForPluginOperations", "c")

        assert vm.told()["findings"] == []

    def test_no_velero(self, vm: Vm) -> None:
        vm.faults[BACKUPS] = page_not_found

        told = vm.told()

        assert told["findings"] == []
        assert told["notes"] == ["backups.velero.io is not served: Velero is not installed in this cluster"]

    def test_backups_that_the_caller_may_not_see(self, vm: Vm) -> None:
        vm.faults[BACKUPS] = status(403, "Forbidden")

        told = vm.told()

        assert told["findings"] == []
        assert told["notes"] == [
            "not known whether a backup is in progress: you may not list backups.velero.io in namespace velero"
        ]

    def test_no_permission_to_see_velero_s_namespace(self, vm: Vm) -> None:
        vm.faults["/api/v1/namespaces/velero"] = status(403, "Forbidden")

        assert vm.told()["ran"]


class TestNothingToRun:
    @pytest.mark.parametrize(("settings", "what"), [({}, "no hooks"), ({"crash_noop": True}, "hooks that do nothing")])
    def test_crash(self, vm: Vm, settings: dict[str, Any], what: str) -> None:
        vm.carry(rendered("crash", **settings))

        told = vm.told()

        assert (told["ran"], told["level"], told["record"], told["findings"]) == (False, "crash", "intact", [])
        assert what in told["reason"]
        assert vm.ran == []

    def test_no_hooks(self, vm: Vm) -> None:
        vm.carry({})

        told = vm.told()

        assert (told["ran"], told["record"], told["findings"]) == (False, "none", [])
        assert "no hooks" in told["reason"]

    def test_hooks_that_somebody_took_away(self, vm: Vm) -> None:
        kept = {key: text for key, text in rendered("filesystem").items() if "hook.backup" not in key}
        vm.carry(kept)

        told = vm.told()

        assert (told["ran"], told["record"], told["level"]) == (False, "foreign", None)
        assert told["findings"] == ["the hooks do not fit the record on the pod: somebody else wrote last"]

    @pytest.mark.parametrize(("missing", "phase"), [(PRE, "pre"), (POST, "post")])
    def test_one_hook_without_the_other_is_not_tried(self, vm: Vm, missing: str, phase: str) -> None:
        vm.carry({key: text for key, text in hooks().items() if not key.startswith(missing)})

        told = vm.told()

        assert not told["ran"]
        assert f"there is no {phase} hook beside the other one" in told["findings"][0]
        assert vm.ran == []

    def test_hooks_that_velero_could_not_run(self, vm: Vm) -> None:
        vm.carry({**hooks(post=[]), PRE + "container": "nope"})

        told = vm.told()

        assert told["findings"] == [
            "Velero can't run the pre hook: the pod has no container 'nope'",
            "Velero can't run the post hook: its command is an empty list",
        ]
        assert vm.ran == []

    def test_it_is_told_without_a_question(self, vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verify, "has_terminal", lambda: True)
        vm.carry(rendered("crash"))

        ran = vm.verify()

        assert (ran.exit_code, ran.stderr) == (0, "")
        assert "level crash: the pod has no hooks" in ran.stdout


class TestARun:
    def test_all_is_well(self, vm: Vm) -> None:
        vm.carry({**with_record(hooks(), Level.APPLICATION, "postgresql", "rule/db")})

        told = vm.told()

        assert vm.ran == ["/bin/pre", "/bin/post"]
        assert (told["level"], told["profile"], told["decidedBy"]) == ("application", "postgresql", "rule/db")
        assert (told["record"], told["findings"], told["notes"]) == ("intact", [], [])
        assert [step["step"] for step in told["steps"]] == ["pre hook", "post hook"]
        assert told["steps"][0]["exitCode"] == 0
        assert told["steps"][0]["stdout"] == ["vm-consistency: frozen"]
        assert told["frozen"]["answer"] == "yes"
        assert told["frozen"]["verified"]
        assert (told["held"]["answer"], told["thawed"]) == ("yes", "yes")
        assert 0 <= told["windowSeconds"] <= told["frozenAtMostSeconds"] < 10

    def test_as_text(self, vm: Vm) -> None:
        vm.carry(with_record(hooks(), Level.APPLICATION, "postgresql", "rule/db"))

        ran = vm.verify("--yes")

        assert ran.exit_code == 0
        lines = ran.stdout.splitlines()
        assert lines[:2] == [
            f"VM {NAMESPACE}/{NAME}, pod {POD}",
            "  level: application (postgresql), decided by: rule/db",
        ]
        assert "    | vm-consistency: frozen" in lines
        assert any(line.startswith("  pre hook: 0.") and "Velero waits 60 s, exit code 0" in line for line in lines)
        assert any(line.startswith("  frozen: yes and verified") for line in lines)
        assert "  thawed: yes" in lines
        assert "finding" not in ran.stdout

    def test_plain_virt_freezer(self, vm: Vm) -> None:
        vm.carry(rendered("filesystem"))
        vm.does |= {"--freeze": [DONE], "--unfreeze": [DONE]}

        told = vm.told()

        assert vm.ran == ["--freeze", "--unfreeze"]
        assert (told["frozen"]["answer"], told["frozen"]["verified"]) == ("yes", False)
        assert (told["held"]["answer"], told["thawed"], told["findings"]) == ("unknown", "yes", [])

    def test_no_agent(self, vm: Vm) -> None:
        vm.carry(rendered("filesystem"))
        vm.status["conditions"] = []
        vm.does |= {"--freeze": [NO_AGENT], "--unfreeze": [NO_AGENT]}

        told = vm.told()

        assert vm.ran == ["--freeze", "--unfreeze"]  # and no thaw on top of it
        assert told["findings"] == ["the guest was not frozen: virt-freezer did nothing: No guest agent, exiting"]
        assert (told["thawed"], told["frozenAtMostSeconds"]) == ("yes", 0.0)
        assert "no guest agent" in told["notes"][0]

    def test_hooks_that_prove_nothing(self, vm: Vm) -> None:
        vm.does |= {"/bin/pre": [says(0)], "/bin/post": [says(0)], "--unfreeze": [DONE]}

        told = vm.told()

        assert vm.ran == ["/bin/pre", "/bin/post", "--unfreeze"]
        assert "nothing shows that the guest was frozen: the hook's output does not tell" in told["findings"]
        assert told["thawed"] == "yes"

    def test_hooks_of_somebody_else(self, vm: Vm) -> None:
        vm.carry({**rendered("filesystem"), **hooks()})

        told = vm.told()

        assert (told["record"], told["level"], told["ran"]) == ("foreign", None, True)
        assert told["findings"] == ["the hooks do not fit the record on the pod: somebody else wrote last"]

    def test_oddities_are_notes(self, vm: Vm) -> None:
        vm.carry({**hooks(), PRE + "on-error": "fail", POST + "timeout": "60"})

        told = vm.told()

        assert told["findings"] == []
        assert ["on-error" in told["notes"][0], "Velero takes its default, 30s" in told["notes"][1]] == [True, True]

    def test_output_is_made_printable_and_cut(self, vm: Vm) -> None:
        noise = "".join(f"\x1b[2J{number}\n" for number in range(5000))
        vm.does["/bin/pre"] = [says(0, noise + "vm-consistency: frozen\n")]

        told, ran = vm.told(), vm.verify("--yes")

        assert told["steps"][0]["stdout"][-1] == "vm-consistency: frozen"
        assert len(told["steps"][0]["stdout"]) == 200
        assert "\x1b" not in ran.stdout
        assert len(ran.stdout.splitlines()) < 50

    def test_kubevirt_s_own_report_is_evidence(self, vm: Vm) -> None:
        async def freeze(terminal: Terminal) -> None:
            vm.status["fsFreezeStatus"] = "frozen"
            before = vm.looks
            await eventually(lambda: vm.looks >= before + 2, what="a look at the frozen guest")
            await FROZEN(terminal)

        async def thaw(terminal: Terminal) -> None:
            del vm.status["fsFreezeStatus"]
            await THAWED(terminal)

        vm.does |= {"/bin/pre": [freeze], "/bin/post": [thaw]}

        told = vm.told()

        assert told["seenFrozenByKubeVirt"]
        assert told["findings"] == []

    def test_a_backup_that_appears_meanwhile(self, vm: Vm) -> None:
        vm.add_backup("Completed", "yesterday")

        async def freeze(terminal: Terminal) -> None:
            vm.add_backup("InProgress", "now")
            vm.add_backup("New", "elsewhere", includedNamespaces=["x"])
            await FROZEN(terminal)

        vm.does["/bin/pre"] = [freeze]

        [finding] = vm.told()["findings"]

        assert finding.startswith("Velero's backup now appeared during this run")


class TestQuestion:
    @pytest.fixture(autouse=True)
    def _terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verify, "has_terminal", lambda: True)

    @pytest.mark.parametrize("answer", ["y\n", " YES \n"])
    def test_yes(self, vm: Vm, answer: str) -> None:
        ran = vm.verify("-o", "json", stdin=answer)

        assert ran.exit_code == 0
        assert ran.json()["ran"]  # the question is not on stdout
        assert "Its guest stops writing" in ran.stderr
        assert vm.ran == ["/bin/pre", "/bin/post"]

    @pytest.mark.parametrize("answer", ["n\n", "\n", "", "yesterday\n"])
    def test_no(self, vm: Vm, answer: str) -> None:
        ran = vm.verify(stdin=answer)

        assert (ran.exit_code, ran.stdout, vm.ran) == (2, "", [])
        assert ran.stderr.splitlines()[-1].endswith("error: nothing was run")

    def test_what_can_t_be_seen_is_part_of_it(self, vm: Vm) -> None:
        vm.faults[BACKUPS] = status(403, "Forbidden")

        assert "WARNING: you may not list backups.velero.io in namespace velero" in vm.verify(stdin="n\n").stderr

    def test_what_was_asked_for_is_what_is_run(self, vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verify, "_confirm", lambda _: vm.carry(hooks(pre=["/bin/pre", "other"])))

        ran = vm.verify()

        assert (ran.exit_code, vm.ran) == (2, [])
        assert "have changed since you were asked" in ran.stderr


class TestItAlwaysThaws:
    def test_pre_hook_that_fails(self, vm: Vm) -> None:
        vm.does |= {
            "/bin/pre": [says(1, stderr="vm-consistency: pre hook failed: quiesce step dump:1\n")],
            "/bin/post": [says(1, stderr="vm-consistency: post hook failed: nothing was held\n")],
            "--unfreeze": [DONE],
        }

        told = vm.told()

        assert vm.ran == ["/bin/pre", "/bin/post", "--unfreeze"]
        assert "the pre hook ended with 1: pre hook failed: quiesce step dump:1" in told["findings"]
        assert "the post hook ended with 1: post hook failed: nothing was held" in told["findings"]
        assert (told["frozen"]["answer"], told["thawed"]) == ("no", "yes")

    def test_what_a_failing_pre_hook_means_for_a_backup(self, vm: Vm) -> None:
        vm.carry({**hooks(), PRE + "on-error": "Fail"})
        vm.does |= {"/bin/pre": [says(1)], "--unfreeze": [DONE]}

        assert "a backup leaves the pod out and runs no post hook" in vm.told()["findings"][0]

    def test_post_hook_that_fails(self, vm: Vm) -> None:
        vm.does |= {"/bin/post": [says(1)], "--unfreeze": [says(1), DONE]}

        told = vm.told()

        assert vm.ran == ["/bin/pre", "/bin/post", "--unfreeze", "--unfreeze"]
        assert [step["exitCode"] for step in told["steps"]] == [0, 1, 1, 0]
        assert told["findings"] == [
            "the post hook left a doubt; the guest was thawed by virt-freezer after it",
            "the post hook ended with 1: the hook printed nothing",
        ]
        assert told["thawed"] == "yes"

    def test_a_guest_that_nothing_thaws(self, vm: Vm) -> None:
        vm.does |= {"/bin/post": [says(1)], "--unfreeze": [says(1, stderr="agent hangs")]}

        told = vm.told()

        assert vm.ran.count("--unfreeze") == 3
        assert told["thawed"] == "unknown"
        assert told["findings"][0] == (
            f"the guest was frozen, and nothing shows that it is thawed: agent hangs; run: {BY_HAND}"
        )

    def test_a_guest_that_was_paused_in_the_window(self, vm: Vm) -> None:
        paused = freezer("VM domain not running, no need to freeze/unfreeze")
        vm.does |= {"/bin/post": [says(0, stderr=paused)], "--unfreeze": [says(0, stderr=paused)]}

        told = vm.told()

        assert told["thawed"] == "unknown"
        assert "virt-freezer did nothing: VM domain not running" in told["findings"][0]

    def test_a_guest_that_kubevirt_goes_on_to_report_as_frozen(self, vm: Vm) -> None:
        async def freeze(terminal: Terminal) -> None:
            vm.status["fsFreezeStatus"] = "frozen"
            await FROZEN(terminal)

        vm.does["/bin/pre"] = [freeze]

        told = vm.told()

        assert told["thawed"] == "no"
        assert told["findings"][0] == f"KubeVirt still reports the guest as FROZEN; run: {BY_HAND}"

    def test_a_pre_hook_that_takes_longer_than_velero_waits(self, vm: Vm) -> None:
        vm.carry(hooks(pre_timeout="100ms"))
        vm.does["/bin/pre"] = [says(0, "vm-consistency: frozen\n", after=0.3)]

        told = vm.told()

        assert vm.ran == ["/bin/pre", "/bin/post"]
        assert told["steps"][0]["seconds"] > 0.3
        assert told["steps"][0]["exitCode"] == 0
        [finding] = told["findings"]
        assert "and Velero waits 0.1 s for it" in finding

    def test_a_pre_hook_without_end(self, vm: Vm) -> None:
        vm.carry(hooks(pre_timeout="100ms"))
        vm.does |= {"/bin/pre": [says(0, after=60)], "/bin/post": [says(1)], "--unfreeze": [DONE]}

        told = vm.told()

        assert vm.ran == ["/bin/pre", "/bin/post", "--unfreeze"]
        assert "it was still running after 2 s; it may run on" in told["steps"][0]["error"]
        assert told["steps"][0]["exitCode"] is None

    def test_a_freeze_may_still_come_when_the_end_was_not_seen(self, vm: Vm) -> None:
        vm.carry(hooks(pre_timeout="100ms"))
        vm.does |= {"/bin/pre": [says(0, after=60)], "--unfreeze": [DONE]}

        vm.told()

        assert vm.ran == ["/bin/pre", "/bin/post", "--unfreeze"]  # though the post hook says that it is thawed

    def test_a_post_hook_without_end(self, vm: Vm) -> None:
        vm.carry(hooks(post_timeout="100ms"))
        vm.does |= {"/bin/post": [says(0, after=60)], "--unfreeze": [DONE]}

        told = vm.told()

        assert vm.ran == ["/bin/pre", "/bin/post", "--unfreeze"]
        assert told["thawed"] == "yes"
        assert any("the post hook failed: it was still running" in finding for finding in told["findings"])

    def test_connection_lost_in_the_pre_hook(self, vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verify, "PACE", replace(QUICK, outlast=2.0))

        async def lose(terminal: Terminal) -> None:
            terminal.drop()

        vm.carry(hooks(pre_timeout="100ms"))
        vm.does |= {"/bin/pre": [lose], "--unfreeze": [DONE]}

        told = vm.told()

        assert vm.ran[0] == "/bin/pre"
        # as long as its command may still freeze the guest, and again when it can't any more
        assert vm.ran[1:].count("--unfreeze") >= 3
        assert vm.ran[-2:] == ["/bin/post", "--unfreeze"]
        assert "the connection ended before the command did" in told["findings"][0]

    def test_connection_lost_in_the_post_hook(self, vm: Vm) -> None:
        async def lose(terminal: Terminal) -> None:
            terminal.drop()

        vm.does |= {"/bin/post": [lose], "--unfreeze": [DONE]}

        assert vm.told()["thawed"] == "yes"
        assert vm.ran == ["/bin/pre", "/bin/post", "--unfreeze"]

    def test_an_api_server_that_is_away_in_the_window(self, vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verify, "PACE", replace(QUICK, patience=20.0))
        refusals = iter([500, 503, 429])

        async def freeze_and_go(terminal: Terminal) -> None:
            vm.faults[EXEC] = away
            await FROZEN(terminal)

        async def away(reply: Reply) -> None:
            code = next(refusals, None)
            if code is None:
                del vm.faults[EXEC]
                code = 500
            await reply.status(code, "Scripted")

        vm.does["/bin/pre"] = [freeze_and_go]

        told = vm.told()

        assert vm.ran == ["/bin/pre", "/bin/post"]
        assert (told["findings"], told["thawed"]) == ([], "yes")

    def test_an_api_server_that_stays_away(self, vm: Vm) -> None:
        async def freeze_and_go(terminal: Terminal) -> None:
            vm.faults |= {EXEC: status(503), INSTANCE: status(503), BACKUPS: status(503)}
            await FROZEN(terminal)

        vm.does["/bin/pre"] = [freeze_and_go]

        told = vm.told()

        assert (vm.ran, told["thawed"]) == (["/bin/pre"], "unknown")
        assert told["findings"][0].startswith("the guest was frozen, and nothing shows that it is thawed")
        assert told["findings"][0].endswith(BY_HAND)

    def test_a_pod_that_goes_away_in_the_window(self, vm: Vm) -> None:
        async def freeze_and_go(terminal: Terminal) -> None:
            vm.faults[EXEC] = status(404)
            await FROZEN(terminal)

        vm.does["/bin/pre"] = [freeze_and_go]

        told = vm.told()

        assert any("there is no such pod any more" in finding for finding in told["findings"])
        asked = sum(request.path == EXEC for request in vm.server.requests)
        assert asked == len(told["steps"])  # each once

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_interrupted_in_the_pre_hook(self, vm: Vm, number: signal.Signals) -> None:
        async def freeze(terminal: Terminal) -> None:
            for _ in range(3):  # somebody in a hurry
                os.kill(os.getpid(), number)
                await asyncio.sleep(0.05)
            await FROZEN(terminal)

        before = signal.getsignal(number)
        vm.does["/bin/pre"] = [freeze]

        told = vm.told()

        assert vm.ran == ["/bin/pre", "/bin/post"]
        assert (told["interruptedBy"], told["thawed"]) == (number.name, "yes")
        [finding] = told["findings"]
        assert finding.startswith(f"interrupted by {number.name}: ")
        assert signal.getsignal(number) == before

    def test_interrupted_in_the_post_hook(self, vm: Vm) -> None:
        async def thaw(terminal: Terminal) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            await says(0, "vm-consistency: thawed, was frozen until then\n", after=0.2)(terminal)

        vm.does["/bin/post"] = [thaw]

        told = vm.told()

        assert vm.ran == ["/bin/pre", "/bin/post"]
        assert (told["interruptedBy"], told["thawed"]) == ("SIGINT", "yes")

    @pytest.mark.parametrize(
        ("part", "ran"),
        [
            ("app.kube.exec._ending", ["/bin/pre", "--unfreeze"]),
            ("app.cli.verify_run.nothing_was_frozen", ["/bin/pre", "/bin/post", "--unfreeze"]),
        ],
    )
    def test_a_fault_of_ours(self, vm: Vm, monkeypatch: pytest.MonkeyPatch, part: str, ran: list[str]) -> None:
        def broken(*_: object) -> bool:
            monkeypatch.undo()
            raise RuntimeError("broken")

        monkeypatch.setattr(part, broken)
        vm.does["--unfreeze"] = [DONE]

        with pytest.raises(RuntimeError, match="broken"):
            vm.verify("--yes")

        assert vm.ran == ran


def test_on_a_real_terminal(vm: Vm) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "app", "verify", NAME, "-n", NAMESPACE, "--kubeconfig", str(vm.kubeconfig)]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        os.write(ours, b"y\n")
        stdout, stderr = process.communicate(timeout=30)
    os.close(ours)
    os.close(theirs)

    assert process.returncode == 0
    assert "Go on? [y/N]" in stderr
    assert "thawed: yes" in stdout
    assert vm.ran == ["/bin/pre", "/bin/post"]


def test_no_thread_but_the_server_s_is_left(vm: Vm) -> None:
    before = threading.active_count()

    vm.told()

    assert threading.active_count() == before
