"""The disk images of the test guest: Debian with qemu-guest-agent and PostgreSQL, made once and kept in the cache.

No image is downloaded: debootstrap unpacks packages from the mirror that this machine's own apt sources name.
"""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.infra.controlplane.processes import DIES_WITH_PARENT
from tests.infra.controlplane.progress import BuildError, cache_folder, exclusive, run_visibly

_RELEASE = "bookworm"
_PACKAGES = ("linux-image-cloud-amd64", "qemu-guest-agent", "kmod", "initramfs-tools", "postgresql")
_POSTGRESQL = "/usr/lib/postgresql/15/bin"

_INIT = Path(__file__).with_name("init.sh")
_FREEZE_HOOK = Path(__file__).with_name("freeze_hook.sh")

# What a guest that lives for minutes can do without.
_DEAD_WEIGHT = ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")

# Only the modules that the start needs: the initrd is unpacked by an emulated processor.
_INITRAMFS = {
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\n",
    "etc/initramfs-tools/conf.d/test": "MODULES=list\nCOMPRESS=gzip\n",
}

_POSTGRESQL_CONF = """
shared_buffers = 16MB
max_connections = 20
dynamic_shared_memory_type = posix
jit = off
"""

_DISK_MIB = {"root": 900, "data": 256}

# Mounts and processes in there end with the command, and the command ends with the process that runs it.
_CONTAINED = (*DIES_WITH_PARENT, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


@dataclass(frozen=True, slots=True)
class GuestImage:
    """What a guest starts from; the files are never written.

    `root` is an ext4 file system with the label root. `data` has the label data and holds an initialised PostgreSQL
    cluster in /postgresql. Both are raw. The init script is /init.sh.
    """

    kernel: Path
    initrd: Path
    root: Path
    data: Path


def ensure_image() -> GuestImage:
    """Return the images, making them first when they are missing (a minute). Raises BuildError."""
    base = kept("guest-base", recipe(_RELEASE, _PACKAGES, _DEAD_WEIGHT), _make_base)
    parts = (base.name, _INITRAMFS, _POSTGRESQL_CONF, _DISK_MIB, _INIT.read_text(), _FREEZE_HOOK.read_text())
    home = kept("guest", recipe(*parts), lambda scratch: _make_image(base, scratch))
    return GuestImage(home / "kernel", home / "initrd", home / "root.img", home / "data.img")


def recipe(*parts: object) -> str:
    """What tells one way of making something from another."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def kept(name: str, made_from: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of the cache that `make` fills; it is called when no folder of that recipe is there."""
    home = cache_folder() / "guest" / f"{name}-{made_from}"
    if not home.exists():
        with exclusive(home):
            if not home.exists():
                _make_whole(home, make)
    return home


def _make_whole(home: Path, make: Callable[[Path], None]) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    scratch.chmod(0o755)  # it becomes a root directory that more users than root look into
    try:
        make(scratch)
        scratch.rename(home)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _make_base(root: Path) -> None:
    options = ("--variant=minbase", f"--include={','.join(_PACKAGES)}")
    command = [*_CONTAINED, "debootstrap", *options, _RELEASE, str(root), _mirror()]
    run_visibly("unpack Debian for the test guest", command)
    for folder in _DEAD_WEIGHT:
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir()


def _mirror() -> str:
    """The Debian mirror of this machine's apt sources. Raises BuildError when they name none."""
    wanted = "$(ORIGIN) $(COMPONENT) $(RELEASE) $(REPO_URI)"
    asked = ["apt-get", "indextargets", "--format", wanted, "Identifier: Packages"]
    lines = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.splitlines()
    for origin, component, release, uri in (line.split() for line in lines if len(line.split()) == 4):
        if (origin, component) == ("Debian", "main") and not {"-", "/"} & set(release):
            return uri
    raise BuildError("No apt source of this machine is a Debian mirror with `main`: run `apt-get update`, or add one.")


def _make_image(base: Path, home: Path) -> None:
    root = home / "root"
    _run("copy it", ["cp", "-a", str(base), str(root)])
    for path, text in _INITRAMFS.items():
        (root / path).write_text(text)
    shutil.copy(_INIT, root / "init.sh")
    shutil.copy(_FREEZE_HOOK, root / "usr/local/sbin/freeze-hook")
    for program in ("init.sh", "usr/local/sbin/freeze-hook"):
        (root / program).chmod(0o755)
    _in(root, "passwd", "--delete", "root")
    _in(root, "update-initramfs", "-u")
    _in(root, "install", "-d", "-o", "postgres", "-g", "postgres", "/data/postgresql")
    initdb = (f"{_POSTGRESQL}/initdb", "-D", "/data/postgresql", "--auth=peer", "--locale=C.UTF-8", "--data-checksums")
    _in(root, "runuser", "-u", "postgres", "--", *initdb)
    with (root / "data/postgresql/postgresql.conf").open("a") as conf:
        conf.write(_POSTGRESQL_CONF)
    for name in ("vmlinuz", "initrd.img"):
        kept = "kernel" if name == "vmlinuz" else "initrd"
        shutil.copy(next((root / "boot").glob(f"{name}-*")), home / kept)
    (root / "data").rename(home / "data")
    (root / "data").mkdir()
    for disk, size in _DISK_MIB.items():
        file_system = ("-t", "ext4", "-L", disk, "-d", str(home / disk))
        _run(f"make {disk}.img", ["mke2fs", "-q", *file_system, str(home / f"{disk}.img"), f"{size}M"])
        shutil.rmtree(home / disk)


def _in(root: Path, *command: str) -> None:
    _run(f"{command[0]} for the test guest", [*_CONTAINED, "chroot", str(root), *command])


def _run(what: str, command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{what}: exit code {done.returncode} from {' '.join(command)}\n{done.stdout}")
