"""The hook scripts in a real shell, with tests/scripts/stand_in_tools.py for what talks to a guest.

def test_something(hooks: HookRunner) -> None:
    hooks.application(quiesce=[...], resume=[...])
    assert hooks.pre().ok
    assert hooks.guest_log() == [...]
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from app.core.annotations import COMMAND, POST, PRE
from app.core.hooks.render import render_hooks
from app.core.kubevirt_names import KubeVirtNames
from app.core.policy import Hooks, Level
from app.core.profiles import Profile, Shell, Step
from tests.scripts.clocks import HookClock, RealClock, SkippingClock
from tests.scripts.processes import Processes, can_be_watched

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
    """Runs the hooks of VM shop/db; `guest` is the folder of the stand-in guest.

    Time passes while a method waits, and for tests in `clock.sleep` and `clock.until`.
    """

    def __init__(self, folder: Path, *, real_time: bool) -> None:
        self.guest = folder / "guest"
        self.bin = folder / "bin"
        self.guest.mkdir()
        self.bin.mkdir()
        for name in ("virt-freezer", "virt-probe", "virsh"):
            # Without the packages of the environment, Python starts in a fraction of the time.
            (self.bin / name).write_text(f"#!{sys.executable} -IS\n{TOOLS.read_text()}")
            (self.bin / name).chmod(0o755)
        self.names = KubeVirtNames(freezer=str(self.bin / "virt-freezer"))
        self.processes = Processes("STAND_IN_GUEST", str(self.guest))
        self.clock: HookClock = RealClock() if real_time else SkippingClock(folder / "clock", self.processes)
        path = ":".join(map(str, (self.bin, *self.clock.tools, os.environ["PATH"])))
        self.environment = {"PATH": path, **self.processes.environment, **self.clock.environment}
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

    def end_of(self, process: subprocess.Popen[str]) -> Ran:
        """Wait for a hook that was started."""
        self.clock.until(lambda: process.poll() is not None, 120, what="the hook")
        out, err = process.communicate(timeout=10)
        return Ran(process.returncode, out, err)

    def _run(self, phase: str) -> Ran:
        return self.end_of(self.start(phase))

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
        with suppress(FileNotFoundError), (self.guest / "run" / "lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def tell_the_keeper(self, number: signal.Signals) -> None:
        """Send a signal to every process that has the lock open, as systemd does to those of a service."""
        lock = str(self.guest / "run" / "lock")
        for descriptor in Path("/proc").glob("[0-9]*/fd/9"):
            with suppress(OSError):
                if os.readlink(descriptor) == lock:
                    os.kill(int(descriptor.parts[2]), number)

    def end(self) -> None:
        """End a keeper that a test left, by its own means, and then all that is left."""
        self.unset("frozen")
        try:
            if not self.keeper_ended():
                (self.guest / "run" / f"end.{self.status.split()[0]}").touch()
                self.clock.until(self.keeper_ended, 30, what="the keeper to end")
        finally:
            self.processes.kill()


@cache
def time_can_be_skipped() -> bool:
    """Whether this machine has what SkippingClock needs; without it, tests take longer."""
    version = subprocess.run(["timeout", "--version"], capture_output=True, check=False).stdout
    return b"GNU coreutils" in version and can_be_watched()


BOTH_CLOCKS = pytest.mark.parametrize("real_time", [False, True], ids=["skipping", "real-time"])
"""For tests that show that the hooks do the same in the time of the machine."""


@pytest.fixture
def real_time() -> bool:
    """Whether the hooks wait as long as they do in a cluster."""
    return False


@pytest.fixture
def hooks(tmp_path: Path, real_time: bool) -> Iterator[HookRunner]:
    runner = HookRunner(tmp_path, real_time=real_time or not time_can_be_skipped())
    yield runner
    runner.end()
