"""The container `compute` as far as a hook can tell: KubeVirt's tools in /usr/bin and a guest's launcher socket."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.infra.controlplane.build import ensure_all
from tests.infra.controlplane.processes import DIES_WITH_PARENT
from tests.infra.guests.guest import Guest

# Overlays need no second copy of what lies below, and the folders laid on top are never written.
_ENTER = """
set -e
renice -n -20 $$ >/dev/null 2>&1 || true # time limits are to be kept on a busy machine too
mount -t overlay -o "lowerdir=$1:/usr/bin" tools /usr/bin
mount -t overlay -o "lowerdir=$2:/run" run /run
mount --bind "$3" /run/kubevirt
shift 3
exec "$@"
"""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def in_compute(scratch: Path, run_kubevirt: Path, command: Sequence[str | Path]) -> list[str | Path]:
    """The command that runs `command` where /usr/bin has virt-freezer and virt-probe, and /run/kubevirt is the folder.

    `scratch` is a folder for a mount point; the machine outside sees nothing of this.
    """
    tools = ensure_all("kubevirt-tools")["virt-freezer"].parent
    (scratch / "run" / "kubevirt").mkdir(parents=True, exist_ok=True)
    return ["unshare", "--mount", "sh", "-c", _ENTER, "enter", tools, scratch / "run", run_kubevirt, *command]


@dataclass(frozen=True, slots=True)
class Done:
    """How a command in `compute` ended."""

    exit_code: int
    stdout: str
    stderr: str


class Compute:
    """Runs commands as if exec'd into the container of a guest's launcher pod. `environment` leads virsh to libvirt."""

    def __init__(self, guest: Guest, environment: Mapping[str, str]) -> None:
        self._guest = guest
        self._environment = {"PATH": PATH, "HOME": "/", **environment}

    def start(self, argv: Sequence[str]) -> "subprocess.Popen[str]":
        """Start a command with its output piped, for who wants to do something meanwhile."""
        return subprocess.Popen(
            [*DIES_WITH_PARENT, *in_compute(self._guest.folder / "compute", self._guest.run_kubevirt, argv)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=self._environment,
        )

    def run(self, *argv: str, seconds: float = 180.0) -> Done:
        """Run a command to its end; after `seconds` it is killed and subprocess.TimeoutExpired raised."""
        return finish(self.start(argv), seconds)

    def freeze(self, *more: str) -> Done:
        """`virt-freezer --freeze` as KubeVirt's own hook has it."""
        return self._freezer("--freeze", *more)

    def thaw(self) -> Done:
        """`virt-freezer --unfreeze`."""
        return self._freezer("--unfreeze")

    def probe(self, *command: str, seconds: int = 5) -> Done:
        """`virt-probe`, which runs a command in the guest; its program and arguments are pasted into JSON unescaped."""
        program, *arguments = command
        options = ["--domainName", self._guest.domain, "--timeoutSeconds", str(seconds), "--command", program]
        return self.run("/usr/bin/virt-probe", *options, "--", *arguments)

    def _freezer(self, *options: str) -> Done:
        namespace, name = self._guest.domain.split("_", 1)
        return self.run("/usr/bin/virt-freezer", *options, "--name", name, "--namespace", namespace)


def finish(process: "subprocess.Popen[str]", seconds: float = 180.0) -> Done:
    """Wait for the end of what `Compute.start` gave."""
    with process:
        try:
            stdout, stderr = process.communicate(timeout=seconds)
        except BaseException:
            process.kill()
            raise
    return Done(process.returncode, stdout, stderr)
