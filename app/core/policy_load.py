"""From the text of `policy.yaml` to a policy, or to all of its errors at once, each with its path and line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import yaml
from pydantic import ValidationError

from app.core.policy import Policy
from app.core.policy_checks import doubts, inconsistencies
from app.core.policy_schema import Path, PolicyDocument

MAX_NODES = 100_000
"""Aliases let a few lines of YAML stand for billions of values; a real policy has hundreds."""
MAX_DEPTH = 32


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
            raise PolicyError([Finding("", 0, f"more than {MAX_NODES} values; are YAML aliases nested?")])
        if len(path) > MAX_DEPTH:
            raise PolicyError([Finding("", node.start_mark.line + 1, f"nested more than {MAX_DEPTH} levels deep")])
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
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
        except (yaml.YAMLError, ValueError) as error:
            problem = getattr(error, "problem", None) or str(error)
            self.findings.append(Finding(dotted(path), node.start_mark.line + 1, str(problem)))
            return None
        # A date, or a float such as .nan, is no JSON; as its own text the schema names it in the error.
        return value if value is None or isinstance(value, str | bool | int) else str(node.value)

    def finding(self, path: Path, message: str) -> Finding:
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        return Finding(dotted(path), self.lines.get(known, 0), message)


def dotted(path: Path) -> str:
    """Return the path as people write it, `rules[2].profile`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def load_policy(text: str) -> LoadedPolicy:
    """Read `policy.yaml`.

    Raises PolicyError with all findings, in the order of their lines.
    """
    reader = _Reader()
    document = reader.read(_root(text))
    try:
        policy = PolicyDocument.model_validate_json(json.dumps(document))
    except ValidationError as error:
        findings = [*reader.findings, *(reader.finding(*problem) for problem in _problems(error))]
        raise PolicyError(sorted(findings, key=lambda finding: finding.line)) from None
    findings = [*reader.findings, *(reader.finding(*problem) for problem in inconsistencies(policy))]
    if findings:
        raise PolicyError(sorted(findings, key=lambda finding: finding.line))
    return LoadedPolicy(policy.compiled(), [reader.finding(*doubt) for doubt in doubts(policy)])


def _root(text: str) -> yaml.Node:
    try:
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"not YAML: {error.problem or error.context}"
        raise PolicyError([Finding("", mark.line + 1 if mark else 0, message)]) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise PolicyError([Finding("", 0, f"not YAML: {str(error) or 'nested too deeply'}".splitlines()[0])]) from None
    if node is None:
        raise PolicyError([Finding("", 0, "the policy is empty")])
    if not isinstance(node, yaml.MappingNode):
        raise PolicyError([Finding("", node.start_mark.line + 1, "a policy is a mapping that starts with apiVersion")])
    return node


def _problems(error: ValidationError) -> Iterator[tuple[Path, str]]:
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        kind, message = problem["type"], problem["msg"].removeprefix("Value error, ")
        path = tuple(part for part in problem["loc"] if part != "[key]")
        if kind == "extra_forbidden":
            message = "unknown field"
        elif kind == "missing":
            message = "this field is missing"
        elif kind == "too_short":
            message = "this must not be empty"
        yield path, message[:1].lower() + message[1:] if message.startswith("Input should") else message
