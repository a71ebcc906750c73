"""KubeVirt's re-sync, brought about as often as a test wants."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from tests.infra.controlplane import VIRT_CONTROLLER, ControlPlane, Json, launcher_pod, wait_for


class Toucher:
    """Makes virt-controller reconcile instances, and knows that it did."""

    def __init__(self, cp: ControlPlane, namespace: str, vms: Sequence[str], witnesses: Sequence[str]) -> None:
        """Each touch touches `vms` in this order; the pods of the `witnesses` get a PATCH by every reconcile."""
        self.cp, self.namespace, self.vms = cp, namespace, vms
        self.pods = {vm: launcher_pod(cp.client, vm, namespace)["metadata"]["name"] for vm in vms}
        self._witnesses = [self.pods[vm] for vm in witnesses]
        self._touches = 0

    def touch(self) -> None:
        """Change something about every instance, and return when virt-controller has dealt with it.

        That a reconcile without a PATCH took place is known by order: instances come to virt-controller in the order
        in which they were touched, the witness last, and at the end it has nothing left to do.
        """
        since = self.cp.audit_position()
        self._touches += 1
        touched = {"metadata": {"annotations": {"example.com/touched": str(self._touches)}}}
        for vm in self.vms:
            self.cp.client.patch("virtualmachineinstances", vm, touched, self.namespace)
        for pod in self._witnesses:
            wait_for(lambda: self.patches(since, pod), what=f"the re-sync of pod {pod}")  # noqa: B023
        wait_for(self._idle, what="virt-controller to be done")

    def _idle(self) -> bool:
        kinds = ("depth", "unfinished_work_seconds")
        queue = "virt-controller-vmi"
        return not any(self.cp.virt_controller_metric(f"kubevirt_workqueue_{kind}", name=queue) for kind in kinds)

    def patches(self, since: int, pod: str) -> list[Json]:
        """virt-controller's PATCHes of a pod, not of its status, since a position in the audit log."""
        wanted = {"user": VIRT_CONTROLLER, "verb": "patch", "resource": "pods", "namespace": self.namespace}
        events = self.cp.audit_events(since=since, **wanted, name=pod)
        return [event for event in events if "subresource" not in event["objectRef"]]

    def settle(self) -> None:
        """Touch once when a second has passed since the last write to any of the pods.

        The API server keeps the entries of managedFields in the order of their seconds. So the first re-sync in a later
        second moves virt-controller's entry, and the pod is written once more, with nothing else changed.
        """
        newest = max(entry["time"] for vm in self.vms for entry in self.pod(vm)["metadata"]["managedFields"])
        wait_for(lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}" > newest, what="the next second")
        self.touch()

    def pod(self, vm: str) -> Json:
        """The pod as it is stored now."""
        return self.cp.client.get("pods", self.pods[vm], self.namespace)

    def writes(self, vm: str, before: Json) -> list[Json]:
        """Every state of the pod that was stored after `before`: the API server plays its history back."""
        params = {
            "watch": "true",
            "fieldSelector": f"metadata.name={self.pods[vm]}",
            "resourceVersion": before["metadata"]["resourceVersion"],
            "timeoutSeconds": "1",
        }
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        history = self.cp.client.request("GET", path, params=params).text
        return [event["object"] for event in map(json.loads, history.splitlines())]
