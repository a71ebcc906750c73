"""`python -m tests.infra.controlplane.record`: writes pods that the real virt-controller made to tests/data/launcher.

To be run again when the version of KubeVirt changes.
"""

import json
from pathlib import Path

from tests.infra.controlplane.client import Json
from tests.infra.controlplane.cluster import ControlPlane
from tests.infra.controlplane.objects import launcher_pod, make_namespace, make_vm
from tests.infra.controlplane.stand_ins import stand_in_bound_pvc

_TARGET = Path(__file__).parents[2] / "data" / "launcher"
_CLAIMS = ("root", "data", "logs", "backup")


def main() -> None:
    """Record a plain VirtualMachine's pod and that of one with all that makes a pod big."""
    _TARGET.mkdir(parents=True, exist_ok=True)
    with ControlPlane() as control_plane:
        client = control_plane.client
        control_plane.install_kubevirt()
        control_plane.start_virt_controller()
        client.create(make_namespace("shop"))
        for claim in _CLAIMS:
            stand_in_bound_pvc(client, claim, "shop")
        for vm in (make_vm("plain", "shop"), _big_vm()):
            client.create(vm)
            name = vm["metadata"]["name"]
            pod = launcher_pod(client, name, "shop")
            (_TARGET / f"{name}.json").write_text(json.dumps(pod, indent=1) + "\n")


def _big_vm() -> Json:
    labels = {"app.kubernetes.io/name": "orders", "app.kubernetes.io/part-of": "shop", "team": "payments"}
    annotations = {"vm.kubevirt.io/os": "rhel9", "vm.kubevirt.io/workload": "server", "example.com/contact": "payments"}
    return make_vm("big", "shop", template_labels=labels, template_annotations=annotations, guest=_big_guest())


def _big_guest() -> Json:
    disks = [{"name": name, "disk": {"bus": "virtio"}} for name in (*_CLAIMS, "image", "cloudinit")]
    volumes: list[Json] = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in _CLAIMS]
    volumes.append({"name": "image", "containerDisk": {"image": "tools:v1"}})
    volumes.append({"name": "cloudinit", "cloudInitNoCloud": {"userData": "#cloud-config\n"}})
    devices = {"disks": disks, "interfaces": [{"name": "default", "masquerade": {}}], "rng": {}}
    return {
        "domain": {
            "cpu": {"cores": 4, "sockets": 2},
            "memory": {"guest": "16Gi"},
            "devices": devices,
            "resources": {"requests": {"memory": "16Gi"}},
        },
        "networks": [{"name": "default", "pod": {}}],
        "nodeSelector": {"zone": "a"},
        "tolerations": [{"key": "virtualization", "operator": "Exists", "effect": "NoSchedule"}],
        "terminationGracePeriodSeconds": 180,
        "evictionStrategy": "LiveMigrate",
        "volumes": volumes,
    }


if __name__ == "__main__":
    main()
