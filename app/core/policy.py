"""A policy that has been read and found good, in the shape in which decisions use it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from app.core.label_selectors import Labels, LabelSelector
from app.core.objects import NamespaceView
from app.core.profiles import NO_STEPS, Profile


class Level(StrEnum):
    """How consistent a backup of a VM is asked to be."""

    CRASH = "crash"
    FILESYSTEM = "filesystem"
    APPLICATION = "application"

    @classmethod
    def parse(cls, text: str | None) -> "Level | None":
        """Return the level of that name; None for anything else."""
        return cls._value2member_map_.get(text)  # type: ignore[return-value]


class Mode(StrEnum):
    """Whether decisions are written, or only counted and reported."""

    ENFORCE = "enforce"
    AUDIT = "audit"


@dataclass(frozen=True, slots=True)
class Hooks:
    """How hooks are written; timeouts are Go durations as the policy spells them."""

    freeze_timeout: str = "60s"
    freeze_on_error: str = "Continue"
    thaw_timeout: str = "60s"
    thaw_on_error: str = "Continue"
    auto_thaw_seconds: int | None = None
    """virt-freezer's --unfreezeTimeoutSeconds; None leaves virt-freezer's own 300 s."""
    require_frozen: bool = False
    crash_noop: bool = False


@dataclass(frozen=True, slots=True)
class Guard:
    """What annotations on VirtualMachines and Namespaces may choose."""

    levels: frozenset[Level] = frozenset(Level)
    unmanaged: bool = False
    profiles: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Choice:
    """What the policy's default, or a rule, says."""

    source: str
    """As it stands in the record: `default` or `rule/NAME`."""
    level: Level | None = None
    profile: str | None = None
    managed: bool = True
    guard: Guard = Guard()
    hooks: Hooks = Hooks()


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule applies to; a field that is None matches everything."""

    namespaces: re.Pattern[str] | None = None
    namespace_selector: LabelSelector | None = None
    template_selector: LabelSelector | None = None

    @property
    def has_namespace_fields(self) -> bool:
        """Whether the rule can guard: tenants write template labels, so these never do."""
        return self.namespaces is not None or self.namespace_selector is not None

    def namespace(self, namespace: NamespaceView) -> bool:
        """Whether the namespace fields match."""
        if self.namespaces is not None and not self.namespaces.match(namespace.name):
            return False
        return self.namespace_selector is None or self.namespace_selector.matches(namespace.labels)

    def template(self, labels: Labels) -> bool:
        """Whether the labels of the VM's template match; they arrive on the launcher pod."""
        return self.template_selector is None or self.template_selector.matches(labels)


@dataclass(frozen=True, slots=True)
class Rule:
    """A choice for the VMs that match."""

    match: Match
    choice: Choice


@dataclass(frozen=True, slots=True)
class Policy:
    """The whole policy; `Policy()` is what holds where there is none."""

    mode: Mode = Mode.ENFORCE
    default: Choice = Choice(source="default")
    rules: tuple[Rule, ...] = ()
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    """By the names that annotations may refer to: the policy's own profiles and the built-in ones."""

    def steps(self, profile: str | None) -> Profile:
        """The steps of a profile that was granted; none for a level without one."""
        return NO_STEPS if profile is None else self.profiles[profile]

    def choice_for(self, namespace: NamespaceView, template_labels: Labels) -> Choice:
        """The first rule that matches, else the default."""
        for rule in self.rules:
            if rule.match.namespace(namespace) and rule.match.template(template_labels):
                return rule.choice
        return self.default

    def guard_for(self, namespace: NamespaceView) -> Guard:
        """The guard of the first rule that matches by its namespace fields alone, else the default's."""
        for rule in self.rules:
            if rule.match.has_namespace_fields and rule.match.namespace(namespace):
                return rule.choice.guard
        return self.default.guard


BUILT_IN = Policy()


class Standing(StrEnum):
    """How the policy in force relates to what its admin wrote last."""

    UNKNOWN = "unknown"
    """Not read yet."""
    ABSENT = "absent"
    """There is none: the built-in default holds."""
    VALID = "valid"
    LAST_GOOD = "last-good"
    """The newest one has errors; the last good one holds."""
    INVALID = "invalid"
    """It has errors and no good one is known: every pod is left as it is."""


@dataclass(frozen=True, slots=True)
class PolicyState:
    """The policy in force, if any, and why."""

    standing: Standing = Standing.UNKNOWN
    policy: Policy | None = None
    error: str | None = None
    """The first thing wrong with the newest policy."""
    digest: str = ""
    """Of the text in force, to tell versions apart in logs."""
