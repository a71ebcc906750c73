"""Which suite a test belongs to, what it may use, and which tests share a process."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.infra import suites
from tests.infra.controlplane import build
from tests.infra.controlplane.progress import BuildError
from tests.infra.installation import ROOT


@dataclass
class Item:
    """What `suites` looks at of a test."""

    fixturenames: tuple[str, ...]
    nodeid: str = "tests/test_this.py::test_that"
    markers: list[str] = field(default_factory=list)

    def add_marker(self, name: str) -> None:
        self.markers.append(name)

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self.markers else None


@pytest.mark.parametrize(
    ("fixtures", "markers"),
    [
        pytest.param(("tmp_path", "client"), [], id="unit"),
        pytest.param(("real_parts", "tmp_path"), ["cluster"], id="cluster"),
        pytest.param(("prerequisites", "real_parts"), ["e2e"], id="e2e"),
        pytest.param(("alone", "real_parts"), ["cluster", "exclusive"], id="exclusive"),
    ],
)
def test_the_markers_follow_from_the_fixtures(fixtures: tuple[str, ...], markers: list[str]) -> None:
    item = Item(fixtures)
    suites.assign([item])  # type: ignore[list-item]
    assert item.markers == markers


def test_whatever_is_not_a_python_test_belongs_to_no_suite(request: pytest.FixtureRequest) -> None:
    class Document(pytest.Item):
        """Has no fixtures."""

        def runtest(self) -> None:
            raise NotImplementedError

    item = Document.from_parent(request.session, name="document")
    suites.assign([item])
    assert list(item.iter_markers()) == []


def test_every_marker_is_registered(pytestconfig: pytest.Config) -> None:
    registered = {line.partition(":")[0] for line in pytestconfig.getini("markers")}
    assert {suites.CLUSTER, suites.E2E, suites.EXCLUSIVE} <= registered


@pytest.mark.parametrize("suite", [suites.CLUSTER, suites.E2E])
def test_a_suite_with_real_parts_may_use_them(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "refusal", "until the test is known")
    suites.permit_parts(Item((), markers=[suite]))  # type: ignore[arg-type]
    assert build.refusal is None


def test_a_test_that_does_not_ask_for_real_parts_is_refused_them_and_told_where_it_says_so() -> None:
    # Nothing is set up here: tests/conftest.py has refused them to this test.
    with pytest.raises(BuildError) as refused:
        build.ensure(build.PARTS["etcd"])
    message = str(refused.value)
    assert "test_a_test_that_does_not_ask_for_real_parts" in message
    assert "real_parts" in message
    [named] = [word for word in message.split() if word.endswith(".py")]
    assert ROOT / named == Path(suites.__file__)


RECORDS_ITS_PROCESS = """
import os
import pytest

@pytest.mark.parametrize("number", range(4))
def test_one(number):
    with open("processes", "a") as file:
        file.write(f"{__name__} {os.getpid()}\\n")
"""


def test_the_tests_of_a_module_run_in_one_process(tmp_path: Path) -> None:
    """By the settings of this repository: else each process would start what a module's tests share.

    pytest-xdist says nothing when it does not keep them together.
    """
    for name in ("test_first.py", "test_second.py"):
        (tmp_path / name).write_text(RECORDS_ITS_PROCESS)
    settings = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    command = [sys.executable, "-m", "pytest", *settings, "-n", "2", "."]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    ran = (tmp_path / "processes").read_text().splitlines()
    assert len(ran) == 8
    assert len(set(ran)) == 2, "a process for each module"
