"""A guest without a virtual machine: own mounts, network and processes on this machine's kernel, and a disk of its own.

What runs in it finds the places that the shipped steps name (/run, /etc/vm-consistency, /root, default sockets and
ports) and can't reach those of this machine. The disk is a real ext4 on a loop device, frozen by the same ioctl that
the guest agent uses. Only the guest agent and QEMU are missing: commands are started by nsenter, with the agent's bare
environment. When the guest or the process that made it ends, the kernel ends all of its processes and mounts.
"""

import base64
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from app.core.hooks.commands import keeper
from app.core.profiles import Profile
from tests.infra.controlplane.processes import DIES_WITH_PARENT
from tests.infra.controlplane.waiting import wait_for

DISK = "/srv"
"""Where the guest's disk is mounted; servers keep their data there."""

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
"""What qemu-ga has as a service of systemd; no HOME."""

_BOOT = """
set -e
ip link set lo up
mount -t tmpfs run /run
mkdir -p /run/guest/upper /run/guest/work /run/guest/root
mount -t overlay -o lowerdir=/etc,upperdir=/run/guest/upper,workdir=/run/guest/work etc /etc
mount --bind /run/guest/root /root
mount -o loop "$1" /srv
echo up
exec env --ignore-signal=CHLD sleep infinity # so that the kernel reaps the guest's orphans
"""


class NamespaceGuest:
    """Starts at once; `stop` ends it. `disk` is an image with an ext4 file system, which is written to."""

    def __init__(self, disk: Path) -> None:
        self.disk = disk
        unshare = [*DIES_WITH_PARENT, "unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
        self._unshare = subprocess.Popen(
            [*unshare, "sh", "-c", _BOOT, "boot", str(disk)],
            env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self._unshare.stdout is not None
        said = self._unshare.stdout.readline()
        if said != "up\n":
            raise RuntimeError(f"the guest did not start: {said}{self._unshare.stdout.read()}")
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        self._pid = children.read_text().strip()
        self._started: list[subprocess.Popen[str]] = []
        self._frozen = False

    def stop(self) -> None:
        if self._frozen:
            self.run("fsfreeze", "-u", DISK)
        self._unshare.kill()
        for process in (self._unshare, *self._started):
            process.communicate()

    def start(self, *argv: str) -> "subprocess.Popen[str]":
        """Start a command as root."""
        enter = ["nsenter", "--target", self._pid, "--mount", "--net", "--pid", "--wdns=/", "--"]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        process = subprocess.Popen(
            [*enter, *argv], env=_ENVIRONMENT, stdin=null, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )
        self._started.append(process)
        return process

    def run(self, *argv: str, ok: bool = True) -> str:
        """Run a command as root, and return what it printed."""
        process = self.start(*argv)
        said, _ = process.communicate(timeout=60)
        self._started.remove(process)
        if ok and process.returncode:
            raise RuntimeError(f"{' '.join(argv)} ended with {process.returncode}: {said}")
        return said.strip()

    def daemon(self, *argv: str) -> None:
        """Start a command that runs until the guest ends."""
        self.run("setsid", "--fork", "sh", "-c", 'exec "$@" >>/run/daemon.log 2>&1', "sh", *argv)

    def processes(self, *names: str) -> list[str]:
        """The processes of these names that live, as `PID STATE COMMAND LINE`."""
        found = self.run("ps", "-o", "pid=,stat=,args=", "-C", ",".join(names), ok=False).splitlines()
        return [process for process in found if not process.endswith("<defunct>")]

    def write(self, path: str, text: str, mode: str = "600") -> None:
        self.run("install", "-D", "-m", mode, "/dev/null", path)
        self.run("sh", "-c", 'printf %s "$2" >"$1"', "sh", path, text)

    # The keeper, started and spoken to as by the hooks.

    def quiesce(self, profile: Profile, hold: int = 60) -> str:
        """Start the keeper, wait until it holds or is over, and return its status without the name of the run."""
        self._run = run = str(uuid4())
        code = base64.b64encode(keeper(profile, hold).encode()).decode()
        said = self.run("/bin/sh", "-c", f"i={run};IFS=;set -f;eval $(echo {code}|base64 -d)")
        assert said == f"{run} started", said
        self.run("touch", f"/run/vm-consistency/go.{run}")
        return self._await("held", "over")

    def resume(self) -> str:
        """Say `end` to the keeper, wait until it is over, and return its status without the name of the run."""
        self.run("touch", f"/run/vm-consistency/end.{self._run}")
        return self._await("over")

    def over(self) -> str:
        """Wait until the keeper is over by itself, and return its status without the name of the run."""
        return self._await("over")

    def _await(self, *words: str) -> str:
        def look() -> str | None:
            _, _, status = self.run("cat", "/run/vm-consistency/status").partition(" ")
            return status if status.split(" ")[0] in words else None

        return wait_for(look, 60, what=f"status {' or '.join(words)} of the keeper")

    # The window of the backup.

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the disk for a while."""
        self.run("fsfreeze", "-f", DISK)
        self._frozen = True
        try:
            yield
        finally:
            self.run("fsfreeze", "-u", DISK)
            self._frozen = False

    def snapshot(self, to: Path) -> Path:
        """Copy the disk while it is frozen."""
        with self.frozen():
            subprocess.run(["cp", "--sparse=always", self.disk, to], check=True)
        return to
