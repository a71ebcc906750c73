"""A cluster in memory for the reconciler: stores filled by hand, an API server that knows pods, and what is told.

The stores, the facts, the policy's keeper and the metrics are the real ones; the watch is a delay.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

from app.controllers.events import EventRecorder, ObjectRef
from app.controllers.pod_reconciler import PodReconciler
from app.controllers.pod_reports import PodReports
from app.controllers.policy_keeper import PolicyKeeper
from app.core.constants import UPSTREAM
from app.core.objects import NamespaceView, VirtualMachineInstanceView, VirtualMachineView
from app.core.policy import BUILT_IN, Policy
from app.kube.client import JSON_PATCH, Json, KubeClient
from app.kube.cluster import ClusterStores
from app.kube.lookup import StoreFacts
from app.kube.pods import PodIndex, RunningPod, running_pod
from app.kube.resources import PODS
from app.kube.store import Key, ObjectStore
from app.server.metrics import Metrics
from tests.infra.factories import NAMESPACE, decide_pod, make_facts, make_owner, make_pod, patched, policy_text
from tests.infra.stand_ins.api_objects import StandInApi

LAG = 0.01
"""Seconds until the watch brings a change."""


class PodsApi(StandInApi):
    """Pods, with a watch that fills a store; `lag` None is a watch that stands still."""

    def __init__(self) -> None:
        super().__init__()
        self.pods: ObjectStore[RunningPod] = ObjectStore()
        self.pods.synced = True
        self.lag: float | None = LAG
        self.delay = 0.0
        """Seconds from a write to its answer."""
        self._told = 0

    @property
    def patches(self) -> list[str]:
        """The names of the pods that somebody tried to patch, in order."""
        return [path.rpartition("/")[2] for verb, path in self.requests if verb == "patch"]

    def put(self, path: str, body: Json) -> Json:
        """Set a pod; the watch tells of it."""
        held = super().put(path, body)
        self._watch(path, held)
        return held

    def remove(self, path: str) -> None:
        """Delete a pod; the watch tells of it."""
        self._watch(path, None, self.objects.pop(path))

    def relist(self) -> None:
        """Bring all that there is as a list does."""
        kept = {_key(item): running_pod(item, UPSTREAM) for item in deepcopy(self.objects).values()}
        self.pods.replace({key: pod for key, pod in kept.items() if pod})

    async def get(self, path: str, *, metadata_only: bool = False) -> Json:
        """GET a pod."""
        assert metadata_only
        return await super().get(path)

    async def patch_unread(self, path: str, body: list[Json]) -> bytes:
        """Patch a pod with a JSON patch."""
        stored = await self.patch(path, body, JSON_PATCH)
        await asyncio.sleep(self.delay)
        return json.dumps(stored, separators=(",", ":")).encode()

    def _watch(self, path: str, item: Json | None, old: Json | None = None) -> None:
        key = _key(item or old or {})
        if self.lag is not None:
            self._told += 1
            in_order = self.lag + self._told * 1e-7  # timers that are due together come in any order
            new = running_pod(deepcopy(item), UPSTREAM) if item else None
            asyncio.get_running_loop().call_later(in_order, self.pods.put, key, new)


def _key(item: Json) -> Key:
    return (item["metadata"]["namespace"], item["metadata"]["name"])


@dataclass(frozen=True)
class Told:
    """An Event that was recorded."""

    about: ObjectRef
    type: str
    reason: str
    message: str
    recurring: bool


class Recorder(EventRecorder):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Told] = []

    def record(self, about: ObjectRef, event_type: str, reason: str, message: str, *, recurring: bool = False) -> None:
        """Keep an Event, unless it is one that is told only once."""
        told = Told(about, event_type, reason, message, recurring)
        if recurring or told not in self.told:
            self.told.append(told)

    @property
    def reasons(self) -> list[str]:
        """The reasons of all of them."""
        return [told.reason for told in self.told]


class Cluster:
    """One Namespace of VirtualMachines, and the leader's reconciler."""

    def __init__(self, policy: Mapping[str, Any] | None = None) -> None:
        """`policy`: fields of the policy; None where there is no policy, for longer than the grace."""
        self.api, self.stores, self.recorder, self.metrics = PodsApi(), ClusterStores(UPSTREAM), Recorder(), Metrics()
        client = cast("KubeClient", self.api)
        now = asyncio.get_running_loop().time
        self.keeper = PolicyKeeper(self.metrics.policy_changed, clock=now, grace=0 if policy is None else 300)
        if policy is None:
            self.keeper.absent()
        else:
            self.set_policy(**policy)
        for store in (self.stores.namespaces, self.stores.instances, self.stores.machines, self.stores.kubevirts):
            store.synced = True
        self.annotate_namespace()
        self.reports = PodReports(self.recorder, self.metrics)
        self.in_touch = True
        self.facts = StoreFacts(client, self.stores, 1.0)
        self.index = PodIndex(self.api.pods)
        self.reconciler = self.make_reconciler(client)

    def make_reconciler(self, client: KubeClient, *, per_second: float = 0, concurrency: int = 4) -> PodReconciler:
        """Make one that is not running."""
        return PodReconciler(
            client,
            self.api.pods,
            self.index,
            self.stores,
            self.facts,
            self.keeper,
            self.reports,
            lambda: self.in_touch,
            per_second=per_second,
            concurrency=concurrency,
        )

    def set_policy(self, **fields: Any) -> None:
        """Bring a policy into force."""
        assert self.keeper.read(policy_text(**fields))

    def annotate_namespace(self, **annotations: str) -> None:
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

    def start_vm(self, name: str, *, policy: Policy | None = BUILT_IN) -> str:
        """Set VirtualMachine, instance and a pod of the same name, in line with `policy`; returns the pod's path."""
        self.annotate_vm(name)
        self.start_instance(name)
        return self.start_pod(name, name, policy=policy)

    def start_pod(self, name: str, instance: str, *, policy: Policy | None = BUILT_IN, uid: str = "") -> str:
        """Set a pod of an instance, in line with `policy`, or as virt-controller makes it; returns its path."""
        pod = make_pod(name=name, ownerReferences=[make_owner(name=instance, uid=f"vmi-{instance}")])
        if policy:
            pod = patched(pod, decide_pod(pod, make_facts(), policy))
        pod["metadata"]["uid"] = uid or f"pod-{name}"
        path = PODS.object(name, NAMESPACE)
        self.api.put(path, pod)
        return path

    def annotations(self, path: str) -> dict[str, str]:
        """What a pod carries."""
        return dict(self.api.objects[path]["metadata"].get("annotations") or {})

    def edit(self, path: str, **annotations: str | None) -> None:
        """Change a pod's annotations as somebody else would; `__` stands for a slash, `_` for a dash."""
        self.write(path, {key.replace("__", "/").replace("_", "-"): text for key, text in annotations.items()})

    def replace(self, path: str, annotations: Mapping[str, str]) -> None:
        """Set all annotations of a pod as somebody else would."""
        self.write(path, {**dict.fromkeys(self.annotations(path)), **annotations})

    def write(self, path: str, annotations: Mapping[str, str | None]) -> None:
        """Change a pod's annotations as somebody else would; None takes one away."""
        pod = deepcopy(self.api.objects[path])
        merged = {**(pod["metadata"].get("annotations") or {}), **annotations}
        pod["metadata"]["annotations"] = {key: text for key, text in merged.items() if text is not None}
        self.api.put(path, pod)

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric; 0 where it has no such series."""
        return self.metrics.registry.get_sample_value(f"vm_consistency_{name}", labels) or 0.0

    def shown(self, name: str) -> dict[tuple[str, ...], float]:
        """The series of a gauge that are not 0, by their labels' values."""
        found = {}
        for family in self.metrics.registry.collect():
            for sample in family.samples:
                if sample.name == f"vm_consistency_{name}" and sample.value:
                    found[tuple(sample.labels.values())] = sample.value
        return found

    @asynccontextmanager
    async def leads(self, reconciler: PodReconciler | None = None) -> AsyncIterator[None]:
        """The reconciler runs meanwhile; one that ends by itself fails the test."""
        await asyncio.sleep(2 * LAG)  # in which the watch brings what was put before
        task = asyncio.create_task((reconciler or self.reconciler).run())
        try:
            await asyncio.sleep(1)
            yield
            assert not task.done(), "the reconciler ended"
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def rest(seconds: float = 0.5) -> None:
    """Let everything happen that is due within `seconds`."""
    await asyncio.sleep(seconds)
