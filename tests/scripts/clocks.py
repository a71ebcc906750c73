"""The time that passes for the hook scripts: as it is, or without the waits.

The scripts wait by `sleep`, limit commands by `timeout`, and read `$SECONDS` of bash. With `SkippingClock` these follow
a clock that stands still while a process of the hook or of its guest runs, and jumps to the next end of a `sleep` or a
`timeout` once all of them wait. So a test takes as long as its processes compute, and a busy machine can't make a limit
pass early. The clock moves only while the test waits by it.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from tests.infra.controlplane.waiting import wait_for
from tests.scripts.processes import Processes

T = TypeVar("T")

_PATIENCE = 120.0
"""Seconds of the machine that the processes may compute between two waits."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.001, 0.016
"""Seconds of the machine between two looks at the processes."""

_SLEEP = """\
#!/bin/sh
# Waits until the clock of the test opens this pipe.
pipe=$STAND_IN_TIME/sleep:$$:$1:-
{mkfifo} "$pipe" && {{ read -r _ <"$pipe" || :; }}
"""
_TIMEOUT = """\
#!/bin/sh
# The real one, with limits that never pass: the clock of the test sends the signal of its timer.
kill=- options=''
while :; do
	case $1 in
	-k) kill=$2 options="$options -k 86400" && shift 2 ;;
	--foreground) options="$options $1" && shift ;;
	*) break ;;
	esac
done
: >"$STAND_IN_TIME/timeout:$$:$1:$kill"
shift
exec {timeout} $options 86400 "$@"
"""
_BASH_ENV = """\
# Before each command of bash, SECONDS is read from the clock of the test.
unset SECONDS
set -o functrace
trap 'read -r SECONDS <"$STAND_IN_TIME/seconds"' DEBUG
"""


class HookClock(Protocol):
    """A clock that hooks run by, and by which a test waits for them."""

    environment: dict[str, str]
    """What hooks must find in their environment, beside PATH."""
    tools: tuple[Path, ...]
    """The folders that must come first in their PATH."""

    def now(self) -> float:
        """Return the seconds since some moment."""

    def until(self, look: Callable[[], T | None], seconds: float, *, what: str) -> T:
        """Wait until `look` returns something true, and return that; TimeoutError names `what`."""

    def sleep(self, seconds: float) -> None:
        """Let so much time pass."""


class RealClock:
    """The time of the machine."""

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        self.tools: tuple[Path, ...] = ()

    def now(self) -> float:
        return time.monotonic()

    def until(self, look: Callable[[], T | None], seconds: float, *, what: str) -> T:
        return wait_for(look, seconds, what=what)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class SkippingClock:
    """Skips the time in which all of `processes` wait; needs the `timeout` of GNU coreutils."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self._processes = processes
        self._timers = folder / "time"
        self._ends: dict[Path, list[float]] = {}
        self._now = 0.0
        tools = folder / "tools"
        for made in (folder, self._timers, tools):
            made.mkdir()
        for name, text in (("sleep", _SLEEP), ("timeout", _TIMEOUT)):
            (tools / name).write_text(text.format(mkfifo=shutil.which("mkfifo"), timeout=shutil.which("timeout")))
            (tools / name).chmod(0o755)
        (folder / "bash-env").write_text(_BASH_ENV)
        self.environment = {"STAND_IN_TIME": str(self._timers), "BASH_ENV": str(folder / "bash-env")}
        self.tools: tuple[Path, ...] = (tools,)
        self._set(0.0)

    def now(self) -> float:
        return self._now

    def until(self, look: Callable[[], T | None], seconds: float, *, what: str) -> T:
        """Look whenever nothing runs, so that what is seen lasts."""
        end = self._now + seconds
        while True:
            self._settle()
            seen = look()
            if seen:
                return seen
            if not self._end_next(end):
                raise TimeoutError(f"waited {seconds:.0f} s for {what}; last seen: {seen!r}")

    def sleep(self, seconds: float) -> None:
        end = self._now + seconds
        self._settle()
        while self._end_next(end):
            self._settle()
        self._set(end)

    def _set(self, now: float) -> None:
        self._now = round(now, 3)
        (self._timers / "seconds").write_text(f"{int(self._now)}\n")

    def _settle(self) -> None:
        """Return when all processes wait, with their timers known.

        Between two looks that find all of them waiting, and none switched to since the first, nothing has run.
        """
        started, before, pause = time.monotonic(), None, _SHORTEST_PAUSE
        while time.monotonic() - started < _PATIENCE:
            seen = self._processes.waiting()
            if seen is not None and seen == before:
                self._read_timers()
                return
            pause = _SHORTEST_PAUSE if seen is not None else min(2 * pause, _LONGEST_PAUSE)
            before = seen
            time.sleep(pause)
        raise TimeoutError(f"the processes of the hook compute for more than {_PATIENCE:.0f} s")

    def _read_timers(self) -> None:
        alive = self._processes.running()
        for timer in self._timers.glob("*:*"):
            _, process, seconds, kill = timer.name.split(":")
            if int(process) not in alive:
                timer.unlink()
                self._ends.pop(timer, None)
            elif timer not in self._ends:
                first = self._now + float(seconds)
                self._ends[timer] = [first] if kill == "-" else [first, first + float(kill)]

    def _end_next(self, end: float) -> bool:
        """End the wait that ends first, unless it lasts beyond `end`."""
        pending = [(ends[0], timer) for timer, ends in self._ends.items() if ends and ends[0] <= end]
        if not pending:
            return False
        now, timer = min(pending)
        self._ends[timer].pop(0)
        self._set(now)
        kind, process, _, _ = timer.name.split(":")
        if kind == "sleep":
            os.close(os.open(timer, os.O_WRONLY | os.O_NONBLOCK))
        else:
            os.kill(int(process), signal.SIGALRM)
        return True
