"""`render`: the webhook's decision without a cluster, in the shape that tools rely on."""

import json
from pathlib import Path
from typing import Any

import jsonpatch
import pytest

from app.core.annotations import LEVEL
from tests.cli.support import Ran, run, written
from tests.infra.factories import NAME, NAMESPACE, RECORDED, make_owner, make_pod, policy_text
from tests.server.support import Endpoint, make_review, patched

Object = dict[str, Any]
POD = make_pod()
VM = {"kind": "VirtualMachine", "metadata": {"name": NAME, "namespace": NAMESPACE, "annotations": {LEVEL: "crash"}}}
SPACE = {"kind": "Namespace", "metadata": {"name": NAMESPACE, "annotations": {LEVEL: "crash"}}}
OTHER = make_pod(labels={"app": "web"}, ownerReferences=None, name="web")


def render(tmp_path: Path, *words: str | Path, pod: object = POD, **files: object) -> Ran:
    """Run with -o json and the files given: pod, vm, namespace and policy."""
    options: list[str | Path] = ["--pod", written(tmp_path / "pod.json", pod)]
    for name, content in files.items():
        options += [f"--{name}", written(tmp_path / f"{name}.yaml", content)]
    return run("render", *options, "-o", "json", *words)


def decision(ran: Ran) -> Object:
    assert (ran.exit_code, ran.stderr) == (0, "")
    made: Object = ran.json()["decision"]
    return made


def test_the_shape_is_the_one_that_was_promised(tmp_path: Path) -> None:
    rendered = render(tmp_path).json()

    assert list(rendered) == ["decision", "annotations", "patch"]
    assert rendered["decision"] == {
        "action": "patch",
        "level": "filesystem",
        "profile": None,
        "decidedBy": "built-in",
        "reason": "decided",
        "warnings": [],
    }
    assert rendered["annotations"]["vm-consistency.io/effective-level"] == "filesystem"
    assert {operation["op"] for operation in rendered["patch"]} <= {"add", "replace", "remove"}
    assert jsonpatch.apply_patch(POD, rendered["patch"])["metadata"]["annotations"] == rendered["annotations"]


def test_the_timeout_of_a_script_is_shown_as_a_sum(tmp_path: Path) -> None:
    policy = policy_text(default={"level": "application", "profile": "mariadb"})
    vm = {**VM, "metadata": {"name": NAME, "namespace": NAMESPACE}}
    rendered = render(tmp_path, policy=policy, vm=vm).json()
    assert rendered["decision"]["profile"] == "mariadb"
    for phase, timeout in rendered["timeouts"].items():
        assert sum(timeout["parts"].values()) == timeout["seconds"]
        assert rendered["annotations"][f"{phase}.hook.backup.velero.io/timeout"] == f"{timeout['seconds']}s"
    files = ("--pod", tmp_path / "pod.json", "--vm", tmp_path / "vm.yaml", "--policy", tmp_path / "policy.yaml")
    assert "timeout of the pre hook: " in run("render", *files).stdout


@pytest.mark.parametrize("recorded", RECORDED)
def test_it_is_what_the_webhook_answers(tmp_path: Path, recorded: str) -> None:
    pod = RECORDED[recorded]
    review = make_review(pod=pod, namespace=pod["metadata"]["namespace"])
    answered = patched(review, Endpoint().response(review))["metadata"]["annotations"]

    assert render(tmp_path, pod=pod).json()["annotations"] == answered


def test_each_file_has_its_say(tmp_path: Path) -> None:
    crash = policy_text(default={"level": "crash"})
    assert decision(render(tmp_path, vm=VM))["decidedBy"] == "vm"
    assert decision(render(tmp_path, namespace=SPACE))["decidedBy"] == "namespace"
    assert decision(render(tmp_path, policy=crash))["decidedBy"] == "default"
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"policy.yaml": crash}}
    assert decision(render(tmp_path, policy=config_map))["level"] == "crash"


def test_the_namespace_of_a_pod_that_names_none(tmp_path: Path) -> None:
    pod = make_pod(namespace=None)
    command = "pre.hook.backup.velero.io/command"

    alone = render(tmp_path, pod=pod).json()["annotations"][command]
    beside = render(tmp_path, pod=pod, namespace={"metadata": {"name": "lab"}}).json()["annotations"][command]

    assert (json.loads(alone)[-1], json.loads(beside)[-1]) == ("default", "lab")


@pytest.mark.parametrize(
    ("pod", "policy", "action", "reason"),
    [
        (OTHER, {}, "ignored", "no-launcher-label"),
        (POD, {"mode": "audit"}, "none", "audit"),
        (POD, {"rules": [{"name": "x", "match": {"namespaces": ["*"]}, "managed": False}]}, "unmanaged", "hands-off"),
    ],
    ids=["ignored", "audit", "unmanaged"],
)
def test_a_pod_that_stays_as_it_is(tmp_path: Path, pod: Object, policy: Object, action: str, reason: str) -> None:
    rendered = render(tmp_path, pod=pod, policy=policy_text(**policy)).json()

    assert (rendered["decision"]["action"], rendered["decision"]["reason"]) == (action, reason)
    assert rendered["patch"] == []
    assert rendered["annotations"] == pod["metadata"]["annotations"]


def test_a_pod_that_was_rendered_before_has_everything_in_place(tmp_path: Path) -> None:
    again = make_pod(annotations=render(tmp_path).json()["annotations"])

    assert decision(render(tmp_path, pod=again))["reason"] == "in-place"


def test_warnings_are_those_of_the_webhook(tmp_path: Path) -> None:
    ran = render(tmp_path, vm={**VM, "metadata": {**VM["metadata"], "annotations": {LEVEL: "most"}}})  # type: ignore[dict-item]

    assert decision(ran)["level"] == "filesystem"
    [warning] = decision(ran)["warnings"]
    assert "'most'" in warning


def test_an_instance_that_no_vm_controls_decides_for_itself(tmp_path: Path) -> None:
    bare = {"kind": "VirtualMachineInstance", "metadata": {"name": NAME, "annotations": {LEVEL: "crash"}}}
    copied = make_pod(annotations={LEVEL: "crash"})

    assert decision(render(tmp_path, pod=copied, vm=bare))["decidedBy"] == "vm"
    assert decision(render(tmp_path, pod=copied))["decidedBy"] == "template"


def test_vms_of_the_same_name_are_told_apart_by_their_namespace(tmp_path: Path) -> None:
    here, there = (make_pod(namespace=name) for name in ("here", "there"))
    listed = [
        {"kind": "VirtualMachine", "metadata": {"name": NAME, "namespace": name, "annotations": {LEVEL: level}}}
        for name, level in (("here", "crash"), ("there", "filesystem"))
    ]
    ran = render(tmp_path, pod={"items": [here, there]}, vm={"items": listed})

    assert [one["decision"]["level"] for one in ran.json()] == ["crash", "filesystem"]


def test_a_list_gives_an_array(tmp_path: Path) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": [POD, OTHER]}
    rendered = render(tmp_path, pod=listed).json()

    assert [one["decision"]["action"] for one in rendered] == ["patch", "ignored"]
    assert len(render(tmp_path, pod={"kind": "PodList", "items": [POD]}).json()) == 1
    assert render(tmp_path, pod={"kind": "PodList", "items": []}).json() == []


def test_yaml_is_as_good_as_json_and_several_documents_are_a_list(tmp_path: Path) -> None:
    one = run("render", "--pod", written(tmp_path / "one.yaml", POD), "-o", "json")
    two = run("render", "--pod", written(tmp_path / "two.yaml", [POD, OTHER]), "-o", "json")

    assert one.json() == render(tmp_path).json()
    assert two.json()[0] == one.json()
    assert len(two.json()) == 2


@pytest.mark.parametrize("content", [json.dumps(POD), "\n" + json.dumps(POD), written], ids=["json", "blank", "yaml"])
def test_standard_input(tmp_path: Path, content: Any) -> None:
    text = content if isinstance(content, str) else content(tmp_path / "pod.yaml", POD).read_text()

    assert run("render", "--pod", "-", "-o", "json", stdin=text).json() == render(tmp_path).json()


def test_standard_input_can_be_one_file_only() -> None:
    ran = run("render", "--pod", "-", "--policy", "-", stdin="")

    assert ran.exit_code == 2
    assert "only one file" in ran.stderr


def test_the_text_says_the_same(tmp_path: Path) -> None:
    ran = run("render", "--pod", written(tmp_path / "pod.json", POD), "--vm", written(tmp_path / "vm.yaml", VM))

    assert ran.exit_code == 0
    assert f"Pod {NAMESPACE}/{POD['metadata']['name']}" in ran.stdout
    assert "level: crash, decided by: vm" in ran.stdout
    assert "pre.hook" not in ran.stdout.split("patch:")[0]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"vm": {"kind": "VirtualMachine", "metadata": {"name": "other"}}}, "VirtualMachine other fits no"),
        ({"vm": {**VM, "metadata": {"name": NAME, "namespace": "lab"}}}, f"VirtualMachine {NAME} fits no"),
        ({"namespace": {"kind": "Namespace", "metadata": {"name": "lab"}}}, "Namespace lab fits no"),
        ({"vm": SPACE}, "expected VirtualMachine objects"),
        ({"namespace": VM}, "expected Namespace objects"),
        ({"vm": ""}, "there is no VirtualMachine in it"),
        ({"pod": {}}, "expected Pod objects"),
        ({"pod": VM}, "expected Pod objects"),
        ({"pod": {"kind": "List", "items": [POD, VM]}}, "expected Pod objects"),
        ({"pod": {"items": [7]}}, "expected Pod objects"),
        ({"pod": "{"}, "pod.json"),
        ({"pod": "a: ["}, "pod.json"),
        ({"pod": "&a [*a]"}, "expected Pod objects"),
        ({"pod": "[" * 5000}, "pod.json"),
        ({"pod": make_pod(annotations={"a": True})}, "metadata.annotations must be an object of strings"),
        ({"pod": OTHER, "vm": VM}, f"VirtualMachine {NAME} fits no"),
        (
            {"vm": {"kind": "VirtualMachineInstance", "metadata": {"name": "other"}}},
            "VirtualMachineInstance other fits",
        ),
        ({"pod": make_pod(namespace=123)}, "metadata.namespace must be a string"),
    ],
)
def test_files_that_do_not_fit_are_misuse(tmp_path: Path, files: Object, says: str) -> None:
    ran = render(tmp_path, **files)

    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: ")
    assert len(ran.stderr.splitlines()) == 1
    assert says in ran.stderr


def test_a_file_nested_too_deeply_is_misuse(tmp_path: Path) -> None:
    ran = run("render", "--pod", written(tmp_path / "pod.yaml", "[" * 200_000))

    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "nested more than 64 levels deep" in ran.stderr


def test_a_file_that_is_not_there_is_misuse(tmp_path: Path) -> None:
    ran = run("render", "--pod", tmp_path / "none.yaml")

    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "none.yaml: No such file" in ran.stderr


def test_a_bad_policy_is_a_finding(tmp_path: Path) -> None:
    ran = render(tmp_path, policy=policy_text(mode="off", default={"level": "most"}))

    assert (ran.exit_code, ran.stdout) == (1, "")
    assert len(ran.stderr.splitlines()) == 2
    assert all(line.startswith("error: ") and "line " in line for line in ran.stderr.splitlines())


def test_names_of_forks_come_from_the_environment(tmp_path: Path) -> None:
    pod = make_pod(labels={"fork.example": "launcher"}, ownerReferences=[make_owner(apiVersion="fork.example/v1")])
    path = written(tmp_path / "pod.json", pod)
    env = {
        "VM_CONSISTENCY_KUBEVIRT_API_GROUP": "fork.example",
        "VM_CONSISTENCY_KUBEVIRT_LAUNCHER_LABEL": "fork.example",
        "VM_CONSISTENCY_KUBEVIRT_LAUNCHER_LABEL_VALUE": "launcher",
        "VM_CONSISTENCY_KUBEVIRT_CONTAINER": "machine",
    }

    assert run("render", "--pod", path, "-o", "json").json()["decision"]["action"] == "ignored"
    rendered = run("render", "--pod", path, "-o", "json", env=env).json()
    assert rendered["decision"]["action"] == "patch"
    assert rendered["annotations"]["pre.hook.backup.velero.io/container"] == "machine"


def test_a_wrong_setting_is_misuse(tmp_path: Path) -> None:
    path = written(tmp_path / "pod.json", POD)
    ran = run("render", "--pod", path, env={"VM_CONSISTENCY_DEADLINE": "soon"})

    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: VM_CONSISTENCY_DEADLINE: ")
