"""A virtual machine whole: its objects in the cluster, the node that runs its launcher pod, and the guest itself."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from app.core.annotations import COMMAND, EFFECTIVE_LEVEL, EFFECTIVE_PROFILE, LEVEL, PRE, PROFILE
from tests.infra.controlplane import Client, ControlPlane, Json, make_namespace, make_vm, wait_for
from tests.infra.guests.guest import Guest
from tests.infra.guests.hypervisor import Hypervisor
from tests.infra.guests.node import Node
from tests.infra.guests.snapshotter import DiskArray
from tests.infra.guests.velero import Velero
from tests.infra.installation import Installation, annotations, serving


@dataclass(frozen=True, slots=True)
class World:
    """The VirtualMachine `name` in `namespace`, running on `node` as `guest`; the guest's data disk is its volume."""

    client: Client
    namespace: str
    name: str
    node: Node
    guest: Guest
    pod_name: str

    def pod(self) -> Json:
        """The launcher pod as it is now."""
        return self.client.get("pods", self.pod_name, self.namespace)

    def annotations(self) -> dict[str, str]:
        """What stands on it."""
        return annotations(self.pod())

    def hook(self, phase: str) -> list[str]:
        """The argv of its hook of a phase, PRE or POST of app.core.annotations."""
        argv: list[str] = json.loads(self.annotations()[phase + COMMAND])
        return argv

    def choose(self, level: str | None, profile: str | None = None) -> Self:
        """Annotate the VirtualMachine, and return when its running pod has followed; None: as the policy says."""
        wanted = {LEVEL: level, PROFILE: profile}
        self.client.patch("virtualmachines", self.name, {"metadata": {"annotations": wanted}}, self.namespace)
        if level:
            self.wait_for_level(level, profile)
        return self

    def wait_for_level(self, level: str, profile: str | None = None) -> None:
        """Return when the record on the running pod says so."""

        def recorded() -> bool:
            found = self.annotations()
            return (found.get(EFFECTIVE_LEVEL), found.get(EFFECTIVE_PROFILE)) == (level, profile)

        wait_for(recorded, what=f"{self.namespace}/{self.name} at level {level}, profile {profile}")

    def wait_for_pre_hook(self, part: str, key: str = COMMAND) -> None:
        """Return when the running pod's hook contains that; a hook follows the policy a little later."""
        wait_for(lambda: part in self.annotations().get(PRE + key, ""), what=f"a pre hook with {part}")


class Worlds:
    """Makes worlds in one cluster."""

    def __init__(self, control_plane: ControlPlane, hypervisor: Hypervisor, array: DiskArray) -> None:
        self._cp = control_plane
        self._hypervisor = hypervisor
        self._array = array

    def around(self, guest: Guest, *, agent: bool = True, vm_annotations: Mapping[str, str] | None = None) -> World:
        """Namespace, volume, VirtualMachine and node for a guest that was started; returns when all of it runs.

        Without `agent` it waits for the guest's last word on its console instead.
        """
        client = self._cp.client
        namespace, _, name = guest.domain.partition("_")
        client.create(make_namespace(namespace))
        self._array.claim("data", namespace, guest.data_disk)
        disks = {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}
        client.create(make_vm(name, namespace, guest=disks, annotations=vm_annotations))
        node = Node(self._cp, namespace, guest.run_kubevirt, self._hypervisor.environment).start()
        pod = node.run(name, namespace)
        if agent:
            guest.wait_agent()
        else:
            guest.wait_console("ready")
        return World(client, namespace, name, node, guest, pod["metadata"]["name"])


@contextmanager
def product_and_velero(cp: ControlPlane, policy: Mapping[str, object]) -> Iterator[tuple[Installation, Velero]]:
    """The product as shipped with `policy` in force, and Velero, started side by side; Velero ends with the cluster."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        velero = thread.submit(Velero.started, cp)
        with serving(cp, policy) as installed:
            yield installed, velero.result()
