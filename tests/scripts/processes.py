"""The processes of a hook and of its stand-in guest, also those whose parent has ended."""

import math
import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

_SWITCHES = re.compile(r"^(?:non)?voluntary_ctxt_switches:\t(\d+)$", re.MULTILINE)
_ENDED = "ZX"
_NEVER_AGAIN = math.inf
_KERNEL_THREAD = 0x200000
"""PF_KTHREAD of linux/sched.h."""
_STATE = re.compile(r"^State:\t(\w)", re.MULTILINE)


class Processes:
    """All that inherit the variable `name` with this value, and are started after this is made."""

    def __init__(self, name: str, value: str) -> None:
        self.environment = {name: value}
        self._mark = f"{name}={value}".encode()
        self._others = _present()
        self._ours: set[int] = set()
        self._busy = 0

    def running(self) -> list[int]:
        """Those that have not ended."""
        for process in self._candidates():
            self._assign(process)
        return [process for process in self._ours if (_status(process) or ("Z",))[0] not in _ENDED]

    def waiting(self) -> dict[int, float] | None:
        """How often the kernel switched to or from each; None while one of them runs or waits for a processor.

        Two looks with the same result show that none has run in between.
        """
        if self._busy in self._ours and (status := _status(self._busy)) and status[0] == "R":
            return None  # most of the time, without a look at all of them
        found: dict[int, float] = {}
        for process in self._candidates() | self._ours:
            self._assign(process)
            if process in self._others:
                continue
            # In this order: what sleeps now, and was not switched to since it slept in an earlier look, has not run.
            sleeps, status = _sleeps(process), _status(process)
            if status is None:
                return None  # what waited for its end may run now
            state, switches = status
            if state in _ENDED:
                found[process] = _NEVER_AGAIN
            elif sleeps and state == "S":
                found[process] = switches
            else:
                self._busy = process
                return None
        return found

    def kill(self) -> None:
        """End those that a test left."""
        for process in self.running():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _candidates(self) -> set[int]:
        """Those that are there and may be of these, as far as is known."""
        present = _present()
        self._others &= present
        self._ours &= present
        return present - self._others - self._ours

    def _assign(self, process: int) -> None:
        """Find out whether it is one of these; no environment is to be seen in the middle of exec, or of its end."""
        if process in self._ours:
            return
        with suppress(FileNotFoundError, ProcessLookupError):
            try:
                environment = Path(f"/proc/{process}/environ").read_bytes()
            except PermissionError:
                self._others.add(process)
            except ProcessLookupError:
                if _is_of_the_kernel(process):
                    self._others.add(process)
            else:
                if environment:
                    (self._ours if self._mark in environment.split(b"\0") else self._others).add(process)


def can_be_watched() -> bool:
    """Whether the kernel tells of a process that it sleeps."""
    with subprocess.Popen(["sleep", "60"]) as process:
        deadline = time.monotonic() + 10
        while not (found := _sleeps(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    return found


def _status(process: int) -> tuple[str, int] | None:
    """Its state, and how often the kernel switched to or from it; None when it is gone."""
    try:
        with open(f"/proc/{process}/status") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return _STATE.findall(text)[0], sum(map(int, _SWITCHES.findall(text)))


def _sleeps(process: int) -> bool:
    """Whether it is off the processor until something wakes it.

    The state alone does not say so: a process that reaps a child has the state already, and may be made to wait for a
    processor in it. The place in the kernel where it waits is known of those only that sleep.
    """
    try:
        with open(f"/proc/{process}/wchan") as file:
            return file.read() != "0"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _is_of_the_kernel(process: int) -> bool:
    flags = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[6]
    return bool(int(flags) & _KERNEL_THREAD)


def _present() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}
