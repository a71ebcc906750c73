"""From the text of `policy.yaml` to a policy, or to all of its errors at once, each with its path and line."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import yaml
from pydantic import ValidationError

from app.core.policy import Policy
from app.core.policy_v1alpha1.schema import Path, PolicyDocument
from app.core.policy_v1alpha1.validation import doubts, inconsistencies
from app.core.text import one_line, quoted
from app.core.yaml_limits import OutOfBounds, check_bounds, line_of

MAX_NODES = 20_000
"""Aliases let a few lines of YAML stand for billions of values; a real policy has hundreds."""
MAX_DEPTH = 32

_UNKNOWN = "unknown field"
_HUGE = 2**63
_STANDARD_TAGS = "tag:yaml.org,2002:"
_PLAIN_KEY = re.compile(r"[\w./-]{1,80}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to say about a policy; `line` counts from 1, 0 where it has none."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.path}: {self.message}" if self.path else f"{where}{self.message}"


class PolicyError(ValueError):
    """The policy can't be used; `findings` has every reason."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("; ".join(str(finding) for finding in findings))
        self.findings = findings


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A good policy, and what may be doubted about it."""

    policy: Policy
    doubts: list[Finding]


class _Reader:
    """Turns YAML nodes into JSON values and remembers on which line each path stands."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.findings: list[Finding] = []
        self.nodes = 0
        self._scalars = yaml.constructor.SafeConstructor()

    def read(self, node: yaml.Node, path: Path = ()) -> object:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _too_large(line_of(node.start_mark), path)
        if len(path) > MAX_DEPTH:
            raise _too_deep(line_of(node.start_mark), path)
        self.lines.setdefault(path, line_of(node.start_mark))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in (_STANDARD_TAGS + "map", _STANDARD_TAGS + "seq"):
            self.findings.append(self.finding(path, f"the tag {_shown(node.tag)} has no meaning here"))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = line_of(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                self.findings.append(Finding(dotted(path), line, "a key must be a plain word"))
                continue
            key = key_node.value
            if key in mapping:
                self.findings.append(Finding(dotted((*path, key)), line, "this key stands twice"))
            self.lines[(*path, key)] = line
            mapping[key] = self.read(value_node, (*path, key))
        return mapping

    def _scalar(self, node: yaml.Node, path: Path) -> object:
        try:
            value = self._scalars.construct_object(node)
        except Exception:  # an explicit tag that doesn't fit its value makes PyYAML fail in many ways
            message = f"{quoted(node.value)} can't be read with the tag {_shown(node.tag)}"
            self.findings.append(self.finding(path, message))
            return str(node.value)
        if value is None or isinstance(value, str | bool):
            return value
        is_number = isinstance(value, int | float) and abs(value) < _HUGE  # not so for .nan and .inf
        return value if is_number else str(node.value)  # a date, or what JSON has no number for

    def finding(self, path: Path, message: str) -> Finding:
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        return Finding(dotted(path), self.lines.get(known, 0), one_line(message))


def dotted(path: Path) -> str:
    """Return the path as people write it, `rules[2].profile`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = part if _PLAIN_KEY.fullmatch(part) else quoted(part)
            text += f".{key}" if text else key
    return text


def load_policy(text: str) -> LoadedPolicy:
    """Read `policy.yaml`.

    Raises PolicyError with all findings, in the order of their lines.
    """
    reader = _Reader()
    written = reader.read(_root(text))
    document = _without_nulls(written)
    problems = [*inconsistencies(document), *_unknown_nulls(written)]
    try:
        policy = PolicyDocument.model_validate_json(json.dumps(document))
    except ValidationError as error:
        problems += _problems(error)
    findings = [*reader.findings, *(reader.finding(*problem) for problem in problems)]
    if findings:
        raise PolicyError(_by_line(findings))
    return LoadedPolicy(policy.compiled(), _by_line(reader.finding(*doubt) for doubt in doubts(policy)))


def _without_nulls(value: object, field: object = None) -> object:
    """Null is absent, as everywhere in Kubernetes: a key is left empty when all below it is commented out.

    Not so for keys that are no fields: without its empty value, a label would no longer narrow a selector.
    """
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if not isinstance(value, dict):
        return value
    keep = field in ("matchLabels", "profiles")
    return {key: _without_nulls(item, key) for key, item in value.items() if keep or item is not None}


def _unknown_nulls(written: object) -> Iterator[tuple[Path, str]]:
    """Yield the fields that are unknown and that `_without_nulls` takes out of sight."""
    try:
        PolicyDocument.model_validate_json(json.dumps(written))
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_context=False):
            if problem["type"] == "extra_forbidden" and problem["input"] is None:
                yield problem["loc"], _UNKNOWN


def _by_line(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: finding.line)


def _shown(tag: str) -> str:
    return quoted(tag.replace(_STANDARD_TAGS, "!!"))


def _not_yaml(problem: str, line: int) -> PolicyError:
    return PolicyError([Finding("", line, one_line(f"not YAML: {problem}"))])


def _too_large(line: int, path: Path = ()) -> PolicyError:
    return PolicyError([Finding(dotted(path), line, f"more than {MAX_NODES} values; are YAML aliases nested?")])


def _too_deep(line: int, path: Path = ()) -> PolicyError:
    return PolicyError([Finding(dotted(path), line, f"nested more than {MAX_DEPTH} levels deep")])


def _root(text: str) -> yaml.Node:
    try:
        check_bounds(text, depth=MAX_DEPTH, nodes=MAX_NODES)
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
    except OutOfBounds as error:
        raise PolicyError([Finding("", error.line, str(error))]) from None
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(filter(None, (error.context, error.problem)))
        raise _not_yaml(problem, line_of(error.problem_mark)) from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise _not_yaml(str(error).splitlines()[0], 0) from None
    if node is None:
        raise PolicyError([Finding("", 0, "the policy is empty")])
    if not isinstance(node, yaml.MappingNode):
        raise PolicyError([Finding("", line_of(node.start_mark), "a policy is a mapping that starts with apiVersion")])
    return node


def _problems(error: ValidationError) -> Iterator[tuple[Path, str]]:
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        kind, message = problem["type"], problem["msg"].removeprefix("Value error, ")
        loc = problem["loc"]
        path = loc[:-1] if loc[-1:] == ("[key]",) else loc
        if kind == "extra_forbidden":
            message = _UNKNOWN
        elif kind == "missing":
            message = "this field is missing"
        elif kind == "string_too_short":
            message = "this must not be empty"
        yield path, message[:1].lower() + message[1:] if message.startswith("Input should") else message
