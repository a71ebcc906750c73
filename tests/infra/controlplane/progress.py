"""Long commands that show they are alive, and a lock between processes."""

import fcntl
import os
import subprocess
import sys
import tempfile
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
    print(f"control plane: {text}", file=sys.stderr, flush=True)


def run_visibly(
    what: str, command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> None:
    """Run `command` to its end, with a line when it starts, about every ten seconds, and when it is done.

    Raises BuildError with the command's output when it fails.
    """
    say(what)
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        with subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as process:
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
    path = cache_folder() / "machine.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            say("a benchmark runs; waiting for it" if not alone else "parts are being built; waiting for that")
            fcntl.flock(handle, kind)
        yield


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keep other processes from making `path`, by a lock beside it; says so when it has to wait for one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is making {path.name}; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
