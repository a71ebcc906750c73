"""Minutes in milliseconds: an event loop whose clock jumps to the next timer whenever nothing else is left to do."""

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from functools import wraps
from typing import Any, TypeVar, TypeVarTuple, Unpack
from unittest.mock import patch

_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")

_START = 1_000_000.0
_STUCK_SECONDS = 30.0


class _Selector(selectors.DefaultSelector):
    """Waits for no longer than `patience`, and adds up what it should have waited.

    Without a timer to jump to, only a message that arrives can end the wait; without patience there are no messages.
    """

    def __init__(self, patience: float) -> None:
        super().__init__()
        self._patience = patience
        self.now = _START

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        stuck = _STUCK_SECONDS if self._patience else 0.0
        ready = super().select(stuck if timeout is None else min(self._patience, timeout))
        if not ready:
            assert timeout is not None, "every task waits for another one"
            self.now += max(0.0, timeout)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, patience: float) -> None:
        self._selector_clock = _Selector(patience)
        super().__init__(self._selector_clock)

    def time(self) -> float:
        return self._selector_clock.now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[_Arguments]], _Result], *args: *_Arguments
    ) -> asyncio.Future[_Result]:
        """Call `func` at once, as time would jump while a thread works."""
        future: asyncio.Future[_Result] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test of what waits: `asyncio.sleep` and `time.monotonic` go by a clock of their own.

    When a sleep is over, everything that was to happen meanwhile has happened. A test that replaces `time.monotonic`
    itself must put it back itself: monkeypatch does that after this is over.
    """
    return _run(test, patience=0)


def in_virtual_time_with_sockets(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The same where both ends of a connection are in the test: a message gets a moment to arrive."""
    return _run(test, patience=0.002)


def _run(test: Callable[..., Coroutine[Any, Any, None]], patience: float) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        loop = _Loop(patience)
        with asyncio.Runner(loop_factory=lambda: loop) as runner, patch("time.monotonic", loop.time):
            runner.run(test(*args, **kwargs))
            assert time.monotonic == loop.time, "the test has left a clock of its own"

    return run


async def pass_time(seconds: float = 0.5) -> None:
    """Let everything happen that is due within `seconds`."""
    await asyncio.sleep(seconds)
