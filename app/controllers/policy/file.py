"""The policy from a file, for a webhook without a cluster."""

import asyncio
import logging
from pathlib import Path

from app.controllers.policy.active import PolicyKeeper
from app.core.policy_v1alpha1.config_map import parse

_log = logging.getLogger("vm-consistency.policy")


class PolicyFile:
    """Reads the file again whenever its contents change."""

    def __init__(self, path: Path, keeper: PolicyKeeper, period: float = 1.0) -> None:
        """`period` is in seconds; contents are compared, because a mounted ConfigMap keeps its time stamps."""
        self._path = path
        self._keeper = keeper
        self._period = period
        self._seen: str | None = None
        self._trouble = ""

    async def check(self) -> None:
        """Read the file if it changed; one that can't be read leaves things as they are."""
        try:
            text = self._path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            return self._report(error.strerror or str(error))
        except UnicodeDecodeError as error:
            return self._report(f"not UTF-8 text, at byte {error.start}")
        self._trouble = ""
        if text != self._seen:
            self._seen = text
            self._keeper.take(text, await asyncio.to_thread(parse, text))
        return None

    async def run(self) -> None:
        """Check for ever."""
        while True:
            await self.check()
            await asyncio.sleep(self._period)

    def _report(self, trouble: str) -> None:
        if trouble != self._trouble:
            fields = {"path": str(self._path), "error": trouble}
            _log.warning("policy file not read, what was read before holds", extra=fields)
        self._trouble = trouble
