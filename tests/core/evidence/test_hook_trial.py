"""Times and findings of a run; what commands print is in test_hook_output.py, whole runs are in tests/cli."""

import pytest

from app.core.evidence.hook_output import Known
from app.core.evidence.hook_trial import Step, Subject, Trial, findings, kubectl_thaw
from app.core.hooks.render import kubevirt_hooks, render_hooks
from app.core.kubevirt_names import UPSTREAM, KubeVirtNames
from app.core.policy import Hooks, Level
from app.core.profiles import NO_STEPS
from app.core.record import RecordState, with_record

FROZEN = "vm-consistency: frozen\n"
HELD = "vm-consistency: thawed, was frozen until then\n"
LOST = "vm-consistency: thawed, was not frozen any more\n"
NOTHING = '{"component":"freezer","level":"info","msg":"No guest agent, exiting"}\n'


def subject(annotations: dict[str, str] | None = None) -> Subject:
    carried = kubevirt_hooks("shop", "db", UPSTREAM) if annotations is None else annotations
    return Subject.of("shop", "db", "virt-launcher-db-x", carried, ["compute"])


def step(started: float, ended: float, stdout: str = "", code: int | None = 0, timeout: float | None = 60.0) -> Step:
    return Step("pre hook" if started == 0 else "post hook", started, ended, code, "", stdout, "", timeout)


def told(trial: Trial) -> list[str]:
    return findings(subject(), trial, UPSTREAM)


class TestTimes:
    def test_window_and_bound(self) -> None:
        trial = Trial(step(0, 3, FROZEN), step(3.5, 5, HELD))

        assert (trial.window, trial.frozen_at_most) == (0.5, 5)

    def test_bound_ends_with_the_first_step_that_thawed(self) -> None:
        trial = Trial(
            step(0, 3, FROZEN), step(4, 5, code=1), (step(6, 7, code=1), step(8, 9, HELD), step(10, 11, HELD))
        )

        assert trial.frozen_at_most == 9

    def test_bound_without_a_thaw_is_what_was_seen(self) -> None:
        assert Trial(step(0, 3, FROZEN), step(4, 5, code=1), (step(6, 7, code=1),)).frozen_at_most == 7

    @pytest.mark.parametrize(("seconds", "timeout", "late"), [(60, 60.0, 0), (60.1, 60.0, 1), (9000, None, 0)])
    def test_late(self, seconds: float, timeout: float | None, late: int) -> None:
        trial = Trial(step(0, seconds, FROZEN, timeout=timeout), step(seconds, seconds + 1, HELD))

        assert sum("Velero waits" in line for line in told(trial)) == late


class TestThawed:
    def test_a_hook_that_said_it_froze_nothing_left_nothing_frozen(self) -> None:
        trial = Trial(step(0, 1, NOTHING), step(1, 2, NOTHING))

        assert (trial.froze_nothing, trial.thawed) == (True, Known.YES)

    def test_unless_kubevirt_saw_it_frozen(self) -> None:
        trial = Trial(step(0, 1, NOTHING), step(1, 2, NOTHING), seen_frozen=True)

        assert (trial.froze_nothing, trial.thawed) == (False, Known.UNKNOWN)
        assert "was frozen, and nothing shows that it is thawed" in told(trial)[0]

    def test_what_kubevirt_reports_last_outweighs_what_a_hook_says(self) -> None:
        trial = Trial(step(0, 1, FROZEN), step(1, 2, HELD), still_frozen=True)

        assert trial.thawed is Known.NO
        assert "FROZEN" in told(trial)[0]

    def test_a_guest_that_may_never_have_been_frozen_is_not_said_to_have_been(self) -> None:
        trial = Trial(step(0, 1, code=1), step(1, 2, code=1), (step(3, 4, code=1),))

        assert told(trial)[0].startswith("the guest is not known to be thawed: ")


def test_a_guest_that_thawed_by_itself() -> None:
    [finding] = told(Trial(step(0, 1, FROZEN), step(2, 3, LOST)))

    assert finding == "the guest did not stay frozen: thawed, was not frozen any more"


class TestSubject:
    def test_record(self) -> None:
        hooks = render_hooks(Level.FILESYSTEM, NO_STEPS, Hooks(), "shop", "db", UPSTREAM)
        intact = subject(with_record(hooks, Level.FILESYSTEM, None, "default"))
        forged = subject({**with_record(hooks, Level.FILESYSTEM, None, "default"), "vm-consistency.io/decided-by": "x"})

        assert (intact.record, intact.level, intact.decided_by) == (RecordState.INTACT, "filesystem", "default")
        assert (forged.record, forged.level, forged.decided_by) == (RecordState.FOREIGN, None, None)

    def test_an_intact_record_may_hold_anything(self) -> None:
        profile = "\x1b[2J" + "x" * 10_000
        forged = subject(with_record(kubevirt_hooks("shop", "db", UPSTREAM), Level.APPLICATION, profile, "vm"))

        assert forged.record is RecordState.INTACT
        assert forged.profile is not None
        assert forged.profile.isprintable()
        assert len(forged.profile) < 400


def test_what_to_run_by_hand_names_what_the_fork_calls_it() -> None:
    names = KubeVirtNames(container="d8v-compute", freezer="/opt/virt freezer")

    assert kubectl_thaw(subject(), names) == (
        "kubectl exec -n shop virt-launcher-db-x -c d8v-compute -- "
        "'/opt/virt freezer' --unfreeze --name db --namespace shop"
    )
