"""Minutes in milliseconds: an event loop whose clock jumps to the next timer whenever nothing else is left to do."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from typing import Any
from unittest.mock import patch

from app.controllers.restraint import Restraint

START = 1_000_000.0


class _Selector(selectors.DefaultSelector):
    """Never waits; adds up what it should have waited."""

    now = START

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "every task waits for another one"
            self.now += max(0.0, timeout)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = _Selector()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


def in_no_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test of what waits: `asyncio.sleep` and `time.monotonic` go by a clock of their own.

    When a sleep is over, everything that was to happen meanwhile has happened.
    """

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        loop = _Loop()
        defaults: Mapping[str, Any] = {"__defaults__": (loop.time,)}
        with (
            asyncio.Runner(loop_factory=lambda: loop) as runner,
            patch("time.monotonic", loop.time),
            patch.multiple(Restraint.__init__, **defaults),  # its clock is bound when the module is read
        ):
            runner.run(test(*args, **kwargs))

    return run
