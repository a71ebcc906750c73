"""The policy from a file, for a webhook without a cluster."""

import asyncio
import logging
from pathlib import Path

from app.controllers.policy_keeper import PolicyKeeper

_log = logging.getLogger("vm-consistency.policy")


class PolicyFile:
    """Reads the file again whenever its contents change."""

    def __init__(self, path: Path, keeper: PolicyKeeper, period: float = 1.0) -> None:
        """`period` is in seconds; contents are compared, because a mounted ConfigMap keeps its time stamps."""
        self._path = path
        self._keeper = keeper
        self._period = period
        self._seen: str | None = "\0"  # no text of a policy, so that the first check always counts

    def check(self) -> None:
        """Read the file if it changed; one that can't be read leaves things as they are."""
        try:
            text = self._path.read_text(encoding="utf-8") if self._path.exists() else None
        except (OSError, UnicodeDecodeError) as error:
            _log.warning("policy file unreadable", extra={"path": str(self._path), "error": str(error)})
            return
        if text == self._seen:
            return
        self._seen = text
        if text is None:
            self._keeper.absent()
        else:
            self._keeper.read(text)

    async def run(self) -> None:
        """Check for ever."""
        while True:
            self.check()
            await asyncio.sleep(self._period)
