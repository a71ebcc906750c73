"""What is wrong or doubtful about a policy whose every field is well-formed: the parts don't fit together."""

from collections.abc import Iterator

from app.core.duration import SECOND, parse_go_duration
from app.core.policy import Hooks
from app.core.policy_schema import ChoiceDocument, HooksDocument, Path, PolicyDocument

_APPLICATION = "application"
_FREEZER_AUTO_THAW_SECONDS = 300
"""virt-freezer's own default (kubevirt v1.8.4, cmd/virt-freezer/virt-freezer.go)."""


def inconsistencies(policy: PolicyDocument) -> Iterator[tuple[Path, str]]:
    """Yield every error that shows only when several fields are read together, with its path."""
    seen: set[str] = set()
    for index, rule in enumerate(policy.rules):
        if rule.name in seen:
            yield ("rules", index, "name"), f"a rule named {rule.name!r} stands above already"
        seen.add(rule.name)
    for path, choice in _choices(policy):
        yield from _profiles(policy, path, choice)
    base = policy.hooks.over(Hooks())
    yield from _auto_thaw(("hooks",), policy.hooks, base)
    for index, rule in enumerate(policy.rules):
        if rule.hooks != HooksDocument():
            yield from _auto_thaw(("rules", index, "hooks"), rule.hooks, rule.hooks.over(base))


def doubts(policy: PolicyDocument) -> Iterator[tuple[Path, str]]:
    """Yield what is allowed but hardly meant, with its path."""
    for path, choice in _choices(policy):
        if choice.level == _APPLICATION:
            yield (*path, "level"), "level application is not part of this version: the next source decides"
    for index, rule in enumerate(policy.rules):
        path = ("rules", index)
        guards = rule.allow is not None or rule.allow_profiles is not None
        if guards and rule.match.template_selector is not None:
            scope = rule.match.namespaces is not None or rule.match.namespace_selector is not None
            field = "allow" if rule.allow is not None else "allowProfiles"
            yield (
                (*path, field),
                "templateSelector does not guard, tenants write template labels: "
                + ("this holds for every VM in the namespaces that match" if scope else "this has no effect"),
            )
        if rule.hooks.require_frozen:
            yield (*path, "hooks", "requireFrozen"), _NO_REQUIRE_FROZEN
    if policy.hooks.require_frozen:
        yield ("hooks", "requireFrozen"), _NO_REQUIRE_FROZEN


_NO_REQUIRE_FROZEN = "requireFrozen is not part of this version: the freeze is not verified"


def _choices(policy: PolicyDocument) -> Iterator[tuple[Path, ChoiceDocument]]:
    yield ("default",), policy.default
    for index, rule in enumerate(policy.rules):
        yield ("rules", index), rule


def _profiles(policy: PolicyDocument, path: Path, choice: ChoiceDocument) -> Iterator[tuple[Path, str]]:
    known = policy.profile_names
    if choice.profile is not None and choice.profile not in known:
        yield (*path, "profile"), _no_such_profile(choice.profile, known)
    for index, name in enumerate(choice.allow_profiles or ()):
        if name not in known:
            yield (*path, "allowProfiles", index), _no_such_profile(name, known)
    if choice.level == _APPLICATION and choice.profile is None and policy.default.profile is None:
        yield (*path, "level"), "level application needs a profile, here or in default"


def _no_such_profile(name: str, known: frozenset[str]) -> str:
    return f"there is no profile {name!r}; known are {', '.join(sorted(known))}"


def _auto_thaw(path: Path, written: HooksDocument, merged: Hooks) -> Iterator[tuple[Path, str]]:
    thaw = parse_go_duration(merged.thaw_timeout)
    seconds = merged.auto_thaw_seconds
    if seconds is not None and seconds * SECOND <= thaw:
        field = (*path, "autoThaw") if written.auto_thaw is not None else (*path, "thaw", "timeout")
        yield field, f"autoThaw ({seconds}s) must exceed thaw.timeout ({merged.thaw_timeout})"
    elif seconds is None and thaw >= _FREEZER_AUTO_THAW_SECONDS * SECOND:
        message = f"thaw.timeout ({merged.thaw_timeout}) reaches virt-freezer's own 300s; set autoThaw above it"
        yield (*path, "thaw", "timeout"), message
