"""What commands that are exec'd into a launcher pod find, and what is left of them."""

import subprocess
from pathlib import Path

import pytest

from tests.infra.controlplane import ControlPlane, Json, make_namespace, make_vm, wait_for
from tests.infra.guests.node import Node


@pytest.fixture(scope="module")
def run_kubevirt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run-kubevirt")


@pytest.fixture(scope="module")
def node(cluster: ControlPlane, run_kubevirt: Path) -> Node:
    return Node(cluster, "any", run_kubevirt, env={"LIBVIRT_DEFAULT_URI": "test:///default"}).start()


@pytest.fixture(scope="module")
def pod(cluster: ControlPlane, node: Node) -> Json:
    cluster.client.create(make_namespace("node"))
    cluster.client.create(make_vm("db", "node"))
    return node.run("db", "node")


def test_kubevirts_tools_and_socket_folder_are_where_hooks_look_and_nowhere_else(
    node: Node, pod: Json, run_kubevirt: Path
) -> None:
    (run_kubevirt / "sockets").mkdir()

    ran = node.exec(pod, "sh", "-c", "ls /usr/bin/virt-freezer /usr/bin/virt-probe; ls /run/kubevirt; virsh list --all")

    assert ran.stderr == ""
    assert ran.stdout.split()[:3] == ["/usr/bin/virt-freezer", "/usr/bin/virt-probe", "sockets"]
    assert " test " in ran.stdout  # the domain of libvirt's test driver
    assert not Path("/usr/bin/virt-freezer").exists()
    assert str(run_kubevirt) not in Path("/proc/self/mountinfo").read_text()


def test_output_comes_back_and_a_failure_is_one(node: Node, pod: Json) -> None:
    ran = node.exec(pod, "sh", "-c", "echo said; echo complained >&2; exit 7")

    assert ran.stdout == "said\n"
    assert ran.stderr.splitlines()[0] == "complained"
    assert ran.returncode != 0


def test_a_command_goes_on_when_nobody_listens_any_more(
    node: Node, pod: Json, cluster: ControlPlane, tmp_path: Path
) -> None:
    begun, done = tmp_path / "begun", tmp_path / "done"
    script = f"touch {begun}; while [ ! -e {tmp_path}/go-on ]; do sleep 0.1; done; echo said; touch {done}"

    with subprocess.Popen(node.kubectl_exec(pod, "bash", "-c", script)) as kubectl:
        wait_for(begun.exists, what="the command to begin")
        kubectl.kill()
    (tmp_path / "go-on").touch()

    wait_for(done.exists, what="the command to end by itself")
