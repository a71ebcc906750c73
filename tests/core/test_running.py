"""Pods that run already get what a new one would; whatever is in doubt leaves all of the pod alone."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from app.core.annotations import (
    DECIDED_BY,
    EFFECTIVE_LEVEL,
    HOOK_KEYS,
    KUBEVIRT_HOOK_KEYS,
    LEVEL,
    MANAGED,
    MAX_ANNOTATIONS_BYTES,
    PRE,
    RECORD_KEYS,
    TIMEOUT,
)
from app.core.decision import Action, Decision, Reason, decide, decide_running
from app.core.kubevirt_names import UPSTREAM
from app.core.launcher import NotLauncher, PodView, lean, recognise, recognise_running
from app.core.objects import Facts, OwnerReference
from app.core.policy import BUILT_IN, Policy, PolicyState, Standing
from app.core.record import is_intact
from tests.core.strategies import FACTS, PODS, POLICIES
from tests.infra.factories import (
    NAME,
    NAMESPACE,
    UID,
    annotations_after,
    decide_pod,
    make_bare_facts,
    make_facts,
    make_owner,
    make_pod,
    make_policy,
    patched,
    view,
)

CRASH = make_policy(default={"level": "crash"})


def _running(policy: Policy = BUILT_IN, facts: Facts | None = None) -> dict[str, Any]:
    """A pod as the webhook left it."""
    pod = make_pod()
    return patched(pod, decide_pod(pod, facts, policy))


def _look(pod: dict[str, Any], facts: Facts | None = None, policy: Policy | None = BUILT_IN) -> Decision:
    vmi = recognise_running(view(pod), make_facts().vmi, UPSTREAM)
    assert isinstance(vmi, OwnerReference), vmi
    state = PolicyState(Standing.VALID, policy) if policy else PolicyState(Standing.INVALID, error="broken")
    return decide_running(view(pod), vmi, facts or make_facts(), state, UPSTREAM)


def test_a_pod_in_line_is_left_alone() -> None:
    decision = _look(_running())
    assert (decision.action, decision.reason, decision.patch) == (Action.NONE, Reason.IN_PLACE, [])


def test_a_changed_policy_reaches_it() -> None:
    pod = _running()
    decision = _look(pod, policy=CRASH)
    after = annotations_after(pod, decision)
    assert after[EFFECTIVE_LEVEL] == "crash"
    assert not set(HOOK_KEYS) & after.keys()
    assert is_intact(after)


def test_an_annotation_on_the_vm_reaches_it_and_so_does_its_removal() -> None:
    pod = _running()
    crashed = patched(pod, _look(pod, make_facts(vm={LEVEL: "crash"})))
    assert crashed["metadata"]["annotations"][DECIDED_BY] == "vm"
    assert patched(crashed, _look(crashed)) == pod


def test_a_pod_that_the_webhook_missed_gets_its_hooks() -> None:
    pod = make_pod()
    after = annotations_after(pod, _look(pod))
    assert after[EFFECTIVE_LEVEL] == "filesystem"
    assert is_intact(after)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        pytest.param({PRE + TIMEOUT: "-1s"}, "hook-edited", id="hook-edited"),
        pytest.param({PRE + TIMEOUT: None}, "hook-removed", id="hook-removed"),
        pytest.param({EFFECTIVE_LEVEL: "application"}, "record-edited", id="record-edited"),
        pytest.param(dict.fromkeys(RECORD_KEYS), "record-removed", id="record-removed"),
    ],
)
def test_what_somebody_edited_is_put_right(change: dict[str, str | None], why: str) -> None:
    pod = _running()
    annotations = {**pod["metadata"]["annotations"], **change}
    edited = make_pod(annotations={key: text for key, text in annotations.items() if text is not None})
    assert annotations_after(edited, _look(edited)) == pod["metadata"]["annotations"], why


def test_a_forged_record_with_the_right_digest_is_put_right() -> None:
    honest, forged = _running(), _running(CRASH)
    assert is_intact(forged["metadata"]["annotations"])
    assert patched(forged, _look(forged)) == honest


def test_a_pod_that_is_handed_back_carries_kubevirts_hooks() -> None:
    allow = ["filesystem", "unmanaged"]
    policy = make_policy(default={"level": "filesystem", "allow": allow}, hooks={"autoThaw": "5m"})
    pod = _running(policy)
    after = annotations_after(pod, _look(pod, make_facts(vm={MANAGED: "false"}), policy))
    assert set(HOOK_KEYS) & after.keys() == set(KUBEVIRT_HOOK_KEYS)
    assert "--unfreezeTimeoutSeconds" not in str(after)
    assert not set(RECORD_KEYS) & after.keys()
    handed_back = patched(pod, _look(pod, make_facts(vm={MANAGED: "false"}), policy))
    assert _look(handed_back, make_facts(vm={MANAGED: "false"}), policy).patch == []


@pytest.mark.parametrize(
    ("facts", "policy", "reason"),
    [
        pytest.param(make_facts(), None, Reason.POLICY_INVALID, id="invalid-policy"),
        pytest.param(replace(make_facts(), vmi=None, vm=None), CRASH, Reason.OWNER_GONE, id="no-instance"),
    ],
)
def test_in_doubt_nothing_is_touched(facts: Facts, policy: Policy | None, reason: Reason) -> None:
    for pod in (_running(), make_pod()):
        decision = _look(pod, facts, policy)
        assert (decision.action, decision.reason, decision.patch) == (Action.NONE, reason, [])


def test_policy_that_was_not_read_yet_touches_nothing() -> None:
    vmi = OwnerReference("kubevirt.io/v1", "VirtualMachineInstance", "vm", UID)
    decision = decide_running(view(make_pod()), vmi, make_facts(), PolicyState(), UPSTREAM)
    assert (decision.reason, decision.patch) == (Reason.POLICY_UNKNOWN, [])


def test_an_instance_without_a_vm_is_decided() -> None:
    pod = _running()
    after = annotations_after(pod, _look(pod, make_bare_facts(vmi={LEVEL: "crash"})))
    assert after[DECIDED_BY] == "vm"


def test_audit_writes_nothing() -> None:
    audit = make_policy(mode="audit", default={"level": "crash"})
    decision = _look(_running(), policy=audit)
    assert (decision.action, decision.level, decision.patch) == (Action.NONE, "crash", [])


def _filled(size: int) -> dict[str, Any]:
    pod = make_pod()
    pod["metadata"]["annotations"]["example.com/notes"] = "x" * size
    return pod


def test_annotations_that_were_left_out_count_for_the_limit() -> None:
    room = MAX_ANNOTATIONS_BYTES - sum(len(k) + len(v) for k, v in make_pod()["metadata"]["annotations"].items())
    for size, patched_ in ((room - 4000, True), (room - 100, False)):
        pod = lean(view(_filled(size)), UPSTREAM)
        vmi = recognise(pod, UPSTREAM)
        assert isinstance(vmi, OwnerReference)
        decision = decide_running(pod, vmi, make_facts(), PolicyState(Standing.VALID, BUILT_IN), UPSTREAM)
        assert (decision.level is not None) is patched_
        assert bool(decision.trouble) is not patched_


def test_a_pod_without_room_for_its_hooks_keeps_no_others() -> None:
    pod = _running(CRASH)
    pod["metadata"]["annotations"] |= {PRE + "command": "evil"}
    size = MAX_ANNOTATIONS_BYTES - sum(len(k) + len(v) for k, v in pod["metadata"]["annotations"].items()) - 100
    pod["metadata"]["annotations"]["example.com/notes"] = "x" * size
    decision = _look(pod)
    assert (decision.action, decision.reason) == (Action.PATCH, Reason.TOO_LARGE)
    assert decision.trouble
    stripped = patched(pod, decision)
    assert not {*HOOK_KEYS, *RECORD_KEYS} & stripped["metadata"]["annotations"].keys()
    again = _look(stripped)
    assert (again.action, again.reason, again.patch) == (Action.NONE, Reason.TOO_LARGE, [])
    assert again.trouble


@given(PODS, FACTS, POLICIES)
def test_a_lean_pod_is_decided_like_the_whole_one(pod: dict[str, Any], facts: Facts, policy: Policy) -> None:
    vmi, state = recognise(view(pod), UPSTREAM), PolicyState(Standing.VALID, policy)
    if isinstance(vmi, OwnerReference):
        whole = decide(view(pod), vmi, facts, state, UPSTREAM)
        assert decide(lean(view(pod), UPSTREAM), vmi, facts, state, UPSTREAM).patch == whole.patch


def test_a_lean_pod_is_small_whatever_somebody_wrote_on_it() -> None:
    pod = _running()
    wanted = pod["metadata"]["annotations"]
    huge = {PRE + "command": "x" * 200_000, EFFECTIVE_LEVEL: "y" * 50_000}
    labels = {**make_pod()["metadata"]["labels"], **{f"label-{number}": "z" for number in range(5000)}}
    edited = make_pod(annotations={**wanted, **huge}, labels=labels)
    small = lean(view(edited), UPSTREAM)
    assert small.annotations is not None
    assert sum(map(len, small.annotations.values())) < 5000
    assert len(small.labels) < 500
    decision = decide_running(
        small,
        OwnerReference("kubevirt.io/v1", "VirtualMachineInstance", NAME, UID),
        make_facts(),
        PolicyState(Standing.VALID, BUILT_IN),
        UPSTREAM,
    )
    assert annotations_after(edited, decision) == wanted


def test_what_a_lean_pod_leaves_out_of_a_wish_counts_for_the_limit() -> None:
    pod = make_pod(annotations={LEVEL: "x" * (MAX_ANNOTATIONS_BYTES - 200), PRE + "command": "evil"})
    decision = _look({"metadata": pod["metadata"]})
    small = decide_running(
        lean(view(pod), UPSTREAM),
        OwnerReference("kubevirt.io/v1", "VirtualMachineInstance", NAME, UID),
        make_facts(),
        PolicyState(Standing.VALID, BUILT_IN),
        UPSTREAM,
    )
    assert decision.reason is small.reason is Reason.TOO_LARGE
    assert PRE + "command" not in annotations_after(pod, small)


def test_a_lean_pod_without_annotations_stays_so() -> None:
    pod = PodView.from_object({"metadata": {"name": "pod"}}, NAMESPACE)
    assert lean(pod, UPSTREAM) == pod


class TestRecognition:
    """By the UID, as KubeVirt does it."""

    @pytest.mark.parametrize(
        "metadata",
        [
            pytest.param({}, id="as-it-came"),
            pytest.param({"labels": {"kubevirt.io": "other"}}, id="other-label"),
            pytest.param({"labels": None}, id="no-label"),
            pytest.param({"ownerReferences": [make_owner(name="another")]}, id="other-name"),
            pytest.param({"ownerReferences": [make_owner(name="Not A Name")]}, id="no-name"),
            pytest.param({"ownerReferences": [make_owner(kind="Job", apiVersion="batch/v1")]}, id="other-kind"),
        ],
    )
    def test_whatever_else_somebody_made_of_it(self, metadata: dict[str, Any]) -> None:
        found = recognise_running(view(make_pod(**metadata)), make_facts().vmi, UPSTREAM)
        assert found == OwnerReference("kubevirt.io/v1", "VirtualMachineInstance", NAME, UID)

    def test_with_a_record_it_is_no_temporary_pod(self) -> None:
        pod = _running()
        pod["metadata"]["annotations"][UPSTREAM.ephemeral_annotation] = "true"
        assert isinstance(recognise_running(view(pod), make_facts().vmi, UPSTREAM), OwnerReference)

    @pytest.mark.parametrize(
        ("metadata", "found"),
        [
            pytest.param(
                {"annotations": {UPSTREAM.ephemeral_annotation: "true"}}, "ephemeral-provisioning", id="temporary"
            ),
            pytest.param({"ownerReferences": []}, "no-vmi-owner", id="nobodys"),
            pytest.param({"ownerReferences": [make_owner(uid="another")]}, "no-vmi-owner", id="anothers"),
            pytest.param({"deletionTimestamp": "2026-01-01T00:00:00Z"}, "terminating", id="ending"),
        ],
    )
    def test_other_pods(self, metadata: dict[str, Any], found: str) -> None:
        assert recognise_running(view(make_pod(**metadata)), make_facts().vmi, UPSTREAM) == found

    def test_an_instance_that_is_not_there_or_elsewhere(self) -> None:
        assert recognise_running(view(make_pod()), None, UPSTREAM) is NotLauncher.OWNER
        vmi = make_facts().vmi
        assert vmi is not None
        assert recognise_running(view(make_pod()), replace(vmi, namespace="x"), UPSTREAM) is NotLauncher.OWNER
