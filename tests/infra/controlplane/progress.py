"""Long commands that show they are alive, and a lock between processes."""

import fcntl
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

HEARTBEAT_SECONDS = 10.0


def cache_folder() -> Path:
    """Where built parts are kept; survives `git clean`."""
    if chosen := os.environ.get("VM_CONSISTENCY_CACHE"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "vm-consistency"


class BuildError(Exception):
    """A part cannot be built or found; the message says what to do."""


def say(text: str) -> None:
    """Write one line of progress to standard error, where it does not mix with results."""
    sys.stderr.write(f"control plane: {text}\n")  # in one piece: print() would mix lines of two threads
    sys.stderr.flush()


class Commands:
    """The long commands that run now, so that a signal ends them, whichever threads wait for them."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a second signal may come while `end` handles the first one
        self._running = set[subprocess.Popen[bytes]]()
        self.ended = False
        """Whether `end` was called."""

    @contextmanager
    def run(
        self, command: Sequence[str], cwd: Path | None, env: Mapping[str, str] | None, output: IO[bytes]
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command, and wait for its end. Raises BuildError once `end` was called."""
        with self._lock:
            if self.ended:
                raise BuildError("interrupted")
            process = subprocess.Popen(
                command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
            self._running.add(process)
        try:
            with process:
                yield process
        finally:
            with self._lock:
                self._running.discard(process)

    def end(self) -> None:
        """End all that run, and let none start any more."""
        with self._lock:
            self.ended = True
            for process in self._running:
                process.terminate()


COMMANDS = Commands()
"""Those of this process."""


def run_visibly(
    what: str, command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> None:
    """Run `command` to its end, with a line when it starts, about every ten seconds, and when it is done.

    Raises BuildError with the command's output when it fails.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        with COMMANDS.run(command, cwd, env, output) as process:
            say(what)
            try:
                _wait_with_heartbeat(process, what, started, output)
            except BaseException:
                process.terminate()
                raise
        if process.returncode != 0:
            output.seek(0)
            text = output.read().decode(errors="replace")
            raise BuildError(f"{what}: exit code {process.returncode} from {' '.join(command)}\n{text}")
    say(f"{what}: done in {time.monotonic() - started:.0f} s")


def _wait_with_heartbeat(process: subprocess.Popen[bytes], what: str, started: float, output: IO[bytes]) -> None:
    while True:
        try:
            process.wait(HEARTBEAT_SECONDS)
        except subprocess.TimeoutExpired:
            lines, last = _lines_and_last(output.fileno())
            say(f"{what}: {time.monotonic() - started:.0f} s, {lines} steps, at {last}")
        else:
            return


def _lines_and_last(descriptor: int) -> tuple[int, str]:
    # pread, because the child shares this descriptor's position and writes there.
    text = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    lines = text.decode(errors="replace").splitlines()
    return len(lines), lines[-1][:80] if lines else "the start"


@contextmanager
def using_the_machine(*, alone: bool) -> Iterator[None]:
    """Keep benchmarks (`alone`) and builds from running at the same time; says so when it has to wait.

    Several processes may build at once. One that waits to be alone waits for all of them.
    """
    waiting = f"waiting for {'builds and benchmarks' if alone else 'a benchmark'} to end"
    with _locked(cache_folder() / "machine.lock", fcntl.LOCK_EX if alone else fcntl.LOCK_SH, waiting):
        yield


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keep other processes from making `path`, by a lock beside it; says so when it has to wait for one."""
    waiting = f"another process is making {path.name}; waiting for it"
    with _locked(path.with_name(f"{path.name}.lock"), fcntl.LOCK_EX, waiting):
        yield


@contextmanager
def _locked(lock: Path, kind: int, waiting: str) -> Iterator[None]:
    """Hold a lock (flock(2)) of that kind, and say `waiting` when another process holds it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(handle, kind)
        yield
