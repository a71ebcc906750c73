"""The admission of annotations on Namespaces and VirtualMachines: warnings about requests that have no effect."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from app.admission.ports import LookupFailed, NamespaceSource, PolicySource
from app.admission.review import CREATE, UPDATE, AdmissionRequest, MalformedReview, Verdict
from app.core.annotations import LEVEL, MANAGED, PROFILE
from app.core.kubevirt_names import KubeVirtNames
from app.core.launcher import PodView
from app.core.level_source import NAMESPACE, SKIP, TEMPLATE, VM, select_level
from app.core.objects import (
    SILENT,
    Facts,
    NamespaceView,
    OwnerReference,
    VirtualMachineInstanceView,
    VirtualMachineView,
    Wishes,
    string_map,
)
from app.core.policy import Policy


class AnnotationValidator:
    """Warns whoever writes a level, a profile or a switch that would not count; never denies.

    Each is judged by the same selection that decides on pods, as if it alone were asked for: what is unknown is told
    also where another source speaks first.
    """

    def __init__(self, policies: PolicySource, namespaces: NamespaceSource, names: KubeVirtNames) -> None:
        self._policies = policies
        self._namespaces = namespaces
        self._names = names
        self._machines = f"{names.api_group}/{names.kind_prefix.lower()}virtualmachines"

    async def validate(self, request: AdmissionRequest) -> Verdict:
        """Judge a write of a Namespace or a VirtualMachine. Raises MalformedReview."""
        policy = self._policies.current().policy
        if policy is None or request.operation not in (CREATE, UPDATE):
            return Verdict()  # without a policy all pods are left as they are, which is told elsewhere
        if request.resource == "namespaces":
            return Verdict(self._told(policy, self._on_namespace(request)))
        if request.resource != self._machines:
            return Verdict()
        try:
            return Verdict(self._told(policy, await self._on_machine(request)))
        except LookupFailed as error:
            return Verdict(trouble=str(error))

    def _told(self, policy: Policy, cases: list[tuple[Facts, PodView]]) -> list[str]:
        told: list[str] = []
        for facts, pod in cases:
            refusals = select_level(policy, facts, pod, self._names).refusals
            told += [refusal.message for refusal in refusals if refusal.source in (VM, TEMPLATE, SKIP, NAMESPACE)]
        return told

    def _on_namespace(self, request: AdmissionRequest) -> list[tuple[Facts, PodView]]:
        metadata = _metadata(request.object)
        space = NamespaceView.from_metadata(metadata, self._names)
        before = NamespaceView.from_metadata(_before(request), self._names).wishes
        machine = VirtualMachineView(space.name, "", "", SILENT)
        pod = _pod(space.name, {}, {})
        return [(_facts(replace(space, wishes=wishes), machine), pod) for wishes in _news(space.wishes, before)]

    async def _on_machine(self, request: AdmissionRequest) -> list[tuple[Facts, PodView]]:
        metadata = _metadata(request.object)
        named = {**metadata, "name": metadata.get("name") or metadata.get("generateName") or ""}
        machine = VirtualMachineView.from_metadata(named, self._names)
        template, template_before = _template(request.object), _template(request.old_object)
        own = list(_news(machine.wishes, VirtualMachineView.from_metadata(_before(request), self._names).wishes))
        below = list(_news(_wishes(template), _wishes(template_before)))
        if not own and not below:
            return []
        space = replace(await self._namespaces.namespace(request.namespace), wishes=SILENT)
        labels, silent = string_map(template, "labels"), replace(machine, wishes=SILENT)
        pod, facts = _pod(space.name, labels, {}), _facts(space, silent)
        return [
            *((_facts(space, replace(machine, wishes=wishes)), pod) for wishes in own),
            *((facts, replace(pod, annotations=_annotations(wishes))) for wishes in below),
        ]


def _news(now: Wishes, before: Wishes) -> Iterator[Wishes]:
    """Yield what was written anew, one matter at a time."""
    for fields in (("level", "profile"), ("managed",), ("skip",)):
        matter = Wishes(**{field: getattr(now, field) for field in fields})
        if matter not in (SILENT, Wishes(**{field: getattr(before, field) for field in fields})):
            yield matter


def _facts(space: NamespaceView, machine: VirtualMachineView) -> Facts:
    """The cluster with a running instance of `machine`."""
    owner = OwnerReference("", "", machine.name, machine.uid)
    return Facts(space, VirtualMachineInstanceView(space.name, machine.name, "", owner, SILENT), machine)


def _pod(namespace: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> PodView:
    return PodView(namespace, "", labels, annotations, None, terminating=False)


def _metadata(obj: dict[str, Any] | None) -> dict[str, Any]:
    metadata = (obj or {}).get("metadata")
    if not isinstance(metadata, dict):
        raise MalformedReview("metadata must be an object")
    return metadata


def _before(request: AdmissionRequest) -> dict[str, Any]:
    return _metadata(request.old_object) if request.operation == UPDATE else {}


def _template(machine: dict[str, Any] | None) -> Mapping[str, Any]:
    """The metadata of a VirtualMachine's template; empty where there is none."""
    found: Any = machine
    for field in ("spec", "template", "metadata"):
        found = found.get(field) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _wishes(template: Mapping[str, Any]) -> Wishes:
    return Wishes.from_annotations(string_map(template, "annotations"))


def _annotations(wishes: Wishes) -> dict[str, str]:
    asked = {LEVEL: wishes.level, PROFILE: wishes.profile, MANAGED: wishes.managed}
    return {key: value for key, value in asked.items() if value is not None}
