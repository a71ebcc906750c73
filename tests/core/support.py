"""Selecting a level for the recorded launcher pod."""

from app.core.kubevirt_names import UPSTREAM
from app.core.launcher import PodView
from app.core.level_source import Refused, Selection, select_level
from app.core.objects import Facts
from app.core.policy import BUILT_IN, Policy
from tests.infra.factories import KUBEVIRT, make_facts, make_pod, view

NO_VM = Facts(make_facts().namespace)
"""Neither instance nor VM can be found."""


def launcher(template: dict[str, str] | None = None, **labels: str) -> PodView:
    """A pod with what the VM's template put on it."""
    pod = make_pod(annotations={**KUBEVIRT, **(template or {})})
    pod["metadata"]["labels"] |= labels
    return view(pod)


def select(facts: Facts | None = None, policy: Policy = BUILT_IN, pod: PodView | None = None) -> Selection:
    return select_level(policy, facts or make_facts(), pod or launcher(), UPSTREAM)


def refused(selection: Selection) -> list[tuple[str, Refused]]:
    return [(refusal.source, refusal.reason) for refusal in selection.refusals]
