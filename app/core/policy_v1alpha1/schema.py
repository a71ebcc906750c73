"""The policy as its admin writes it, and its translation into the shape in which decisions use it."""

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from pydantic.alias_generators import to_camel

from app.core.duration import SECOND, parse_go_duration
from app.core.label_selectors import OPERATORS, LabelSelector, Requirement, compile_patterns
from app.core.policy import Choice, Guard, Hooks, Level, Match, Mode, Policy, Rule
from app.core.profiles import Profile, Shell, Step
from app.core.text import is_dns_subdomain, quoted

UNMANAGED = "unmanaged"
_HOUR_SECONDS = 3600

_LABEL_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_DNS_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


_MAX_DURATION = 64
"""Characters of a duration; Go takes any number of digits, and pods carry it as it is spelt."""


def _hook_timeout(text: str) -> str:
    if parse_go_duration(text) < SECOND:
        raise ValueError(f"{quoted(text)} is shorter than 1s; Velero takes 0 as 30s and waits forever on less")
    if len(text) > _MAX_DURATION:
        raise ValueError(f"{quoted(text)} is longer than {_MAX_DURATION} characters")
    return text


def _whole_seconds(text: str) -> str:
    seconds, rest = divmod(parse_go_duration(text), SECOND)
    if rest or not 1 <= seconds <= _HOUR_SECONDS:
        raise ValueError(f"{quoted(text)} is not a number of whole seconds between 1s and 1h")
    return text


def _dns_label(text: str) -> str:
    if not _DNS_LABEL.fullmatch(text):
        raise ValueError(
            f"{quoted(text)} is no name; use up to 63 of a-z, 0-9 and -, with a letter or digit at both ends"
        )
    return text


def _label_value(text: str) -> str:
    if text and not _LABEL_NAME.fullmatch(text):
        raise ValueError(f"{quoted(text)} can't be the value of a label, so it would never match")
    return text


def _label_key(text: str) -> str:
    prefix, slash, name = text.rpartition("/")
    if not _LABEL_NAME.fullmatch(name) or (slash and not is_dns_subdomain(prefix)):
        raise ValueError(f"{quoted(text)} can't be the key of a label, so it would never match")
    return text


def _pattern(text: str) -> str:
    if not text or text != text.strip():
        raise ValueError(f"{quoted(text)} is no pattern for the name of a Namespace")
    return text


def _some(items: tuple[str, ...]) -> tuple[str, ...]:
    if not items:
        raise ValueError("this must not be empty")
    return items


def _unique(items: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(items)) < len(items):
        twice = next(item for index, item in enumerate(items) if item in items[:index])
        raise ValueError(f"{quoted(twice)} stands twice")
    return items


def _code(text: str) -> str:
    if not text.strip():
        raise ValueError("this must not be empty")
    strange = next((char for char in text if not char.isprintable() and char not in "\t\n"), None)
    if strange is not None:
        raise ValueError(f"the character U+{ord(strange):04X} can't be passed to a guest")
    return text


HookTimeout = Annotated[str, AfterValidator(_hook_timeout)]
WholeSeconds = Annotated[str, AfterValidator(_whole_seconds)]
Name = Annotated[str, AfterValidator(_dns_label)]
Pattern = Annotated[str, AfterValidator(_pattern)]
LabelKey = Annotated[str, AfterValidator(_label_key)]
LabelValue = Annotated[str, AfterValidator(_label_value)]
Code = Annotated[str, AfterValidator(_code)]
Allowed = Literal["crash", "filesystem", "application", "unmanaged"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=to_camel)


class PhaseDocument(_Document):
    """`hooks.freeze` or `hooks.thaw`."""

    timeout: HookTimeout | None = None
    on_error: Literal["Continue", "Fail"] | None = None


class HooksDocument(_Document):
    """`hooks`, of the policy or of a rule; what is absent is inherited."""

    freeze: PhaseDocument = PhaseDocument()
    thaw: PhaseDocument = PhaseDocument()
    auto_thaw: WholeSeconds | None = None
    require_frozen: bool | None = None
    crash: Literal["remove", "noop"] | None = None

    def over(self, base: Hooks) -> Hooks:
        """Return `base` with the fields that are written here."""
        return Hooks(
            freeze_timeout=self.freeze.timeout or base.freeze_timeout,
            freeze_on_error=self.freeze.on_error or base.freeze_on_error,
            thaw_timeout=self.thaw.timeout or base.thaw_timeout,
            thaw_on_error=self.thaw.on_error or base.thaw_on_error,
            auto_thaw_seconds=(
                base.auto_thaw_seconds if self.auto_thaw is None else parse_go_duration(self.auto_thaw) // SECOND
            ),
            require_frozen=base.require_frozen if self.require_frozen is None else self.require_frozen,
            crash_noop=base.crash_noop if self.crash is None else self.crash == "noop",
        )


class ExpressionDocument(_Document):
    """One of a selector's `matchExpressions`."""

    key: LabelKey
    operator: str
    values: tuple[LabelValue, ...] = ()

    @model_validator(mode="after")
    def _values_fit(self) -> "ExpressionDocument":
        if self.operator not in OPERATORS:
            raise ValueError(f"operator {quoted(self.operator)} is none of {', '.join(OPERATORS)}")
        if (self.operator in ("In", "NotIn")) != bool(self.values):
            needs = "needs values" if not self.values else "takes no values"
            raise ValueError(f"operator {self.operator} {needs}")
        return self


class SelectorDocument(_Document):
    """A label selector as everywhere in Kubernetes."""

    match_labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    match_expressions: tuple[ExpressionDocument, ...] = ()

    @model_validator(mode="after")
    def _says_something(self) -> "SelectorDocument":
        if not self.match_labels and not self.match_expressions:
            raise ValueError("the selector is empty and would match everything; leave it out, or name labels")
        return self

    def compiled(self) -> LabelSelector:
        """Return it in the shape in which it is evaluated."""
        equal = [Requirement(key, "In", frozenset({value})) for key, value in self.match_labels.items()]
        terms = [Requirement(term.key, term.operator, frozenset(term.values)) for term in self.match_expressions]
        return LabelSelector((*equal, *terms))


class MatchDocument(_Document):
    """What a rule applies to."""

    namespaces: Annotated[tuple[Pattern, ...], AfterValidator(_some)] | None = None
    namespace_selector: SelectorDocument | None = None
    template_selector: SelectorDocument | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "MatchDocument":
        if self.namespaces is None and self.namespace_selector is None and self.template_selector is None:
            raise ValueError("an empty match would match everything; that is what default is for")
        return self

    def compiled(self) -> Match:
        """Return it in the shape in which it is evaluated."""
        return Match(
            compile_patterns(self.namespaces) if self.namespaces else None,
            self.namespace_selector.compiled() if self.namespace_selector else None,
            self.template_selector.compiled() if self.template_selector else None,
        )


class ChoiceDocument(_Document):
    """`default`, and what a rule says besides its name and match."""

    level: Literal["crash", "filesystem", "application"] | None = None
    profile: str | None = None
    allow: Annotated[tuple[Allowed, ...], AfterValidator(_unique)] | None = None
    allow_profiles: Annotated[tuple[str, ...], AfterValidator(_unique)] | None = None

    def guard(self) -> Guard:
        """Return what annotations may choose where this choice guards."""
        own = () if self.profile is None else (self.profile,)
        profiles = frozenset(own if self.allow_profiles is None else self.allow_profiles)
        if self.allow is None:
            return Guard(profiles=profiles)
        levels = frozenset(Level(name) for name in self.allow if name != UNMANAGED)
        return Guard(levels, UNMANAGED in self.allow, profiles)


class RuleDocument(ChoiceDocument):
    """One of `rules`."""

    name: Name
    match: MatchDocument
    managed: bool = True
    hooks: HooksDocument = HooksDocument()

    @model_validator(mode="after")
    def _no_level_when_unmanaged(self) -> "RuleDocument":
        written = self.model_fields_set & {"hooks", "allow", "allow_profiles"}
        if not self.managed and (self.level or self.profile or written):
            raise ValueError(
                "managed: false leaves the hooks to others; level, profile, allow, allowProfiles and hooks don't fit"
            )
        return self


class StepDocument(_Document):
    """One step of a profile, run in the guest."""

    name: Name
    run: Code
    timeout: WholeSeconds = "30s"


def _unique_steps(steps: tuple[StepDocument, ...]) -> tuple[StepDocument, ...]:
    _unique(tuple(step.name for step in steps))
    return steps


Steps = Annotated[tuple[StepDocument, ...], AfterValidator(_unique_steps)]


class ProfileDocument(_Document):
    """How an application in the guest is quiesced and resumed."""

    shell: Literal["sh", "powershell"] = "sh"
    quiesce: Steps = ()
    resume: Steps = ()

    def compiled(self) -> Profile:
        """Return it in the shape in which hooks are rendered from it."""
        return Profile(Shell(self.shell), _compiled(self.quiesce), _compiled(self.resume))


def _compiled(steps: tuple[StepDocument, ...]) -> tuple[Step, ...]:
    return tuple(Step(step.name, step.run, parse_go_duration(step.timeout) // SECOND) for step in steps)


@cache
def built_in_profiles() -> Mapping[str, Profile]:
    """Return the profiles that are shipped, from app/core/built_in_profiles.yaml."""
    text = (files("app.core") / "built_in_profiles.yaml").read_text("utf-8")
    documents = TypeAdapter(dict[Name, ProfileDocument]).validate_json(json.dumps(yaml.safe_load(text)))
    return {name: document.compiled() for name, document in documents.items()}


class PolicyDocument(_Document):
    """The whole of `policy.yaml`."""

    api_version: Literal["vm-consistency.io/v1alpha1"]
    kind: Literal["ConsistencyPolicy"]
    mode: Literal["enforce", "audit"] = "enforce"
    default: ChoiceDocument = ChoiceDocument()
    rules: tuple[RuleDocument, ...] = ()
    hooks: HooksDocument = HooksDocument()
    profiles: dict[Name, ProfileDocument] = Field(default_factory=dict)

    def compiled(self) -> Policy:
        """Return it in the shape in which decisions use it; call `inconsistencies` first."""
        base = self.hooks.over(Hooks())
        default = self.default
        return Policy(
            mode=Mode(self.mode),
            default=_choice("default", default, managed=True, hooks=base),
            rules=tuple(
                Rule(
                    rule.match.compiled(),
                    _choice(f"rule/{rule.name}", rule, managed=rule.managed, hooks=rule.hooks.over(base)),
                )
                for rule in self.rules
            ),
            profiles={**built_in_profiles(), **{name: profile.compiled() for name, profile in self.profiles.items()}},
        )


def _choice(source: str, document: ChoiceDocument, *, managed: bool, hooks: Hooks) -> Choice:
    level = None if document.level is None else Level(document.level)
    return Choice(source, level, document.profile, managed, document.guard(), hooks)


Path = tuple[Any, ...]
"""Where in the document: field names and list indices, as pydantic's `loc`."""
