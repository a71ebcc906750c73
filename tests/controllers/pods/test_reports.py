"""What is told of running pods, in Events, metrics and the log: each thing once, and never more than a line."""

import logging
from collections.abc import Mapping
from typing import Any

import pytest

from app.cluster.pods import RunningPod, running_pod
from app.controllers.events.recorder import NORMAL, WARNING
from app.controllers.pods.reports import PodReports
from app.core.annotations import (
    DECIDED_BY,
    EFFECTIVE_LEVEL,
    EFFECTIVE_PROFILE,
    HOOKS_DIGEST,
    LEVEL,
    MANAGED,
    PRE,
    RECORD_KEYS,
)
from app.core.decision import Action, Decision, Reason, decide_running
from app.core.kubevirt_names import UPSTREAM
from app.core.launcher import recognise_running
from app.core.level_source import Refusal, Refused
from app.core.objects import Facts, OwnerReference
from app.core.policy import BUILT_IN, Level, Policy, PolicyState, Standing
from app.core.record import digest, is_intact
from app.core.text import MAX_LINE
from app.server.metrics import Metrics
from tests.infra.factories import NAME, NAMESPACE, UID, annotations_after, decide_pod, make_facts, make_pod, make_policy
from tests.infra.references import References
from tests.infra.stand_ins.events import StandInRecorder

CRASH = make_policy(default={"level": "crash"})
KEY = (NAMESPACE, "pod")
VMI = OwnerReference("kubevirt.io/v1", "VirtualMachineInstance", NAME, UID)


class Reporting:
    """Reports of decisions as the core makes them."""

    def __init__(self) -> None:
        self.recorder, self.metrics = StandInRecorder(), Metrics()
        self.reports = PodReports(self.recorder, self.metrics)

    def look(
        self, pod: RunningPod, facts: Facts | None = None, policy: Policy | None = BUILT_IN, name: str = "pod"
    ) -> Decision:
        """Decide about a pod and report it."""
        facts = facts or make_facts()
        vmi = recognise_running(pod.view, facts.vmi, UPSTREAM)
        assert vmi == VMI
        state = PolicyState(Standing.VALID, policy) if policy else PolicyState(Standing.INVALID, error="broken")
        decision = decide_running(pod.view, vmi, facts, state, UPSTREAM)
        self.reports.decided((NAMESPACE, name), vmi, decision)
        return decision

    def bring_in_line(self, pod: RunningPod, facts: Facts | None = None, policy: Policy = BUILT_IN) -> None:
        decision = self.look(pod, facts, policy)
        assert decision.patch
        self.reports.wrote(pod, VMI, decision)

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(told.type, told.reason) for told in self.recorder.events]

    @property
    def message(self) -> str:
        (told,) = self.recorder.events
        return told.message

    def shown(self, name: str) -> dict[tuple[str, ...], float]:
        """The series of a metric that are not 0, by their labels' values."""
        samples = [sample for family in self.metrics.registry.collect() for sample in family.samples]
        return {tuple(one.labels.values()): one.value for one in samples if one.name.endswith(name) and one.value}


@pytest.fixture
def reporting() -> Reporting:
    return Reporting()


def running(policy: Policy | None = BUILT_IN, changed: Mapping[str, str | None] | None = None) -> RunningPod:
    """A pod in line with `policy`, or as virt-controller makes it; `changed` annotations of its record."""
    pod = make_pod()
    annotations: dict[str, Any] = dict(pod["metadata"]["annotations"])
    if policy:
        annotations = annotations_after(pod, decide_pod(pod, policy=policy))
    return carrying({**annotations, **(changed or {})})


def carrying(annotations: dict[str, Any]) -> RunningPod:
    item = make_pod(annotations={key: text for key, text in annotations.items() if text is not None})
    item["metadata"] |= {"name": "pod", "uid": "1", "resourceVersion": "7"}
    pod = running_pod(item, UPSTREAM)
    assert pod is not None
    return pod


class TestRefusals:
    def test_a_refusal_is_told_once_as_long_as_it_stands(self, reporting: Reporting) -> None:
        facts = make_facts(vm={LEVEL: "nonsense"})
        for _ in range(3):
            reporting.look(running(), facts)
        assert reporting.told == [(WARNING, "RequestRefused")]
        (told,) = reporting.recorder.events
        assert (told.about.api_version, told.about.kind, told.about.name, told.about.uid, told.about.namespace) == (
            "kubevirt.io/v1",
            "VirtualMachineInstance",
            NAME,
            UID,
            NAMESPACE,
        )
        assert not told.recurring
        assert "nonsense" in told.message
        assert reporting.shown("pods_refused") == {("vm", "unknown-level"): 1}

    def test_a_profile_that_the_policy_does_not_have_has_its_own_reason(self, reporting: Reporting) -> None:
        refusal = Refusal("vm", Refused.UNKNOWN_PROFILE, "the policy has no profile 'mssql'")
        decision = Decision(Action.NONE, Reason.IN_PLACE, Level.CRASH, None, "default", refusals=(refusal,))
        reporting.reports.decided(KEY, VMI, decision)
        assert reporting.told == [(WARNING, "ProfileUnknown")]
        assert "mssql" in reporting.message
        assert reporting.shown("pods_refused") == {("vm", "unknown-profile"): 1}

    def test_each_refusal_is_one_event(self, reporting: Reporting) -> None:
        facts = make_facts(vm={LEVEL: "nonsense", MANAGED: "false"}, namespace={LEVEL: "rubbish"})
        reporting.look(running(), facts)
        assert reporting.told == [(WARNING, "RequestRefused")] * 3
        assert len({told.message for told in reporting.recorder.events}) == 3

    def test_only_what_is_new_is_told_when_another_is_added(self, reporting: Reporting) -> None:
        reporting.look(running(), make_facts(vm={LEVEL: "nonsense"}))
        told = len(reporting.recorder.events)
        recorded: list[str] = []
        reporting.recorder.record = lambda *args, **_: recorded.append(args[2])  # type: ignore[method-assign]
        reporting.look(running(), make_facts(vm={LEVEL: "nonsense"}, namespace={LEVEL: "rubbish"}))
        assert (told, recorded) == (1, ["RequestRefused"])
        assert reporting.shown("pods_refused") == {("vm", "unknown-level"): 1, ("namespace", "unknown-level"): 1}

    def test_a_refusal_that_ends_is_shown_no_more(self, reporting: Reporting) -> None:
        reporting.look(running(), make_facts(vm={LEVEL: "nonsense"}))
        reporting.look(running())
        assert reporting.shown("pods_refused") == {}
        assert reporting.shown("vm_consistency_pods") == {("filesystem", "built-in"): 1}

    def test_what_was_asked_for_a_pod_that_is_gone_is_forgotten(self, reporting: Reporting) -> None:
        references = References()
        reporting.recorder.record = lambda *_, **__: None  # type: ignore[method-assign]

        def decide(message: str) -> None:
            refusal = Refusal("vm", Refused.UNKNOWN_LEVEL, references.text(message))
            decision = Decision(Action.NONE, Reason.IN_PLACE, Level.CRASH, None, "default", refusals=(refusal,))
            reporting.reports.decided(KEY, VMI, decision)

        decide("x")
        decide("y")
        assert references.texts() == {"y"}
        reporting.reports.forget(KEY)
        assert references.texts() == set()

    def test_two_pods_of_a_migration_tell_the_same(self, reporting: Reporting) -> None:
        for name in ("source", "target"):
            reporting.look(running(), make_facts(vm={LEVEL: "nonsense"}), name=name)
        assert reporting.told == [(WARNING, "RequestRefused")]
        assert reporting.shown("pods_refused") == {("vm", "unknown-level"): 2}

    def test_what_was_typed_is_cut_to_a_line(self, reporting: Reporting) -> None:
        reporting.look(running(), make_facts(vm={LEVEL: "x\n\x1b[31m" + "y" * 100_000}))
        assert len(reporting.message) < MAX_LINE
        assert reporting.message.isprintable()


class TestStanding:
    def test_pods_are_counted_by_what_they_should_carry(self, reporting: Reporting) -> None:
        for name in ("a", "b"):
            reporting.look(running(), name=name)
        reporting.look(running(), make_facts(vm={LEVEL: "crash"}), name="c")
        assert reporting.shown("vm_consistency_pods") == {("filesystem", "built-in"): 2, ("crash", "vm"): 1}
        reporting.look(running(), policy=CRASH, name="a")
        assert reporting.shown("vm_consistency_pods") == {
            ("filesystem", "built-in"): 1,
            ("crash", "default"): 1,
            ("crash", "vm"): 1,
        }

    def test_rules_are_one_source(self, reporting: Reporting) -> None:
        rules = [{"name": f"rule-{number}", "match": {"namespaces": ["*"]}, "level": "crash"} for number in range(2)]
        for number, name in ((0, "a"), (1, "b")):
            reporting.look(running(), policy=make_policy(rules=rules[number:]), name=name)
        assert reporting.shown("vm_consistency_pods") == {("crash", "rule"): 2}

    def test_what_can_not_be_decided_stays_as_it_was_shown(self, reporting: Reporting) -> None:
        reporting.look(running())
        reporting.look(running(), policy=None)
        assert reporting.shown("vm_consistency_pods") == {("filesystem", "built-in"): 1}
        assert reporting.told == []

    def test_unmanaged_ones_are_counted(self, reporting: Reporting) -> None:
        policy = make_policy(default={"level": "crash", "allow": ["crash", "unmanaged"]})
        reporting.look(running(), make_facts(namespace={MANAGED: "false"}), policy)
        assert reporting.shown("vm_consistency_pods") == {("unmanaged", "namespace"): 1}

    def test_a_pod_that_goes_is_counted_no_more(self, reporting: Reporting) -> None:
        reporting.look(running(), make_facts(vm={LEVEL: "nonsense"}))
        reporting.reports.forget(KEY)
        reporting.reports.forget(KEY)
        assert reporting.shown("vm_consistency_pods") == reporting.shown("pods_refused") == {}

    def test_the_end_of_a_term_takes_everything_back(self, reporting: Reporting) -> None:
        for number in range(5):
            reporting.look(running(), make_facts(vm={LEVEL: "nonsense"}), name=f"refused-{number}")
            reporting.look(running(), name=f"pod-{number}")
        too_large = Decision(Action.NONE, Reason.TOO_LARGE, trouble="no room")
        reporting.reports.decided((NAMESPACE, "full"), VMI, too_large)
        reporting.reports.close()
        assert reporting.shown("vm_consistency_pods") == reporting.shown("pods_refused") == {}
        reporting.reports.decided((NAMESPACE, "full"), VMI, too_large)
        assert reporting.shown("writes_total") == {("failed",): 2}, "the next term reports it again"


class TestWrites:
    def test_a_change_of_level_says_what_was_and_what_is(self, reporting: Reporting) -> None:
        reporting.bring_in_line(running(), policy=CRASH)
        assert reporting.told == [(NORMAL, "LevelChanged")]
        now, _, before = reporting.message.partition("; before: ")
        assert "crash" in now
        assert "default" in now
        assert "filesystem" in before
        assert "built-in" in before
        assert reporting.recorder.events[0].recurring
        assert reporting.shown("writes_total") == {("changed",): 1}

    def test_other_changes_are_no_change_of_level(self, reporting: Reporting) -> None:
        reporting.bring_in_line(running(), policy=make_policy(hooks={"freeze": {"timeout": "90s"}}))
        reporting.bring_in_line(running(), policy=make_policy(default={"level": "filesystem"}))
        assert reporting.told == []
        assert reporting.shown("writes_total") == {("changed",): 2}

    def test_a_pod_without_a_record_was_missed(self, reporting: Reporting) -> None:
        reporting.bring_in_line(running(None))
        assert reporting.told == []
        assert reporting.shown("writes_total") == {("missing",): 1}

    @pytest.mark.parametrize(
        "changed",
        [
            pytest.param({PRE + "timeout": "1s"}, id="hook-edited"),
            pytest.param({PRE + "command": None}, id="hook-removed"),
            pytest.param({EFFECTIVE_LEVEL: "crash"}, id="record-edited"),
            pytest.param({EFFECTIVE_LEVEL: None}, id="level-removed"),
            pytest.param({HOOKS_DIGEST: None}, id="digest-removed"),
        ],
    )
    def test_whoever_overwrites_hooks_is_told_of(self, reporting: Reporting, changed: dict[str, str | None]) -> None:
        for _ in range(2):
            reporting.bring_in_line(running(changed=changed))
        assert reporting.told == [(WARNING, "HooksOverwritten")] * 2
        assert all(told.recurring for told in reporting.recorder.events)
        assert "pod pod" in reporting.recorder.events[0].message
        assert reporting.shown("writes_total") == {("overwritten",): 2}

    def test_a_pod_that_is_handed_back(self, reporting: Reporting) -> None:
        policy = make_policy(default={"level": "filesystem", "allow": ["filesystem", "unmanaged"]})
        reporting.bring_in_line(running(policy), make_facts(vm={MANAGED: "false"}), policy)
        assert reporting.told == [(NORMAL, "LevelChanged")]
        assert "managed=false, vm" in reporting.message
        assert reporting.shown("writes_total") == {("handed-back",): 1}

    def test_a_hostile_record_is_cut_to_a_line(self, reporting: Reporting) -> None:
        forged = dict(running().view.annotations or {})
        forged |= {EFFECTIVE_LEVEL: "a\nb\x00" * 60, EFFECTIVE_PROFILE: "\u202e" * 250, DECIDED_BY: "é" * 250}
        pod = carrying({**forged, HOOKS_DIGEST: digest(forged)})
        assert is_intact(pod.view.annotations or {})
        reporting.bring_in_line(pod)
        assert reporting.told == [(NORMAL, "LevelChanged")]
        assert len(reporting.message) < 400
        assert reporting.message.isprintable()
        assert "\n" not in reporting.message

    def test_a_pod_that_was_stripped_is_told_of_once_and_each_write_counts(self, reporting: Reporting) -> None:
        stripping = Decision(Action.PATCH, Reason.TOO_LARGE, trouble="no room", patch=[{"op": "remove", "path": "/x"}])
        for _ in range(3):
            reporting.reports.decided(KEY, VMI, stripping)
            reporting.reports.wrote(running(changed={HOOKS_DIGEST: "x"}), VMI, stripping)
        reporting.reports.wrote(running(), VMI, stripping)
        assert reporting.told == [(WARNING, "HooksNotWritten")]
        assert reporting.shown("writes_total") == {("failed",): 1, ("overwritten",): 3, ("changed",): 1}
        assert reporting.shown("vm_consistency_pods") == {}

    def test_trouble_that_comes_back_is_told_again(self, reporting: Reporting) -> None:
        stripped = Decision(Action.NONE, Reason.TOO_LARGE, trouble="no room")
        for decision in (stripped, Decision(Action.NONE, Reason.IN_PLACE, Level.CRASH, None, "vm"), stripped):
            reporting.reports.decided(KEY, VMI, decision)
        assert reporting.shown("writes_total") == {("failed",): 2}

    def test_every_write_is_in_the_log_for_whoever_wants_it(
        self, reporting: Reporting, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "vm-consistency.reconciler")
        reporting.bring_in_line(running(), policy=CRASH)
        (line,) = (vars(record) for record in caplog.records)
        assert (line["namespace"], line["pod"], line["why"]) == (NAMESPACE, "pod", "changed")
        assert (line["level"], line["decidedBy"]) == ("crash", "default")
        assert "profile" not in line


class TestNotWritten:
    def test_why_is_told_on_the_instance(self, reporting: Reporting) -> None:
        reporting.reports.not_written(KEY, VMI, "403 Forbidden: no")
        assert reporting.told == [(WARNING, "HooksNotWritten")]
        assert reporting.recorder.events[0].about.uid == UID
        assert reporting.message == "pod pod: 403 Forbidden: no"
        assert reporting.shown("writes_total") == {("failed",): 1}

    def test_without_an_instance_the_log_is_left(self, reporting: Reporting, caplog: pytest.LogCaptureFixture) -> None:
        reporting.reports.not_written(KEY, None, "no")
        assert reporting.told == []
        assert caplog.messages == ["pod not brought in line"]

    def test_one_line_tells_of_thousands(self, reporting: Reporting, caplog: pytest.LogCaptureFixture) -> None:
        for number in range(1000):
            name = f"virt-launcher-{number}"
            reporting.reports.not_written((NAMESPACE, name), VMI, f'pods "{name}" is forbidden')
        assert len(caplog.messages) == 1
        assert len(reporting.told) == 1000

    def test_a_hundred_reasons_are_remembered_and_then_logged_again(
        self, reporting: Reporting, caplog: pytest.LogCaptureFixture
    ) -> None:
        numbers = [*range(100), *range(100), 100, 0]
        for number in numbers:
            reporting.reports.not_written(KEY, VMI, f"trouble {number}")
        logged = [vars(record)["error"] for record in caplog.records]
        assert logged == [f"trouble {number}" for number in (*range(100), 100, 0)]


def test_the_record_of_the_recorded_pod_is_what_these_tests_take_it_for() -> None:
    annotations = running().view.annotations or {}
    assert set(RECORD_KEYS) & annotations.keys() == {*RECORD_KEYS} - {EFFECTIVE_PROFILE}
