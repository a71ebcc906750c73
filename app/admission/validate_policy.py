"""The admission of what people write: the policy, and annotations on Namespaces and VirtualMachines."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from app.admission.mutate_pods import CREATE, UPDATE
from app.admission.ports import LookupFailed, NamespaceSource, PolicySource
from app.admission.review import AdmissionRequest, Denial, MalformedReview, Verdict
from app.core.annotations import LEVEL, MANAGED, PROFILE, KubeVirtNames
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
from app.core.policy import Policy, PolicyState, Standing
from app.core.policy_v1alpha1.config_map import KEY, Parsed, PolicyText
from app.core.policy_v1alpha1.load import Finding
from app.settings import Settings

DELETE = "DELETE"

_MAX_ERRORS = 100
_MAX_ERROR_CHARS = 16_384
"""Of all errors together: a terminal full, many times over."""
_MAX_WARNINGS = 12
"""kube-apiserver cuts what goes beyond 4096 characters in all (admission.k8s.io/v1)."""


class Validator(Protocol):
    """Judges what is written."""

    async def validate(self, request: AdmissionRequest) -> Verdict:
        """Return the verdict; raises MalformedReview for an object that is none of its kind."""
        ...


class PolicyValidator:
    """Denies a policy with errors, so that whoever writes it learns of them there and then.

    One policy is read at a time: the largest takes half a second, and anybody who reaches the port can send one.
    """

    def __init__(self, policies: PolicySource, namespace: str, name: str, *, grace: float, deadline: float) -> None:
        """`namespace` and `name` are the ConfigMap's; `grace`: seconds for which running pods keep a deleted policy.

        `deadline`: seconds to wait for one's turn.
        """
        self._policies = policies
        self._target = ("configmaps", namespace, name)
        self._grace, self._deadline = grace, deadline
        self._turn = asyncio.Lock()

    async def validate(self, request: AdmissionRequest) -> Verdict:
        """Judge a write of the policy; any other object is allowed. Raises MalformedReview."""
        if (request.resource, request.namespace, request.name) != self._target:
            return Verdict()
        if request.operation == DELETE:
            return Verdict(_farewell(self._grace))
        if request.operation not in (CREATE, UPDATE):
            return Verdict()
        written = _policy(request.object)
        if request.operation == UPDATE and written == _policy(request.old_object):
            return Verdict(_standing(self._policies.current()))  # who annotates a broken policy did not break it
        try:
            parsed = await self._read(written)
        except TimeoutError:
            trouble = "the policy was not checked, too many are being read at once"
            return Verdict([trouble], trouble=trouble)
        if isinstance(parsed, list):
            return Verdict(denial=_denial(request.name, parsed))
        return Verdict(_some([str(doubt) for doubt in parsed.doubts]))

    async def _read(self, written: PolicyText) -> Parsed:
        async with asyncio.timeout(self._deadline):
            await self._turn.acquire()
        try:
            return await asyncio.to_thread(written.parse)  # reviews of pods must not wait for it
        finally:
            self._turn.release()


def _policy(config_map: dict[str, Any] | None) -> PolicyText:
    if config_map is None:
        raise MalformedReview("the ConfigMap must be there")
    try:
        return PolicyText.of(config_map)
    except ValueError as error:
        raise MalformedReview(f"the ConfigMap is malformed: {error}") from None


def _farewell(grace: float) -> list[str]:
    return [
        "without this policy, every new virt-launcher pod gets the built-in default at once: filesystem, or crash by "
        "skip-backup-hooks; no rule holds any more, and annotations may choose any level",
        f"running virt-launcher pods follow in {grace / 60:g} min, unless a policy is there again by then",
    ]


def _standing(state: PolicyState) -> list[str]:
    outcome = {
        Standing.LAST_GOOD: "the last good one holds",
        Standing.INVALID: "every pod is left as it is",
    }.get(state.standing)
    return [f"the policy in this ConfigMap is invalid, {outcome}: {state.error}"] if outcome else []


def _denial(name: str, errors: list[Finding]) -> Denial:
    shown: list[str] = []
    room = _MAX_ERROR_CHARS
    for error in map(str, errors[:_MAX_ERRORS]):
        room -= len(error)
        if room < 0 and shown:
            break
        shown.append(error)
    if left := len(errors) - len(shown):
        shown.append(f"and {left} more; `vm-consistency policy check` shows all of them")
    count = "an error" if len(errors) == 1 else f"{len(errors)} errors"
    return Denial("ConfigMap", name, f"data[{KEY}]", f"{KEY} has {count}, and was not stored:", shown)


def _some(warnings: list[str]) -> list[str]:
    left = len(warnings) - _MAX_WARNINGS
    return [*warnings[:_MAX_WARNINGS], f"and {left} more doubts about the policy"] if left > 0 else warnings


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


def validators(policies: PolicySource, namespaces: NamespaceSource, settings: Settings) -> dict[str, Validator]:
    """Return all of them, by the last part of their path."""
    config_map = (settings.namespace, settings.policy_config_map)
    return {
        "policy": PolicyValidator(policies, *config_map, grace=settings.policy_grace, deadline=settings.deadline / 2),
        "annotations": AnnotationValidator(policies, namespaces, settings.names),
    }
