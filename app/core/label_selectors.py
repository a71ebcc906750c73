"""Label selectors and namespace patterns, compiled once when a policy is loaded."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import translate

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term of a label selector, with the meaning of metav1.LabelSelectorRequirement."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Labels) -> bool:
        """Whether `labels` meet it; an absent key meets NotIn and DoesNotExist."""
        return _OPERATORS[self.operator](labels.get(self.key), self.values)


_OPERATORS: Mapping[str, Callable[[str | None, frozenset[str]], bool]] = {
    "In": lambda value, values: value in values,
    "NotIn": lambda value, values: value not in values,
    "Exists": lambda value, _: value is not None,
    "DoesNotExist": lambda value, _: value is None,
}
OPERATORS = tuple(_OPERATORS)


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements must be met."""

    requirements: tuple[Requirement, ...]

    def matches(self, labels: Labels) -> bool:
        """Whether `labels` meet every requirement."""
        return all(requirement.matches(labels) for requirement in self.requirements)


def compile_patterns(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for shell-style patterns (``*``, ``?``, ``[...]``), any of which may match the whole name."""
    return re.compile("|".join(f"(?:{translate(pattern)})" for pattern in patterns))
