"""Updates of a launcher pod, and whether the webhook must hear of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from app.core.annotations import HOOK_KEYS, RECORD_KEYS

OWNER = {
    "apiVersion": "kubevirt.io/v1",
    "kind": "VirtualMachineInstance",
    "name": "db",
    "uid": "6d6c1a3e-0000-4000-8000-000000000001",
    "controller": True,
}
LAUNCHER = {"kubevirt.io": "virt-launcher"}
FOREIGN = {"example.com/note": "1"}


@dataclass(frozen=True)
class State:
    """What of a pod changes. None is a map that the pod does not have at all."""

    annotations: dict[str, str] | None = None
    labels: dict[str, str] = field(default_factory=lambda: dict(LAUNCHER))
    owners: list[dict[str, Any]] | None = field(default_factory=lambda: [OWNER])
    image: str = "virt-launcher:1"

    def pod(self, name: str = "virt-launcher-db", namespace: str = "default") -> dict[str, Any]:
        """The pod, with null where it has no map."""
        metadata = {
            "name": name,
            "namespace": namespace,
            "annotations": self.annotations,
            "labels": self.labels,
            "ownerReferences": self.owners,
        }
        spec = {"containers": [{"name": "compute", "image": self.image}]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@dataclass(frozen=True)
class Update:
    """A pod before and after an UPDATE, and whether it is sent to the webhook."""

    name: str
    before: State
    after: State
    sent: bool


def _key(name: str, key: str, sent: bool) -> Iterator[Update]:
    """`key` arrives (also on a pod without any annotation), changes and goes (also as the last one)."""
    one, two = {**FOREIGN, key: "1"}, {**FOREIGN, key: "2"}
    yield Update(f"{name}-added", State(FOREIGN), State(one), sent)
    yield Update(f"{name}-added-as-the-first", State(None), State({key: "1"}), sent)
    yield Update(f"{name}-changed", State(one), State(two), sent)
    yield Update(f"{name}-emptied", State(one), State({**FOREIGN, key: ""}), sent)
    yield Update(f"{name}-removed", State(one), State(FOREIGN), sent)
    yield Update(f"{name}-removed-as-the-last", State({key: "1"}), State(None), sent)
    yield Update(f"{name}-kept", State(one), State({**one, "example.com/note": "2"}), False)


def _annotations() -> Iterator[Update]:
    for key in (*HOOK_KEYS, *RECORD_KEYS):
        yield from _key(key, key, sent=True)
    yield from _key("any-key-of-ours", "vm-consistency.io/not-invented-yet", sent=True)
    for key in (
        "example.com/other",
        "vm-consistency.io.example.com/level",
        "my-vm-consistency.io/level",
        "pre.hook.backup.velero.io/unknown",
        "pre.hook.restore.velero.io/command",
        "init.hook.restore.velero.io/command",
    ):
        yield from _key(key, key, sent=False)


def _others() -> Iterator[Update]:
    other, plain = {**OWNER, "uid": "6d6c1a3e-0000-4000-8000-000000000002"}, State()
    yield Update("label-added", plain, State(labels={**LAUNCHER, "a": "1"}), True)
    yield Update("label-changed", State(labels={**LAUNCHER, "a": "1"}), State(labels={**LAUNCHER, "a": "2"}), True)
    yield Update("label-removed", State(labels={**LAUNCHER, "a": "1"}), plain, True)
    yield Update("launcher-label-taken-away", plain, State(labels={"a": "1"}), True)
    yield Update("every-label-taken-away", plain, State(labels={}), True)
    yield Update("launcher-label-arrives", State(labels={}), plain, True)
    yield Update("owner-added", State(owners=None), plain, True)
    yield Update("owner-changed", plain, State(owners=[other]), True)
    yield Update("owner-removed", plain, State(owners=None), True)
    yield Update("image-changed", plain, State(image="virt-launcher:2"), False)
    yield Update("image-changed-without-owners", State(owners=None), State(owners=None, image="virt-launcher:2"), False)
    yield Update("nothing-changed", plain, plain, False)
    yield Update(
        "nothing-changed-with-hooks", State(dict.fromkeys(HOOK_KEYS, "1")), State(dict.fromkeys(HOOK_KEYS, "1")), False
    )


def _many() -> Iterator[Update]:
    """Pods with more annotations than the expression looks through, lest it take the API server seconds."""
    hook, ours = HOOK_KEYS[0], "vm-consistency.io/level"
    for number, too_many in ((499, False), (5_000, True)):
        many = {f"{index:x}": "" for index in range(number)}
        yield Update(f"foreign-among-{number}", State(many), State({**many, **FOREIGN}), too_many)
        yield Update(f"hook-among-{number}", State(many), State({**many, hook: "1"}), True)
        yield Update(f"ours-among-{number}", State(many), State({**many, ours: "crash"}), True)
        yield Update(f"emptied-of-{number}", State(many), State(None), too_many)
    prefixed = {f"vm-consistency.io/{index:x}": "" for index in range(499)}
    yield Update("only-ours-and-all-kept", State(prefixed), State({**prefixed, **FOREIGN}), False)


UPDATES = [*_annotations(), *_others(), *_many()]
