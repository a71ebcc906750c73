"""`policy check`."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import typer
import yaml

from app.cli.output import FINDING, Output, print_json, read_text
from app.core.policy_v1alpha1.load import Finding, LoadedPolicy, PolicyError, load_policy
from app.core.yaml_limits import check_bounds

POLICY_KEY = "policy.yaml"


def load(path: Path) -> LoadedPolicy:
    """Read a policy from its file, or from the ConfigMap that carries it; raises PolicyError."""
    text = read_text(path)
    embedded = _embedded(text)
    if embedded is None:
        return load_policy(text)
    inner, moved = embedded
    try:
        loaded = load_policy(inner)
    except PolicyError as error:
        raise PolicyError([moved(finding) for finding in error.findings]) from None
    return LoadedPolicy(loaded.policy, [moved(doubt) for doubt in loaded.doubts])


def _embedded(text: str) -> tuple[str, Callable[[Finding], Finding]] | None:
    """Return the policy inside a ConfigMap's manifest, and what turns its lines into those of the manifest."""
    try:
        check_bounds(text)
        root = yaml.compose(text, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError):
        return None  # reading it as a policy tells what is wrong
    kind = _child(root, "kind")
    policy = _child(_child(root, "data"), POLICY_KEY)
    if not isinstance(kind, yaml.ScalarNode) or kind.value != "ConfigMap" or not isinstance(policy, yaml.ScalarNode):
        return None
    above = policy.start_mark.line + 1
    return policy.value, lambda finding: _moved(finding, above, in_block=policy.style == "|")


def _child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            if key_node.value == key:
                return value_node  # type: ignore[no-any-return]
    return None


def _moved(finding: Finding, above: int, *, in_block: bool) -> Finding:
    """Only a literal block keeps its lines; JSON, for one, has the whole policy on one line."""
    if not finding.line:
        return finding
    return replace(finding, line=above + finding.line if in_block else above)


def run(path: Path, output: Output, *, live: bool, kubeconfig: Path | None, context: str | None) -> None:
    """Print every error and doubt, and with `live` what would change; exit 1 if there is an error."""
    errors: list[Finding] = []
    loaded: LoadedPolicy | None = None
    try:
        loaded = load(path)
    except PolicyError as error:
        errors = error.findings
    doubts = loaded.doubts if loaded else []
    if output is Output.TEXT:
        for finding in errors:
            typer.echo(f"error: {finding}")
        for doubt in doubts:
            typer.echo(f"warning: {doubt}")
        typer.echo(f"{path}: {f'{len(errors)} error(s)' if errors else 'the policy is valid'}")
    report: dict[str, Any] = {
        "valid": not errors,
        "errors": [asdict(error) for error in errors],
        "warnings": [asdict(doubt) for doubt in doubts],
    }
    if live and loaded:
        from app.cli.policy_live import as_json, examine, print_report

        changes = examine(loaded.policy, kubeconfig, context)
        if output is Output.TEXT:
            print_report(changes)
        report["live"] = as_json(changes)
    if output is Output.JSON:
        print_json(report)
    if errors:
        raise typer.Exit(FINDING)
