"""From a VirtualMachine to its backup in the object store, through every part in between."""

from pathlib import Path

from tests.controlplane import ControlPlane, make_namespace, make_vm
from tests.e2e.node import Node
from tests.e2e.snapshotter import DiskArray
from tests.e2e.velero import Velero
from tests.installation import Installation


def test_a_vm_at_level_crash_is_backed_up_without_a_hook(
    cluster: ControlPlane, installation: Installation, velero: Velero, array: DiskArray, tmp_path: Path
) -> None:
    (tmp_path / "disk.img").write_bytes(b"data" * 1024)
    cluster.client.create(make_namespace("crash"))
    array.claim("disk", "crash", tmp_path / "disk.img")
    disks = {"volumes": [{"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}}]}
    cluster.client.create(make_vm("db", "crash", guest=disks))
    pod = Node(cluster, "crash", tmp_path).start().run("db", "crash")

    backup = velero.backup("crash", "crash")

    assert backup["status"]["phase"] == "Completed"
    assert backup["status"]["hookStatus"] == {}
    [snapshot] = array.snapshots("crash")
    assert snapshot.copy.read_bytes() == b"data" * 1024
    stored = velero.contents("crash")[f"resources/pods/namespaces/crash/{pod['metadata']['name']}"]
    assert not [key for key in stored["metadata"]["annotations"] if "hook.backup.velero.io" in key]
    assert "hookPhase" not in velero.log("crash")
