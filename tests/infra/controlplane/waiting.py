"""Waiting for what a controller does in its own time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(look: Callable[[], T | None], timeout: float = 60.0, *, what: str, interval: float = 0.05) -> T:
    """Call `look` until it returns something true, and return that.

    The default limit is far longer than anything takes on a busy machine. A test passes a shorter one where a longer
    wait means that something does not work as it should.

    Raises TimeoutError, naming `what` and the last value seen, after `timeout` seconds.
    """
    started = time.monotonic()
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() - started > timeout:
            raise TimeoutError(f"waited {timeout:.0f} s for {what}; last seen: {seen!r}")
        time.sleep(interval)
