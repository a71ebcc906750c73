"""`verify` on the real API server with pods of virt-controller: whom it takes for the VM's pod, and what it refuses.

Nothing runs in these pods; what hooks do in a guest is in tests/e2e.
"""

from pathlib import Path

import pytest

from tests.apiserver.conftest import SetPolicy
from tests.apiserver.pods import owner_of, pod_like_a_launcher
from tests.cli.support import Ran, run
from tests.infra.controlplane import (
    Client,
    ControlPlane,
    launcher_pods,
    make_migration,
    make_namespace,
    make_vm,
    run_stand_in_guest,
    wait_for,
)
from tests.infra.controlplane.velero import install_velero_crds
from tests.infra.installation import annotations

NODE = "verify-node"
LEVEL = "vm-consistency.io/level"


def verify(namespace: str, kubeconfig: Path, *words: str, vm: str = "db") -> Ran:
    """Run the command."""
    return run("verify", vm, "-n", namespace, "--yes", "--kubeconfig", kubeconfig, *words)


def refused(namespace: str, kubeconfig: Path, *words: str, vm: str = "db") -> str:
    """The one line that says why nothing was run."""
    ran = verify(namespace, kubeconfig, *words, vm=vm)
    assert (ran.exit_code, ran.stdout) == (2, "")
    [line] = ran.stderr.splitlines()
    return line


@pytest.fixture(scope="module", autouse=True)
def velero(control_plane: ControlPlane) -> None:
    """Where `verify` looks for backups."""
    install_velero_crds(control_plane.client)
    if control_plane.client.find("namespaces", "velero") is None:
        control_plane.client.create(make_namespace("velero"))


@pytest.fixture
def kubeconfig(control_plane: ControlPlane) -> Path:
    return control_plane.kubeconfig


@pytest.mark.parametrize(("noop", "what"), [("remove", "no hooks"), ("noop", "hooks that do nothing")])
def test_level_crash(
    client: Client, namespace: str, set_policy: SetPolicy, kubeconfig: Path, noop: str, what: str
) -> None:
    set_policy({"default": {"level": "crash"}, "hooks": {"crash": noop}})
    client.create(make_vm("db", namespace))
    pod = run_stand_in_guest(client, "db", namespace, NODE)

    ran = verify(namespace, kubeconfig, "-o", "json")

    assert (ran.exit_code, ran.stderr) == (0, "")
    told = ran.json()
    assert (told["pod"], told["record"], told["level"]) == (pod["metadata"]["name"], "intact", "crash")
    assert (told["decidedBy"], told["ran"]) == ("default", False)
    assert what in told["reason"]


def test_a_node_that_does_not_answer(client: Client, namespace: str, kubeconfig: Path) -> None:
    client.create(make_vm("db", namespace, annotations={LEVEL: "filesystem"}))
    pod = run_stand_in_guest(client, "db", namespace, NODE)
    assert annotations(pod)["vm-consistency.io/effective-level"] == "filesystem"

    ran = verify(namespace, kubeconfig)

    assert (ran.exit_code, ran.stdout) == (2, "")
    said = ran.stderr.splitlines()
    assert said[0] == "pre hook ..."
    assert said[1].startswith(f"error: running a command in pod {namespace}/{pod['metadata']['name']}: ")


class TestRefusals:
    @pytest.fixture
    def running(self, client: Client, namespace: str) -> str:
        """The namespace of a VM `db` that runs."""
        client.create(make_vm("db", namespace, annotations={LEVEL: "filesystem"}))
        run_stand_in_guest(client, "db", namespace, NODE)
        return namespace

    def test_frozen(self, client: Client, running: str, kubeconfig: Path) -> None:
        client.patch("virtualmachineinstances", "db", {"status": {"fsFreezeStatus": "frozen"}}, running)

        line = refused(running, kubeconfig)

        assert "the guest is frozen: another backup or snapshot is at work" in line
        assert "-c compute -- /usr/bin/virt-freezer --unfreeze --name db" in line

    def test_a_migration_that_has_only_begun(self, client: Client, running: str, kubeconfig: Path) -> None:
        client.create(make_migration("db", running))
        wait_for(lambda: len(launcher_pods(client, "db", running)) == 2, what="the target's pod")

        assert "has 2 launcher pods: it migrates" in refused(running, kubeconfig)

    def test_pods_that_have_ended_do_not_count(self, client: Client, running: str, kubeconfig: Path) -> None:
        owner = owner_of(client.get("virtualmachineinstances", "db", running))
        source = client.create(pod_like_a_launcher(running, owner))["metadata"]["name"]  # of a migration that is over
        assert "has 2 launcher pods" in refused(running, kubeconfig)

        client.patch("pods", source, {"status": {"phase": "Succeeded"}}, running, subresource="status")

        said = verify(running, kubeconfig).stderr
        assert "launcher pods" not in said
        assert source not in said

    def test_not_running_yet(self, client: Client, namespace: str, kubeconfig: Path) -> None:
        client.create(make_vm("db", namespace))
        wait_for(lambda: launcher_pods(client, "db", namespace), what="the pod")

        assert "not Running" in refused(namespace, kubeconfig)

    def test_stopped(self, client: Client, namespace: str, kubeconfig: Path) -> None:
        client.create(make_vm("db", namespace, run_strategy="Halted"))

        assert f"the VM {namespace}/db does not run, or does not exist" in refused(namespace, kubeconfig)

    @pytest.mark.parametrize("name", ["..", "a/b", "a%2fb"])
    def test_names_of_nothing(self, namespace: str, kubeconfig: Path, name: str) -> None:
        assert f"{name!r} is no name of a VM" in refused(namespace, kubeconfig, vm=name)
