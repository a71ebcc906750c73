"""`policy check --live` on the real API server: what it lists is what the webhook then does to new pods."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver.conftest import NewNamespace, SetPolicy
from tests.apiserver.pods import LEVEL, decided, foreign, hooks, owner_of, pod_like_a_launcher
from tests.cli.support import Ran, run, written
from tests.infra.controlplane import Client, ControlPlane, Json, launcher_pod, make_vm, make_vmi, wait_for
from tests.infra.installation import policy_text

MANAGED = "vm-consistency.io/managed"
READ = {
    "": ["pods", "namespaces"],
    "kubevirt.io": ["virtualmachines", "virtualmachineinstances", "kubevirts"],
}


def check(policy: Mapping[str, object], folder: Path, kubeconfig: Path, *words: str) -> Ran:
    """Run the command on a policy that is nowhere in force."""
    file = written(folder / "policy.yaml", policy_text(policy))
    return run("policy", "check", file, "--live", "--kubeconfig", kubeconfig, *words)


def listed(policy: Mapping[str, object], folder: Path, kubeconfig: Path, namespace: str) -> dict[str, Json]:
    """The VMs that are listed of one namespace, by name."""
    ran = check(policy, folder, kubeconfig, "-o", "json")
    assert (ran.exit_code, ran.stderr) == (0, "")
    return {vm["vm"]: vm for vm in ran.json()["live"]["vms"] if vm["namespace"] == namespace}


def new_pod(client: Client, vm: str, namespace: str) -> Json:
    """What a pod of the VM would be if it were made now."""
    running = launcher_pod(client, vm, namespace)
    owner = owner_of(client.get("virtualmachineinstances", vm, namespace))
    pod = pod_like_a_launcher(namespace, owner, annotations=foreign(running))
    pod["metadata"]["labels"] = running["metadata"]["labels"]
    return client.create(pod, dry_run=True)


def in_namespace(namespace: str, **fields: Any) -> dict[str, Any]:
    """A rule."""
    return {"name": "here", "match": {"namespaces": [namespace]}, **fields}


def test_what_is_listed_is_what_the_policy_does(
    control_plane: ControlPlane, client: Client, namespace: str, set_policy: SetPolicy, tmp_path: Path
) -> None:
    client.create(make_vm("quiet", namespace))
    client.create(make_vm("asks-for-less", namespace, annotations={LEVEL: "crash"}))
    client.create(make_vm("asks-for-more", namespace, template_annotations={LEVEL: "filesystem"}))
    client.create(make_vm("labelled", namespace, template_labels={"app": "pg"}))
    client.create(make_vm("keeps", namespace, template_labels={"app": "kept"}))
    client.create(make_vmi("bare", namespace, annotations={LEVEL: "application"}))
    vms = ["quiet", "asks-for-less", "asks-for-more", "labelled", "keeps", "bare"]
    before = {vm: hooks(launcher_pod(client, vm, namespace)) for vm in vms}
    by_label = {"level": "filesystem", "allow": ["crash"]}
    policy = {
        "rules": [
            {
                "name": app,
                "match": {"namespaces": [namespace], "templateSelector": {"matchLabels": {"app": app}}},
                **by_label,
                **settings,
            }
            for app, settings in {"pg": {"hooks": {"freeze": {"timeout": "90s"}}}, "kept": {}}.items()
        ]
        + [in_namespace(namespace, level="crash")]
    }

    told = listed(policy, tmp_path, control_plane.kubeconfig, namespace)

    set_policy(policy)
    new = {vm: new_pod(client, vm, namespace) for vm in vms}
    assert told.keys() == {vm for vm in vms if hooks(new[vm]) != before[vm]}
    assert told.keys() == {"quiet", "asks-for-more", "labelled", "bare"}
    for vm, entry in told.items():
        assert entry["now"] == {"record": "intact", "level": "filesystem", "profile": None}
        assert (entry["then"]["result"], entry["then"]["decidedBy"]) == decided(new[vm])
    assert [len(told[vm]["warnings"]) for vm in ("quiet", "labelled")] == [0, 0]
    [refused] = told["asks-for-more"]["warnings"]
    assert "level filesystem is not allowed by the policy here" in refused
    [refused] = told["bare"]["warnings"]
    assert refused.startswith("VirtualMachineInstance bare: level application ")


def test_the_table(control_plane: ControlPlane, client: Client, namespace: str, tmp_path: Path) -> None:
    client.create(make_vm("db", namespace, annotations={LEVEL: "filesystem"}))
    pod = launcher_pod(client, "db", namespace)["metadata"]["name"]
    policy = {"rules": [in_namespace(namespace, level="crash", allow=["crash"])]}

    ran = check(policy, tmp_path, control_plane.kubeconfig)

    assert (ran.exit_code, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    [at] = [number for number, line in enumerate(lines) if line.startswith(namespace)]
    assert lines[at].split() == [namespace, "db", pod, "filesystem", "crash", "rule/here"]
    assert lines[at + 1].startswith("    VirtualMachine db: level filesystem is not allowed")
    assert " VMs would change; after that: " in ran.stdout


def test_a_policy_that_is_in_force_changes_nothing(
    control_plane: ControlPlane, client: Client, namespace: str, set_policy: SetPolicy, tmp_path: Path
) -> None:
    policy = {"rules": [in_namespace(namespace, level="crash", hooks={"crash": "noop"})]}
    set_policy(policy)
    client.create(make_vm("db", namespace))
    launcher_pod(client, "db", namespace)

    assert listed(policy, tmp_path, control_plane.kubeconfig, namespace) == {}


def test_hands_off(control_plane: ControlPlane, client: Client, new_namespace: NewNamespace, tmp_path: Path) -> None:
    namespace = new_namespace(annotations={MANAGED: "false"})
    client.create(make_vm("db", namespace))
    launcher_pod(client, "db", namespace)

    allowed = listed(
        {"rules": [in_namespace(namespace, allow=["unmanaged"])]}, tmp_path, control_plane.kubeconfig, namespace
    )
    refused = listed({"rules": [in_namespace(namespace, level="crash")]}, tmp_path, control_plane.kubeconfig, namespace)

    assert allowed["db"]["then"] == {"result": "unmanaged", "profile": None, "decidedBy": "namespace"}
    assert refused["db"]["then"] == {"result": "crash", "profile": None, "decidedBy": "rule/here"}
    assert "not allowed" in refused["db"]["warnings"][0]


def test_audit_is_shown_as_if_it_enforced(
    control_plane: ControlPlane, client: Client, namespace: str, tmp_path: Path
) -> None:
    client.create(make_vm("db", namespace))
    before = launcher_pod(client, "db", namespace)
    policy = {"mode": "audit", "rules": [in_namespace(namespace, level="crash")]}

    told = listed(policy, tmp_path, control_plane.kubeconfig, namespace)

    assert told["db"]["then"]["result"] == "crash"
    assert hooks(launcher_pod(client, "db", namespace)) == hooks(before)


def test_pods_that_have_ended_are_nobody_s(
    control_plane: ControlPlane, client: Client, namespace: str, tmp_path: Path
) -> None:
    client.create(make_vm("db", namespace, run_strategy="Once"))
    pod = launcher_pod(client, "db", namespace)["metadata"]["name"]
    policy = {"rules": [in_namespace(namespace, level="crash")]}
    assert "db" in listed(policy, tmp_path, control_plane.kubeconfig, namespace)

    client.patch("pods", pod, {"status": {"phase": "Failed"}}, namespace, subresource="status")

    def gone() -> bool:
        return "db" not in listed(policy, tmp_path, control_plane.kubeconfig, namespace)

    wait_for(gone, what="the failed pod to be left out")


def test_page_by_page(
    control_plane: ControlPlane, client: Client, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vms = {f"vm-{number}" for number in range(5)}
    for vm in vms:
        client.create(make_vm(vm, namespace))
    for vm in vms:
        launcher_pod(client, vm, namespace)
    monkeypatch.setattr("app.kube.client._PAGE", 2)

    told = listed({"rules": [in_namespace(namespace, level="crash")]}, tmp_path, control_plane.kubeconfig, namespace)

    assert told.keys() == vms


class TestPermissions:
    @pytest.fixture
    def user(self, control_plane: ControlPlane, client: Client, namespace: str) -> Iterator[tuple[str, Path]]:
        """A ServiceAccount that may list what READ has, as far as a ClusterRole of its name grants it."""
        client.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "u", "namespace": namespace}})
        yield namespace, control_plane.kubeconfig_for(namespace, "u")
        if client.find("clusterroles", namespace):
            client.delete("clusterroles", namespace)
            client.delete("clusterrolebindings", namespace)

    def grant(self, client: Client, namespace: str, resources: Mapping[str, list[str]]) -> None:
        """Let the user list these in all namespaces."""
        rules = [
            {"apiGroups": [group], "resources": plurals, "verbs": ["list"]} for group, plurals in resources.items()
        ]
        rbac, group = "rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io"
        role = {"kind": "ClusterRole", "name": namespace, "apiGroup": group}
        subject = {"kind": "ServiceAccount", "name": "u", "namespace": namespace}
        metadata = {"name": namespace}
        client.create({"apiVersion": rbac, "kind": "ClusterRole", "metadata": metadata, "rules": rules})
        binding = {"roleRef": role, "subjects": [subject]}
        client.create({"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": metadata, **binding})

    def test_to_list_five_resources_is_enough(
        self, control_plane: ControlPlane, client: Client, user: tuple[str, Path], tmp_path: Path
    ) -> None:
        namespace, kubeconfig = user
        self.grant(client, namespace, READ)
        client.create(make_vm("db", namespace))
        launcher_pod(client, "db", namespace)
        since = control_plane.audit_position()
        policy = {"rules": [in_namespace(namespace, level="crash")]}

        def told() -> Mapping[str, Json] | None:
            """RBAC takes a moment to arrive."""
            ran = check(policy, tmp_path, kubeconfig, "-o", "json")
            return {vm["vm"]: vm for vm in ran.json()["live"]["vms"]} if ran.exit_code == 0 else None

        found = wait_for(told, what="the permission to be granted")

        assert found["db"]["then"]["result"] == "crash"
        name = f"system:serviceaccount:{namespace}:u"
        asked = wait_for(lambda: control_plane.audit_events(since=since, user=name), what="the requests in the log")
        assert {event["verb"] for event in asked} == {"list"}

    @pytest.mark.parametrize(
        ("granted", "missing"),
        [
            ({}, "kubevirts.kubevirt.io, namespaces, pods, virtualmachineinstances.kubevirt.io, virtualmachines.kubev"),
            ({"": ["pods", "namespaces"], "kubevirt.io": ["virtualmachines", "kubevirts"]}, "virtualmachineinstances."),
        ],
        ids=["nothing", "all-but-one"],
    )
    def test_what_is_missing_is_said_in_one_line(
        self, client: Client, user: tuple[str, Path], tmp_path: Path, granted: Mapping[str, list[str]], missing: str
    ) -> None:
        namespace, kubeconfig = user
        self.grant(client, namespace, granted)

        def line() -> str | None:
            ran = check({}, tmp_path, kubeconfig)
            assert (ran.exit_code, ran.stderr.count("\n")) == (2, 1)
            return ran.stderr if missing in ran.stderr else None

        said = wait_for(line, what=f"what is missing: {missing}")

        assert "you need permission to list, in all namespaces: " + missing in said
