"""The Dockerfile, as far as it can be tested without a container engine: what it copies, what its build installs."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from app import __version__
from app.settings import Settings

ROOT = Path(__file__).parents[2]
HOME = "/opt/vm-consistency"


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined."""

    stage: int
    name: str
    arguments: str


def _instructions() -> list[Instruction]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: list[Instruction] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, arguments = line.partition(" ")
        stage = (found[-1].stage if found else 0) + (name == "FROM")
        found.append(Instruction(stage, name, arguments.strip()))
    return found


INSTRUCTIONS = _instructions()
LAST = INSTRUCTIONS[-1].stage


def _the(name: str) -> str:
    [found] = [one.arguments for one in INSTRUCTIONS if one.stage == LAST and one.name == name]
    return found


def test_runs_the_command_as_a_numeric_user() -> None:
    assert (json.loads(_the("ENTRYPOINT")), json.loads(_the("CMD"))) == (["vm-consistency"], ["serve"])
    user, group = _the("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    settings = Settings()
    assert _the("EXPOSE").split() == [str(settings.port), str(settings.ops_port)]


def test_python_is_the_oldest_that_the_project_promises() -> None:
    [python] = [one.arguments for one in INSTRUCTIONS if one.name == "ARG"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert python == f"PYTHON={project['requires-python'].removeprefix('>=')}"
    bases = [one.arguments.split()[0] for one in INSTRUCTIONS if one.name == "FROM"]
    assert bases == ["python:${PYTHON}-slim"] * 2


def test_whatever_is_installed_is_locked() -> None:
    runs = [one.arguments for one in INSTRUCTIONS if one.name == "RUN"]
    [install] = [run for run in runs if re.search(r"\b(install|wheel|download|build)\b", run)]
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install


def test_no_build_tools_in_the_final_image() -> None:
    copies = [one.arguments for one in INSTRUCTIONS if one.stage == LAST and one.name == "COPY"]
    assert copies == [f"--from=build {HOME} {HOME}"]
    [run] = [one.arguments for one in INSTRUCTIONS if one.stage == LAST and one.name == "RUN"]
    assert "pip uninstall --yes pip" in run
    assert "pip install" not in run


def _copied() -> list[str]:
    copies = [one.arguments.split() for one in INSTRUCTIONS if one.name == "COPY" and "--from" not in one.arguments]
    return [source for words in copies for source in words[:-1]]


def test_what_is_copied_exists_and_nothing_else_is_sent() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    assert sorted(line[1:] for line in lines if line.startswith("!")) == sorted(_copied())
    for source in _copied():
        assert (ROOT / source).exists()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build stage, run in a folder, by the first process of this test run that needs it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "image"
    home, done = folder / "opt", folder / "done"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _build(folder / "src", home)
            done.touch()
    return home


def _build(source: Path, home: Path) -> None:
    """Run the RUN lines of the build stage with the image's paths replaced."""
    source.mkdir()
    # In place of the base image's Python: one that has pip as well.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for one in (one for one in INSTRUCTIONS if one.stage == 1):
        if one.name == "COPY":
            _copy(one.arguments.split(), source)
        elif one.name == "RUN":
            command = one.arguments.replace(HOME, str(home)).replace("--no-cache-dir", "")
            subprocess.run(["sh", "-ec", command], cwd=source, env=environment, check=True)


def _copy(words: list[str], target: Path) -> None:
    for source in words[:-1]:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target / words[-1], ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, target / source)


def _output(program: Path, *arguments: str) -> str:
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True, cwd="/").stdout


def test_the_build_installs_the_command(installed: Path) -> None:
    assert "serve" in _output(installed / "bin" / "vm-consistency", "--help")
    code = "import app; print(app.__version__, app.__file__)"
    version, path = _output(installed / "bin" / "python", "-P", "-c", code).split()
    assert version == __version__
    assert Path(path).is_relative_to(installed)


def test_no_import_has_to_compile(installed: Path) -> None:
    modules = list(installed.glob("lib/python3*/site-packages/app/**/*.py"))
    assert modules
    for module in modules:
        assert list((module.parent / "__pycache__").glob(f"{module.stem}.*.pyc")), module


def test_no_tools_are_installed(installed: Path) -> None:
    [packages] = installed.glob("lib/python3*/site-packages")
    assert packages.is_dir()
    assert not {"pip", "setuptools", "wheel", "hatchling"} & {path.name for path in packages.iterdir()}
