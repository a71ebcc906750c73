"""The pods that run, and how to find those of an instance."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from app.cluster.stores import shared
from app.core.kubevirt_names import KubeVirtNames
from app.core.launcher import PodView, lean
from app.core.objects import VirtualMachineInstanceView
from app.kube.client import Json, KubeClient
from app.kube.reflector import Reflector, Timings
from app.kube.resources import PODS
from app.kube.store import Key, ObjectStore

NOT_ENDED: Final = "status.phase!=Succeeded,status.phase!=Failed"
"""Velero runs no hooks in a pod that has ended; migrations leave one each."""


@dataclass(frozen=True, slots=True)
class RunningPod:
    """A pod as it stands in the cluster; two that differ in nothing but their version are equal."""

    view: PodView
    uid: str
    resource_version: str = field(compare=False)

    @property
    def owner_uid(self) -> str:
        """The UID in its controller ownerReference."""
        assert self.view.controller is not None  # or else it would not have been kept
        return self.view.controller.uid


def running_pod(item: Json, names: KubeVirtNames, spared: frozenset[str] = frozenset()) -> RunningPod | None:
    """Decode a pod or its PartialObjectMetadata; None for one that no controller owns, and in `spared` namespaces.

    Those are left alone, as the registration of the webhook leaves them out. Whose launcher a pod is, if it is one,
    can't be told by the pod alone.
    """
    metadata = shared(item["metadata"])
    pod = PodView.from_object({"metadata": metadata}, metadata["namespace"])
    if pod.namespace in spared or pod.controller is None:
        return None
    return RunningPod(_compact(lean(pod, names)), metadata["uid"], metadata["resourceVersion"])


def launcher_reflector(
    client: KubeClient,
    store: ObjectStore[RunningPod],
    names: KubeVirtNames,
    spared: frozenset[str],
    timings: Timings | None = None,
) -> Reflector[RunningPod]:
    """What keeps `store` at the pods of KubeVirt that have not ended, of all but the `spared` namespaces.

    By the key of the launcher label, as KubeVirt does it: a tenant who changes its value takes a pod away from
    admission, but not from KubeVirt's re-sync.
    """
    selectors = {"labelSelector": names.launcher_label, "fieldSelector": NOT_ENDED}
    return Reflector(
        client,
        PODS,
        store,
        lambda item: running_pod(item, names, spared),
        selectors=selectors,
        metadata_only=True,
        timings=timings,
    )


class PodIndex:
    """The keys of the pods in a store by namespace, and by the UID in their controller ownerReference."""

    def __init__(self, store: ObjectStore[RunningPod]) -> None:
        self._namespaces: dict[str, dict[Key, None]] = {}
        self._owners: dict[str, dict[Key, None]] = {}
        for key, pod in store.items():
            self._add(key, pod)
        self.close = store.subscribe(self._changed)

    def of_namespace(self, namespace: str) -> Collection[Key]:
        """The pods of a namespace."""
        return tuple(self._namespaces.get(namespace, ()))

    def of_owner(self, uid: str) -> Collection[Key]:
        """The pods of an instance; during a migration there are two."""
        return tuple(self._owners.get(uid, ()))

    def _changed(self, key: Key, old: RunningPod | None, new: RunningPod | None) -> None:
        if old is not None:
            self._remove(key, old)
        if new is not None:
            self._add(key, new)

    def _add(self, key: Key, pod: RunningPod) -> None:
        self._namespaces.setdefault(key[0], {})[key] = None
        self._owners.setdefault(pod.owner_uid, {})[key] = None

    def _remove(self, key: Key, pod: RunningPod) -> None:
        for groups, name in ((self._namespaces, key[0]), (self._owners, pod.owner_uid)):
            group = groups[name]
            del group[key]
            if not group:
                del groups[name]


class InstanceIndex:
    """The VirtualMachineInstances in a store by their UID."""

    def __init__(self, store: ObjectStore[VirtualMachineInstanceView]) -> None:
        self._store = store
        self._keys: dict[str, Key] = {view.uid: key for key, view in store.items()}
        self.close = store.subscribe(self._changed)

    def get(self, uid: str) -> VirtualMachineInstanceView | None:
        """The instance of that UID."""
        key = self._keys.get(uid)
        return self._store.get(*key) if key else None

    def _changed(
        self, key: Key, old: VirtualMachineInstanceView | None, new: VirtualMachineInstanceView | None
    ) -> None:
        if old is not None:
            self._keys.pop(old.uid, None)
        if new is not None:
            self._keys[new.uid] = key


def _compact(pod: PodView) -> PodView:
    """Share the strings that thousands of pods have in common."""
    return PodView(
        pod.namespace,
        pod.name,
        _shared_map(pod.labels),
        None if pod.annotations is None else _shared_map(pod.annotations),
        pod.controller,
        pod.terminating,
        pod.unread_bytes,
    )


_MAX_SHARED = 24
"""Characters of a value that is worth sharing; names and digests are longer, and each pod's own."""
_SHARED: Final[dict[str, str]] = {}
_MAX_SHARED_COUNT = 4096
"""Tenants write labels; so this is bounded, and not sys.intern, which from Python 3.12 on keeps a string for good."""


def _shared_map(strings: Mapping[str, str]) -> Mapping[str, str]:
    return {_share(key): _share(text) if len(text) <= _MAX_SHARED else text for key, text in strings.items()}


def _share(text: str) -> str:
    return _SHARED.setdefault(text, text) if len(_SHARED) < _MAX_SHARED_COUNT else _SHARED.get(text, text)
