"""What PolicyValidator makes of a write of the policy."""

import asyncio
import contextlib
import threading
from typing import Any

import pytest
from hypothesis import given

from app.admission.review import MalformedReview, Verdict
from app.admission.validate_policy import PolicyValidator
from app.core.policy import BUILT_IN, PolicyState, Standing
from app.core.policy_v1alpha1 import config_map as policy_texts
from app.core.policy_v1alpha1.config_map import KEY, Parsed, PolicyText
from tests.admission.support import LIKE_OBJECTS, StandInPolicy, make_request
from tests.infra.factories import policy_text

Object = dict[str, Any]
SPACE, POLICY = "vm-consistency", "vm-consistency-policy"
GOOD = policy_text(default={"level": "crash"})
BAD = policy_text(default={"level": "most"}, hoks={})


def policy_validator(state: PolicyState | None = None, *, grace: float = 300, deadline: float = 5) -> PolicyValidator:
    source = StandInPolicy(state or PolicyState(Standing.VALID, BUILT_IN))
    return PolicyValidator(source, SPACE, POLICY, grace=grace, deadline=deadline)


def config_map(text: str | None, **fields: Any) -> Object:
    return {"metadata": {"name": POLICY}, **({} if text is None else {"data": {KEY: text}}), **fields}


def write(new: Object | None, old: Object | None = None, **fields: Any) -> Any:
    operation = "CREATE" if old is None else "DELETE" if new is None else "UPDATE"
    resource = {"group": "", "version": "v1", "resource": "configmaps"}
    request = {"resource": resource, "namespace": SPACE, "name": POLICY, "operation": operation, **fields}
    return make_request(**{**request, "object": new, "oldObject": old})


def errors(verdict: Verdict) -> list[str]:
    assert verdict.denial is not None
    return verdict.denial.errors


async def test_a_good_policy_is_allowed() -> None:
    assert await policy_validator().validate(write(config_map(GOOD))) == Verdict()
    assert await policy_validator().validate(write(config_map(GOOD), config_map(BAD))) == Verdict()


@pytest.mark.parametrize("old", [None, config_map(GOOD), config_map(BAD + "\n")], ids=["create", "update", "from-bad"])
async def test_a_bad_policy_is_denied_with_every_error(old: Object | None) -> None:
    verdict = await policy_validator().validate(write(config_map(BAD), old))

    assert verdict.denial is not None
    assert (verdict.denial.kind, verdict.denial.name, verdict.denial.field) == (
        "ConfigMap",
        POLICY,
        "data[policy.yaml]",
    )
    assert verdict.denial.summary == "policy.yaml has 2 errors, and was not stored:"
    assert [error.split(": ")[1] for error in verdict.denial.errors] == ["default.level", "hoks"]
    assert all(error.startswith("line ") for error in verdict.denial.errors)


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (config_map(None), "no key policy.yaml"),
        (config_map(None, data={"policy.yml": GOOD}), "no key policy.yaml"),
        (config_map(None, binaryData={KEY: "AAAA"}), "policy.yaml is binary"),
        (config_map(""), "empty"),
    ],
    ids=["no-data", "misspelt", "binary", "empty"],
)
async def test_a_policy_that_is_none(broken: Object, told: str) -> None:
    verdict = await policy_validator().validate(write(broken, config_map(GOOD)))
    assert verdict.denial is not None
    assert verdict.denial.summary == "policy.yaml has an error, and was not stored:"
    [error] = verdict.denial.errors
    assert told in error


async def test_errors_are_bounded_in_number() -> None:
    many = policy_text(**{f"unknown{number:03}": 1 for number in range(150)})
    found = errors(await policy_validator().validate(write(config_map(many))))
    assert len(found) == 101
    assert found[-1] == "and 50 more; `vm-consistency policy check` shows all of them"


async def test_errors_are_bounded_in_size() -> None:
    nested = policy_text(rules=[{"name": "n" * 200, "match": {"m" * 60: {"x": 1}}, "y" * 80: 1} for _ in range(90)])
    found = errors(await policy_validator().validate(write(config_map(nested))))
    assert sum(map(len, found)) < 16_500
    assert found[-1].startswith("and ")
    assert len(found) > 50


async def test_doubts_are_warnings_and_bounded() -> None:
    loose = [{"match": {"templateSelector": {"matchLabels": {"a": str(number)}}}, "allow": []} for number in range(20)]
    doubtful = policy_text(rules=[{"name": f"rule-{number}", **rule} for number, rule in enumerate(loose)])
    verdict = await policy_validator().validate(write(config_map(doubtful)))
    assert verdict.denial is None
    assert len(verdict.warnings) == 13
    assert "rules[0]" in verdict.warnings[0]
    assert verdict.warnings[-1].endswith("more doubts about the policy")


async def test_deletion_is_allowed_and_says_what_follows() -> None:
    verdict = await policy_validator(grace=90).validate(write(None, config_map(BAD)))
    assert verdict.denial is None
    at_once, later = verdict.warnings
    assert "built-in default at once" in at_once
    assert "follow in 1.5 min" in later
    assert all(len(f"vm-consistency: {warning}") <= 256 for warning in verdict.warnings)


@pytest.mark.parametrize(
    ("standing", "told"),
    [
        (Standing.LAST_GOOD, ["the policy in this ConfigMap is invalid, the last good one holds: line 3: oh"]),
        (Standing.INVALID, ["the policy in this ConfigMap is invalid, every pod is left as it is: line 3: oh"]),
        (Standing.VALID, []),
        (Standing.UNKNOWN, []),
    ],
)
async def test_a_policy_that_stays_is_not_read_again(
    standing: Standing, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(PolicyText, "parse")
    validator = policy_validator(PolicyState(standing, BUILT_IN, error="line 3: oh"))
    old, new = config_map(BAD), config_map(BAD, metadata={"name": POLICY, "annotations": {"example.com/a": "1"}})
    assert await validator.validate(write(new, old)) == Verdict(told)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "other"},
        {"name": None},
        {"namespace": "elsewhere"},
        {"resource": {"group": "x.io", "version": "v1", "resource": "configmaps"}},
        {"resource": {"group": "", "version": "v1", "resource": "secrets"}},
        {"operation": "CONNECT"},
    ],
    ids=str,
)
async def test_anything_else_is_allowed(fields: Object) -> None:
    assert await policy_validator().validate(write(config_map(BAD), **fields)) == Verdict()


@pytest.mark.parametrize(
    "broken",
    [None, {"data": ["x"]}, {"data": {KEY: 7}}, {"binaryData": "x"}],
    ids=["no-object", "data-is-a-list", "text-is-a-number", "binary-is-a-string"],
)
async def test_what_is_no_config_map_is_malformed(broken: Object | None) -> None:
    with pytest.raises(MalformedReview, match="the ConfigMap"):
        await policy_validator().validate(write(broken))


async def test_one_policy_is_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow(text: str | None, missing: str = "") -> Parsed:
        started.set()
        assert go_on.wait(10)
        return []

    monkeypatch.setattr(policy_texts, "parse", slow)
    validator = policy_validator(deadline=0.05)
    first = asyncio.create_task(validator.validate(write(config_map(BAD))))
    try:
        assert await asyncio.to_thread(started.wait, 10)
        late = await validator.validate(write(config_map(BAD)))
    finally:
        go_on.set()
    await first

    assert late.denial is None
    assert late.trouble is not None
    assert late.warnings == [late.trouble]
    assert (await validator.validate(write(config_map(BAD)))).trouble is None, "the turn was given back"


@given(new=LIKE_OBJECTS, old=LIKE_OBJECTS)
async def test_whatever_comes_is_judged_or_malformed(new: Any, old: Any) -> None:
    with contextlib.suppress(MalformedReview):
        await policy_validator().validate(write(new, old, operation="UPDATE"))
