"""What virt-controller does about pods that the product brings in line: its PATCHes and retries, by the audit log."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.bench.rivals import RIVALS
from tests.bench.scale.convergence import written
from tests.bench.scale.pods import patches
from tests.bench.scale.sender import Request, Sender
from tests.bench.scale.stage import FILESYSTEM, FLIPS, Policy, make_sender
from tests.bench.stage import admin_token
from tests.infra.controlplane import VIRT_CONTROLLER, ControlPlane, make_namespace, make_vm, wait_for
from tests.infra.controlplane.build import ensure
from tests.infra.controlplane.progress import say
from tests.infra.installation import WEBHOOK_USER, Installation, Replica

NAMESPACES = 10
_INSTANCES = "/apis/kubevirt.io/v1/namespaces/{}/virtualmachineinstances"
_MACHINES = "/apis/kubevirt.io/v1/namespaces/{}/virtualmachines"
_CONNECTIONS = 4
_QUEUE = "virt-controller-vmi"


@dataclass(frozen=True, slots=True)
class KubeVirtPlan:
    """How long in seconds."""

    idle: float = 30.0
    """How long it is watched that nothing happens."""
    still: float = 4.0
    """After how long without a request about a pod virt-controller counts as done."""
    patience: float = 600.0


@dataclass(frozen=True, slots=True)
class Window:
    """What happened between two moments: PATCHes of pods by answer, and what virt-controller tried again."""

    what: str
    seconds: float
    by_controller: dict[int, int]
    by_product: dict[int, int]
    retries: float
    """Of virt-controller's queue of instances: keys that came back after an error."""

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.seconds:.0f} s, virt-controller {self.by_controller or 'nothing'}, "
            f"product {self.by_product or 'nothing'}, {self.retries:.0f} retries"
        )


@dataclass(slots=True)
class KubeVirtResults:
    """One window after the other."""

    machines: int
    plan: KubeVirtPlan
    windows: list[Window] = field(default_factory=list)


@dataclass(frozen=True)
class KubeVirtStage:
    """The real virt-controller with its machines, and the product, which has no limit to its writes."""

    control_plane: ControlPlane
    installation: Installation
    replica: Replica
    admin: Sender
    names: Sequence[tuple[str, str]]
    """Namespace and name of each machine."""


@contextmanager
def kubevirt_stage(count: int) -> Iterator[KubeVirtStage]:
    """Start everything, and let virt-controller make the pods of `count` machines."""
    ensure(RIVALS)
    with ControlPlane(audit_level="Metadata") as control_plane:
        control_plane.install_kubevirt()
        control_plane.start_virt_controller()
        installation = Installation(control_plane)
        installation.apply()
        installation.set_policy(FILESYSTEM)
        replica = installation.replica(env={"VM_CONSISTENCY_RECONCILE_RATE": "0"})
        installation.route_to(replica.url)
        replica.process.start()
        admin = make_sender(control_plane, "admin", admin_token(control_plane))
        names = [(f"fleet-{number % NAMESPACES}", f"machine-{number:04}") for number in range(count)]
        stage = KubeVirtStage(control_plane, installation, replica, admin, names)
        _create_machines(stage)
        yield stage


Act = Callable[[KubeVirtStage, KubeVirtPlan], None]
"""Does something and returns when all is still again."""


def _create_machines(stage: KubeVirtStage) -> None:
    client = stage.control_plane.client
    for namespace in sorted({namespace for namespace, _ in stage.names}):
        client.create(make_namespace(namespace))
    say(f"{len(stage.names)} machines and their pods, made by virt-controller")
    machines = (
        Request("POST", _MACHINES.format(namespace), make_vm(name, namespace)) for namespace, name in stage.names
    )
    stage.admin.send(machines, connections=_CONNECTIONS)


def run(stage: KubeVirtStage, plan: KubeVirtPlan) -> KubeVirtResults:
    """Let every instance be reconciled before and after a flip, and count."""
    results = KubeVirtResults(len(stage.names), plan)
    pods = "vm_consistency_pods"
    wait_for(lambda: stage.replica.metric(pods) == len(stage.names), plan.patience, what="the pods", interval=0.5)
    _settle(stage, plan)

    def window(what: str, act: Act | None = None) -> None:
        results.windows.append(_window(stage, plan, what, act))
        say(str(results.windows[-1]))

    window("filesystem, idle")
    window("filesystem, every instance reconciled once", _touch)
    window("flip to crash, until all is still", lambda stage, plan: _flip(stage, FLIPS["level"], plan))
    window("crash, idle")
    window("crash, every instance reconciled once", _touch)
    window("crash, every instance reconciled again", _touch)
    window("flip back to filesystem, until all is still", lambda stage, plan: _flip(stage, FILESYSTEM, plan))
    return results


def _touch(stage: KubeVirtStage, plan: KubeVirtPlan) -> None:
    """Change something about every instance, so that virt-controller reconciles it."""
    touched = {"metadata": {"annotations": {"example.com/touched": str(time.monotonic())}}}
    requests = (
        Request("PATCH", f"{_INSTANCES.format(namespace)}/{name}", touched, "application/merge-patch+json")
        for namespace, name in stage.names
    )
    stage.admin.send(requests, connections=_CONNECTIONS)
    _settle(stage, plan)


def _flip(stage: KubeVirtStage, policy: Policy, plan: KubeVirtPlan) -> None:
    before = written(stage.replica)
    stage.installation.set_policy(policy)
    wait_for(lambda: written(stage.replica) >= before + len(stage.names), plan.patience, what="the product's writes")
    _settle(stage, plan)
    left = sum(1 for _ in patches(stage.control_plane.client, policy))
    assert left == 0, f"{left} of {len(stage.names)} pods are not in line"


def _settle(stage: KubeVirtStage, plan: KubeVirtPlan) -> None:
    """Wait until virt-controller has nothing to do, and nobody has asked for anything about pods for a while."""
    control_plane, seen, since = stage.control_plane, stage.control_plane.audit_position(), time.monotonic()

    def still() -> bool:
        nonlocal seen, since
        events = control_plane.audit_events(since=seen, resource="pods")
        queue = control_plane.virt_controller_metric("kubevirt_workqueue_depth", name=_QUEUE)
        if events or queue:
            seen, since = control_plane.audit_position(), time.monotonic()
        return time.monotonic() - since > plan.still

    wait_for(still, plan.patience, what="virt-controller to be done", interval=0.25)


def _window(stage: KubeVirtStage, plan: KubeVirtPlan, what: str, act: Act | None) -> Window:
    control_plane = stage.control_plane
    since, started, retries = control_plane.audit_position(), time.monotonic(), _retries(stage)
    if act:
        act(stage, plan)
    else:
        time.sleep(plan.idle)
    by_controller, by_product = (_answers(control_plane, since, user) for user in (VIRT_CONTROLLER, WEBHOOK_USER))
    return Window(what, time.monotonic() - started, by_controller, by_product, _retries(stage) - retries)


def _retries(stage: KubeVirtStage) -> float:
    return stage.control_plane.virt_controller_metric("kubevirt_workqueue_retries_total", name=_QUEUE)


def _answers(control_plane: ControlPlane, since: int, user: str) -> dict[int, int]:
    """How often a user's PATCHes of pods got each answer."""
    events = control_plane.audit_events(since=since, user=user, verb="patch", resource="pods")
    return dict(Counter(event["responseStatus"]["code"] for event in events))


def table(results: KubeVirtResults) -> str:
    """The windows as text."""
    title = f"PATCHes of {results.machines:,} pods by answer"
    head = f"{title:52}{'seconds':>10}{'virt-controller':>26}{'product':>20}{'retries':>9}"
    return "\n".join([head, *map(_line, results.windows)])


def _line(one: Window) -> str:
    controller, product = (_counts(answers) for answers in (one.by_controller, one.by_product))
    return f"  {one.what:50}{one.seconds:>10.0f}{controller:>26}{product:>20}{one.retries:>9.0f}"


def _counts(answers: dict[int, int]) -> str:
    return ", ".join(f"{count} x {code}" for code, count in sorted(answers.items())) or "0"


def as_json(results: KubeVirtResults) -> dict[str, Any]:
    """Everything."""
    return asdict(results)
