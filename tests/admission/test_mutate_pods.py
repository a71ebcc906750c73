"""What PodMutator makes of a request: who is asked for facts, and who decides."""

import base64
from copy import deepcopy
from typing import Any

import jsonpatch
import orjson
import pytest

from app.admission.mutate_pods import PodMutator, warnings_for
from app.admission.ports import LookupFailed
from app.admission.review import MalformedReview, encode_review
from app.core.annotations import DECIDED_BY, EFFECTIVE_LEVEL, LEVEL, PRE
from app.core.decision import Action, Decision, Reason
from app.core.kubevirt_names import UPSTREAM, KubeVirtNames
from app.core.launcher import NotLauncher
from app.core.objects import Facts, OwnerReference
from app.core.policy import BUILT_IN, Level, Policy, PolicyState, Standing
from app.core.record import with_record
from tests.admission.support import SAMPLE, make_request
from tests.infra.factories import (
    NAME,
    NAMESPACE,
    RECORDED,
    UID,
    annotations_after,
    decide_pod,
    make_facts,
    make_pod,
    make_policy,
)

CRASH = make_policy(default={"level": "crash"})


class StandInFacts:
    """A FactsSource that has one answer and remembers what it was asked."""

    def __init__(self, answer: Facts | Exception) -> None:
        self._answer = answer
        self.asked: list[tuple[str, OwnerReference]] = []

    async def facts(self, namespace: str, vmi: OwnerReference) -> Facts:
        self.asked.append((namespace, vmi))
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


class StandInPolicy:
    """A PolicySource with one policy."""

    def __init__(self, state: PolicyState) -> None:
        self._state = state

    def current(self) -> PolicyState:
        return self._state


class Webhook:
    """A PodMutator between stand-ins."""

    def __init__(
        self,
        facts: Facts | Exception | None = None,
        policy: Policy | PolicyState = BUILT_IN,
        names: KubeVirtNames = UPSTREAM,
    ) -> None:
        state = policy if isinstance(policy, PolicyState) else PolicyState(Standing.VALID, policy)
        self.facts = StandInFacts(facts or make_facts())
        self._mutator = PodMutator(StandInPolicy(state), self.facts, names)

    async def mutate(self, **request: Any) -> Decision:
        fields = {"object": make_pod(), "namespace": NAMESPACE, **request}
        return await self._mutator.mutate(make_request(**fields))


def decided(policy: Policy = BUILT_IN) -> dict[str, Any]:
    """A pod after its CREATE."""
    return make_pod(annotations=annotations_after(make_pod(), decide_pod(make_pod(), policy=policy)))


async def test_create_is_decided_with_the_facts_about_the_owner() -> None:
    webhook = Webhook(make_facts(vm={LEVEL: "crash"}))
    decision = await webhook.mutate()
    assert (decision.level, decision.decided_by) == (Level.CRASH, "vm")
    owner = OwnerReference("kubevirt.io/v1", "VirtualMachineInstance", NAME, UID)
    assert webhook.facts.asked == [(NAMESPACE, owner)]


async def test_policy_in_force_decides() -> None:
    assert (await Webhook(policy=CRASH).mutate()).level is Level.CRASH


async def test_namespace_is_the_requests() -> None:
    webhook = Webhook()
    decision = await webhook.mutate(object=make_pod(namespace=None), namespace="elsewhere")
    assert decision.annotations is not None
    assert '"--namespace", "elsewhere"' in decision.annotations["pre.hook.backup.velero.io/command"]
    assert webhook.facts.asked[0][0] == "elsewhere"


async def test_names_of_a_fork() -> None:
    webhook = Webhook(names=KubeVirtNames(launcher_label="fork.io"))
    assert (await webhook.mutate()).reason is NotLauncher.LABEL


@pytest.mark.parametrize(
    ("pod", "reason"),
    [
        pytest.param(make_pod(labels=None), NotLauncher.LABEL, id="no-launcher"),
        pytest.param(make_pod(ownerReferences=None), NotLauncher.OWNER, id="borrowed-label"),
        pytest.param(make_pod(deletionTimestamp="2026-01-01T00:00:00Z"), NotLauncher.TERMINATING, id="terminating"),
    ],
)
@pytest.mark.parametrize("operation", ["CREATE", "UPDATE"])
async def test_other_pods_are_ignored_without_a_lookup(pod: Any, reason: NotLauncher, operation: str) -> None:
    webhook = Webhook(LookupFailed("nobody may ask"))
    decision = await webhook.mutate(object=pod, oldObject=pod, operation=operation)
    assert decision == Decision(Action.IGNORED, reason)
    assert webhook.facts.asked == []


@pytest.mark.parametrize(
    "request_fields",
    [
        pytest.param({"operation": "DELETE", "object": None, "oldObject": make_pod()}, id="DELETE"),
        pytest.param({"operation": "CONNECT"}, id="CONNECT"),
        pytest.param({"subResource": "status"}, id="status"),
        pytest.param(
            {"resource": {"group": "apps", "version": "v1", "resource": "deployments"}}, id="another-resource"
        ),
        pytest.param({"resource": {"group": "x.io", "version": "v1", "resource": "pods"}}, id="another-group"),
        pytest.param({"resource": None, "object": {"metadata": []}}, id="no-resource"),
    ],
)
async def test_what_is_no_write_of_a_pod_is_ignored(request_fields: dict[str, Any]) -> None:
    assert await Webhook().mutate(**request_fields) == Decision(Action.IGNORED, NotLauncher.NO_POD_WRITE)


async def test_update_keeps_whatever_policy_is_in_force_and_asks_nobody() -> None:
    for state in (PolicyState(Standing.VALID, CRASH), PolicyState(), PolicyState(Standing.INVALID, error="x")):
        webhook = Webhook(LookupFailed("nobody may ask"), state)
        decision = await webhook.mutate(operation="UPDATE", oldObject=decided(), object=make_pod())
        assert decision.reason is Reason.KEPT
        assert decision.annotations == decided()["metadata"]["annotations"]
        assert webhook.facts.asked == []


async def test_update_of_a_pod_without_a_record_decides_nothing() -> None:
    decision = await Webhook(policy=CRASH).mutate(operation="UPDATE", oldObject=make_pod(), object=make_pod())
    assert decision == Decision(Action.NONE, Reason.NO_RECORD)


async def test_replicas_with_different_policies_do_not_fight() -> None:
    pod = decided()
    for policy in (CRASH, BUILT_IN, CRASH):
        decision = await Webhook(policy=policy).mutate(operation="UPDATE", oldObject=pod, object=pod)
        assert decision.patch == []


async def test_failed_lookup_leaves_the_pod_as_it_is_and_says_so() -> None:
    decision = await Webhook(LookupFailed("the API server\ngave no answer in 2 s")).mutate()
    assert (decision.action, decision.reason, decision.patch) == (Action.NONE, Reason.LOOKUP_FAILED, [])
    assert decision.warnings == ["hooks left as they are: the API server gave no answer in 2 s"]


FORGED = with_record({PRE + "command": '["/bin/evil"]'}, Level.CRASH, None, "vm")


@pytest.mark.parametrize(
    ("webhook", "marked"),
    [
        pytest.param(Webhook(LookupFailed("late")), {}, id="lookup-failed"),
        pytest.param(Webhook(policy=PolicyState(Standing.INVALID, error="bad")), {}, id="invalid-policy"),
        pytest.param(Webhook(policy=PolicyState()), {}, id="unknown-policy"),
        pytest.param(Webhook(), {UPSTREAM.ephemeral_annotation: "true"}, id="temporary-pod"),
    ],
)
async def test_where_nothing_is_decided_a_record_that_comes_in_is_discarded(
    webhook: Webhook, marked: dict[str, str]
) -> None:
    """Or else UPDATEs would keep what it vouches for."""
    others = {**marked, "other": "x"}
    pod = make_pod(annotations={**FORGED, **others})
    decision = await webhook.mutate(object=pod)
    assert annotations_after(pod, decision) == {PRE + "command": '["/bin/evil"]', **others}


async def test_in_audit_mode_nothing_is_written() -> None:
    policy = make_policy(mode="audit", default={"level": "crash"})
    decision = await Webhook(policy=policy).mutate(object=make_pod(annotations=FORGED))
    assert decision.patch == []


async def test_fault_of_ours_is_not_taken_for_a_failed_lookup() -> None:
    with pytest.raises(ZeroDivisionError):
        await Webhook(ZeroDivisionError()).mutate()


@pytest.mark.parametrize(
    ("request_fields", "says"),
    [
        pytest.param({"object": None}, "the pod must be there", id="no-object"),
        pytest.param({"namespace": None}, "request.namespace", id="no-namespace"),
        pytest.param({"operation": "UPDATE"}, "the pod must be there", id="no-old-object"),
        pytest.param({"object": {}}, "the pod is malformed: metadata must be", id="no-metadata"),
        pytest.param({"object": make_pod(annotations={"a": 1})}, "metadata.annotations must be", id="no-strings"),
        pytest.param(
            {"operation": "UPDATE", "oldObject": {"metadata": {"labels": []}}},
            "metadata.labels must be",
            id="old-labels",
        ),
    ],
)
async def test_malformed_pod(request_fields: dict[str, Any], says: str) -> None:
    with pytest.raises(MalformedReview, match=says):
        await Webhook().mutate(**request_fields)


@pytest.mark.parametrize(("operation", "told"), [("CREATE", True), ("UPDATE", False)])
async def test_only_who_creates_is_warned(operation: str, told: bool) -> None:
    decision = await Webhook(make_facts(vm={LEVEL: "x"})).mutate()
    assert decision.warnings
    request = make_request(operation=operation)
    assert warnings_for(request, decision) == (decision.warnings if told else [])


@pytest.mark.parametrize("pod", [*RECORDED.values(), SAMPLE["request"]["object"]], ids=[*RECORDED, "sample"])
async def test_answer_applies_to_the_pod_that_was_sent(pod: dict[str, Any]) -> None:
    decision = await Webhook().mutate(object=pod)
    response = orjson.loads(encode_review("uid", decision.patch, []))["response"]
    after = jsonpatch.apply_patch(pod, base64.b64decode(response["patch"]).decode())
    annotations, before = after["metadata"].pop("annotations"), deepcopy(pod)
    assert annotations == decision.annotations
    assert (annotations[EFFECTIVE_LEVEL], annotations[DECIDED_BY]) == ("filesystem", "built-in")
    assert before["metadata"].pop("annotations").items() <= annotations.items()
    assert after == before
