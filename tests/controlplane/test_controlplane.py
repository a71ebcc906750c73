"""The control plane itself: what the other tests take for granted."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.controlplane import (
    VIRT_CONTROLLER,
    ApiError,
    Client,
    ControlPlane,
    Json,
    Process,
    ProcessError,
    export_pod,
    launcher_pod,
    make_migration,
    make_namespace,
    make_vm,
    run_stand_in_guest,
    stand_in_bound_pvc,
    stand_in_waiting_data_volume,
    wait_for,
)
from tests.infra.controlplane.fixtures import kubevirt_cluster

NAMESPACE = "control-plane-itself"


@pytest.fixture(scope="module")
def control_plane(real_parts: None, request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """One for this module alone: KubeVirt runs five migrations at a time, and those of other tests never end."""
    yield from kubevirt_cluster(request)


@pytest.fixture(scope="module")
def client(control_plane: ControlPlane) -> Client:
    return control_plane.client


@pytest.fixture(scope="module", autouse=True)
def namespace(client: Client) -> str:
    client.create(make_namespace(NAMESPACE))
    return NAMESPACE


def test_a_virtual_machine_gets_a_launcher_pod_with_the_five_hook_keys_of_kubevirt(client: Client) -> None:
    client.create(make_vm("plain", NAMESPACE))

    annotations = launcher_pod(client, "plain", NAMESPACE)["metadata"]["annotations"]

    identity = ["--name", "plain", "--namespace", NAMESPACE]
    assert {key: value for key, value in annotations.items() if "hook.backup.velero.io" in key} == {
        "pre.hook.backup.velero.io/container": "compute",
        "pre.hook.backup.velero.io/command": json.dumps(["/usr/bin/virt-freezer", "--freeze", *identity]),
        "pre.hook.backup.velero.io/timeout": "60s",
        "post.hook.backup.velero.io/container": "compute",
        "post.hook.backup.velero.io/command": json.dumps(["/usr/bin/virt-freezer", "--unfreeze", *identity]),
    }


def test_a_live_migration_gets_a_target_pod(client: Client) -> None:
    client.create(make_vm("moving", NAMESPACE))
    source = run_stand_in_guest(client, "moving", NAMESPACE, "node-a")
    migration = client.create(make_migration("moving", NAMESPACE))

    target = launcher_pod(client, "moving", NAMESPACE, not_uid=source["metadata"]["uid"])

    assert target["metadata"]["labels"]["kubevirt.io/migrationJobUID"] == migration["metadata"]["uid"]


def test_a_hotplugged_volume_gets_an_attachment_pod(client: Client) -> None:
    client.create(make_vm("plugged", NAMESPACE))
    launcher = run_stand_in_guest(client, "plugged", NAMESPACE, "node-a")
    stand_in_bound_pvc(client, "extra", NAMESPACE)
    claim = {"claimName": "extra", "hotpluggable": True}
    disks = [{"name": "extra", "disk": {"bus": "scsi"}}]
    volumes = [{"name": "extra", "persistentVolumeClaim": claim}]
    client.patch(
        "virtualmachineinstances",
        "plugged",
        {"spec": {"domain": {"devices": {"disks": disks}}, "volumes": volumes}},
        NAMESPACE,
    )

    def look() -> Json | None:
        pods = client.list("pods", NAMESPACE, labels="kubevirt.io=hotplug-disk")
        return pods[0] if pods else None

    attachment = wait_for(look, what="the attachment pod")
    assert attachment["metadata"]["name"].startswith("hp-volume-")
    assert attachment["metadata"]["ownerReferences"][0]["uid"] == launcher["metadata"]["uid"]


def test_a_volume_that_waits_for_its_first_consumer_gets_a_provisioning_pod(client: Client) -> None:
    stand_in_waiting_data_volume(client, "late", NAMESPACE)
    client.create(make_vm("early", NAMESPACE, guest={"volumes": [{"name": "late", "dataVolume": {"name": "late"}}]}))

    pod = launcher_pod(client, "early", NAMESPACE)

    assert pod["metadata"]["annotations"]["kubevirt.io/ephemeral-provisioning"] == "true"


def test_an_export_gets_a_pod_that_no_virtual_machine_owns(control_plane: ControlPlane, client: Client) -> None:
    stand_in_bound_pvc(client, "exported", NAMESPACE)

    pod = export_pod(control_plane, "exported", NAMESPACE)

    assert [owner["kind"] for owner in pod["metadata"]["ownerReferences"]] == ["VirtualMachineExport"]
    assert control_plane.virt_controller.alive


def test_audit_events_name_who_wrote_what(control_plane: ControlPlane, client: Client) -> None:
    since = control_plane.audit_position()
    client.create(make_vm("audited", NAMESPACE))
    launcher_pod(client, "audited", NAMESPACE)

    def by(user: str, resource: str) -> list[Json]:
        return control_plane.audit_events(since=since, user=user, verb="create", resource=resource, namespace=NAMESPACE)

    assert wait_for(lambda: by(VIRT_CONTROLLER, "pods"), what="the pod's creation in the audit log")
    assert len(by("admin", "virtualmachines")) == 1
    assert not by("admin", "pods")


def test_a_service_account_may_do_only_what_its_roles_say(control_plane: ControlPlane, client: Client) -> None:
    metadata = {"name": "nobody", "namespace": NAMESPACE}
    client.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    somebody = client.with_token(control_plane.token_for(NAMESPACE, "nobody"))

    with pytest.raises(ApiError) as refused:
        somebody.list("pods", NAMESPACE)

    somebody.close()
    assert refused.value.status == 403
    assert f"system:serviceaccount:{NAMESPACE}:nobody" in refused.value.message
    who = control_plane.kubectl("auth", "whoami", kubeconfig=control_plane.kubeconfig_for(NAMESPACE, "nobody"))
    assert f"system:serviceaccount:{NAMESPACE}:nobody" in who


def test_a_second_control_plane_is_apart_and_survives_the_death_of_its_parts(client: Client) -> None:
    with ControlPlane() as other:
        other.client.create(make_namespace("only-there"))
        assert client.find("namespaces", "only-there") is None

        other.apiserver.kill()
        other.etcd.kill()
        other.etcd.start()
        other.apiserver.start()

        assert other.client.find("namespaces", "only-there")
        folder, pids = other.folder, [other.etcd.pid, other.apiserver.pid]
    assert not folder.exists()
    assert not any(map(_exists, pids))


def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib, threading\n"
        "from tests.infra.controlplane import Process\n"
        "def start():\n"
        "    child = Process('sleep', ['sleep', '600'], pathlib.Path(sys.argv[1]), ready=lambda: True).start()\n"
        "    print(child.pid, flush=True)\n"
        "thread = threading.Thread(target=start)\n"
        "thread.start()\n"
        "thread.join()\n"  # the end of the thread that started it is not the end of the parent
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "log")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert _exists(child)
        parent.kill()
    wait_for(lambda: not _exists(child), what="the end of the child")


def test_a_process_that_ends_too_early_shows_its_log(tmp_path: Path) -> None:
    process = Process("liar", ["sh", "-c", "echo the reason; exit 3"], tmp_path / "log", ready=lambda: False)

    with pytest.raises(ProcessError, match=r"(?s)liar ended before it was ready.*the reason"):
        process.start()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
