"""Virtual environments in the cache folder, for programs that need other packages than the product does."""

import hashlib
import shutil
import subprocess
import tempfile
import venv
from pathlib import Path

from tests.infra.controlplane.progress import BuildError, cache_folder, exclusive, run_visibly

PIP_INSTALL = ("--disable-pip-version-check", "--no-deps", "--require-hashes", "--only-binary", ":all:")
"""As the Makefile and the Dockerfile install: what a lock leads to depends neither on the day nor on pip's version."""


def ensure_virtualenv(name: str, lock: Path, what: str) -> Path:
    """Return the folder of the virtual environment with everything in `lock`, making it when it is missing.

    `what` is for the lines that show progress. Raises BuildError when it cannot be made.
    """
    home = cache_folder() / f"{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    with exclusive(home):
        if not home.exists():
            _make(home, lock, what)
    return home


def _make(home: Path, lock: Path, what: str) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=".installing-", dir=home.parent))
    try:
        venv.create(scratch, with_pip=True)
        pip = [str(scratch / "bin" / "python"), "-m", "pip"]
        run_visibly(f"install {what} from PyPI", [*pip, "install", *PIP_INSTALL, "-r", str(lock)])
        run_visibly(f"check {what}", [*pip, "check"])
        scratch.rename(home)  # complete or absent; its scripts name the old place, its python does not
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"Cannot make a virtual environment for {what}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
