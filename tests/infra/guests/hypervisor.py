"""A libvirtd of the tests' own, and the guests it runs under QEMU's software emulation."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.infra.controlplane.build import ensure_all
from tests.infra.controlplane.processes import PREFERRED, Process, unwind_on_sigterm
from tests.infra.controlplane.progress import COMMANDS, BuildError, say
from tests.infra.guests.domain import Agent, Domain
from tests.infra.guests.guest import Guest
from tests.infra.guests.image import ensure_image, kept, recipe
from tests.infra.guests.seed import Seed

# Mounts, processes and network of its own: nothing of the host's libvirt is seen or touched, and when the first process
# dies, however it dies, the kernel ends every guest and drops every mount. The shell stays process 1 because it reaps
# what QEMU's start leaves behind; libvirtd takes a zombie for a guest that will not die.
_APART = ("unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc", "sh", "-c")
_START = """
set -e
mount -t tmpfs tmpfs /run
for name in etc var/lib var/log var/cache; do
    mount --bind "$1/$name" "/$name/libvirt"
done
libvirtd --config /etc/libvirt/libvirtd.conf --pid-file /run/libvirtd.pid &
wait
"""
_PRIVATE = ("etc", "var/lib", "var/log", "var/cache")

_QEMU_CONF = """
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
remember_owner = 0
dynamic_ownership = 0
stdio_handler = "file"
"""

_LIBVIRTD_CONF = """
unix_sock_dir = "{sockets}"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:stderr"
"""


class Hypervisor:
    """A context manager: libvirtd answers on entry; on exit, whatever the way out, no guest is left.

    `folder` gets configuration, sockets, disks and logs; keep its path short, for sockets lie in it. `environment` is
    what a process needs for `virsh` to come here without options.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = f"qemu+unix:///system?socket={folder / 'sockets' / 'libvirt-sock'}"
        self.environment: Mapping[str, str] = {"LIBVIRT_DEFAULT_URI": self.uri}
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        self._image = ensure_image()
        self._bridge = ensure_all("bridge")["launcher-bridge"]
        self._configure()
        unwind_on_sigterm(self._exit)
        # An emulated guest is slow, and the hooks' time limits are those of real ones.
        self._libvirtd = Process(
            "libvirtd",
            [*PREFERRED, *_APART, _START, "libvirtd", self.folder],
            self.folder / "libvirtd.log",
            ready=lambda: self._virsh("version").returncode == 0,
        )
        self._exit.callback(self._libvirtd.kill)
        try:
            self._libvirtd.start()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def start(self, namespace: str, name: str, *, agent: Agent = Agent.NORMAL, data_disk: Path | None = None) -> Guest:
        """Start a guest as the domain NAMESPACE_NAME and return at once: see `Guest.wait_agent`.

        `data_disk` is a raw image that becomes the guest's own and is written to. Without it the guest gets a fresh one
        and goes on from where another of its kind once stood ready: its clock is that one's.
        Raises RuntimeError with libvirt's message.
        """
        if data_disk is not None:
            return self._boot(namespace, name, agent, data_disk)
        seed = self.seed(agent)
        guest = self._guest(namespace, name, agent, None)
        memory = seed.plant(guest.definition)
        self._must_virsh("restore", memory)
        memory.unlink()
        return guest

    def seed(self, agent: Agent) -> Seed:
        """What `start` goes on from, made by a guest that boots where it is missing."""
        versions = self._virsh("version").stdout
        example = Domain("example", agent, Path("/"), Path("/data.img")).xml(self._image)
        return Seed(kept("guest-started", recipe(versions, example), partial(self._make_seed, agent)))

    def _make_seed(self, agent: Agent, home: Path) -> None:
        began, what = time.monotonic(), f"start a test guest (agent: {agent}) and save it"
        say(f"{what}, a minute or so under emulation")
        guest = self._boot("seed", agent, agent, None)
        if agent is Agent.NONE:
            guest.wait_console("ready without an agent")
        else:
            guest.wait_agent()
        seed = Seed(home)
        self._must_virsh("save", guest.domain, seed.memory)
        seed.take(guest.definition)
        guest.close()
        say(f"{what}: done in {time.monotonic() - began:.0f} s")

    def _boot(self, namespace: str, name: str, agent: Agent, data_disk: Path | None) -> Guest:
        guest = self._guest(namespace, name, agent, data_disk)
        domain = guest.definition
        if data_disk is None:
            subprocess.run(["cp", "--sparse=always", self._image.data, domain.data_disk], check=True)
        backing = ("-F", "raw", "-b", str(self._image.root))
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, domain.root_disk], check=True)
        definition = domain.folder / "domain.xml"
        definition.write_text(domain.xml(self._image))
        self._must_virsh("create", definition)
        return guest

    def _guest(self, namespace: str, name: str, agent: Agent, data_disk: Path | None) -> Guest:
        # The launcher runs before the guest does, as in the pod: it learns of the agent by libvirt's events.
        folder = self.folder / f"{namespace}_{name}"
        folder.mkdir()
        guest = Guest(Domain(folder.name, agent, folder, data_disk or folder / "data.img"), self.uri, self._bridge)
        self._exit.callback(guest.close)
        guest.launcher.start()
        return guest

    def _configure(self) -> None:
        for name in (*_PRIVATE, "sockets"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "etc" / "qemu.conf").write_text(_QEMU_CONF)
        (self.folder / "etc" / "libvirtd.conf").write_text(_LIBVIRTD_CONF.format(sockets=self.folder / "sockets"))

    def _must_virsh(self, *words: str | Path) -> None:
        done = self._virsh(*words)
        if done.returncode != 0:
            said = f"virsh {' '.join(map(str, words))}: {done.stderr.strip()}"
            raise RuntimeError(f"{said}\n{self._libvirtd.log_tail()}")

    def _virsh(self, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["virsh", "-q", "-c", self.uri, *words], capture_output=True, text=True, check=False)


def ensure_started_guest() -> None:
    """Make everything that `Hypervisor.start` needs and that is missing, ahead of time."""
    folder = Path(tempfile.mkdtemp(prefix="vm-consistency-"))
    try:
        with Hypervisor(folder) as hypervisor:
            for agent in Agent:
                if COMMANDS.ended:
                    raise BuildError("interrupted")
                hypervisor.seed(agent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
