"""What was written to pods and has not come back by the watch yet."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from app.cluster.pods import RunningPod
from app.kube.store import Key, ObjectStore


@dataclass(slots=True)
class _Write:
    """What it replaced, or is known of that, and what it left."""

    resource_versions: frozenset[str]
    annotations: Mapping[str, str] | None
    is_last_word: bool = True
    """False as soon as there was reason to look at the pod again."""


class OwnWrites:
    """Tells the echo of a write from somebody else's: nothing is written twice, and no pod is looked at in vain."""

    def __init__(self, pods: ObjectStore[RunningPod]) -> None:
        self._pods = pods
        self._writes: dict[Key, _Write] = {}

    def __len__(self) -> int:
        return len(self._writes)

    def add(self, key: Key, pod: RunningPod, held: RunningPod, annotations: Mapping[str, str] | None) -> None:
        """Remember that `pod` was given `annotations` while the store held `held`."""
        self._writes[key] = _Write(frozenset((held.resource_version, pod.resource_version)), annotations)

    def forget(self, key: Key) -> None:
        """The pod is gone."""
        self._writes.pop(key, None)

    def is_echo(self, key: Key, old: RunningPod | None, new: RunningPod) -> bool:
        """Whether the watch brings what was written here, and nothing else."""
        write = self._writes.get(key)
        if write is None or not write.is_last_word or old is None:
            return False
        if new.view != replace(old.view, annotations=write.annotations):
            return False
        del self._writes[key]
        return True

    def is_pending(self, key: Key, pod: RunningPod) -> bool:
        """Whether the watch has yet to bring what became of `pod`; it is looked at when that comes."""
        write = self._writes.get(key)
        if write is None:
            return False
        if pod.resource_version not in write.resource_versions:
            del self._writes[key]
            return False
        write.is_last_word = False
        return True

    def unheard(self) -> Iterator[Key]:
        """Yield the pods whose write came back unheard: a list that brings one as it was before brings no change."""
        for key, write in self._writes.items():
            pod = self._pods.get(*key)
            if pod and pod.resource_version not in write.resource_versions:
                yield key
