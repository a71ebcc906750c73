"""The policy as decisions use it: what its text turns into."""

from typing import Any

import pytest

from app.core.objects import SILENT, NamespaceView
from app.core.policy import BUILT_IN, Choice, Guard, Hooks, Level, Mode, Policy
from app.core.policy_v1alpha1.schema import built_in_profiles
from app.core.profiles import Profile, Shell, Step
from tests.infra.factories import make_policy

SHOP = NamespaceView("shop", {}, SILENT)


def test_smallest_policy_is_the_built_in_one_with_the_built_in_profiles() -> None:
    assert make_policy() == Policy(profiles=built_in_profiles())
    assert BUILT_IN.default == Choice("default")


@pytest.mark.parametrize(("text", "level"), [*((level.value, level) for level in Level), ("x", None), (None, None)])
def test_levels_by_name(text: str | None, level: Level | None) -> None:
    assert Level.parse(text) is level


def test_mode() -> None:
    assert make_policy(mode="audit").mode is Mode.AUDIT
    assert make_policy(mode="enforce").mode is Mode.ENFORCE


@pytest.mark.parametrize(
    ("choice", "guard"),
    [
        pytest.param({}, Guard(), id="absent-is-every-level-but-not-unmanaged"),
        pytest.param({"allow": []}, Guard(frozenset()), id="nothing"),
        pytest.param({"allow": ["crash", "unmanaged"]}, Guard(frozenset({Level.CRASH}), unmanaged=True), id="some"),
        pytest.param({"profile": "mysql"}, Guard(profiles=frozenset({"mysql"})), id="own-profile"),
        pytest.param({"profile": "mysql", "allowProfiles": []}, Guard(), id="no-profile"),
        pytest.param({"allowProfiles": ["redis", "p"]}, Guard(profiles=frozenset({"redis", "p"})), id="profiles"),
    ],
)
def test_guards(choice: dict[str, Any], guard: Guard) -> None:
    profiles: dict[str, Any] = {"p": {}}
    rule = {"name": "r", "match": {"namespaces": ["shop"]}, **choice}
    assert make_policy(default=choice, profiles=profiles).guard_for(SHOP) == guard
    assert make_policy(rules=[rule], profiles=profiles).guard_for(SHOP) == guard


def test_profiles_are_the_built_in_ones_and_the_policys() -> None:
    own = {"quiesce": [{"name": "a", "run": "b"}], "resume": [{"name": "c", "run": "d", "timeout": "2m"}]}
    compiled = Profile(Shell.SH, (Step("a", "b", 30),), (Step("c", "d", 120),))
    assert make_policy(profiles={"own": own}).profiles == {**built_in_profiles(), "own": compiled}
    assert make_policy(profiles={"redis": own}).profiles["redis"] == compiled, "a built-in one is overridden by name"


def test_built_in_profiles_are_those_of_the_contract() -> None:
    names = ["mariadb", "mongodb", "mysql", "postgresql", "redis", "script", "sqlserver"]
    assert sorted(built_in_profiles()) == names
    assert built_in_profiles()["sqlserver"].shell is Shell.POWERSHELL


@pytest.mark.parametrize(
    ("written", "hooks"),
    [
        pytest.param({}, Hooks("70s", "Fail", "80s", "Fail", 120, True, True), id="nothing"),
        pytest.param({"freeze": {}, "thaw": {}}, Hooks("70s", "Fail", "80s", "Fail", 120, True, True), id="empty"),
        pytest.param({"freeze": {"timeout": "1m"}}, Hooks("1m", "Fail", "80s", "Fail", 120, True, True), id="timeout"),
        pytest.param(
            {
                "thaw": {"timeout": "1s", "onError": "Continue"},
                "requireFrozen": False,
                "crash": "remove",
                "autoThaw": "2s",
            },
            Hooks("70s", "Fail", "1s", "Continue", 2, False, False),
            id="everything-else",
        ),
    ],
)
def test_hooks_of_a_rule_are_merged_field_by_field(written: dict[str, Any], hooks: Hooks) -> None:
    policy = make_policy(
        hooks={
            "freeze": {"timeout": "70s", "onError": "Fail"},
            "thaw": {"timeout": "80s", "onError": "Fail"},
            "autoThaw": "2m",
            "requireFrozen": True,
            "crash": "noop",
        },
        rules=[{"name": "r", "match": {"namespaces": ["shop"]}, "hooks": written}],
    )
    assert policy.choice_for(SHOP, {}).hooks == hooks


def test_source_of_a_rule_is_its_name() -> None:
    policy = make_policy(rules=[{"name": "databases", "match": {"namespaces": ["*"]}, "managed": True}])
    assert policy.choice_for(SHOP, {}) == Choice("rule/databases")
