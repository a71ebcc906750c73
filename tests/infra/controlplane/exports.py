"""The pod of a VirtualMachineExport, which needs a word of its own."""

from tests.infra.controlplane.client import Json
from tests.infra.controlplane.cluster import ControlPlane
from tests.infra.controlplane.objects import make_export
from tests.infra.controlplane.waiting import wait_for


def export_pod(control_plane: ControlPlane, pvc: str, namespace: str = "default") -> Json:
    """Have virt-controller make the virt-export pod of a bound claim, and return the pod.

    virt-controller crashes right after that: it reads the export CA from /etc/virt-controller/exportca alone
    (kubevirt v1.8.4, pkg/storage/export/export/export.go), which is not there outside its own container, and takes
    the missing certificate for given. So pod and export are removed again, and virt-controller is started again.
    """
    client = control_plane.client
    name = client.create(make_export(pvc, namespace))["metadata"]["name"]
    pod: Json = wait_for(
        lambda: client.find("pods", f"virt-export-{name}", namespace), what=f"the export pod of {namespace}/{pvc}"
    )
    wait_for(lambda: not control_plane.virt_controller.alive, what="virt-controller to stumble over the missing CA")
    client.delete("virtualmachineexports", name, namespace)
    client.delete("pods", pod["metadata"]["name"], namespace, grace_seconds=0)
    control_plane.virt_controller.start()
    return pod
