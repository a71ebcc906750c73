"""The oldest pip that somebody may install the product with, kept apart from the one that runs the tests."""

import hashlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.infra.controlplane.progress import cache_folder, exclusive, run_visibly
from tests.infra.package_index import canonical
from tests.infra.virtualenv import PIP_INSTALL

_LOCK = Path(__file__).with_name("requirements-pip.txt")


@dataclass(frozen=True)
class OldPip:
    """Runs with the interpreter of an empty virtual environment in `home`, from the wheels in `index` alone."""

    home: Path
    index: Path
    environment: Mapping[str, str]

    @property
    def python(self) -> Path:
        """The interpreter of the virtual environment."""
        return self.home / "bin" / "python"

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run pip with a command and its options."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
        environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.index)}
        environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", **self.environment}
        command = [self.python, "-m", "pip", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def install(self, options: Sequence[str], lock: str) -> subprocess.CompletedProcess[str]:
        """Install a lock with the options of some command of ours."""
        path = self.home / "lock.txt"
        path.write_text(lock)
        return self.run("install", *options, "-r", path)

    def installed(self) -> dict[str, str]:
        """The versions of the packages in the environment, by canonical name."""
        listed = json.loads(self.run("list", "--format", "json").stdout)
        return {canonical(one["name"]): one["version"] for one in listed}


def old_pip(home: Path, index: Path) -> OldPip:
    """Make a virtual environment without packages in `home`. Raises BuildError when pip cannot be fetched.

    Python 3.11.0 bundles pip 22.3. Later Pythons cannot run that one: there it is the one that they bundle.
    """
    bundled = sys.version_info >= (3, 12)
    venv.create(home, with_pip=bundled)
    return OldPip(home, index, {} if bundled else {"PYTHONPATH": str(_pip_of_3_11_0())})


def _pip_of_3_11_0() -> Path:
    home = cache_folder() / f"pip-{hashlib.sha256(_LOCK.read_bytes()).hexdigest()[:16]}"
    with exclusive(home):
        if not home.exists():
            command = [sys.executable, "-m", "pip", "install", *PIP_INSTALL, "--target", str(home), "-r", str(_LOCK)]
            run_visibly("fetch pip 22.3", command)
    return home
