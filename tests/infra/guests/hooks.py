"""The rendered hooks of a guest, run in its `compute` as Velero has them run, but without Velero."""

import json
import subprocess
from collections.abc import Iterable, Mapping
from itertools import groupby

from app.core.annotations import COMMAND, POST, PRE, TIMEOUT
from app.core.duration import SECOND, parse_go_duration
from app.core.hooks.render import render_hooks
from app.core.kubevirt_names import UPSTREAM
from app.core.policy import Level
from app.core.policy_v1alpha1.load import load_policy
from app.core.profiles import NO_STEPS
from tests.infra.guests.compute import Compute, Done, finish
from tests.infra.guests.guest import Event, Guest

_STARTS_KEEPER = "eval $(echo "
_ENDS_KEEPER = "touch end"
_ASKS_KEEPER = "head -c 4096 status"


class Hooks:
    """What the default of a policy renders for a guest; `profile` counts for level application.

    `pre` and `post` fail the test when a hook takes longer than the timeout that Velero is told: nothing would end it.
    """

    def __init__(self, guest: Guest, environment: Mapping[str, str], policy: str, profile: str | None) -> None:
        loaded = load_policy(policy).policy
        level = Level.APPLICATION if profile else Level.FILESYSTEM
        steps = loaded.profiles[profile] if profile else NO_STEPS
        namespace, name = guest.domain.split("_", 1)
        self._rendered = render_hooks(level, steps, loaded.default.hooks, namespace, name, UPSTREAM)
        self._compute = Compute(guest, environment)

    def pre(self) -> Done:
        """Run the pre hook to its end."""
        return self.end(self.start_pre(), PRE)

    def post(self) -> Done:
        """Run the post hook to its end."""
        return self.end(self.start_post(), POST)

    def start_pre(self) -> "subprocess.Popen[str]":
        """Start the pre hook."""
        return self._start(PRE)

    def start_post(self) -> "subprocess.Popen[str]":
        """Start the post hook."""
        return self._start(POST)

    def end(self, hook: "subprocess.Popen[str]", phase: str = PRE) -> Done:
        """Wait for the end of a hook that was started."""
        return finish(hook, parse_go_duration(self._rendered[phase + TIMEOUT]) / SECOND)

    def _start(self, phase: str) -> "subprocess.Popen[str]":
        return self._compute.start(json.loads(self._rendered[phase + COMMAND]))


def story(events: Iterable[Event]) -> list[str]:
    """What the launcher was told to do to the guest, in order, questions left out and repetitions once.

    quiesce, freeze, thaw and resume; `exec` is any other command, `safety-timer` the launcher's own doing.
    """
    return [word for word, _ in groupby(filter(None, map(_word, events)))]


def _word(event: Event) -> str:
    if event.call == "safety-timer":
        return event.call
    if event.state != "sent" or event.call in {"status", "ping"}:
        return ""
    if event.call != "exec":
        return event.call
    if _STARTS_KEEPER in event.detail:
        return "quiesce"
    if _ENDS_KEEPER in event.detail:
        return "resume"
    return "" if _ASKS_KEEPER in event.detail else "exec"
