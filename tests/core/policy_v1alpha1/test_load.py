"""Texts that are hard to keep as files, and that nothing but PolicyError ever comes out."""

import json
import re
import time
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from app.core.policy import Level
from app.core.policy_v1alpha1.load import Finding, LoadedPolicy, PolicyError, dotted, load_policy
from app.core.policy_v1alpha1.schema import PolicyDocument
from tests.infra.factories import policy_text

HEAD = policy_text()
TIMEOUT_SECONDS = 5
"""Far more than any of these texts needs; some took minutes before they were bounded."""


def findings(text: str) -> list[Finding]:
    with pytest.raises(PolicyError) as refusal:
        load_policy(text)
    return refusal.value.findings


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(HEAD.replace("\n", "\r\n"), id="CRLF"),
        pytest.param("\ufeff" + HEAD, id="byte-order-mark"),
        pytest.param("\ufeff" + HEAD.replace("\n", "\r\n"), id="both"),
        pytest.param("%YAML 1.1\n---\n" + HEAD, id="directive"),
        pytest.param(json.dumps(yaml.safe_load(HEAD)), id="JSON"),
    ],
)
def test_spellings_of_a_good_policy(text: str) -> None:
    assert load_policy(text) == load_policy(HEAD) == LoadedPolicy(load_policy(HEAD).policy, [])


def test_lines_count_with_crlf_and_byte_order_mark() -> None:
    assert [finding.line for finding in findings("\ufeff" + f"{HEAD}x: 1\ny: 2\n".replace("\n", "\r\n"))] == [3, 4]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\x00", id="NUL"),
        pytest.param(HEAD + "mode: \x1b[31m", id="escape-sequence"),
        pytest.param(HEAD + "mode: \ud800", id="half-a-surrogate-pair"),
        pytest.param(HEAD + 'mode: "\\ud800"', id="half-a-surrogate-pair-escaped"),
    ],
)
def test_text_that_is_no_yaml(text: str) -> None:
    (finding,) = findings(text)
    assert finding.message.startswith("not YAML: ")
    assert finding.message.isprintable()


@pytest.mark.parametrize("unit", ["[", "- ", "{a: ", "? ", "&a [*a, ", "!!x ["])
@pytest.mark.parametrize("count", [40, 300_000])
def test_deep_nesting_neither_ends_the_process_nor_takes_long(unit: str, count: int) -> None:
    # PyYAML composes on the C stack: this many levels were a segmentation fault.
    started = time.monotonic()
    (finding,) = findings(unit * count)
    assert finding == Finding("", 1, "nested more than 32 levels deep")
    assert time.monotonic() - started < TIMEOUT_SECONDS


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(HEAD + "rules:\n" + "- a\n" * 200_000, id="lines"),
        pytest.param(HEAD + "rules: [" + "a, " * 200_000 + "]", id="one-line"),
        pytest.param(HEAD + "".join(f"k{i}: &a{i} x\n" for i in range(100_000)), id="keys-and-anchors"),
    ],
)
def test_more_values_than_any_policy_has(text: str) -> None:
    started = time.monotonic()
    (finding,) = findings(text)
    assert "more than 20000 values" in finding.message
    assert finding.line > 2
    assert time.monotonic() - started < TIMEOUT_SECONDS


@pytest.mark.parametrize(
    "number",
    [
        pytest.param("0x" + "f" * 5000, id="hexadecimal"),
        pytest.param("0b" + "1" * 20_000, id="binary"),
        pytest.param("9" * 5000, id="decimal"),
        pytest.param("1" + ":59" * 3000, id="base-60"),
        pytest.param("1" + ":59" * 3000 + ".5", id="base-60-with-a-fraction"),
        pytest.param("1.0e+999", id="beyond-float"),
        pytest.param(".nan", id="nan"),
    ],
)
def test_number_that_json_or_python_can_not_write(number: str) -> None:
    assert {finding.path for finding in findings(HEAD + f"mode: {number}")} == {"mode"}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        pytest.param((), "", id="root"),
        pytest.param(("rules", 2, "profile"), "rules[2].profile", id="as-in-the-contract"),
        pytest.param(("a", "app.kubernetes.io/name"), "a.app.kubernetes.io/name", id="label"),
        pytest.param(("a", ""), "a.''", id="empty"),
        pytest.param(("a b", "c\nd"), "'a b'.'c\\nd'", id="odd"),
        pytest.param((0, 1), "[0][1]", id="indices"),
    ],
)
def test_paths(path: tuple[Any, ...], text: str) -> None:
    assert dotted(path) == text


def test_key_that_looks_like_pydantics_mark() -> None:
    rule = {"name": "r", "match": {"namespaceSelector": {"matchLabels": {"[key]": "v"}}}}
    (finding,) = findings(policy_text(rules=[rule]))
    assert finding.path == "rules[0].match.namespaceSelector.matchLabels.'[key]'"


@pytest.mark.parametrize(
    ("finding", "text"),
    [
        (Finding("a.b", 3, "wrong"), "line 3: a.b: wrong"),
        (Finding("", 3, "wrong"), "line 3: wrong"),
        (Finding("", 0, "wrong"), "wrong"),
        (Finding("a", 0, "wrong"), "a: wrong"),
    ],
)
def test_finding_reads_as_one_line(finding: Finding, text: str) -> None:
    assert str(finding) == text


def test_error_names_all_findings() -> None:
    error = PolicyError([Finding("a", 1, "x"), Finding("b", 2, "y")])
    assert str(error) == "line 1: a: x; line 2: b: y"


def test_doubts_come_in_the_order_of_their_lines() -> None:
    resume = {"shell": "powershell", "resume": [{"name": "a", "run": "b"}]}
    policy = {"profiles": {"one": resume, "two": resume}}
    lines = [doubt.line for doubt in load_policy(policy_text(**policy)).doubts]
    assert lines == sorted(lines)
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("shell", "text"),
    [("sh", "".join(map(str, range(1500)))), ("powershell", "x" * 1300), ("powershell", "\ufbfb" * 1100)],
    ids=["sh", "powershell", "in-the-url"],
)
def test_a_profile_whose_hooks_would_be_too_long_is_an_error(shell: str, text: str) -> None:
    profile = {"shell": shell, "quiesce": [{"name": "much", "run": text}]}
    with pytest.raises(PolicyError) as raised:
        load_policy(policy_text(profiles={"long": profile, "short": {"quiesce": [{"name": "a", "run": "b"}]}}))
    [finding] = raised.value.findings
    assert finding.path == "profiles.long"
    assert re.search(r"come to \d{4} bytes, \d{4,5} in a URL; 6144 and 8192 are the limits", finding.message)


def names_of_fields() -> list[str]:
    """Every name in the schema, for texts that come close to a policy."""
    schema = PolicyDocument.model_json_schema()
    models = [schema, *schema["$defs"].values()]
    return sorted({name for model in models for name in model.get("properties", {})})


WORDS = st.sampled_from(
    [
        "a",
        "*",
        "",
        "5m",
        "1s",
        "0",
        "application",
        "crash",
        "mysql",
        "own",
        "unmanaged",
        "Continue",
        "In",
        "sh",
        "audit",
    ]
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.dates(), st.text(max_size=5), WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(names_of_fields()) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
RULES = st.fixed_dictionaries(
    {
        "name": WORDS,
        "match": st.fixed_dictionaries({}, optional={"namespaces": st.lists(WORDS), "templateSelector": VALUES}),
    },
    optional={
        "level": WORDS,
        "profile": WORDS,
        "allow": st.lists(WORDS),
        "allowProfiles": st.lists(WORDS) | VALUES,
        "managed": st.booleans() | VALUES,
        "hooks": VALUES,
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {"apiVersion": st.just("vm-consistency.io/v1alpha1"), "kind": st.just("ConsistencyPolicy")},
    optional={
        "mode": WORDS,
        "default": VALUES,
        "rules": st.lists(RULES, max_size=3) | VALUES,
        "hooks": VALUES,
        "profiles": VALUES,
        "other": VALUES,
    },
)


@given(st.text())
@example("a: !!bool x")
@example("a: !!int ''")
@example("? !!set {a}\n: b")
def test_any_text_is_a_policy_or_a_policy_error(text: str) -> None:
    try:
        load_policy(text)
    except PolicyError as error:
        assert error.findings  # noqa: PT017 - a policy would be as good


@given(st.text(alphabet="[]{}&*!|>%@-?:,#'\"\\ \n\tab01", max_size=60))
def test_any_text_of_marks_is_a_policy_or_a_policy_error(text: str) -> None:
    for candidate in (text, HEAD + text, f"{HEAD}rules: {text}"):
        try:
            load_policy(candidate)
        except PolicyError as error:
            assert error.findings  # noqa: PT017


@given(DOCUMENTS)
def test_any_document_is_a_policy_or_has_findings_with_path_and_line(document: dict[str, Any]) -> None:
    text = yaml.safe_dump(document, allow_unicode=True)
    try:
        loaded = load_policy(text)
    except PolicyError as error:
        told = error.findings
        assert told
    else:
        told = loaded.doubts
        assert set(Level) >= loaded.policy.default.guard.levels
    lines = len(text.splitlines())
    assert all(finding.path and 1 <= finding.line <= lines for finding in told)
    assert all(str(finding).isprintable() and len(str(finding)) < 3000 for finding in told)
    assert [finding.line for finding in told] == sorted(finding.line for finding in told)
