"""The policy in force: the newest one that is good."""

import hashlib
import logging
import time
from collections.abc import Callable

from app.core.policy import BUILT_IN, Policy, PolicyState, Standing
from app.core.policy_v1alpha1.config_map import Parsed, parse
from app.core.policy_v1alpha1.load import Finding

_log = logging.getLogger("vm-consistency.policy")

Observer = Callable[[PolicyState, bool | None], None]
"""Told the new state, and whether the policy just read was good; None where there was none to read."""


class PolicyKeeper:
    """Holds the policy in force; a policy with an error never replaces a good one."""

    def __init__(
        self, observer: Observer, *, grace: float = 300.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`grace`: seconds for which pods that run already keep to a policy that was deleted."""
        self._observer = observer
        self._grace, self._clock = grace, clock
        self._listeners: list[Callable[[], None]] = []
        self._state = PolicyState()
        self._lingering = self._state
        self._gone_since = 0.0
        self._good: tuple[Policy, str] | None = None
        self.newest = ""
        """The digest of the text taken last, good or not; empty while there is none."""

    def current(self) -> PolicyState:
        """Return the policy in force."""
        return self._state

    def running(self) -> PolicyState:
        """Return the policy for pods that run already.

        A ConfigMap that is deleted may be back in a moment, as tools that apply manifests do it. Until the grace is
        over the policy before holds; after a start nobody knows that one, and the state has none. The same object is
        returned as long as nothing changes.
        """
        if self._state.standing is Standing.ABSENT and self._clock() - self._gone_since < self._grace:
            return self._lingering
        return self._state

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after every policy that was read, and every deletion; returns what ends this."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback)

    def problem(self) -> str | None:
        """Why no decision can be made; None if there is a policy, or its honest absence, to decide by."""
        if self._state.standing is Standing.UNKNOWN:
            return "the policy has not been read yet"
        if self._state.standing is Standing.INVALID:
            return f"the policy is invalid and no good one is known, every pod is left as it is: {self._state.error}"
        return None

    def note(self) -> str | None:
        """What an admin should know although the webhook works."""
        if self._state.standing is Standing.LAST_GOOD:
            return f"the newest policy is invalid, the last good one holds: {self._state.error}"
        return None

    def remember(self, text: str, parsed: Parsed) -> None:
        """Take `text`, kept from an earlier life, as the last good policy unless a newer one is known."""
        if isinstance(parsed, list):
            fields = {"errors": [str(finding) for finding in parsed]}
            _log.warning("the last good policy can't be used by this version", extra=fields)
        elif self._good is None:
            self._good = (parsed.policy, digest(text))

    def absent(self) -> None:
        """There is no policy: the built-in default holds at once."""
        level = logging.INFO if self._state.standing in (Standing.UNKNOWN, Standing.ABSENT) else logging.WARNING
        _log.log(level, "there is no policy; the built-in default holds")
        if self._state.standing is not Standing.ABSENT:
            self._gone_since = self._clock()
            self._lingering = PolicyState(Standing.ABSENT, self._state.policy, digest=self._state.digest)
        self.newest = ""
        self._enter(PolicyState(Standing.ABSENT, BUILT_IN), None)

    @property
    def knows_a_good_one(self) -> bool:
        """Whether there is something to fall back on."""
        return self._good is not None

    @property
    def is_valid(self) -> bool:
        """Whether the newest policy is in force."""
        return self._state.standing is Standing.VALID

    def take(self, text: str, parsed: Parsed) -> bool:
        """Take the newest policy and what `parse` made of it; returns whether it is good."""
        self.newest = known = digest(text)
        if isinstance(parsed, list):
            return self._reject(parsed)
        self._good = (parsed.policy, known)
        doubts = [str(doubt) for doubt in parsed.doubts]
        _log.info("policy in force", extra={"mode": parsed.policy.mode, "digest": known, "warnings": doubts})
        self._enter(PolicyState(Standing.VALID, parsed.policy, digest=known), good=True)
        return True

    def read(self, text: str) -> bool:
        """Parse the newest policy and take it; returns whether it is good."""
        return self.take(text, parse(text))

    def _reject(self, errors: list[Finding]) -> bool:
        findings = [str(finding) for finding in errors]
        first = findings[0]
        if self._good is None:
            _log.error("policy invalid, every pod is left as it is", extra={"errors": findings})
            self._enter(PolicyState(Standing.INVALID, error=first), good=False)
            return False
        policy, known = self._good
        _log.error("policy invalid, the last good one holds", extra={"errors": findings, "digest": known})
        self._enter(PolicyState(Standing.LAST_GOOD, policy, first, known), good=False)
        return False

    def _enter(self, state: PolicyState, good: bool | None) -> None:
        self._state = state
        self._observer(state, good)
        for callback in tuple(self._listeners):
            callback()


def digest(text: str) -> str:
    """Return a short digest to tell versions of a policy apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
