"""A lock installs the same on every day and with every pip.

Each lock is installed by the oldest pip from an index in which every package has a newer version as well, as the real
index will have one day. The wheels there have no code; what they require is what the real ones require.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest

from tests.infra.old_pip import OldPip, old_pip
from tests.infra.package_index import Package, canonical, index_for, locked, versions
from tests.infra.virtualenv import PIP_INSTALL

ROOT = Path(__file__).parents[2]
RESOLVING = ("--require-hashes",)
"""The options that the development lock was installed with until the day on which they failed."""


def _makefile() -> str:
    [value] = re.findall(r"^INSTALL := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return str(value)


def _dockerfile() -> str:
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    [command] = re.findall(r"^RUN (.* install .*) && .* check$", lines, re.MULTILINE)
    return str(command)


def _options(command: str) -> list[str]:
    words = shlex.split(command)[shlex.split(command).index("install") + 1 :]
    return words[: words.index("-r")] if "-r" in words else words


OPTIONS = _options(_makefile())
SILENT = {"--quiet", "--disable-pip-version-check", "--no-compile"}
"""Options that change nothing about what is installed."""
LOCKS = ("requirements.txt", "requirements-dev.txt")


@pytest.fixture
def pip(tmp_path: Path) -> OldPip:
    index = tmp_path / "index"
    index.mkdir()
    return old_pip(tmp_path / "venv", index)


@pytest.fixture(scope="module")
def known() -> Mapping[str, Distribution]:
    """What is installed here, by canonical name: everything in both locks."""
    return {canonical(one.metadata["Name"]): one for one in distributions()}


def install(pip: OldPip, options: list[str], lock: str) -> dict[str, str]:
    """Install a lock and have pip check the result; returns versions by canonical name."""
    ran = pip.install(options, lock)
    assert ran.returncode == 0, ran.stderr
    checked = pip.run("check")
    assert checked.returncode == 0, checked.stdout
    return pip.installed()


@pytest.mark.parametrize("options", [_options(_dockerfile()), list(PIP_INSTALL)], ids=["Dockerfile", "tests"])
def test_everything_is_installed_the_same_way(options: list[str]) -> None:
    assert set(options) - SILENT == set(OPTIONS) - SILENT


@pytest.mark.parametrize("lock", LOCKS)
def test_each_lock_installs_whatever_is_published_meanwhile(
    pip: OldPip, known: Mapping[str, Distribution], lock: str
) -> None:
    text = (ROOT / lock).read_text()
    copy = index_for(locked(text), known, pip.index)

    found = install(pip, OPTIONS, copy)

    assert versions(text).items() <= found.items()


def test_resolving_the_development_lock_fails_on_that_index(pip: OldPip, known: Mapping[str, Distribution]) -> None:
    copy = index_for(locked((ROOT / "requirements-dev.txt").read_text()), known, pip.index)

    ran = pip.install(RESOLVING, copy)

    assert ran.returncode != 0
    assert "must have their versions pinned with ==" in ran.stderr


@pytest.fixture
def different_extras(pip: OldPip) -> str:
    """A lock, made as `make lock` does, of two packages that want different extras of a third one."""
    packages = [
        Package("left", "1.0", ["third[a]"]),
        Package("right", "1.0", ["third[b]"]),
        Package("third", "1.0", ["for-a; extra == 'a'", "for-b; extra == 'b'"], ["a", "b"]),
        Package("for-a", "1.0"),
        Package("for-b", "1.0"),
    ]
    for package in packages:
        package.write(pip.index)
    return _compile(pip)


def _compile(pip: OldPip) -> str:
    [command] = re.findall(r"^COMPILE_LOCK = \S*/uv (.*) \$\(if", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (pip.home / "lock.in").write_text("left\nright\n")
    uv = [str(Path(sys.executable).with_name("uv")), *shlex.split(command)]
    offline = ["--offline", "--no-cache", "--no-index", "--find-links", str(pip.index), "lock.in"]
    return subprocess.run([*uv, *offline], cwd=pip.home, check=True, capture_output=True, text=True).stdout


def test_two_packages_may_want_different_extras_of_a_third(pip: OldPip, different_extras: str) -> None:
    for one in locked(different_extras):
        Package(one.name, "1.0").newer().write(pip.index)

    found = install(pip, OPTIONS, different_extras)

    assert found.items() >= dict.fromkeys(("left", "right", "third", "for-a", "for-b"), "1.0").items()


def test_resolving_fails_there_whether_or_not_the_lock_names_the_extras(pip: OldPip, different_extras: str) -> None:
    for name, requires in (("left", ["third[a]"]), ("right", ["third[b]"]), ("third", [])):
        Package(name, "1.0", requires, ["a", "b"]).newer().write(pip.index)

    for lock in (different_extras, different_extras.replace("third==", "third[a,b]==")):
        assert pip.install(RESOLVING, lock).returncode != 0


def test_a_package_that_was_changed_is_refused(pip: OldPip, different_extras: str) -> None:
    Package("third", "1.0", ["something-else"]).write(pip.index)

    ran = pip.install(OPTIONS, different_extras)

    assert ran.returncode != 0
    assert "HASH" in ran.stderr.upper()


def test_the_development_lock_contains_the_runtime_lock() -> None:
    runtime, development = ((ROOT / lock).read_text() for lock in LOCKS)

    assert versions(runtime).items() <= versions(development).items()
