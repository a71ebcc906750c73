"""Who decides a VM's level: the one place that knows the order of the sources."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from app.core.annotations import LEVEL, MANAGED, PROFILE
from app.core.kubevirt_names import KubeVirtNames
from app.core.launcher import PodView
from app.core.objects import SILENT, Facts, Wishes
from app.core.policy import Choice, Guard, Hooks, Level, Policy
from app.core.text import quoted

VM = "vm"
TEMPLATE = "template"
SKIP = "skip-backup-hooks"
NAMESPACE = "namespace"
BUILT_IN = "built-in"
_TEMPLATE_WHERE = "the VM's spec.template.metadata"
_SOURCES = frozenset({VM, TEMPLATE, SKIP, NAMESPACE, "default", BUILT_IN})


class Refused(StrEnum):
    """Why something that was asked for did not count."""

    UNKNOWN_LEVEL = "unknown-level"
    LEVEL_NOT_ALLOWED = "level-not-allowed"
    UNKNOWN_INSTANCE = "unknown-instance"
    PROFILE_MISSING = "profile-missing"
    UNKNOWN_PROFILE = "unknown-profile"
    PROFILE_NOT_ALLOWED = "profile-not-allowed"
    PROFILE_WITHOUT_LEVEL = "profile-without-level"
    NOT_A_BOOLEAN = "not-a-boolean"
    UNMANAGED_NOT_ALLOWED = "unmanaged-not-allowed"
    MANAGED_IN_TEMPLATE = "managed-in-template"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that was asked for and did not count; `message` is for the person who asked."""

    source: str
    reason: Refused
    message: str


@dataclass(frozen=True, slots=True)
class Selection:
    """The outcome: hands off (`level` is None), or a level with the source that decided."""

    decided_by: str
    level: Level | None
    profile: str | None
    hooks: Hooks
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class _Ask:
    source: str
    where: str
    level: str
    profile: str | None = None
    guarded: bool = True


_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def parse_bool(text: str | None) -> bool | None:
    """Read what Go's strconv.ParseBool reads; None for anything else."""
    return True if text in _TRUE else False if text in _FALSE else None


def _owner(facts: Facts, names: KubeVirtNames) -> tuple[Wishes, str]:
    """What the VirtualMachine asks for, or the instance where no VM controls it; and how to name it."""
    vm, vmi = facts.vm, facts.vmi
    if vm is not None:
        return vm.wishes, f"VirtualMachine {vm.name}"
    if vmi is not None and vmi.virtual_machine(names) is None:
        return vmi.wishes, f"VirtualMachineInstance {vmi.name}"
    return SILENT, ""


def kubevirt_skips(facts: Facts, names: KubeVirtNames) -> bool:
    """Whether KubeVirt writes no hooks of its own: its object's switch holds where the VM's says nothing.

    A value that is no boolean counts as false (kubevirt v1.8.4, pkg/storage/pod/annotations/generator.go).
    """
    own = _owner(facts, names)[0].skip
    return bool(parse_bool(facts.kubevirt_skip if own is None else own))


class _Selector:
    """One selection; it lives for one call and collects what was refused."""

    def __init__(self, policy: Policy, facts: Facts, pod: PodView, names: KubeVirtNames) -> None:
        self.policy = policy
        self.facts = facts
        self.names = names
        self.choice: Choice = policy.choice_for(facts.namespace, pod.labels)
        self.guard: Guard = policy.guard_for(facts.namespace)
        self.refusals: list[Refusal] = []
        self.namespace_where = f"Namespace {facts.namespace.name}"
        self.owner, self.owner_where = _owner(facts, names)
        # Without a VM the instance's own metadata is the template: its copy on the pod would outlive a removal.
        bare = facts.vm is None and bool(self.owner_where)
        self.template = SILENT if bare else Wishes.from_annotations(pod.annotations or {})

    def select(self) -> Selection:
        hands_off = self._hands_off()
        if hands_off is not None:
            return Selection(hands_off, None, None, self.choice.hooks, tuple(self.refusals))
        for ask in self._asks():
            granted = self._grant(ask)
            if granted is not None:
                return Selection(ask.source, *granted, self.choice.hooks, tuple(self.refusals))
        return Selection(BUILT_IN, self._built_in(), None, self.choice.hooks, tuple(self.refusals))

    def _built_in(self) -> Level:
        """The VM can take back what the KubeVirt object says; its own `true` was refused if this is reached."""
        skips = parse_bool(self.facts.kubevirt_skip) and kubevirt_skips(self.facts, self.names)
        return Level.CRASH if skips else Level.FILESYSTEM

    def _refuse(self, source: str, reason: Refused, message: str) -> None:
        self.refusals.append(Refusal(source, reason, message))

    def _hands_off(self) -> str | None:
        if self.template.managed is not None:
            message = f"{_TEMPLATE_WHERE}: {MANAGED} has no effect here; write it on the VM itself or the Namespace"
            self._refuse(TEMPLATE, Refused.MANAGED_IN_TEMPLATE, message)
        if not self.choice.managed:
            return self.choice.source
        for source, where, wishes in (
            (VM, self.owner_where, self.owner),
            (NAMESPACE, self.namespace_where, self.facts.namespace.wishes),
        ):
            managed = self._boolean(source, where, MANAGED, wishes.managed)
            if managed is False and self.guard.unmanaged:
                return source
            if managed is False:
                message = f"{where}: {MANAGED}=false is not allowed by the policy here; it has no effect"
                self._refuse(source, Refused.UNMANAGED_NOT_ALLOWED, message)
            if managed is not None:
                return None
        return None

    def _boolean(self, source: str, where: str, key: str, text: str | None) -> bool | None:
        value = parse_bool(text)
        if text is not None and value is None:
            message = f"{where}: {key}={quoted(text)} is neither true nor false; it has no effect"
            self._refuse(source, Refused.NOT_A_BOOLEAN, message)
        return value

    def _asks(self) -> Iterator[_Ask]:
        yield from self._annotated(VM, self.owner_where, self.owner)
        yield from self._annotated(TEMPLATE, _TEMPLATE_WHERE, self.template)
        if self._boolean(SKIP, self.owner_where, self.names.skip_annotation, self.owner.skip):
            yield _Ask(SKIP, f"{self.owner_where}: {self.names.skip_annotation}", Level.CRASH)
        yield from self._annotated(NAMESPACE, self.namespace_where, self.facts.namespace.wishes)
        default = self.policy.default
        for choice in (default,) if self.choice is default else (self.choice, default):
            if choice.level is not None:
                yield _Ask(choice.source, f"policy {choice.source}", choice.level, choice.profile, guarded=False)

    def _annotated(self, source: str, where: str, wishes: Wishes) -> Iterator[_Ask]:
        if wishes.level is not None:
            yield _Ask(source, where, wishes.level, wishes.profile)
        elif wishes.profile is not None:
            message = f"{where}: {PROFILE} has no effect without {LEVEL}"
            self._refuse(source, Refused.PROFILE_WITHOUT_LEVEL, message)

    def _grant(self, ask: _Ask) -> tuple[Level, str | None] | None:
        """Return level and profile, or None after a refusal: then the next source decides."""
        level = Level.parse(ask.level)
        if level is None:
            known = ", ".join(Level)
            self._pass_over(ask, Refused.UNKNOWN_LEVEL, f"level {quoted(ask.level)} is none of {known}")
            return None
        if ask.guarded and level not in self.guard.levels:
            self._pass_over(ask, Refused.LEVEL_NOT_ALLOWED, f"level {level} is not allowed by the policy here")
            return None
        if level is not Level.APPLICATION:
            return level, None
        if self.facts.vmi is None:
            what = "level application needs the VirtualMachineInstance that the pod names, and there is none"
            self._pass_over(ask, Refused.UNKNOWN_INSTANCE, what)
            return None
        profile = self._profile(ask)
        return None if profile is None else (level, profile)

    def _profile(self, ask: _Ask) -> str | None:
        profile = ask.profile or self.choice.profile or self.policy.default.profile
        if profile is None:
            self._pass_over(ask, Refused.PROFILE_MISSING, f"level application needs {PROFILE}")
        elif profile not in self.policy.profiles:
            self._pass_over(ask, Refused.UNKNOWN_PROFILE, f"the policy has no profile {quoted(profile)}")
        elif ask.guarded and ask.profile and profile not in self.guard.profiles:
            message = f"profile {quoted(profile)} is not allowed by the policy here"
            self._pass_over(ask, Refused.PROFILE_NOT_ALLOWED, message)
        else:
            return profile
        return None

    def _pass_over(self, ask: _Ask, reason: Refused, what: str) -> None:
        self._refuse(ask.source, reason, f"{ask.where}: {what}; the next source decides")


def is_source(text: str | None) -> bool:
    """Whether `text` may stand in a record as what decided."""
    return text in _SOURCES or (text is not None and text.startswith("rule/"))


def select_level(policy: Policy, facts: Facts, pod: PodView, names: KubeVirtNames) -> Selection:
    """Return the level for `pod`: the first source that speaks and that the policy allows.

    The order: VirtualMachine (or an instance without one), its template, KubeVirt's skip-backup-hooks, Namespace, the
    policy's rules, its default, the built-in default.
    """
    return _Selector(policy, facts, pod, names).select()
