"""What `python -m tests.infra.prepare` does ahead of the tests, and what it says when something goes wrong."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.infra import prepare
from tests.infra.controlplane.build import PARTS
from tests.infra.controlplane.progress import BuildError
from tests.infra.installation import ROOT


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache, and so a machine, of this test's own: real builds or benchmarks may run just now."""
    monkeypatch.setenv("VM_CONSISTENCY_CACHE", str(tmp_path))
    return tmp_path


def test_a_suite_is_all_of_its_parts_and_a_part_is_itself() -> None:
    assert list(prepare.steps(["cluster"])) == [part.name for part in PARTS.values() if part.suite == "cluster"]
    assert list(prepare.steps(["velero"])) == ["velero"]
    assert list(prepare.steps(["etcd", "cluster"])).count("etcd") == 1
    assert {"guests", "moto"} < prepare.steps(["e2e"]).keys()


def test_a_name_of_nothing_is_answered_by_what_there_is() -> None:
    with pytest.raises(BuildError) as refused:
        prepare.steps(["etcd", "nonsense"])
    for word in ("'nonsense'", "cluster", "e2e", *PARTS):
        assert word in str(refused.value)


def test_every_step_is_done_and_each_failure_reported() -> None:
    done: list[str] = []

    def fail(error: Exception) -> None:
        raise error

    failures = prepare.prepare(
        {
            "first": lambda: fail(BuildError("no compiler")),
            "second": lambda: done.append("second"),
            "third": lambda: fail(OSError("no space left")),
            "last": lambda: done.append("last"),
        }
    )
    assert failures == ["first: no compiler", "third: no space left"]
    assert done == ["second", "last"]


def test_two_steps_are_done_at_a_time() -> None:
    met = threading.Barrier(2)
    assert prepare.prepare({"one": lambda: met.wait(60), "other": lambda: met.wait(60)}) == []


@pytest.mark.parametrize(("fails", "code"), [(False, 0), (True, 1)], ids=["well", "failed"])
def test_the_exit_code_tells(
    fails: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def step() -> None:
        if fails:
            raise BuildError("no compiler")

    monkeypatch.setattr(prepare, "steps", lambda names: dict.fromkeys(names, step))
    monkeypatch.setattr(sys, "argv", ["prepare", "cluster"])
    assert prepare.main() == code
    assert ("cluster: no compiler" in capsys.readouterr().err) is fails


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_builds_that_run_and_starts_no_other(tmp_path: Path, number: signal.Signals) -> None:
    pipe = tmp_path / "started"
    os.mkfifo(pipe)
    script = (
        "import sys\n"
        "from tests.infra import prepare\n"
        "from tests.infra.controlplane.progress import run_visibly\n"
        "def command(name):\n"
        f"    return ['sh', '-c', f'echo {{name}} $$ > {pipe}; exec sleep 600']\n"
        "prepare.steps = lambda names: {n: (lambda n=n: run_visibly(n, command(n))) for n in names}\n"
        "sys.exit(prepare.main())\n"
    )
    interrupted = subprocess.Popen(
        [sys.executable, "-c", script, "one", "two", "three"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    with interrupted, os.fdopen(os.open(pipe, os.O_RDWR)) as started:  # also to write: no end between two writers
        running = dict(started.readline().split() for _ in range(2))
        interrupted.send_signal(number)  # to it alone, as `kill` does: a terminal sends it to its children too
        said = interrupted.communicate(timeout=60)[1]
    assert interrupted.returncode == 130
    assert running.keys() == {"one", "two"}
    assert "three" not in said
    for pid in running.values():
        assert not Path(f"/proc/{pid}").exists()
