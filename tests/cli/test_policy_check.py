"""`policy check`: every error with its path and line, and exit codes that a pipeline can rely on."""

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.support import run, written
from tests.infra.factories import policy_text

GOOD = policy_text(default={"level": "filesystem"})
BAD = """\
apiVersion: vm-consistency.io/v1alpha1
kind: ConsistencyPolicy
mode: enforced
rules:
- name: databases
  match: {namespaces: ["db-*"]}
  level: application
  profile: postgrsql
"""
WRONG = [("mode", 3), ("rules[0].profile", 8)]
DOUBTFUL = """\
apiVersion: vm-consistency.io/v1alpha1
kind: ConsistencyPolicy
rules:
- name: by-template
  match: {templateSelector: {matchLabels: {app: db}}}
  allow: [filesystem]
"""


def config_map(policy: str, above: str = "") -> str:
    """A manifest as people write it; the policy begins on the eighth line, below what stands `above`."""
    lines = "\n".join(f"    {line}" for line in policy.splitlines())
    return f"""{above}apiVersion: v1
kind: ConfigMap
metadata:
  name: vm-consistency-policy
  namespace: vm-consistency
data:
  policy.yaml: |
{lines}
"""


def test_a_good_policy_is_said_to_be_good(tmp_path: Path) -> None:
    ran = run("policy", "check", written(tmp_path / "policy.yaml", GOOD))

    assert (ran.exit_code, ran.stderr) == (0, "")
    assert ran.stdout == f"{tmp_path / 'policy.yaml'}: the policy is valid\n"


def test_the_shipped_policy_is_good() -> None:
    ran = run("policy", "check", Path(__file__).parents[2] / "manifests" / "base" / "policy.yaml", "-o", "json")

    assert (ran.exit_code, ran.json()) == (0, {"valid": True, "errors": [], "warnings": []})


def test_every_error_is_a_finding_with_path_and_line(tmp_path: Path) -> None:
    ran = run("policy", "check", written(tmp_path / "policy.yaml", BAD))

    assert ran.exit_code == 1
    *errors, summary = ran.stdout.splitlines()
    assert summary.endswith("2 error(s)")
    for (path, line), error in zip(WRONG, errors, strict=True):
        assert error.startswith(f"error: line {line}: {path}: ")


def test_json_for_programs(tmp_path: Path) -> None:
    ran = run("policy", "check", written(tmp_path / "policy.yaml", BAD), "-o", "json")

    assert ran.exit_code == 1
    report = ran.json()
    assert report.keys() == {"valid", "errors", "warnings"}
    assert report["valid"] is False
    assert [(error["path"], error["line"]) for error in report["errors"]] == WRONG
    assert all(error.keys() == {"path", "line", "message"} and error["message"] for error in report["errors"])


def test_a_doubt_is_a_warning_and_no_finding(tmp_path: Path) -> None:
    path = written(tmp_path / "policy.yaml", DOUBTFUL)
    ran, text = run("policy", "check", path, "-o", "json"), run("policy", "check", path)

    assert (ran.exit_code, ran.json()["valid"], text.exit_code) == (0, True, 0)
    [doubt] = ran.json()["warnings"]
    assert doubt["path"].startswith("rules[0]")
    assert f"warning: line {doubt['line']}: {doubt['path']}" in text.stdout


@pytest.mark.parametrize("above", ["", "# found by kubectl\n---\n"], ids=["at-the-top", "below-a-comment"])
def test_in_a_config_map_lines_are_those_of_the_manifest(tmp_path: Path, above: str) -> None:
    text = config_map(BAD, above)
    ran = run("policy", "check", written(tmp_path / "cm.yaml", text), "-o", "json")

    assert [error["path"] for error in ran.json()["errors"]] == [path for path, _ in WRONG]
    lines = text.splitlines()
    for error, word in zip(ran.json()["errors"], ("enforced", "postgrsql"), strict=True):
        assert word in lines[error["line"] - 1]


def test_a_doubt_in_a_config_map_moves_along(tmp_path: Path) -> None:
    text = config_map(DOUBTFUL)
    ran = run("policy", "check", written(tmp_path / "cm.yaml", text), "-o", "json")

    [doubt] = ran.json()["warnings"]
    alone = run("policy", "check", "-", "-o", "json", stdin=DOUBTFUL).json()["warnings"]
    assert [doubt] == [{**one, "line": one["line"] + 7} for one in alone]


@pytest.mark.parametrize("indent", [None, 1])
def test_where_a_config_map_holds_the_policy_on_one_line_that_is_the_line(tmp_path: Path, indent: int | None) -> None:
    text = json.dumps(yaml.safe_load(config_map(BAD)), indent=indent)  # as `kubectl get -o json` prints it
    ran = run("policy", "check", written(tmp_path / "cm.json", text), "-o", "json")

    assert ran.exit_code == 1
    for error in ran.json()["errors"]:
        assert "policy.yaml" in text.splitlines()[error["line"] - 1]


def test_standard_input(tmp_path: Path) -> None:
    assert run("policy", "check", "-", stdin=GOOD).exit_code == 0
    assert run("policy", "check", "-", stdin=BAD).exit_code == 1
    assert run("policy", "check", "-", stdin=config_map(GOOD)).exit_code == 0


@pytest.mark.parametrize(
    "text",
    ["", "{", "- a\n", "null\n", "&a [*a]\n", "a: " + "[" * 200_000, "\tmode: enforce"],
    ids=lambda text: repr(text[:20]),
)
def test_what_is_no_policy_is_a_finding(tmp_path: Path, text: str) -> None:
    ran = run("policy", "check", written(tmp_path / "policy.yaml", text), "-o", "json")

    assert (ran.exit_code, ran.json()["valid"]) == (1, False)
    assert ran.json()["errors"]


def test_what_cannot_be_read_is_misuse(tmp_path: Path) -> None:
    (tmp_path / "latin1.yaml").write_bytes(b"mode: \xe9")
    for path, why in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory"), ("latin1.yaml", "UTF-8")):
        ran = run("policy", "check", tmp_path / path)

        assert (ran.exit_code, ran.stdout) == (2, "")
        assert ran.stderr.startswith(f"error: {tmp_path / path}: ")
        assert why in ran.stderr


@pytest.mark.parametrize("words", [(), ("a.yaml", "b.yaml"), ("a.yaml", "-o", "xml"), ("--lines", "a.yaml")], ids=str)
def test_a_wrong_command_line_is_misuse(words: tuple[str, ...]) -> None:
    assert run("policy", "check", *words).exit_code == 2
