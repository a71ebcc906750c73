"""The hooks on a pod as Velero reads them (velero v1.18.3, internal/hook/item_hook_handler.go and pkg/podexec)."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from app.core.annotations import COMMAND, CONTAINER, LEGACY, ON_ERROR, POST, PRE, TIMEOUT
from app.core.duration import SECOND, parse_go_duration
from app.core.text import quoted

DEFAULT_TIMEOUT_SECONDS: Final = 30.0
_SURROGATE = re.compile("[\ud800-\udfff]")


class Phase(StrEnum):
    """When a hook runs: before the volumes of its pod are snapshot, or after."""

    PRE = "pre"
    POST = "post"


@dataclass(frozen=True, slots=True)
class VeleroHook:
    """One hook as Velero would run it.

    `timeout`: seconds, None for one that never passes. `fails_pod`: whether an error keeps the pod out of the backup
    and its post hook from running. `fault`: why Velero can't run it, if so. `oddities`: what its author can hardly
    have meant, a line each.
    """

    phase: Phase
    container: str
    command: tuple[str, ...]
    timeout: float | None
    fails_pod: bool
    fault: str | None
    oddities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VeleroHooks:
    """The hooks of a pod's annotations; where one is absent, those of Backup.spec.hooks apply to that phase."""

    pre: VeleroHook | None
    post: VeleroHook | None


def read_hooks(annotations: Mapping[str, str], containers: Sequence[str]) -> VeleroHooks:
    """Read a pod's annotations; `containers` are the names in its spec.containers, in order."""
    # The legacy keys are those of the pre phase, and all of them count only where its command is absent or empty.
    pre = _hook(annotations, PRE, Phase.PRE, containers) or _hook(annotations, LEGACY, Phase.PRE, containers)
    return VeleroHooks(pre, _hook(annotations, POST, Phase.POST, containers))


def _hook(annotations: Mapping[str, str], prefix: str, phase: Phase, containers: Sequence[str]) -> VeleroHook | None:
    text = annotations.get(prefix + COMMAND)
    if not text:
        return None
    command = parse_command(text)
    container = annotations.get(prefix + CONTAINER) or (containers[0] if containers else "")
    on_error = annotations.get(prefix + ON_ERROR, "")
    timeout, oddities = _timeout(annotations.get(prefix + TIMEOUT, ""))
    fault = None if command else "its command is an empty list"
    if container not in containers:
        fault = f"the pod has no container {quoted(container)}"
    if len(command) == 1 and (text.lstrip().startswith("[") or " " in text.strip()) and command[0] == text:
        oddities += (f"{prefix}{COMMAND} is no JSON array of strings, so all of it is the name of one program",)
    if on_error not in ("Fail", "Continue"):
        oddities += (f"{prefix}{ON_ERROR} is {_shown(on_error)}: logged as Fail, it behaves as Continue",)
    return VeleroHook(phase, container, command, timeout, on_error == "Fail", fault, oddities)


def _shown(text: str) -> str:
    return quoted(text) if text else "absent"


def parse_command(text: str) -> tuple[str, ...]:
    """Return the argv of a command annotation: a JSON array of strings, else one element, never split."""
    if not text.startswith("["):
        return (text,)
    try:
        elements = json.loads(text)
    except (ValueError, RecursionError):
        return (text,)
    # Go's decoder leaves a null as the empty string, and replaces halves of a surrogate pair.
    if not all(element is None or isinstance(element, str) for element in elements):
        return (text,)
    return tuple(_SURROGATE.sub("\ufffd", element or "") for element in elements)


def _timeout(text: str) -> tuple[float | None, tuple[str, ...]]:
    if not text:
        return DEFAULT_TIMEOUT_SECONDS, ()
    try:
        nanoseconds = parse_go_duration(text)
    except ValueError as error:
        return DEFAULT_TIMEOUT_SECONDS, (f"timeout: {error}; Velero takes its default, 30s",)
    if nanoseconds < 0:
        return None, (f"timeout {quoted(text)} is negative: Velero would wait without end",)
    return nanoseconds / SECOND or DEFAULT_TIMEOUT_SECONDS, ()
