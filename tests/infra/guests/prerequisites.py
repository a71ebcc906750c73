"""What this machine must have for tests with real guests and databases."""

import os
from pathlib import Path

from tests.infra.controlplane.progress import BuildError

_PACKAGES = Path(__file__).parents[3] / ".ci" / "packages"

_FOLDERS = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin", "usr/lib/postgresql/*/bin")
_PROGRAMS = (
    "busybox",
    "debootstrap",
    "gcc",
    "initdb",
    "ip",
    "libvirtd",
    "mariadbd",
    "mke2fs",
    "pkg-config",
    "pkill",
    "qemu-img",
    "qemu-system-x86_64",
    "redis-server",
    "setpriv",
    "unshare",
    "virsh",
)


def require_machine(root: Path = Path("/"), user: int | None = None) -> None:
    """Raise BuildError where these tests cannot run, with the command that helps."""
    if (os.geteuid() if user is None else user) != 0:
        raise BuildError("Tests with guests and databases mount file systems: run them as root, e.g. `sudo make e2e`.")
    missing = [name for name in _PROGRAMS if not any(any(root.glob(f"{folder}/{name}")) for folder in _FOLDERS)]
    if missing:
        packages = " ".join(_PACKAGES.read_text().split())
        raise BuildError(f"{', '.join(missing)} not found. Run: apt-get install --no-install-recommends {packages}")
