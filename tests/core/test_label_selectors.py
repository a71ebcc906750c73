import re

import pytest

from app.core.label_selectors import OPERATORS, LabelSelector, Requirement, compile_patterns
from tests.infra.factories import make_policy


def selector(**fields: object) -> LabelSelector:
    rule = {"name": "r", "match": {"namespaceSelector": fields}}
    compiled = make_policy(rules=[rule]).rules[0].match.namespace_selector
    assert compiled is not None
    return compiled


def expression(operator: str, *values: str) -> LabelSelector:
    return selector(matchExpressions=[{"key": "tier", "operator": operator, **({"values": values} if values else {})}])


@pytest.mark.parametrize(
    ("operator", "values", "absent", "data", "web", "empty"),
    [
        pytest.param("In", ("data", "db"), False, True, False, False, id="In"),
        pytest.param("In", ("",), False, False, False, True, id="In-the-empty-value"),
        pytest.param("NotIn", ("data", "db"), True, False, True, True, id="NotIn-is-met-by-absence"),
        pytest.param("NotIn", ("",), True, True, True, False, id="NotIn-the-empty-value"),
        pytest.param("Exists", (), False, True, True, True, id="Exists-whatever-the-value"),
        pytest.param("DoesNotExist", (), True, False, False, False, id="DoesNotExist"),
    ],
)
def test_operators_mean_what_they_mean_in_kubernetes(
    operator: str, values: tuple[str, ...], absent: bool, data: bool, web: bool, empty: bool
) -> None:
    chosen = expression(operator, *values)
    found = [chosen.matches(labels) for labels in ({}, {"tier": "data"}, {"tier": "web"}, {"tier": ""})]
    assert found == [absent, data, web, empty]


def test_table_has_every_operator() -> None:
    assert set(OPERATORS) == {"In", "NotIn", "Exists", "DoesNotExist"}


def test_all_terms_must_be_met() -> None:
    chosen = selector(
        matchLabels={"tier": "data", "zone": "a"}, matchExpressions=[{"key": "tier", "operator": "Exists"}]
    )
    assert chosen.matches({"tier": "data", "zone": "a", "more": ""})
    assert not chosen.matches({"tier": "data", "zone": "b"})
    assert not chosen.matches({"tier": "data"})


def test_values_are_case_sensitive_and_whole() -> None:
    chosen = selector(matchLabels={"tier": "data"})
    assert not chosen.matches({"tier": "Data"})
    assert not chosen.matches({"tier": "database"})


def test_requirements_of_one_key_are_all_asked() -> None:
    both = LabelSelector((Requirement("k", "In", frozenset({"a", "b"})), Requirement("k", "NotIn", frozenset({"b"}))))
    assert [both.matches({"k": value}) for value in "abc"] == [True, False, False]


@pytest.mark.parametrize(
    ("patterns", "matching", "others"),
    [
        pytest.param(["shop"], ["shop"], ["shop2", "myshop", "Shop", "sho", "shop\n"], id="plain"),
        pytest.param(["db-*"], ["db-", "db-a", "db-a-b"], ["db", "mydb-a"], id="star"),
        pytest.param(["*"], ["a", "kube-system"], [], id="everything"),
        pytest.param(["*-prod"], ["a-prod", "-prod"], ["a-prod-1"], id="leading-star"),
        pytest.param(["a?c"], ["abc", "a-c"], ["ac", "abbc"], id="question-mark"),
        pytest.param(["db[0-9]"], ["db0", "db9"], ["db", "dba", "db10"], id="range"),
        pytest.param(["db[!0-9]"], ["dba"], ["db0", "db"], id="negated-range"),
        pytest.param(["db[^0-9]"], ["db^", "db5"], ["dba"], id="caret-is-no-negation-as-in-a-shell's-case"),
        pytest.param(["a.b"], ["a.b"], ["axb"], id="dot-is-no-wildcard"),
        pytest.param(["(a|b)+"], ["(a|b)+"], ["a", "ab"], id="no-regular-expression"),
        pytest.param(["db-[ab"], ["db-[ab"], ["db-a"], id="unclosed-bracket-is-itself"),
        pytest.param(["[b-a]"], [], ["a", "b", "-"], id="empty-range"),
        pytest.param(["a", "b*"], ["a", "b", "bc"], ["ab", "ca"], id="any-of-several"),
        pytest.param(["a", "b", "c"], ["a", "b", "c"], ["ab", "abc", ""], id="alternatives-stay-apart"),
    ],
)
def test_patterns(patterns: list[str], matching: list[str], others: list[str]) -> None:
    compiled = compile_patterns(tuple(patterns))
    assert [name for name in matching + others if compiled.match(name)] == matching


def test_pattern_made_to_backtrack_ends_at_once() -> None:
    assert not compile_patterns(("*a" * 60,)).match("a" * 59 + "b" * 200)


def test_patterns_need_no_flag_of_their_own() -> None:
    assert compile_patterns(("a*",)).flags == re.compile("").flags
