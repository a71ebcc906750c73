"""What `verify` reads of the cluster before it runs anything, and why it may refuse to."""

from dataclasses import dataclass
from typing import Any

from app.cluster.pods import NOT_ENDED, running_pod
from app.core.evidence.hook_trial import Subject, kubectl_thaw
from app.core.evidence.velero_backups import can_include, may_run_hooks
from app.core.kubevirt_names import KubeVirtNames
from app.core.launcher import recognise_running
from app.core.objects import OwnerReference, VirtualMachineInstanceView, string_map
from app.kube.client import ApiError, Json, KubeClient, KubeError, UnreadableAnswer
from app.kube.resources import BACKUPS, NAMESPACES, PODS, virtual_machine_instances

FROZEN = "frozen"
_NO_VELERO = f"{BACKUPS} is not served: Velero is not installed in this cluster"


class Refused(Exception):  # noqa: N818 - the answer of a command that works as it should
    """Nothing is run; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """A running VM whose hooks may be run now.

    `backups`: the names of Velero's that can include its namespace; None where they can't be seen, or where there is
    no Velero. `unseen` says why they can't be seen. `notes`: what else is worth knowing.
    """

    subject: Subject
    instance_path: str
    backups: frozenset[str] | None
    unseen: str
    notes: tuple[str, ...]


class Reading:
    """Reads one VM and Velero's backups with the caller's own credentials; every method raises KubeError."""

    def __init__(self, client: KubeClient, names: KubeVirtNames, velero_namespace: str) -> None:
        self._client, self._names, self._velero = client, names, velero_namespace

    async def subject(self, namespace: str, vm: str) -> Subject:
        """The pod and its hooks, whatever is going on; raises Refused where there is no one launcher pod that runs."""
        return (await self._read(namespace, vm))[0]

    async def target(self, namespace: str, vm: str) -> Target:
        """The VM, if its hooks may be run now; raises Refused."""
        subject, instance, path = await self._read(namespace, vm)
        status = _part(instance, "status")
        if status.get("fsFreezeStatus") == FROZEN:
            by_hand = kubectl_thaw(subject, self._names)
            raise Refused(f"the guest is frozen: another backup or snapshot is at work. If none is: {by_hand}")
        backups, unseen = await self._backups(namespace)
        notes = _notes(status) if backups is not None or unseen else (*_notes(status), _NO_VELERO)
        return Target(subject, path, backups, unseen, notes)

    async def new_backups(self, target: Target) -> tuple[str, ...]:
        """The backups that appeared since; none where they can't be seen."""
        if target.backups is None:
            return ()
        found = {backup["metadata"]["name"] for backup in await self._listed(target.subject.namespace)}
        return tuple(sorted(found - target.backups))

    async def _read(self, namespace: str, vm: str) -> tuple[Subject, Json, str]:
        instance, path = await self._instance(namespace, vm)
        pod = await self._pod(VirtualMachineInstanceView.from_metadata(instance["metadata"], self._names))
        metadata, spec = _part(pod, "metadata"), _part(pod, "spec")
        containers = [str(container.get("name")) for container in spec.get("containers") or []]
        annotations = string_map(metadata, "annotations")
        return Subject.of(namespace, vm, str(metadata["name"]), annotations, containers), instance, path

    async def _instance(self, namespace: str, vm: str) -> tuple[Json, str]:
        resource = virtual_machine_instances(self._names)
        try:
            path = resource.object(vm, namespace)
            instance = await self._client.get(path)
        except ValueError:
            raise Refused(f"{vm!r} is no name of a VM, or {namespace!r} none of a namespace") from None
        except ApiError as error:
            if error.status == 404 and error.reason == "NotFound":
                raise Refused(f"the VM {namespace}/{vm} does not run, or does not exist") from None
            if error.status == 404:
                served = f"{resource} is not served: KubeVirt is not installed there"
                raise KubeError(f"{self._client.server}: {served}, or runs under other names") from error
            raise
        _check(instance, f"{namespace}/{vm}")
        return instance, path

    async def _pod(self, instance: VirtualMachineInstanceView) -> Json:
        selectors = {"labelSelector": self._names.launcher_label, "fieldSelector": NOT_ENDED}
        path = PODS.collection(instance.namespace)
        found: list[str] = []
        for item in await self._client.list_all(path, selectors=selectors, metadata_only=True):
            pod = running_pod(item, self._names)
            if pod and isinstance(recognise_running(pod.view, instance, self._names), OwnerReference):
                found.append(pod.view.name)
        whose = f"the VM {instance.namespace}/{instance.name}"
        if len(found) > 1:
            raise Refused(f"{whose} has {len(found)} launcher pods: it migrates; try again when that is over")
        pod_object = await self._client.get(PODS.object(found[0], instance.namespace)) if found else {}
        if _part(pod_object, "status").get("phase") != "Running":
            raise Refused(f"{whose} has no launcher pod that runs")
        return pod_object

    async def _backups(self, namespace: str) -> tuple[frozenset[str] | None, str]:
        where = f"backups.velero.io in namespace {self._velero}"
        try:
            found = await self._listed(namespace)
            if not found:
                await self._check_velero_namespace()
        except ApiError as error:
            if error.status == 403:
                return None, f"you may not list {where}"
            if error.status == 404 and error.reason != "NotFound":
                return None, ""
            raise
        under_way = sorted(backup["metadata"]["name"] for backup in found if may_run_hooks(backup, namespace))
        if under_way:
            raise Refused(
                f"Velero's backup {', '.join(under_way[:3])} is in progress or about to start, and can include "
                f"namespace {namespace}; try again when it is over"
            )
        return frozenset(backup["metadata"]["name"] for backup in found), ""

    async def _listed(self, namespace: str) -> list[Json]:
        """Velero's backups that can include `namespace`."""
        listed = await self._client.list_all(BACKUPS.collection(self._velero))
        try:
            return [item for item in listed if item["metadata"]["name"] and can_include(_spec(item), namespace)]
        except (KeyError, TypeError, AttributeError) as error:
            raise UnreadableAnswer(f"{self._client.server}: the list of {BACKUPS} can't be read") from error

    async def _check_velero_namespace(self) -> None:
        """A namespace that does not exist has no backups either; a mistyped one would pass every check."""
        try:
            await self._client.get(NAMESPACES.object(self._velero), metadata_only=True)
        except ApiError as error:
            if error.status == 404:
                raise Refused(
                    f"there is no namespace {self._velero}: say with --velero-namespace where Velero is"
                ) from None
            if error.status != 403:
                raise


def _check(instance: Json, name: str) -> None:
    status = _part(instance, "status")
    if status.get("phase") != "Running":
        raise Refused(f"the VM {name} is {status.get('phase') or 'not started yet'}, not Running")
    migration = _part(status, "migrationState")
    if migration.get("startTimestamp") and not (migration.get("completed") or migration.get("failed")):
        raise Refused(f"the VM {name} migrates; try again when that is over")


def _notes(status: Json) -> tuple[str, ...]:
    conditions = status.get("conditions")
    states = {item.get("type"): item.get("status") for item in conditions or [] if isinstance(item, dict)}
    notes = []
    if states.get("Paused") == "True":
        notes.append("the VM is paused: virt-freezer does nothing to it")
    if states.get("AgentConnected") != "True":
        notes.append("KubeVirt sees no guest agent in the guest: without one nothing can be frozen")
    return tuple(notes)


def _part(item: Json, field: str) -> dict[str, Any]:
    value = item.get(field)
    return value if isinstance(value, dict) else {}


def _spec(item: Json) -> dict[str, Any]:
    return _part(item, "spec")
