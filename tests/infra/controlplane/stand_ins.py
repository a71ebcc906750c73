"""Thin stand-ins for what a control plane without nodes lacks: scheduler, kubelet, virt-handler and CDI.

They write only what virt-controller waits for; everything that follows from it is virt-controller's own doing.
"""

from datetime import UTC, datetime, timedelta

from tests.infra.controlplane.client import Client, Json
from tests.infra.controlplane.objects import launcher_pod
from tests.infra.controlplane.waiting import wait_for


def stand_in_node(client: Client, name: str) -> None:
    """A Node on which virt-handler seems to be well for a year to come; nothing happens if it is there already."""
    if client.find("nodes", name):
        return
    heartbeat = (datetime.now(UTC) + timedelta(days=365)).strftime("%Y-%m-%dT%H:%M:%SZ")
    metadata = {
        "name": name,
        "labels": {"kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64", "kubevirt.io/schedulable": "true"},
        "annotations": {"kubevirt.io/heartbeat": heartbeat},
    }
    client.create({"apiVersion": "v1", "kind": "Node", "metadata": metadata})
    resources = {"cpu": "64", "memory": "256Gi", "pods": "1000"}
    status = {"capacity": resources, "allocatable": resources, "conditions": [{"type": "Ready", "status": "True"}]}
    client.patch("nodes", name, {"status": status}, subresource="status", kind="strategic-merge")


def bind_pod(client: Client, pod: Json, node: str) -> None:
    """What the scheduler does: bind the pod to a node."""
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    target = {"apiVersion": "v1", "kind": "Node", "name": node}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
    client.post("pods", name, namespace, "binding", binding)


def set_pod_running(client: Client, pod: Json) -> Json:
    """What the kubelet does: report a bound pod as running with all its containers ready."""
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    containers = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": f"{container['image']}@sha256:{'0' * 64}",
            "containerID": f"containerd://{container['name']}",
            "ready": True,
            "started": True,
            "restartCount": 0,
            "state": {"running": {"startedAt": _now()}},
        }
        for container in pod["spec"]["containers"]
    ]
    conditions = [_true(kind) for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")]
    status = {"phase": "Running", "conditions": conditions, "containerStatuses": containers, "startTime": _now()}
    return client.patch("pods", name, {"status": status}, namespace, subresource="status", kind="strategic-merge")


def set_vmi_running(client: Client, name: str, namespace: str, node: str) -> Json:
    """What virt-handler does: take over the VirtualMachineInstance once virt-controller handed it to `node`."""

    def handed_over() -> Json | None:
        vmi = client.get("virtualmachineinstances", name, namespace)
        status = vmi.get("status", {})
        return vmi if status.get("phase") == "Scheduled" and status.get("nodeName") == node else None

    vmi = wait_for(handed_over, what=f"VirtualMachineInstance {namespace}/{name} to be handed over to {node}")
    conditions = [*vmi["status"].get("conditions", []), _true("LiveMigratable")]
    # No SELinux on the node: what migration and hotplug ask for before they make a pod.
    status = {"phase": "Running", "selinuxContext": "none", "conditions": conditions}
    return client.patch("virtualmachineinstances", name, {"status": status}, namespace)


def run_stand_in_guest(client: Client, name: str, namespace: str, node: str) -> Json:
    """Bring a VirtualMachine's launcher pod and instance to Running on `node`; returns the pod."""
    stand_in_node(client, node)
    pod = launcher_pod(client, name, namespace)
    bind_pod(client, pod, node)
    running = set_pod_running(client, client.get("pods", pod["metadata"]["name"], namespace))
    set_vmi_running(client, name, namespace, node)
    return running


def stand_in_bound_pvc(client: Client, name: str, namespace: str, *, owner: Json | None = None) -> Json:
    """A filesystem PersistentVolumeClaim that says Bound, though no volume is behind it; `owner` controls it."""
    metadata: Json = {"name": name, "namespace": namespace}
    if owner:
        reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"]}
        metadata["ownerReferences"] = [{**reference, "uid": owner["metadata"]["uid"], "controller": True}]
    spec = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "",
        "volumeName": f"pv-{name}",
        "resources": {"requests": {"storage": "1Gi"}},
    }
    client.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})
    status = {"phase": "Bound", "accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Gi"}}
    return client.patch("persistentvolumeclaims", name, {"status": status}, namespace, subresource="status")


def stand_in_cdi(client: Client) -> None:
    """The kinds of the Containerized Data Importer's API that virt-controller watches, without their schemas.

    They have to be there before virt-controller starts: when they appear later, it ends itself to be restarted.
    """
    kinds = {"DataVolume": True, "DataSource": True, "CDI": False, "CDIConfig": False, "StorageProfile": False}
    for kind, namespaced in kinds.items():
        client.create(_schemaless_crd("cdi.kubevirt.io", kind, namespaced))


def stand_in_waiting_data_volume(client: Client, name: str, namespace: str) -> Json:
    """A DataVolume whose claim waits for its first consumer, as CDI leaves it on such a storage class."""
    metadata = {"name": name, "namespace": namespace}
    spec = {"source": {"blank": {}}, "storage": {"resources": {"requests": {"storage": "1Gi"}}}}
    status = {"phase": "WaitForFirstConsumer"}
    volume = client.create(
        {
            "apiVersion": "cdi.kubevirt.io/v1beta1",
            "kind": "DataVolume",
            "metadata": metadata,
            "spec": spec,
            "status": status,
        }
    )
    stand_in_bound_pvc(client, name, namespace, owner=volume)
    return volume


def _schemaless_crd(group: str, kind: str, namespaced: bool) -> Json:
    plural = f"{kind.lower()}s"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced" if namespaced else "Cluster",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"},
            "versions": [{"name": "v1beta1", "served": True, "storage": True, "schema": schema}],
        },
    }


def _true(condition: str) -> Json:
    # With both times, as virt-handler writes it: virt-controller's JSON patches test for what Go would encode.
    return {"type": condition, "status": "True", "lastProbeTime": _now(), "lastTransitionTime": _now()}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
