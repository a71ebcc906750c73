"""What is done with a pod, and what stands on it afterwards."""

from dataclasses import fields
from typing import Any

import pytest

from app.core.annotations import (
    DECIDED_BY,
    EFFECTIVE_LEVEL,
    EFFECTIVE_PROFILE,
    HOOK_KEYS,
    HOOKS_DIGEST,
    KUBEVIRT_HOOK_KEYS,
    LEVEL,
    MANAGED,
    MAX_ANNOTATIONS_BYTES,
    OWN_KEYS,
    POST,
    PRE,
    RECORD_KEYS,
)
from app.core.decision import Action, Decision, Reason, decide, ignored, undecided
from app.core.hooks.render import kubevirt_hooks
from app.core.kubevirt_names import UPSTREAM
from app.core.launcher import NotLauncher, recognise
from app.core.policy import BUILT_IN, Level, PolicyState, Standing
from app.core.record import is_intact, with_record
from tests.infra.factories import (
    KUBEVIRT,
    NAME,
    NAMESPACE,
    RECORDED,
    annotations_after,
    decide_pod,
    make_facts,
    make_owner,
    make_pod,
    make_policy,
    view,
)

CRASH = make_policy(default={"level": "crash"})
NOOP = make_policy(default={"level": "crash"}, hooks={"crash": "noop"})
HANDS_OFF = make_policy(rules=[{"name": "other", "match": {"namespaces": ["*"]}, "managed": False}])
AUDIT = make_policy(mode="audit", default={"level": "crash"})
FIVE = kubevirt_hooks(NAMESPACE, NAME, UPSTREAM)
OTHERS = {key: value for key, value in KUBEVIRT.items() if key not in HOOK_KEYS}
FORGED = with_record({PRE + "command": '["/bin/evil"]'}, Level.CRASH, "p", "vm")
FOREIGN = {
    PRE + "command": '["/bin/sh", "-c", "sync"',
    PRE + "on-error": "fail",
    POST + "timeout": "60",
    "hook.backup.velero.io/command": "sync",
    "hook.backup.velero.io/container": "compute",
    "hook.backup.velero.io/on-error": "Fail",
    "hook.backup.velero.io/timeout": "-1s",
}


def hooks_after(pod: dict[str, Any], decision: Decision) -> dict[str, str]:
    return {key: value for key, value in annotations_after(pod, decision).items() if key in HOOK_KEYS}


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("policy", [BUILT_IN, CRASH, NOOP], ids=["filesystem", "crash", "noop"])
def test_recorded_pod(name: str, policy: Any) -> None:
    pod = RECORDED[name]
    decision = decide_pod(pod, policy=policy)
    after = annotations_after(pod, decision)
    assert decision.action is Action.PATCH
    assert decision.reason is Reason.DECIDED
    assert after == decision.annotations
    assert is_intact(after)
    before = pod["metadata"]["annotations"]
    assert {k: v for k, v in after.items() if k not in OWN_KEYS} == {
        k: v for k, v in before.items() if k not in OWN_KEYS
    }


def test_filesystem_adds_to_kubevirts_own_and_changes_none_of_them() -> None:
    pod = make_pod()
    decision = decide_pod(pod)
    assert {operation["op"] for operation in decision.patch} == {"add"}
    assert KUBEVIRT.items() <= annotations_after(pod, decision).items()
    assert (decision.level, decision.decided_by, decision.warnings) == (Level.FILESYSTEM, "built-in", [])


def test_record_says_what_was_asked_for() -> None:
    after = annotations_after(make_pod(), decide_pod(make_pod(), policy=CRASH))
    assert after == {
        **OTHERS,
        EFFECTIVE_LEVEL: "crash",
        DECIDED_BY: "default",
        HOOKS_DIGEST: after[HOOKS_DIGEST],
    }


@pytest.mark.parametrize(
    "annotations", [KUBEVIRT, {**KUBEVIRT, **FOREIGN}, {**KUBEVIRT, **FORGED}, {**OTHERS}, {}, None]
)
@pytest.mark.parametrize("policy", [BUILT_IN, CRASH, NOOP], ids=["filesystem", "crash", "noop"])
def test_what_comes_in_does_not_matter(annotations: dict[str, str] | None, policy: Any) -> None:
    pod = make_pod(annotations=annotations)
    after = annotations_after(pod, decide_pod(pod, policy=policy))
    usual = annotations_after(make_pod(), decide_pod(make_pod(), policy=policy))
    assert {key: after[key] for key in OWN_KEYS if key in after} == {
        key: usual[key] for key in OWN_KEYS if key in usual
    }
    assert EFFECTIVE_PROFILE not in after


@pytest.mark.parametrize("policy", [BUILT_IN, CRASH, NOOP, HANDS_OFF], ids=["filesystem", "crash", "noop", "hands-off"])
def test_decided_again_nothing_is_left_to_do(policy: Any) -> None:
    pod = make_pod(annotations={**KUBEVIRT, **FOREIGN})
    decided = make_pod(annotations=annotations_after(pod, decide_pod(pod, policy=policy)))
    again = decide_pod(decided, policy=policy)
    assert (again.patch, again.annotations) == ([], None)
    assert again.action is (Action.UNMANAGED if policy is HANDS_OFF else Action.NONE)
    assert again.reason is (Reason.HANDS_OFF if policy is HANDS_OFF else Reason.IN_PLACE)


def test_target_of_a_migration_is_treated_like_its_source() -> None:
    target = make_pod(annotations={**KUBEVIRT, "kubevirt.io/migrationJobName": "m"})
    target["metadata"]["labels"]["kubevirt.io/migrationJobUID"] = "u"
    assert decide_pod(target).patch == decide_pod(make_pod()).patch


def test_hooks_name_instance_and_namespace_of_the_request() -> None:
    pod = make_pod(ownerReferences=[make_owner(name="db.example")])
    command = annotations_after(pod, decide_pod(pod))[PRE + "command"]
    assert command == '["/usr/bin/virt-freezer", "--freeze", "--name", "db.example", "--namespace", "shop"]'


class TestHandsOff:
    def test_new_pod_stays_as_kubevirt_made_it(self) -> None:
        decision = decide_pod(make_pod(), policy=HANDS_OFF)
        assert decision == Decision(Action.UNMANAGED, Reason.HANDS_OFF, decided_by="rule/other")

    def test_hooks_of_others_stay_and_a_broken_record_goes(self) -> None:
        pod = make_pod(annotations={**KUBEVIRT, **FOREIGN, EFFECTIVE_LEVEL: "crash", HOOKS_DIGEST: "sha256:0"})
        assert annotations_after(pod, decide_pod(pod, policy=HANDS_OFF)) == {**KUBEVIRT, **FOREIGN}

    @pytest.mark.parametrize("policy", [BUILT_IN, CRASH, NOOP], ids=["filesystem", "crash", "noop"])
    def test_pod_of_ours_is_handed_back(self, policy: Any) -> None:
        ours = make_pod(annotations=annotations_after(make_pod(), decide_pod(make_pod(), policy=policy)))
        decision = decide_pod(ours, policy=HANDS_OFF)
        assert decision.action is Action.UNMANAGED
        assert annotations_after(ours, decision) == decision.annotations == KUBEVIRT

    @pytest.mark.parametrize(
        ("vm", "kubevirt", "skips"),
        [
            pytest.param("true", None, True, id="VM"),
            pytest.param(None, "true", True, id="KubeVirt-object"),
            pytest.param("false", "true", False, id="VM-over-KubeVirt-object"),
            pytest.param("nonsense", "true", False, id="nonsense-counts-as-false"),
        ],
    )
    def test_where_kubevirt_writes_none_none_is_left(self, vm: str | None, kubevirt: str | None, skips: bool) -> None:
        ours = make_pod(annotations=annotations_after(make_pod(), decide_pod(make_pod())))
        facts = make_facts(vm={UPSTREAM.skip_annotation: vm} if vm else {}, skip=kubevirt)
        assert hooks_after(ours, decide_pod(ours, facts, HANDS_OFF)) == ({} if skips else FIVE)

    def test_who_refused_is_told(self) -> None:
        facts = make_facts(vm={MANAGED: "x"}, namespace={MANAGED: "false"})
        decision = decide_pod(make_pod(), facts, make_policy(default={"allow": ["unmanaged"]}))
        assert (decision.action, decision.decided_by) == (Action.UNMANAGED, "namespace")
        assert len(decision.warnings) == 1


class TestAudit:
    def test_decides_and_writes_nothing(self) -> None:
        decision = decide_pod(make_pod(), make_facts(vm={LEVEL: "x"}), AUDIT)
        assert (decision.action, decision.reason) == (Action.NONE, Reason.AUDIT)
        assert (decision.level, decision.decided_by, decision.patch) == (Level.CRASH, "default", [])
        assert len(decision.warnings) == 1

    def test_hands_nothing_back_either(self) -> None:
        ours = make_pod(annotations=annotations_after(make_pod(), decide_pod(make_pod(), policy=CRASH)))
        rules = [{"name": "other", "match": {"namespaces": ["*"]}, "managed": False}]
        decision = decide_pod(ours, policy=make_policy(mode="audit", rules=rules))
        assert decision == Decision(Action.UNMANAGED, Reason.HANDS_OFF, decided_by="rule/other")


class TestNoPolicy:
    """Without a policy that can be trusted the pod stays as it is, and its author is told."""

    @pytest.mark.parametrize(
        ("state", "reason", "text"),
        [
            pytest.param(PolicyState(), Reason.POLICY_UNKNOWN, "it has not been read yet", id="not-read"),
            pytest.param(
                PolicyState(Standing.INVALID, error="line 3: mode: unknown"),
                Reason.POLICY_INVALID,
                "line 3: mode: unknown",
                id="invalid",
            ),
        ],
    )
    def test_pod_stays_as_it_is(self, state: PolicyState, reason: Reason, text: str) -> None:
        pod = view(make_pod(annotations={**KUBEVIRT, **FOREIGN}))
        vmi = recognise(pod, UPSTREAM)
        assert not isinstance(vmi, NotLauncher)
        decision = decide(pod, vmi, make_facts(), state, UPSTREAM)
        assert (decision.action, decision.reason, decision.patch) == (Action.NONE, reason, [])
        assert decision.warnings == [f"hooks left as they are: the policy can't be used: {text}"]

    def test_last_good_one_counts(self) -> None:
        pod = view(make_pod())
        vmi = recognise(pod, UPSTREAM)
        assert not isinstance(vmi, NotLauncher)
        state = PolicyState(Standing.LAST_GOOD, CRASH, error="the newest one has errors")
        assert decide(pod, vmi, make_facts(), state, UPSTREAM).level is Level.CRASH


class TestSize:
    """The API server refuses more than 256 KiB of annotations, also what a webhook adds."""

    @staticmethod
    def pod(spare: int) -> dict[str, Any]:
        """A pod whose annotations would be `spare` bytes below the limit once it is decided."""
        after = annotations_after(make_pod(), decide_pod(make_pod()))
        size = sum(len(key) + len(value) for key, value in after.items())
        return make_pod(annotations={**KUBEVIRT, "big": "x" * (MAX_ANNOTATIONS_BYTES - size - len("big") - spare)})

    def test_full_to_the_last_byte(self) -> None:
        pod = self.pod(spare=0)
        after = annotations_after(pod, decide_pod(pod))
        assert sum(len(key) + len(value) for key, value in after.items()) == MAX_ANNOTATIONS_BYTES

    def test_one_byte_more_is_left_alone(self) -> None:
        decision = decide_pod(self.pod(spare=-1))
        assert (decision.action, decision.reason, decision.patch) == (Action.NONE, Reason.TOO_LARGE, [])
        assert decision.level is None
        assert "262144 bytes" in decision.warnings[0]

    def test_removal_needs_no_room(self) -> None:
        assert decide_pod(self.pod(spare=-1), policy=CRASH).action is Action.PATCH


@pytest.mark.parametrize(
    "text", ["two\nlines", "bell \x07", "\x1b[31mred", "x" * 100_000, "line\u2028separator", "\ud800"]
)
def test_trouble_is_one_printable_line(text: str) -> None:
    (warning,) = undecided(view(make_pod()), Reason.LOOKUP_FAILED, text).warnings
    assert warning.startswith("hooks left as they are: ")
    assert warning.isprintable()
    assert len(warning) <= 1024


def test_what_is_ignored_has_nothing_to_say() -> None:
    assert ignored(NotLauncher.LABEL) == Decision(Action.IGNORED, NotLauncher.LABEL)
    assert ignored(NotLauncher.LABEL).warnings == []


def test_values_are_the_contracts() -> None:
    assert set(Action) == {"patch", "none", "unmanaged", "ignored"}
    assert set(KUBEVIRT_HOOK_KEYS) == set(FIVE)
    assert len(RECORD_KEYS) == 4
    assert not set(Reason) & set(NotLauncher), "a reason in a log must say which it is"
    assert {field.name for field in fields(Decision)} >= {"action", "reason", "level", "profile", "decided_by", "patch"}
