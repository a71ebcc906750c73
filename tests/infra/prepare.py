"""`python -m tests.infra.prepare NAME...`: build and install what tests run with ahead of time.

A NAME is a suite (`cluster`, `e2e`) or a part of tests/infra/controlplane/build.py. What is there already stays as it
is. Two builds run at a time: while one waits for the network or for its linker, the other one computes. Every build
reports its progress on standard error. The exit code is 1 when something cannot be built; all the rest is built even
then. Ctrl-C or SIGTERM ends the builds that run, and no other one starts.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from tests.infra.controlplane.build import PARTS, ensure
from tests.infra.controlplane.progress import COMMANDS, BuildError, say, using_the_machine
from tests.infra.guests.hypervisor import ensure_started_guest
from tests.infra.guests.prerequisites import require_machine
from tests.infra.guests.s3 import ensure_moto

_AT_A_TIME = 2

Step = Callable[[], object]


def steps(names: Iterable[str]) -> dict[str, Step]:
    """Return what to do for suites and parts, by name, in the order in which it starts.

    Raises BuildError for a name that is neither.
    """
    found: dict[str, Step] = {}
    for name in names:
        parts = [part for part in PARTS.values() if name in (part.name, part.suite)]
        if not parts:
            suites = {part.suite for part in PARTS.values()}
            raise BuildError(f"There is no suite or part {name!r}; there are {', '.join([*sorted(suites), *PARTS])}.")
        found |= {part.name: partial(ensure, part) for part in parts}
        if name == "e2e":
            found |= {"guests": ensure_started_guest, "moto": ensure_moto}
    return found


def prepare(work: dict[str, Step]) -> list[str]:
    """Do the work and return what went wrong, a message for each step that failed."""
    with using_the_machine(alone=False), ThreadPoolExecutor(_AT_A_TIME) as pool:
        running = {name: pool.submit(step) for name, step in work.items()}
    failures = ((name, future.exception()) for name, future in running.items())
    return [f"{name}: {error}" for name, error in failures if error]


@contextmanager
def _interruptible() -> Iterator[None]:
    """Meanwhile Ctrl-C and SIGTERM end all commands; the steps that wait for them fail, and so do those to come."""
    before = {number: signal.signal(number, lambda *_: COMMANDS.end()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> int:
    """Prepare what the command line names."""
    started = time.monotonic()
    try:
        if "e2e" in sys.argv[1:]:
            require_machine()
        with _interruptible():
            failures = prepare(steps(sys.argv[1:]))
    except BuildError as error:
        failures = [str(error)]
    if COMMANDS.ended:
        say("interrupted; what is not complete is built again next time")
        return 130
    for failure in failures:
        print(failure, file=sys.stderr)
    if not failures:
        say(f"{', '.join(sys.argv[1:])}: everything is there after {time.monotonic() - started:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
