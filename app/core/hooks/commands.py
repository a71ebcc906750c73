"""Hooks that are scripts: constant code from app/core/scripts, and everything that varies as its arguments.

They travel in the URL of an exec request and stand in audit logs and backups, so they are small and hold no secrets.
"""

import gzip
import json
import re
import shlex
from base64 import b64encode
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from urllib.parse import quote_plus

from app.core.hooks.timeouts import (
    UNDO_SECONDS,
    auto_thaw_seconds,
    hold_seconds,
    post_budget,
    pre_budget,
    total,
    whole_seconds,
)
from app.core.policy import Hooks
from app.core.profiles import Profile, Shell, Step, seconds

_PLACE = re.compile("@[A-Z]+@")
_SHELL = "/bin/bash"
_NAME = "vm-consistency"
"""What the script sees as $0."""


MAX_COMMAND_BYTES = 6 * 1024
"""Of a hook's command as it stands in the annotation."""
MAX_URL_BYTES = 8 * 1024
"""Of a hook's command as it stands in the URL of the exec request."""
_LONGEST_PATH = "/" + "f" * 63
"""Of virt-freezer, in a fork of KubeVirt."""
_LONGEST = "n" * 63, "v" * 253
"""Namespace and name of a VM."""


@dataclass(frozen=True, slots=True)
class Commands:
    """The argv of both hooks, but for the VM's namespace and name, and their timeouts."""

    pre: tuple[str, ...]
    post: tuple[str, ...]
    settings_pre: tuple[str, ...]
    settings_post: tuple[str, ...]
    pre_timeout: str
    post_timeout: str

    def of(self, namespace: str, vmi: str) -> tuple[list[str], list[str]]:
        """Return both for one VM."""
        target = (namespace, vmi)
        return [*self.pre, *target, *self.settings_pre], [*self.post, *target, *self.settings_post]


@lru_cache(maxsize=256)
def commands(profile: Profile, hooks: Hooks, freezer: str) -> Commands:
    """Return the hooks that run the steps of `profile` around a freeze."""
    require = "require" if hooks.require_frozen else "-"
    quiesce, resume = seconds(profile.quiesce), seconds(profile.resume)
    freeze = (whole_seconds(hooks.freeze_timeout), auto_thaw_seconds(hooks), UNDO_SECONDS, quiesce, resume)
    thaw = (whole_seconds(hooks.thaw_timeout), resume)
    pre_part, post_part, pre_steps, post_steps = _guest_parts(profile, hooks)
    return Commands(
        pre=(_SHELL, "-c", script("common", *pre_part, "pre"), _NAME),
        post=(_SHELL, "-c", script("common", *post_part, "post"), _NAME),
        settings_pre=(freezer, require, *map(str, freeze), *pre_steps),
        settings_post=(freezer, require, *map(str, thaw), *post_steps),
        pre_timeout=f"{total(pre_budget(profile, hooks))}s",
        post_timeout=f"{total(post_budget(profile, hooks))}s",
    )


def command_sizes(profile: Profile) -> tuple[int, int]:
    """Return the bytes that the longer hook takes at most, in its annotation and in the URL of its exec request.

    The URL has an argument for each element of argv (velero v1.18.3, pkg/podexec/pod_command_executor.go).
    """
    hooks = Hooks(freeze_timeout="9999h", thaw_timeout="9999h", auto_thaw_seconds=3600, require_frozen=True)
    both = commands(profile, hooks, _LONGEST_PATH).of(*_LONGEST)
    in_url = (sum(len(f"&command={quote_plus(part)}") for part in argv) for argv in both)
    return max(len(json.dumps(argv)) for argv in both), max(in_url)


def _guest_parts(
    profile: Profile, hooks: Hooks
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the scripts that deal with the guest, before and after, and what they take."""
    if not profile.quiesce and not profile.resume:
        return ("guest_none",), ("guest_none",), (), ()
    if profile.shell is Shell.POWERSHELL:
        steps = (*_encoded(profile.quiesce), "--", *_encoded(profile.resume))
        return ("guest_powershell",), ("guest_powershell",), steps, ("--", *_encoded(profile.resume))
    code = gzip.compress(keeper(profile, hold_seconds(hooks)).encode(), mtime=0)
    started = b64encode(code).decode()
    after = ("guest_sh", "guest_sh_post") if profile.resume else ("guest_none",)
    return ("guest_sh", "guest_sh_pre"), after, (started,), ()


def keeper(profile: Profile, hold: int) -> str:
    """Return the script that runs in the guest; whoever runs it sets $i to the name of the run."""
    values = {
        "@HOLD@": str(hold if profile.resume else 0),
        "@LIMIT@": str(hold + seconds(profile.quiesce)),
        "@QUIESCE@": _calls("q", profile.quiesce),
        "@RESUME@": _calls("r", profile.resume),
    }
    return _PLACE.sub(lambda place: values[place[0]], script("keeper"))


def _calls(function: str, steps: tuple[Step, ...]) -> str:
    return "\n".join(f"{function} {step.name} {step.timeout_seconds} {shlex.quote(step.run)}" for step in steps)


def _encoded(steps: tuple[Step, ...]) -> tuple[str, ...]:
    triples = ((s.name, str(s.timeout_seconds), b64encode(s.run.encode("utf-16-le")).decode()) for s in steps)
    return tuple(part for triple in triples for part in triple)


@cache
def script(*names: str) -> str:
    """Return the named files of app/core/scripts as one script, without indentation and lines that are comments."""
    folder = files("app.core.hooks") / "scripts"
    lines = (line.strip() for name in names for line in (folder / f"{name}.sh").read_text("utf-8").splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#"))
