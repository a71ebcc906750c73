"""The log of a backup's hooks, in both of Velero's formats."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.evidence import hook_log
from app.core.evidence.hook_log import MAX_OUTPUT, HookLog, HookRun, parse_line, read_hook_log
from app.core.evidence.hook_output import Known, read_post_hook, read_pre_hook
from app.core.evidence.velero_hooks import Phase
from tests.core.evidence.velero_log import DONE, EXIT_1, NO_AGENT, START, VeleroLog, go_quoted

DATA = Path(__file__).parents[2] / "data" / "velero-log"
DB = ["/usr/bin/virt-freezer", "--freeze", "--name", "db", "--namespace", "prod"]
WEB = ["/usr/bin/virt-freezer", "--freeze", "--name", "web", "--namespace", "prod"]
FORMATS = pytest.mark.parametrize("as_json", [pytest.param(False, id="text"), pytest.param(True, id="json")])


def read(log: VeleroLog) -> HookLog:
    return read_hook_log(log.lines)


def errors(log: HookLog) -> list[tuple[str, str | None, bool]]:
    """VM, error and doubt of each hook."""
    return [(run.command.split(" --name ")[1].split()[0], run.error, run.doubtful) for run in log.runs]


def play(log: VeleroLog, hooks: Sequence[Sequence[object]]) -> None:
    """The lines of hooks that run at once, in turns."""
    steps = [log.steps("pre", command, stderr=stderr, error=error) for command, stderr, error in hooks]  # type: ignore[arg-type]
    while steps:
        steps = [step for step in steps if next(step, "over") is None]


@pytest.mark.parametrize("name", ["logrus.log", "logrus.json"])
def test_what_logrus_itself_wrote(name: str) -> None:
    log = read_hook_log((DATA / name).read_text().splitlines(keepends=True))

    [run] = log.runs
    assert (run.phase, run.command) == (Phase.PRE, f"[{' '.join(DB)}]")
    assert (run.source, run.on_error, run.timeout) == ("annotation", "Continue", "1m0s")
    assert run.stdout == ""
    assert run.stderr is not None
    assert run.stderr.splitlines()[0] == (
        '{"component":"freezer","level":"info","msg":"Operation completed successfully"}'
    )
    assert run.stderr.splitlines()[1] == "\x1b[31m\ufffd é \u202e"
    assert run.error == EXIT_1
    assert (log.skipped, log.tells) == (1, True)


@pytest.mark.parametrize(
    ("name", "frozen", "thawed", "error"),
    [
        pytest.param("real-nightly.log", Known.YES, Known.YES, None, id="frozen"),
        pytest.param("real-paused.log", Known.NO, Known.UNKNOWN, None, id="paused"),
        pytest.param("real-refused.log", Known.NO, Known.YES, "Internal error occurred: error exec", id="refused"),
    ],
)
def test_what_velero_itself_wrote(name: str, frozen: Known, thawed: Known, error: str | None) -> None:
    """Lines of Velero 1.18.3 about a VM of KubeVirt 1.8.4; only kwok's word for a failure is not a kubelet's."""
    log = read_hook_log((DATA / name).read_text().splitlines(keepends=True))

    pre, post = log.runs
    assert (pre.command, post.phase) == ("[/usr/bin/virt-freezer --freeze --name db --namespace shop]", Phase.POST)
    assert read_pre_hook(pre.stdout or "", pre.stderr or "", failed=pre.error is not None).frozen is frozen
    assert read_post_hook(post.stdout or "", post.stderr or "", failed=False).thawed is thawed
    assert (pre.error or "").startswith(error or "")
    assert bool(pre.error) == bool(error)
    assert (post.error, log.failures, log.tells) == (None, [], True)


@FORMATS
def test_times_and_output(as_json: bool) -> None:
    log = VeleroLog(as_json=as_json)
    log.hook("pre", DB, stdout='a "quoted"\nline \\', stderr=DONE, seconds=3)
    log.at = 8
    log.hook("post", DB, stderr=DONE)

    pre, post = read(log).runs

    assert (pre.stdout, pre.stderr, pre.error) == ('a "quoted"\nline \\', DONE, None)
    assert (pre.started, pre.ended) == (START, START + timedelta(seconds=3))
    assert (post.phase, post.started) == (Phase.POST, START + timedelta(seconds=8))


@FORMATS
@pytest.mark.parametrize("error", [EXIT_1, 'container not found ("compute")', "timed out after 1m0s"])
def test_a_failure_is_that_of_the_hook_before_it(as_json: bool, error: str) -> None:
    log = VeleroLog(as_json=as_json)
    log.hook("pre", DB, stderr=DONE)
    log.hook("pre", WEB, error=error, seconds=60)
    log.hook("pre", DB, stderr=DONE)

    assert errors(read(log)) == [("db", None, False), ("web", error, False), ("db", None, False)]
    assert read(log).failures == []


def test_a_hook_that_does_not_start_is_nobody_s() -> None:
    log = VeleroLog()
    log.hook("pre", DB, stderr="something")
    log.failure("pre", 'no such container: "compute"')

    assert errors(read(log)) == [("db", None, False)]
    assert read(log).failures == ['pre hook: no such container: "compute"']


def test_a_failure_long_after_is_nobody_s() -> None:
    log = VeleroLog()
    log.hook("pre", DB, stderr="something")
    log.at = 30
    log.failure("pre", "an error of Velero")

    assert errors(read(log)) == [("db", None, False)]
    assert read(log).failures == ["pre hook: an error of Velero"]


@FORMATS
def test_hooks_that_run_at_once_are_told_apart_by_what_they_print(as_json: bool) -> None:
    log = VeleroLog(as_json=as_json)
    play(log, [(DB, "", EXIT_1), (WEB, DONE, None)])

    assert errors(read(log)) == [("db", EXIT_1, False), ("web", None, False)]


def test_hooks_that_run_at_once_and_print_nothing_are_not_told_apart() -> None:
    log = VeleroLog()
    play(log, [(DB, "", EXIT_1), (WEB, "", None)])

    assert errors(read(log)) == [("db", None, True), ("web", None, True)]
    assert read(log).failures == [f"pre hook: {EXIT_1}"]


def test_post_hooks_that_run_at_once() -> None:
    log = VeleroLog()
    steps = [log.steps("post", DB, "", "", EXIT_1), log.steps("post", WEB, stderr=DONE)]
    while steps:
        steps = [step for step in steps if next(step, "over") is None]

    assert errors(read(log)) == [("db", EXIT_1, False), ("web", None, False)]


def test_more_hooks_than_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_log, "MAX_HOOKS", 2)
    log = VeleroLog()
    for _ in range(2):
        log.hook("pre", DB)
    assert not read(log).cut
    log.hook("pre", DB)

    assert (len(read(log).runs), read(log).cut) == (2, True)


def test_a_script_that_failed_after_a_freeze_did_not_succeed() -> None:
    log = VeleroLog()
    steps = [
        log.steps("pre", DB, DONE, "vm-consistency: pre hook failed: freeze: no\n", EXIT_1),
        log.steps("pre", WEB, stderr=DONE),
    ]
    for turn in (0, 1, 0, 1, 1, 0, 0):
        next(steps[turn], None)

    assert errors(read(log)) == [("db", EXIT_1, False), ("web", None, False)]


def test_of_hooks_that_run_at_once_the_first_runs_out_of_time_first() -> None:
    log = VeleroLog()
    steps = [log.steps("pre", command, error="timed out after 1m0s") for command in (DB, WEB)]
    for step in steps:
        next(step)
    log.at = 60
    for step in steps[:1]:
        next(step, None)

    assert errors(read(log)) == [("db", "timed out after 1m0s", False), ("web", None, False)]


@FORMATS
def test_pods_that_have_completed_run_no_hook(as_json: bool) -> None:
    log = VeleroLog(as_json=as_json)
    log.skipped("pre", DB)
    log.hook("pre", DB, stderr=DONE)
    log.skipped("post", DB)

    assert (len(read(log).runs), read(log).skipped) == (1, 2)


def test_before_1_15_velero_names_the_pod() -> None:
    log = VeleroLog()
    pods = [("prod", f"virt-launcher-db-{number}") for number in (1, 2)]
    steps = [log.steps("pre", DB, "", "", error, pod=pod) for error, pod in zip((None, EXIT_1), pods, strict=True)]
    while steps:
        steps = [step for step in steps if next(step, "over") is None]

    assert [(run.pod, run.error) for run in read(log).runs] == [(pods[0], None), (pods[1], EXIT_1)]


def test_pods_that_are_left_out() -> None:
    log = VeleroLog()
    log.hook("pre", DB, error=EXIT_1, on_error="Fail")
    log.left_out("virt-launcher-db-x", EXIT_1)

    assert read(log).left_out == {"virt-launcher-db-x"}


@FORMATS
def test_a_log_without_info_tells_failures_only(as_json: bool) -> None:
    log = VeleroLog(as_json=as_json, level="error")
    log.hook("pre", DB, error=EXIT_1)

    assert read(log) == HookLog(failures=[f"pre hook: {EXIT_1}"])


def test_output_is_cut() -> None:
    log = VeleroLog()
    log.hook("pre", DB, stdout="x" * (MAX_OUTPUT + 1))

    assert read(log).runs[0].stdout == "x" * MAX_OUTPUT


def test_output_does_not_pass_for_lines_or_fields() -> None:
    log = VeleroLog()
    forged = '" hookPhase=post msg="Error executing hook" error="x"\ntime="" level=error msg="Error executing hook"'
    log.hook("pre", DB, stdout=forged, stderr=NO_AGENT)

    [run] = read(log).runs
    assert (run.stdout, run.error) == (forged, None)
    assert read(log).failures == []


@pytest.mark.parametrize(
    "line",
    ["", "\n", "hookPhase", '{"hookPhase": "pre"', '{"hookPhase": ["pre"]}', "[" * 5000, '{"hookPhase":' + "[" * 99999],
)
def test_what_is_no_line_of_it_is_left_out(line: str) -> None:
    assert read_hook_log([line]) == HookLog()


@given(st.text(max_size=80))
def test_quoting_of_go_is_undone(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()

    assert parse_line(f"a=1 msg={go_quoted(text)} b=2") == {"a": "1", "msg": text, "b": "2"}


@given(st.lists(st.text(alphabet='{}[]"\\ =hookPhase:pre\n', max_size=40), max_size=5))
def test_no_text_breaks_it(lines: list[str]) -> None:
    assert isinstance(read_hook_log([f"hookPhase {line}" for line in lines] + lines), HookLog)


def test_a_run_is_itself() -> None:
    """Equal hooks of two pods of a migration are two."""
    log = VeleroLog()
    for error in (None, EXIT_1):
        log.hook("pre", DB, error=error)

    first, second = read(log).runs
    assert isinstance(first, HookRun)
    assert (first.error, second.error) == (None, EXIT_1)
