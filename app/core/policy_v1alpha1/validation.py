"""What is wrong or doubtful about a policy whose every field is well-formed: the parts don't fit together."""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from app.core.duration import SECOND, parse_go_duration
from app.core.hooks.commands import MAX_COMMAND_BYTES, MAX_URL_BYTES, command_sizes
from app.core.hooks.timeouts import FREEZER_AUTO_THAW_SECONDS
from app.core.policy import Hooks
from app.core.policy_v1alpha1.schema import (
    ChoiceDocument,
    HooksDocument,
    Path,
    PolicyDocument,
    ProfileDocument,
    RuleDocument,
    built_in_profiles,
)
from app.core.profiles import Shell
from app.core.text import quoted

_APPLICATION = "application"
_Fields = dict[str, Any]


def inconsistencies(document: object) -> Iterator[tuple[Path, str]]:
    """Yield every error that shows only when several fields are read together, with its path.

    The document is plain and may break its schema anywhere, so that these errors are told together with those of
    single fields; what has not the shape to be judged is passed over here.
    """
    policy = _fields(document)
    default = _fields(policy.get("default"))
    rules: dict[Path, _Fields] = {
        ("rules", index): _fields(rule) for index, rule in enumerate(_items(policy.get("rules")))
    }
    profiles = _fields(policy.get("profiles"))
    known = frozenset(built_in_profiles()) | profiles.keys()
    yield from _names_twice(rules)
    for path, choice in [(("default",), default), *rules.items()]:
        yield from _unknown_profiles(path, choice, known)
        if choice.get("level") == _APPLICATION and choice.get("profile") is None and default.get("profile") is None:
            yield (*path, "level"), "level application needs a profile, here or in default"
    yield from _auto_thaws(policy, rules)
    for name, profile in profiles.items():
        yield from _too_long(("profiles", name), profile)


def _fields(value: object) -> _Fields:
    return value if isinstance(value, dict) else {}


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _names_twice(rules: dict[Path, _Fields]) -> Iterator[tuple[Path, str]]:
    seen: set[str] = set()
    for path, rule in rules.items():
        name = rule.get("name")
        if isinstance(name, str):
            if name in seen:
                yield (*path, "name"), f"a rule named {quoted(name)} stands above already"
            seen.add(name)


def _unknown_profiles(path: Path, choice: _Fields, known: frozenset[str]) -> Iterator[tuple[Path, str]]:
    named = [((*path, "profile"), choice.get("profile"))]
    named += [((*path, "allowProfiles", index), name) for index, name in enumerate(_items(choice.get("allowProfiles")))]
    for where, name in named:
        if isinstance(name, str) and name not in known:
            yield where, f"there is no profile {quoted(name)}; known are {', '.join(sorted(known))}"


def _auto_thaws(policy: _Fields, rules: dict[Path, _Fields]) -> Iterator[tuple[Path, str]]:
    written = _hooks(policy)
    if written is None:
        return
    base = written.over(Hooks())
    yield from _auto_thaw(("hooks",), written, base)
    for path, rule in rules.items():
        hooks = _hooks(rule)
        if hooks is not None:
            yield from _auto_thaw((*path, "hooks"), hooks, hooks.over(base))


def _hooks(parent: _Fields) -> HooksDocument | None:
    try:
        return HooksDocument.model_validate(parent.get("hooks") or {})
    except ValidationError:
        return None  # told by the schema


def _auto_thaw(path: Path, written: HooksDocument, merged: Hooks) -> Iterator[tuple[Path, str]]:
    thaw = parse_go_duration(merged.thaw_timeout)
    seconds = merged.auto_thaw_seconds
    if written.auto_thaw is None and written.thaw.timeout is None:
        return  # nothing of this is written here
    if seconds is not None and seconds * SECOND <= thaw:
        field = (*path, "autoThaw") if written.auto_thaw is not None else (*path, "thaw", "timeout")
        yield field, f"autoThaw ({seconds}s) must exceed thaw.timeout ({merged.thaw_timeout})"
    elif seconds is None and thaw >= FREEZER_AUTO_THAW_SECONDS * SECOND:
        message = f"thaw.timeout ({merged.thaw_timeout}) reaches virt-freezer's own 300s; set autoThaw above it"
        yield (*path, "thaw", "timeout"), message


def _too_long(path: Path, written: object) -> Iterator[tuple[Path, str]]:
    try:
        profile = ProfileDocument.model_validate_json(json.dumps(written)).compiled()
    except ValidationError:
        return  # told by the schema
    size, in_url = command_sizes(profile)
    if size > MAX_COMMAND_BYTES or in_url > MAX_URL_BYTES:
        message = (
            f"the hooks that run these steps come to {size} bytes, {in_url} in a URL; {MAX_COMMAND_BYTES} and "
            f"{MAX_URL_BYTES} are the limits. Put what the steps do into a program in the guest, and call that"
        )
        yield path, message


def doubts(policy: PolicyDocument) -> Iterator[tuple[Path, str]]:
    """Yield what is allowed but hardly meant, with its path."""
    for name, profile in policy.profiles.items():
        if profile.compiled().shell is Shell.POWERSHELL and profile.resume:
            message = (
                "these steps never run if the post hook doesn't come: with powershell nothing in the guest does it"
            )
            yield ("profiles", name, "resume"), message
    guards = [set[str](choice.allow) for _, choice in _choices(policy) if choice.allow is not None]
    for index, rule in enumerate(policy.rules):
        path = ("rules", index)
        if rule.match.template_selector is not None:
            yield from _open_to_tenants(path, rule, guards)


def _open_to_tenants(path: Path, rule: RuleDocument, guards: list[set[str]]) -> Iterator[tuple[Path, str]]:
    """What a rule with a templateSelector gives away: tenants write the labels of their templates."""
    if rule.allow is not None or rule.allow_profiles is not None:
        scoped = rule.match.namespaces is not None or rule.match.namespace_selector is not None
        field = "allow" if rule.allow is not None else "allowProfiles"
        holds = "this holds for every VM in the namespaces that match" if scoped else "this has no effect"
        yield (*path, field), f"templateSelector does not guard, tenants write template labels: {holds}"
    if not rule.managed:
        yield (*path, "managed"), "whoever may write a VM's template labels can take it out of the policy"
    if rule.level is not None and any(rule.level not in guard for guard in guards):
        message = f"whoever may write a VM's template labels gets level {rule.level}, which allow excludes elsewhere"
        yield (*path, "level"), message


def _choices(policy: PolicyDocument) -> Iterator[tuple[Path, ChoiceDocument]]:
    yield ("default",), policy.default
    for index, rule in enumerate(policy.rules):
        yield ("rules", index), rule
