"""The admission of the policy ConfigMap: a policy with errors is denied, with all of them."""

import asyncio
from typing import Any

from app.admission.ports import PolicySource
from app.admission.review import CREATE, DELETE, UPDATE, AdmissionRequest, Denial, MalformedReview, Verdict
from app.core.policy import PolicyState, Standing
from app.core.policy_v1alpha1.config_map import KEY, Parsed, PolicyText
from app.core.policy_v1alpha1.load import Finding

_MAX_ERRORS = 100
_MAX_ERROR_CHARS = 16_384
"""Of all errors together: a terminal full, many times over."""
_MAX_WARNINGS = 12
"""kube-apiserver cuts what goes beyond 4096 characters in all (admission.k8s.io/v1)."""


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
