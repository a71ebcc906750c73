"""Launcher pods of many VirtualMachines, and what should stand on them."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from app.core.policy import Level
from app.core.record import with_record
from tests.apiserver.pods import PRE, filesystem_hooks, kubevirt_hooks, owner_of, pod_like_a_launcher
from tests.infra.controlplane import Client, Json, make_namespace, make_vm, make_vmi, wait_for
from tests.infra.installation import annotations

FOREIGN = {"example.com/theirs": "kept"}


def policy(timeout: int) -> dict[str, object]:
    """A policy that differs from another one in a single hook annotation."""
    return {"default": {"level": "filesystem"}, "hooks": {"freeze": {"timeout": f"{timeout}s"}}}


def frozen(namespace: str, vm: str, timeout: int, source: str = "default") -> dict[str, str]:
    """All annotations of a pod of the fleet under `policy(timeout)`."""
    hooks = {**filesystem_hooks(vm, namespace), PRE + "timeout": f"{timeout}s"}
    return {**FOREIGN, **with_record(hooks, Level.FILESYSTEM, None, source)}


def crashed(source: str) -> dict[str, str]:
    """All annotations of a pod of level crash."""
    return {**FOREIGN, **with_record({}, Level.CRASH, None, source)}


class Fleet:
    """A VirtualMachine, its instance and its pod, many times over, as virt-controller makes them, but nobody runs them.

    The pods come through admission. Machine, instance and pod of one have one name.
    """

    def __init__(self, client: Client, namespaces: Iterable[str], each: int) -> None:
        self.client = client
        self.members = [(namespace, f"vm-{number}") for namespace in namespaces for number in range(each)]

    def create(self) -> "Fleet":
        """Create all of it, the Namespaces included."""
        for namespace in {namespace: None for namespace, _ in self.members}:
            if self.client.find("namespaces", namespace) is None:
                self.client.create(make_namespace(namespace))
        self.client.list("virtualmachines", "default")  # so that the threads find it discovered
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda member: self._start(*member), self.members))
        return self

    def _start(self, namespace: str, name: str) -> None:
        vm = self.client.create(make_vm(name, namespace))
        vmi = make_vmi(name, namespace)
        vmi["metadata"]["ownerReferences"] = [owner_of(vm)]
        owner = owner_of(self.client.create(vmi))
        pod = pod_like_a_launcher(namespace, owner, annotations={**FOREIGN, **kubevirt_hooks(name, namespace)})
        pod["metadata"]["name"] = name
        self.client.create(pod)

    def pods(self) -> dict[tuple[str, str], Json]:
        """The pods as they are stored now, by Namespace and name."""
        found: dict[tuple[str, str], Json] = {}
        for namespace in {namespace for namespace, _ in self.members}:
            for pod in self.client.list("pods", namespace):
                found[namespace, pod["metadata"]["name"]] = pod
        return {member: found[member] for member in self.members}

    def versions(self) -> dict[tuple[str, str], str]:
        """The resourceVersion of each: equal means that nobody wrote."""
        return {member: pod["metadata"]["resourceVersion"] for member, pod in self.pods().items()}

    def wrong(self, expected: Callable[[str, str], Mapping[str, str]]) -> list[tuple[str, str]]:
        """The members whose annotations are not all that `expected` says of Namespace and name."""
        return [member for member, pod in self.pods().items() if annotations(pod) != expected(*member)]

    def right(self, expected: Callable[[str, str], Mapping[str, str]], seconds: float = 60) -> None:
        """Wait until all annotations of every pod are as expected."""
        wait_for(lambda: not self.wrong(expected), seconds, what="every pod to be right", interval=0.2)

    def frozen(self, timeout: int, source: str = "default") -> Callable[[str, str], Mapping[str, str]]:
        """What is expected of all under `policy(timeout)`."""
        return lambda namespace, vm: frozen(namespace, vm, timeout, source)
