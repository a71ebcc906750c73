"""The hook scripts in a real shell, with tests/scripts/stand_in_tools.py for what talks to a guest.

def test_something(hooks: HookRunner) -> None:
    hooks.application(quiesce=[...], resume=[...])
    assert hooks.pre().ok
    assert hooks.guest_log() == [...]
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.core.constants import COMMAND, POST, PRE, KubeVirtNames
from app.core.hooks import render_hooks
from app.core.policy import Hooks, Level
from app.core.profiles import Profile, Shell, Step
from tests.infra.controlplane.waiting import wait_for

TOOLS = Path(__file__).parent / "stand_in_tools.py"


@dataclass(frozen=True)
class Ran:
    """What a hook did, as Velero would see it."""

    exit_code: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        return self.exit_code == 0


class HookRunner:
    """Runs the hooks of VM shop/db; `guest` is the folder of the stand-in guest."""

    def __init__(self, folder: Path) -> None:
        self.guest = folder / "guest"
        self.bin = folder / "bin"
        self.guest.mkdir()
        self.bin.mkdir()
        for name in ("virt-freezer", "virt-probe", "virsh"):
            (self.bin / name).write_text(f"#!{sys.executable}\n{TOOLS.read_text()}")
            (self.bin / name).chmod(0o755)
        self.names = KubeVirtNames(freezer=str(self.bin / "virt-freezer"))
        self.environment = {"PATH": f"{self.bin}:{os.environ['PATH']}", "STAND_IN_GUEST": str(self.guest)}
        self.quick = Hooks(freeze_timeout="2s", thaw_timeout="2s", auto_thaw_seconds=3)
        self.filesystem()

    def filesystem(self, *, require_frozen: bool = True) -> None:
        self._render(Level.FILESYSTEM, Profile(), require_frozen)

    def application(
        self,
        quiesce: dict[str, str] | None = None,
        resume: dict[str, str] | None = None,
        *,
        shell: Shell = Shell.SH,
        seconds: int = 3,
        require_frozen: bool = False,
    ) -> None:
        def steps(written: dict[str, str] | None) -> tuple[Step, ...]:
            return tuple(Step(name, run, seconds) for name, run in (written or {}).items())

        self._render(Level.APPLICATION, Profile(shell, steps(quiesce), steps(resume)), require_frozen)

    def _render(self, level: Level, profile: Profile, require_frozen: bool) -> None:
        hooks = Hooks(
            self.quick.freeze_timeout,
            thaw_timeout=self.quick.thaw_timeout,
            auto_thaw_seconds=self.quick.auto_thaw_seconds,
            require_frozen=require_frozen,
        )
        self.annotations = render_hooks(level, profile, hooks, "shop", "db", self.names)

    def pre(self) -> Ran:
        return self._run(PRE)

    def post(self) -> Ran:
        return self._run(POST)

    def start(self, phase: str) -> subprocess.Popen[str]:
        """Start a hook as Velero has it exec'd: its argv, read from the annotation, and no shell around it."""
        argv = json.loads(self.annotations[phase + COMMAND])
        pipe = subprocess.PIPE
        return subprocess.Popen(
            argv, env=self.environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )

    def _run(self, phase: str) -> Ran:
        process = self.start(phase)
        out, err = process.communicate(timeout=120)
        return Ran(process.returncode, out, err)

    def set(self, *names: str) -> None:
        for name in names:
            (self.guest / name).touch()

    def unset(self, *names: str) -> None:
        for name in names:
            (self.guest / name).unlink(missing_ok=True)

    @property
    def frozen(self) -> bool:
        return (self.guest / "frozen").exists()

    @property
    def log(self) -> list[str]:
        """What happened to the guest: freezes and thaws, and what steps wrote there with `note`."""
        path = self.guest / "log"
        return path.read_text().splitlines() if path.exists() else []

    def note(self, word: str) -> str:
        """Code for a step that leaves a line in the log."""
        return f"echo {word} >>{self.guest}/log"

    @property
    def status(self) -> str:
        path = self.guest / "run" / "status"
        return path.read_text() if path.exists() else ""

    def keeper_ended(self) -> bool:
        """Whether no keeper holds the lock any more."""
        lock = self.guest / "run" / "lock"
        return not lock.exists() or subprocess.run(["flock", "-n", lock, "true"], check=False).returncode == 0

    def tell_the_keeper(self, number: signal.Signals) -> None:
        """Send a signal to every process that has the lock open, as systemd does to those of a service."""
        lock = str(self.guest / "run" / "lock")
        for descriptor in Path("/proc").glob("[0-9]*/fd/9"):
            with suppress(OSError):
                if os.readlink(descriptor) == lock:
                    os.kill(int(descriptor.parts[2]), number)

    def end(self) -> None:
        """End a keeper that a test left."""
        if self.keeper_ended():
            return
        (self.guest / "run" / f"end.{self.status.split()[0]}").touch()
        wait_for(self.keeper_ended, 30, what="the keeper to end")


@pytest.fixture
def hooks(tmp_path: Path) -> Iterator[HookRunner]:
    runner = HookRunner(tmp_path)
    yield runner
    runner.unset("frozen")
    runner.end()
