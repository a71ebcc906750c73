"""How far a look at all pods has come, for the log."""

import logging
import time
from typing import Final

_log = logging.getLogger("vm-consistency.reconciler")

_TELL_SECONDS: Final = 5.0


class Progress:
    """Tells of each look at all pods: how it goes, every few seconds, and its end."""

    def __init__(self) -> None:
        self._why: str | None = None
        self._pods = 0
        self._started = self._told = 0.0
        self._writes = 0

    def begin(self, why: str, pods: int, writes: int) -> None:
        """A look at `pods` pods begins, `writes` after the start of the term."""
        self._why, self._pods, self._writes = why, pods, writes
        self._started = self._told = time.monotonic()

    def tell(self, left: int, writes: int, failing: int) -> None:
        """Tell what there is to tell: how many pods are `left`, and how many can't be written."""
        if self._why is None:
            return
        now, written = time.monotonic(), writes - self._writes
        fields = {"why": self._why, "pods": self._pods, "written": written, "left": left}
        if not left:
            level = logging.INFO if written or failing else logging.DEBUG
            message = "pods are in line, except those that can't be written" if failing else "pods are in line"
            fields |= {"failing": failing, "seconds": round(now - self._started, 1)}
            _log.log(level, message, extra=fields)
            self._why = None
        elif now - self._told > _TELL_SECONDS:
            _log.info("bringing pods in line", extra=fields)
            self._told = now
