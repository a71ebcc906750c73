"""The facts about a launcher pod's owner: from memory, and from the API server where memory can't know."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from app.admission.ports import LookupFailed
from app.cluster.stores import ClusterStores, KubeVirtView
from app.core.objects import Facts, NamespaceView, OwnerReference, VirtualMachineInstanceView, VirtualMachineView
from app.kube.client import ApiError, Json, KubeClient, KubeError
from app.kube.connection import reason_of
from app.kube.resources import NAMESPACES, Resource, kubevirts, virtual_machine_instances, virtual_machines

T = TypeVar("T")


class StoreFacts:
    """A `FactsSource` and a `NamespaceSource`: reads the stores, and sends one GET for each object that they lack.

    An object with another UID is lacking too.

    A store that has been without a watch for too long counts as empty: better a lookup, or a pod left as it is with a
    warning, than a decision by what was true an hour ago.

    A pod is created within a second after its VirtualMachineInstance, so that a watch may not have seen that one yet.
    What a GET gives isn't kept: the store belongs to its watch, and a "not found" is true only now.
    """

    def __init__(self, client: KubeClient, stores: ClusterStores, deadline: float) -> None:
        """`deadline`: seconds for all of one call."""
        names = stores.names
        self._client, self._stores, self._deadline = client, stores, deadline
        self._instances, self._machines = virtual_machine_instances(names), virtual_machines(names)
        self._kubevirts = kubevirts(names)
        self._flights: dict[tuple[str, str], asyncio.Task[Any]] = {}

    async def facts(self, namespace: str, vmi: OwnerReference) -> Facts:
        """What the cluster knows of `vmi`; raises LookupFailed."""
        remembered = self.known(namespace, vmi)
        if remembered:
            return remembered
        return await self._in_time(self._asked(namespace, vmi), f"{vmi.kind} {namespace}/{vmi.name}")

    async def namespace(self, name: str) -> NamespaceView:
        """A `NamespaceSource`; raises LookupFailed."""
        return await self._in_time(self._namespace(name), f"Namespace {name}")

    async def _in_time(self, lookup: Coroutine[Any, Any, T], what: str) -> T:
        try:
            async with asyncio.timeout(self._deadline):
                return await lookup
        except TimeoutError as error:
            late = f"the API server did not answer within {self._deadline:g} s"
            raise LookupFailed(f"looking up {what}: {late}") from error

    def known(self, namespace: str, vmi: OwnerReference, *, is_orphan: bool = False) -> Facts | None:
        """What the stores know of `vmi`; None where one of the objects is not there, or with another UID.

        `is_orphan`: the VirtualMachine that the instance names has been missing for so long that there is none.
        """
        stores = self._stores
        space, instance = self._known_namespace(namespace), self._known_instance(namespace, vmi)
        if space is None or instance is None or not self._knows_kubevirts():
            return None
        owner = instance.virtual_machine(stores.names)
        machine = self._known_machine(namespace, owner) if owner else None
        if owner and machine is None and not is_orphan:
            return None
        return Facts(space, instance, machine, _skip(view for _, view in sorted(stores.kubevirts.items())))

    def _knows_kubevirts(self) -> bool:
        return self._stores.kubevirts.synced and not self._stores.kubevirts.stale

    def _known_namespace(self, name: str) -> NamespaceView | None:
        return None if self._stores.namespaces.stale else self._stores.namespaces.get("", name)

    def _known_instance(self, namespace: str, vmi: OwnerReference) -> VirtualMachineInstanceView | None:
        store = self._stores.instances
        known = None if store.stale else store.get(namespace, vmi.name)
        return known if known and known.uid == vmi.uid else None

    def _known_machine(self, namespace: str, vm: OwnerReference) -> VirtualMachineView | None:
        store = self._stores.machines
        known = None if store.stale else store.get(namespace, vm.name)
        return known if known and known.uid == vm.uid else None

    async def _asked(self, namespace: str, vmi: OwnerReference) -> Facts:
        space, (instance, machine), skip = await asyncio.gather(
            self._namespace(namespace), self._owners(namespace, vmi), self._kubevirt_skip()
        )
        return Facts(space, instance, machine, skip)

    async def _namespace(self, name: str) -> NamespaceView:
        stores = self._stores
        found = self._known_namespace(name) or await self._fetch(NAMESPACES, name, None, "", stores.namespace)
        if found is None:
            raise LookupFailed(f"namespace {name} does not exist")
        return found

    async def _owners(
        self, namespace: str, vmi: OwnerReference
    ) -> tuple[VirtualMachineInstanceView | None, VirtualMachineView | None]:
        stores = self._stores
        instance = self._known_instance(namespace, vmi) or await self._fetch(
            self._instances, vmi.name, namespace, vmi.uid, stores.instance
        )
        if instance is None or instance.uid != vmi.uid:
            return None, None
        owner = instance.virtual_machine(stores.names)
        if owner is None:
            return instance, None
        machine = self._known_machine(namespace, owner) or await self._fetch(
            self._machines, owner.name, namespace, owner.uid, stores.machine
        )
        return instance, machine if machine and machine.uid == owner.uid else None

    async def _kubevirt_skip(self) -> str | None:
        stores, path = self._stores, self._kubevirts.collection()
        if self._knows_kubevirts():
            return _skip(view for _, view in sorted(stores.kubevirts.items()))

        async def listed() -> list[KubeVirtView]:
            page = await self._client.list_page(path, metadata_only=True, timeout=self._deadline)
            return [stores.kubevirt(item) for item in page.items]

        return _skip(await self._once((path, ""), listed, "the KubeVirt object") or [])

    async def _fetch(
        self, resource: Resource, name: str, namespace: str | None, uid: str, decode: Callable[[Json], T]
    ) -> T | None:
        try:
            path = resource.object(name, namespace)
        except ValueError:
            return None  # an ownerReference may hold anything; no object is called so

        async def got() -> T:
            return decode(await self._client.get(path, metadata_only=True, timeout=self._deadline))

        what = f"{resource} {namespace}/{name}" if namespace else f"{resource} {name}"
        return await self._once((path, uid), got, what)

    async def _once(self, key: tuple[str, str], start: Callable[[], Coroutine[Any, Any, T]], what: str) -> T | None:
        """Join a request under way for the same thing, or start it; None if the server says that there is no such.

        The wanted UID is part of the key: a request for the predecessor may have been answered too early for us.
        """
        task: asyncio.Task[T] | None = self._flights.get(key)
        if task is None:
            task = self._flights[key] = asyncio.create_task(start())
            task.add_done_callback(lambda done: self._landed(key, done))
        try:
            return await asyncio.shield(task)  # whoever runs out of time leaves it to the others
        except ApiError as error:
            if error.status == 404:
                return None
            raise LookupFailed(f"reading {what}: {error}") from error
        except KubeError as error:
            raise LookupFailed(f"reading {what}: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise LookupFailed(f"reading {what}: not an object of the API: {reason_of(error)}") from error

    def _landed(self, key: tuple[str, str], task: asyncio.Task[Any]) -> None:
        del self._flights[key]
        if not task.cancelled():
            task.exception()  # seen, also where nobody waited any more


def _skip(views: Iterable[KubeVirtView]) -> str | None:
    return next((view.skip for view in views if view.skip is not None), None)
