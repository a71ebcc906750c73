"""A cluster in memory for the pod reconciler: stores that a test fills, and the API server's pods.

The stores, the facts, the policy keeper, the reports and the metrics are the real ones; the watch is a delay.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from copy import deepcopy
from typing import Any, cast

from app.cluster.facts import StoreFacts
from app.cluster.pods import PodIndex
from app.cluster.stores import ClusterStores
from app.controllers.pods.reconciler import PodReconciler
from app.controllers.pods.reports import PodReports
from app.controllers.policy.active import PolicyKeeper
from app.core.annotations import DECIDED_BY, EFFECTIVE_LEVEL
from app.core.kubevirt_names import UPSTREAM
from app.core.objects import NamespaceView, VirtualMachineInstanceView, VirtualMachineView
from app.core.policy import Policy
from app.core.record import is_intact
from app.kube.client import KubeClient
from app.kube.resources import PODS
from app.server.metrics import Metrics
from tests.infra.factories import NAMESPACE, decide_pod, make_facts, make_owner, make_pod, patched, policy_text
from tests.infra.stand_ins.events import StandInRecorder
from tests.infra.stand_ins.pods_api import LAG, PodsApi

WORKERS = 4
"""How many pods the reconciler looks at, at the same time."""


class StandInCluster:
    """One Namespace of VirtualMachines, and the leader's reconciler."""

    def __init__(self, policy: Mapping[str, Any] | None = None, *, policy_is_read: bool = True) -> None:
        """`policy`: fields of the policy; None where there is no policy, for longer than the grace.

        `policy_is_read`: False is how it is until the first answer to whether there is one.
        """
        self.api, self.stores, self.metrics = PodsApi(), ClusterStores(UPSTREAM), Metrics()
        self.recorder = StandInRecorder()
        now = asyncio.get_running_loop().time
        self.keeper = PolicyKeeper(self.metrics.policy_changed, clock=now, grace=0 if policy is None else 300)
        if policy is not None:
            self.set_policy(**policy)
        elif policy_is_read:
            self.keeper.absent()
        for store in (self.stores.namespaces, self.stores.instances, self.stores.machines, self.stores.kubevirts):
            store.synced = True
        self.annotate_namespace()
        self.reports = PodReports(self.recorder, self.metrics)
        self.in_touch = True
        self.facts = StoreFacts(cast("KubeClient", self.api), self.stores, 1.0)
        self.index = PodIndex(self.api.pods)
        self.reconciler: PodReconciler
        """The one that runs, or ran last."""

    @asynccontextmanager
    async def leads(self, *, per_second: float = 0) -> AsyncIterator[None]:
        """Run a reconciler meanwhile; one that ends by itself fails the test. 0 writes per second are no limit."""
        self.reconciler = PodReconciler(
            cast("KubeClient", self.api),
            self.api.pods,
            self.index,
            self.stores,
            self.facts,
            self.keeper,
            self.reports,
            lambda: self.in_touch,
            per_second=per_second,
            concurrency=WORKERS,
        )
        await asyncio.sleep(2 * LAG)  # in which the watch brings what was put before
        task = asyncio.create_task(self.reconciler.run())
        try:
            await asyncio.sleep(1)
            yield
            assert not task.done(), "the reconciler ended"
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def set_policy(self, **fields: Any) -> None:
        """Bring a policy into force."""
        assert self.keeper.read(policy_text(**fields))

    def annotate_namespace(self, annotations: Mapping[str, str] | None = None) -> None:
        """Set the annotations of the Namespace."""
        view = NamespaceView.from_metadata({"name": NAMESPACE, "annotations": annotations})
        self.stores.namespaces.put(("", NAMESPACE), view)

    def annotate_vm(self, name: str, annotations: Mapping[str, str] | None = None) -> None:
        """Set the VirtualMachine and its annotations, as its watch brings it."""
        metadata = {"namespace": NAMESPACE, "name": name, "uid": f"vm-{name}", "annotations": annotations}
        self.stores.machines.put((NAMESPACE, name), VirtualMachineView.from_metadata(metadata))

    def start_instance(self, name: str, *, uid: str | None = None) -> None:
        """Set the VirtualMachineInstance, as its watch brings it."""
        owner = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": name, "uid": f"vm-{name}"}
        metadata = {
            "namespace": NAMESPACE,
            "name": name,
            "uid": uid or f"vmi-{name}",
            "ownerReferences": [{**owner, "controller": True}],
        }
        self.stores.instances.put((NAMESPACE, name), VirtualMachineInstanceView.from_metadata(metadata))

    def start_vm(self, name: str, *, in_line_with: Policy | None = None, missed: bool = False) -> str:
        """Set VirtualMachine, instance and a pod of the same name as `start_pod` does; returns the pod's path."""
        self.annotate_vm(name)
        self.start_instance(name)
        return self.start_pod(name, name, in_line_with=in_line_with, missed=missed)

    def start_vms(self, count: int, *, missed: bool = False) -> list[str]:
        """Start so many of them, `vm-0` and so on."""
        return [self.start_vm(f"vm-{number}", missed=missed) for number in range(count)]

    def start_pod(
        self, name: str, instance: str, *, in_line_with: Policy | None = None, missed: bool = False, uid: str = ""
    ) -> str:
        """Set a pod of an instance, in line with the policy in force or another one; returns its path.

        `missed`: as virt-controller makes it, without what the webhook writes.
        """
        pod = make_pod(name=name, ownerReferences=[make_owner(name=instance, uid=f"vmi-{instance}")])
        if not missed:
            policy = in_line_with or self.keeper.current().policy
            assert policy
            pod = patched(pod, decide_pod(pod, make_facts(), policy))
        pod["metadata"]["uid"] = uid or f"pod-{name}"
        path = PODS.object(name, NAMESPACE)
        self.api.put(path, pod)
        return path

    def delete_vm(self, name: str) -> None:
        """Take away the VirtualMachine, as its watch brings it."""
        self.stores.machines.put((NAMESPACE, name), None)

    def delete_instance(self, name: str) -> None:
        """Take away the VirtualMachineInstance, as its watch brings it."""
        self.stores.instances.put((NAMESPACE, name), None)

    def annotations(self, path: str) -> dict[str, str]:
        """The annotations of a pod."""
        return dict(self.api.objects[path]["metadata"].get("annotations") or {})

    def decided(self, path: str) -> tuple[str | None, str | None]:
        """The level and its source according to a pod's record, which must be intact."""
        annotations = self.annotations(path)
        assert is_intact(annotations)
        return annotations.get(EFFECTIVE_LEVEL), annotations.get(DECIDED_BY)

    def replace_annotations(self, path: str, annotations: Mapping[str, str]) -> None:
        """Set all annotations of a pod as somebody else would."""
        self.annotate_pod(path, {**dict.fromkeys(self.annotations(path)), **annotations})

    def annotate_pod(self, path: str, annotations: Mapping[str, str | None]) -> None:
        """Change a pod's annotations as somebody else would; None takes one away."""
        pod = deepcopy(self.api.objects[path])
        merged = {**(pod["metadata"].get("annotations") or {}), **annotations}
        pod["metadata"]["annotations"] = {key: text for key, text in merged.items() if text is not None}
        self.api.put(path, pod)

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric; 0 where it has no such series."""
        return self.metrics.registry.get_sample_value(f"vm_consistency_{name}", labels) or 0.0

    def writes(self, reason: str) -> float:
        """How many writes were counted for this reason."""
        return self.metric("reconcile_writes_total", reason=reason)

    def shown(self, name: str) -> dict[tuple[str, ...], float]:
        """The series of a gauge that are not 0, by their labels' values."""
        samples = [sample for family in self.metrics.registry.collect() for sample in family.samples]
        named = [sample for sample in samples if sample.name == f"vm_consistency_{name}"]
        return {tuple(sample.labels.values()): sample.value for sample in named if sample.value}
