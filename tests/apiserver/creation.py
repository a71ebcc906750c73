"""The creation of a VM's launcher pod, as the API server's audit log tells it."""

from dataclasses import dataclass
from datetime import datetime

from tests.apiserver.pods import LEVEL
from tests.infra.controlplane import VIRT_CONTROLLER, ControlPlane, Json, launcher_pod, make_vm, wait_for
from tests.infra.installation import NAME, Installation

_FAILED_OPEN = "failed-open.mutation.webhook.admission.k8s.io/"


@dataclass(frozen=True, slots=True)
class Creation:
    """virt-controller's request that created the pod."""

    event: Json

    @property
    def seconds(self) -> float:
        """How long the API server took for it, the webhook included."""
        began, ended = (datetime.fromisoformat(self.event[at]) for at in ("requestReceivedTimestamp", "stageTimestamp"))
        return (ended - began).total_seconds()

    @property
    def failed_open(self) -> bool:
        """Whether the API server went on without an answer of the webhook."""
        return any(key.startswith(_FAILED_OPEN) for key in self.event["annotations"])


def start_vm(cp: ControlPlane, name: str, namespace: str) -> tuple[Json, Creation]:
    """The pod of a new VM that asks for level crash, and its creation."""
    since = cp.audit_position()
    cp.client.create(make_vm(name, namespace, annotations={LEVEL: "crash"}))
    pod = launcher_pod(cp.client, name, namespace)
    wanted = {"user": VIRT_CONTROLLER, "verb": "create", "resource": "pods", "namespace": namespace}

    def created() -> Json | None:
        events = cp.audit_events(since=since, **wanted)
        return next((event for event in events if event["responseStatus"]["code"] == 201), None)

    return pod, Creation(wait_for(created, what="the pod's creation in the audit log"))


def timeout_of(installation: Installation) -> float:
    """The seconds that the registration allows the webhook, which it must be able to do without."""
    [webhook] = installation.cp.client.get("mutatingwebhookconfigurations", NAME)["webhooks"]
    assert webhook["failurePolicy"] == "Ignore"
    return float(webhook["timeoutSeconds"])
