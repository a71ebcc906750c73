"""Rendering of hook annotations.

An annotation hook is one argv per phase, written as a JSON array: Velero takes anything else as a single argv element
(velero v1.18, internal/hook/item_hook_handler.go). Every key is always written, because a missing on-error behaves
as Continue while it is logged as Fail, and a missing timeout means 30 s.
"""

import json

from app.core.annotations import COMMAND, CONTAINER, KUBEVIRT_HOOK_KEYS, ON_ERROR, POST, PRE, TIMEOUT
from app.core.hooks.commands import commands
from app.core.kubevirt_names import KubeVirtNames
from app.core.policy import Hooks, Level
from app.core.profiles import NO_STEPS, Profile

NOOP = ["/bin/true"]


def render_hooks(
    level: Level, profile: Profile, hooks: Hooks, namespace: str, vmi: str, names: KubeVirtNames
) -> dict[str, str]:
    """Return the hook annotations of `level`; none of the twelve keys besides them may stand on the pod.

    `profile` counts for level application only. With the default settings the five keys that KubeVirt manages equal its
    own byte for byte at level filesystem (kubevirt v1.8.4, pkg/storage/velero/annotations.go), so that its re-sync
    finds nothing to do.
    """
    if level is Level.CRASH:
        return _both(NOOP, NOOP, hooks, names) if hooks.crash_noop else {}
    if is_script(level, hooks):
        return _scripts(profile if level is Level.APPLICATION else NO_STEPS, hooks, namespace, vmi, names)
    target = ["--name", vmi, "--namespace", namespace]
    freeze = [names.freezer, "--freeze", *target]
    if hooks.auto_thaw_seconds is not None:
        freeze += ["--unfreezeTimeoutSeconds", str(hooks.auto_thaw_seconds)]
    return _both(freeze, [names.freezer, "--unfreeze", *target], hooks, names)


def kubevirt_hooks(namespace: str, vmi: str, names: KubeVirtNames) -> dict[str, str]:
    """Return the keys that KubeVirt itself would write, for a pod that is handed back to it."""
    rendered = render_hooks(Level.FILESYSTEM, NO_STEPS, Hooks(), namespace, vmi, names)
    return {key: rendered[key] for key in KUBEVIRT_HOOK_KEYS}


def is_script(level: Level, hooks: Hooks) -> bool:
    """Whether the hooks are scripts, whose timeouts are computed, and not virt-freezer alone."""
    return level is Level.APPLICATION or (level is Level.FILESYSTEM and hooks.require_frozen)


def _scripts(profile: Profile, hooks: Hooks, namespace: str, vmi: str, names: KubeVirtNames) -> dict[str, str]:
    rendered = commands(profile, hooks, names.freezer)
    pre, post = rendered.of(namespace, vmi)
    computed = {PRE + TIMEOUT: rendered.pre_timeout, POST + TIMEOUT: rendered.post_timeout}
    return _both(pre, post, hooks, names) | computed


def _both(pre: list[str], post: list[str], hooks: Hooks, names: KubeVirtNames) -> dict[str, str]:
    return {
        PRE + CONTAINER: names.container,
        PRE + COMMAND: json.dumps(pre),
        PRE + ON_ERROR: hooks.freeze_on_error,
        PRE + TIMEOUT: hooks.freeze_timeout,
        POST + CONTAINER: names.container,
        POST + COMMAND: json.dumps(post),
        POST + ON_ERROR: hooks.thaw_on_error,
        POST + TIMEOUT: hooks.thaw_timeout,
    }
