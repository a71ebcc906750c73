"""The policy in force: the newest one that is good."""

import hashlib
import logging
from collections.abc import Callable

from app.core.policy import BUILT_IN, Policy, PolicyState, Standing
from app.core.policy_load import Finding, PolicyError, load_policy

_log = logging.getLogger("vm-consistency.policy")

KEY = "policy.yaml"
_NO_KEY = Finding("", 0, f"the ConfigMap has no key {KEY}")

Observer = Callable[[PolicyState, bool | None], None]
"""Told the new state, and whether the policy just read was good; None where there was none to read."""


class PolicyKeeper:
    """Holds the policy in force; a policy with an error never replaces a good one."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._state = PolicyState()
        self._good: tuple[Policy, str] | None = None

    def current(self) -> PolicyState:
        """Return the policy in force."""
        return self._state

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

    def remember(self, text: str) -> bool:
        """Take `text`, kept from an earlier life, as the last good policy unless a newer one is known.

        Returns False for what this version can't read.
        """
        try:
            policy = load_policy(text).policy
        except PolicyError as error:
            _log.warning("the last good policy can't be used by this version", extra={"error": str(error)})
            return False
        if self._good is None:
            self._good = (policy, digest(text))
        return True

    def absent(self) -> None:
        """There is no policy: the built-in default holds at once."""
        _log.info("there is no policy; the built-in default holds")
        self._enter(PolicyState(Standing.ABSENT, BUILT_IN), None)

    def read(self, text: str | None) -> bool:
        """Take the newest policy, None for a ConfigMap without the key; returns whether it is good."""
        if text is None:
            return self._reject([_NO_KEY])
        try:
            loaded = load_policy(text)
        except PolicyError as error:
            return self._reject(error.findings)
        known = digest(text)
        self._good = (loaded.policy, known)
        doubts = [str(doubt) for doubt in loaded.doubts]
        fields = {"mode": loaded.policy.mode, "digest": known, "warnings": doubts}
        _log.info("policy in force", extra=fields)
        self._enter(PolicyState(Standing.VALID, loaded.policy, digest=known), good=True)
        return True

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


def digest(text: str) -> str:
    """Return a short digest to tell versions of a policy apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
