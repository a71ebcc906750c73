"""Child processes that cannot outlive this one, and ports that nobody else takes meanwhile."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType

# Becomes the program after asking the kernel for SIGKILL at the parent's death (PR_SET_PDEATHSIG, linux/prctl.h). Not
# by preexec_fn, which forks a copy of a process that may have threads.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent died before it could be watched")
os.execvp(sys.argv[2], sys.argv[2:])
"""

DIES_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")
"""Put before a command that is not a `Process`: it is killed when the thread that starts it ends."""

PREFERRED = ("nice", "--adjustment=-20")
"""Put before a command that has to keep time limits on a busy machine too; needs root, without which it only warns."""

# The parent that dies is, for the kernel, the THREAD that forked: one thread, as old as the interpreter, forks all.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")

_POLL_SECONDS = 0.02


class ProcessError(Exception):
    """A process ended or did not become ready; the message ends with the last lines of its log."""


class Process:
    """A program with its own process group and log file, which can be started again after its end.

    `ready` is polled by `start` until it returns True; it may raise OSError while nothing listens yet.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        *,
        ready: Callable[[], bool],
        env: Mapping[str, str] | None = None,
        ready_seconds: float = 60.0,
    ) -> None:
        self.name = name
        self.command = [str(word) for word in command]
        self.log = log
        self._ready = ready
        self._env = dict(env) if env is not None else None
        self._ready_seconds = ready_seconds
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id, also the id of its group. Raises ProcessError when it was never started."""
        if self._child is None:
            raise ProcessError(f"{self.name} was not started")
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs (or is paused)."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> "Process":
        """Start with the same command as ever and return when ready; output is appended to the log."""
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start without waiting. Raises ProcessError when it already runs."""
        if self.alive:
            raise ProcessError(f"{self.name} already runs as process {self.pid}")
        self._child = _SPAWNER.submit(self._spawn).result()

    def wait_ready(self) -> None:
        """Return when ready; raises ProcessError when the process ends first or takes too long."""
        deadline = time.monotonic() + self._ready_seconds
        while not self._is_ready():
            if not self.alive:
                raise ProcessError(f"{self.name} ended before it was ready\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name} not ready in {self._ready_seconds:.0f} s\n{self.log_tail()}")
            time.sleep(_POLL_SECONDS)

    def stop(self, grace_seconds: float = 10.0) -> None:
        """Ask it to end (SIGTERM), then end whatever is left of its group (SIGKILL). Fine on an ended process."""
        if self.alive:
            self.resume()
            self._signal(signal.SIGTERM)
            self._wait(grace_seconds)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole group, and wait for the end."""
        if self._child is None:
            return
        self._signal(signal.SIGKILL)
        self._wait(None)

    def pause(self) -> None:
        """SIGSTOP: alive, but answering nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: end of a pause."""
        self._signal(signal.SIGCONT)

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """Send a signal and return at once; `exit_code` tells what came of it."""
        self._signal(number)

    def exit_code(self, seconds: float = 10.0) -> int:
        """Wait for the end; negative after a signal that it did not handle. Raises ProcessError when it goes on."""
        self._wait(seconds)
        if self._child is None or self._child.returncode is None:
            raise ProcessError(f"{self.name} did not end within {seconds:.0f} s\n{self.log_tail()}")
        return self._child.returncode

    def restart(self) -> "Process":
        """`stop` and `start`."""
        self.stop()
        return self.start()

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the log, each indented."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return f"  last lines of {self.log}:\n" + "\n".join(f"    {line}" for line in text.splitlines()[-lines:])

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,  # Ctrl-C reaches only the parent, which ends its children in order
            )

    def _is_ready(self) -> bool:
        try:
            return self._ready()
        except OSError:
            return False

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _wait(self, seconds: float | None) -> None:
        assert self._child is not None
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(seconds)


class Port:
    """A free TCP port of 127.0.0.1, kept free for one server until `release`, also between its restarts.

    The socket is bound and never listens: with SO_REUSEADDR on both sides (Go and asyncio set it) one server may
    bind and listen beside it, while the kernel gives the number to nobody who asks for any port.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def __str__(self) -> str:
        return str(self.number)

    def release(self) -> None:
        """Give the port back."""
        self._socket.close()


def accepts(port: Port) -> bool:
    """Whether something listens on the port. Raises OSError when it refuses."""
    with socket.create_connection(("127.0.0.1", port.number), timeout=1):
        return True


def unwind_on_sigterm(stack: ExitStack) -> None:
    """Until `stack` closes, turn SIGTERM into an exception, so that `with` blocks clean up.

    Leaves a handler that somebody else has set alone, and does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def unwind(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt("ended by SIGTERM")  # after SystemExit pytest would fail one test and go on

    signal.signal(signal.SIGTERM, unwind)
    stack.callback(signal.signal, signal.SIGTERM, signal.SIG_DFL)
