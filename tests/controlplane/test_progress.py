"""Long commands, and who has the machine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.infra.controlplane import progress
from tests.infra.controlplane.progress import BuildError, Commands, run_visibly, using_the_machine

LONG = 60.0
"""Seconds in which whatever is to happen has happened."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache, and so a machine, of this test's own: real builds or benchmarks may run just now."""
    monkeypatch.setenv("VM_CONSISTENCY_CACHE", str(tmp_path))
    return tmp_path


class Said:
    """What `say` was told, and an event for the first time that somebody says that he waits."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.waiting = threading.Event()

    def __call__(self, text: str) -> None:
        self.lines.append(text)
        if "waiting" in text:
            self.waiting.set()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    found = Said()
    monkeypatch.setattr(progress, "say", found)
    return found


@contextmanager
def thread_that_uses_the_machine(*, alone: bool) -> Iterator[threading.Event]:
    """Gives an event that is set once it has the machine; waits for its end."""
    has_it = threading.Event()

    def use() -> None:
        with using_the_machine(alone=alone):
            has_it.set()

    thread = threading.Thread(target=use)
    thread.start()
    yield has_it
    thread.join(LONG)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("first_alone", "second_alone", "reason"),
    [(False, True, "for builds and"), (True, False, "for a benchmark"), (True, True, "and benchmarks")],
    ids=["benchmark-after-build", "build-after-benchmark", "benchmark-after-benchmark"],
)
def test_a_benchmark_has_the_machine_alone(first_alone: bool, second_alone: bool, reason: str, said: Said) -> None:
    with using_the_machine(alone=first_alone):
        other = thread_that_uses_the_machine(alone=second_alone)
        has_it = other.__enter__()
        assert said.waiting.wait(LONG)
        assert not has_it.is_set()
    other.__exit__(None, None, None)
    assert has_it.is_set()
    assert [reason in line for line in said.lines] == [True]


def test_builds_use_the_machine_together(said: Said) -> None:
    with using_the_machine(alone=False), thread_that_uses_the_machine(alone=False) as has_it:
        assert has_it.wait(LONG)
    assert said.lines == []


def test_a_command_that_fails_says_why(said: Said) -> None:
    with pytest.raises(BuildError, match=r"(?s)a part: exit code 3 .*no such module"):
        run_visibly("a part", ["sh", "-c", "echo no such module; exit 3"])
    assert said.lines == ["a part"]


def test_a_long_command_shows_where_it_is(said: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT_SECONDS", 0.05)
    shown = tmp_path / "shown"

    def say(text: str) -> None:
        said(text)
        if "at compiling" in text:
            shown.touch()  # which the command waits for

    monkeypatch.setattr(progress, "say", say)
    run_visibly("a part", ["sh", "-c", f"echo begun; echo compiling; until [ -e {shown} ]; do sleep 0.01; done"])
    first, *others, last = said.lines
    assert first == "a part"
    assert any("2 steps, at compiling" in line for line in others)
    assert last.startswith("a part: done in ")


def test_no_command_starts_once_they_were_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(progress, "COMMANDS", Commands())
    progress.COMMANDS.end()
    with pytest.raises(BuildError, match="interrupted"):
        run_visibly("a part", ["touch", str(tmp_path / "started")])
    assert not (tmp_path / "started").exists()
