"""The admission of pods: from an AdmissionRequest to a decision."""

from typing import Any

from app.admission.ports import FactsSource, LookupFailed, PolicySource
from app.admission.review import CREATE, UPDATE, AdmissionRequest, MalformedReview
from app.core.decision import Decision, Reason, decide, discarding, ignored, keep, undecided
from app.core.kubevirt_names import KubeVirtNames
from app.core.launcher import NotLauncher, PodView, recognise


class PodMutator:
    """Decides what a pod that is being written should carry."""

    def __init__(self, policies: PolicySource, facts: FactsSource, names: KubeVirtNames) -> None:
        self._policies = policies
        self._facts = facts
        self._names = names

    async def mutate(self, request: AdmissionRequest) -> Decision:
        """Return the decision; raises MalformedReview for an object that is no pod."""
        if request.resource != "pods" or request.operation not in (CREATE, UPDATE):
            return ignored(NotLauncher.NO_POD_WRITE)
        pod = _pod(request, request.object)
        if request.operation == UPDATE:
            return keep(_pod(request, request.old_object), pod, self._names)
        vmi = recognise(pod, self._names)
        if vmi is NotLauncher.EPHEMERAL:
            return discarding(pod, ignored(vmi))
        if isinstance(vmi, NotLauncher):
            return ignored(vmi)
        try:
            facts = await self._facts.facts(pod.namespace, vmi)
        except LookupFailed as error:
            return undecided(pod, Reason.LOOKUP_FAILED, str(error))
        return decide(pod, vmi, facts, self._policies.current(), self._names)


def _pod(request: AdmissionRequest, pod: dict[str, Any] | None) -> PodView:
    if pod is None or not request.namespace:
        raise MalformedReview("request.namespace and the pod must be there")
    try:
        return PodView.from_object(pod, request.namespace)
    except ValueError as error:
        raise MalformedReview(f"the pod is malformed: {error}") from None


def warnings_for(request: AdmissionRequest, decision: Decision) -> list[str]:
    """Return what the person who writes the pod is told: on CREATE only, as controllers update pods all the time."""
    return decision.warnings if request.operation == CREATE else []
