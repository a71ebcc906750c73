"""What the validators make of a request."""

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.admission.ports import LookupFailed
from app.admission.review import MalformedReview, Verdict
from app.admission.validate import AnnotationValidator, PolicyValidator, Validator
from app.core import policy_text as policy_texts
from app.core.constants import LEVEL, MANAGED, PROFILE, UPSTREAM, KubeVirtNames
from app.core.objects import NamespaceView
from app.core.policy import BUILT_IN, Policy, PolicyState, Standing
from app.core.policy_text import KEY, Parsed, PolicyText
from tests.admission.support import make_request
from tests.factories import make_policy, policy_text

Object = dict[str, Any]
SPACE, POLICY = "vm-consistency", "vm-consistency-policy"
GOOD = policy_text(default={"level": "crash"})
BAD = policy_text(default={"level": "most"}, hoks={})
SKIP = UPSTREAM.skip_annotation


class StandInPolicy:
    """A PolicySource with one policy."""

    def __init__(self, state: PolicyState) -> None:
        self._state = state

    def current(self) -> PolicyState:
        return self._state


class StandInNamespaces:
    """A NamespaceSource that has one answer and remembers what it was asked."""

    def __init__(self, answer: NamespaceView | LookupFailed) -> None:
        self._answer = answer
        self.asked: list[str] = []

    async def namespace(self, name: str) -> NamespaceView:
        self.asked.append(name)
        if isinstance(self._answer, LookupFailed):
            raise self._answer
        return self._answer


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


# ---- annotations

GUARDED = make_policy(
    default={"level": "filesystem"},
    rules=[
        {"name": "db", "match": {"namespaceSelector": {"matchLabels": {"tier": "data"}}}, "allow": ["filesystem"]},
        {"name": "open", "match": {"namespaceSelector": {"matchLabels": {"tier": "open"}}}, "allow": ["unmanaged"]},
        {"name": "vendor", "match": {"namespaces": ["vendor"]}, "managed": False},
    ],
)
MACHINES = {"group": "kubevirt.io", "version": "v1", "resource": "virtualmachines"}
NAMESPACES = {"group": "", "version": "v1", "resource": "namespaces"}


def namespace(annotations: Object | None = None, tier: str = "data") -> Object:
    return {"metadata": {"name": "team", "labels": {"tier": tier}, "annotations": annotations}}


def machine(annotations: Object | None = None, template: Object | None = None, **metadata: Any) -> Object:
    below = {"metadata": {"annotations": template, "labels": {"app": "x"}}}
    return {"metadata": {"name": "db", "annotations": annotations, **metadata}, "spec": {"template": below}}


class Annotations:
    """An AnnotationValidator between stand-ins."""

    def __init__(
        self,
        policy: Policy | None = GUARDED,
        space: NamespaceView | LookupFailed | None = None,
        names: KubeVirtNames = UPSTREAM,
    ) -> None:
        state = PolicyState(Standing.VALID, policy) if policy else PolicyState(Standing.INVALID, error="oh")
        view = space or NamespaceView.from_metadata({**namespace()["metadata"], "annotations": {LEVEL: "not-asked"}})
        self.namespaces = StandInNamespaces(view)
        self.validator = AnnotationValidator(StandInPolicy(state), self.namespaces, names)

    async def verdict(self, new: Object | None, old: Object | None = None, **fields: Any) -> Verdict:
        is_machine = "spec" in (new or {})
        request = {
            "resource": MACHINES if is_machine else NAMESPACES,
            "namespace": "team",
            "operation": "CREATE" if old is None else "UPDATE",
            **fields,
        }
        return await self.validator.validate(make_request(**{**request, "object": new, "oldObject": old}))

    async def warnings(self, new: Object | None, old: Object | None = None, **fields: Any) -> list[str]:
        verdict = await self.verdict(new, old, **fields)
        assert (verdict.denial, verdict.trouble) == (None, None)
        return verdict.warnings


CASES = [
    ({LEVEL: "most"}, "level 'most' is none of crash, filesystem, application"),
    ({LEVEL: "crash"}, "level crash is not allowed by the policy here"),
    ({PROFILE: "script"}, f"{PROFILE} has no effect without {LEVEL}"),
    ({MANAGED: "false"}, f"{MANAGED}=false is not allowed by the policy here"),
    ({MANAGED: "maybe"}, f"{MANAGED}='maybe' is neither true nor false"),
]


@pytest.mark.parametrize(("asked", "told"), CASES, ids=str)
@pytest.mark.parametrize("update", [False, True], ids=["create", "update"])
async def test_on_a_namespace(asked: Object, told: str, update: bool) -> None:
    [warning] = await Annotations().warnings(namespace(asked), namespace() if update else None)
    assert warning.startswith(f"Namespace team: {told}")


@pytest.mark.parametrize(("asked", "told"), [*CASES, ({SKIP: "maybe"}, f"{SKIP}='maybe' is neither")], ids=str)
@pytest.mark.parametrize("update", [False, True], ids=["create", "update"])
async def test_on_a_virtual_machine(asked: Object, told: str, update: bool) -> None:
    [warning] = await Annotations().warnings(machine(asked), machine() if update else None)
    assert warning.startswith(f"VirtualMachine db: {told}")


@pytest.mark.parametrize(("asked", "told"), [*CASES[:3], ({MANAGED: "true"}, f"{MANAGED} has no effect here")], ids=str)
async def test_on_a_template(asked: Object, told: str) -> None:
    [warning] = await Annotations().warnings(machine(template=asked))
    assert warning.startswith(f"the VM's spec.template.metadata: {told}")


async def test_each_annotation_is_judged_whoever_else_speaks() -> None:
    new = machine({LEVEL: "filesystem", MANAGED: "maybe", SKIP: "maybe"}, {LEVEL: "most", MANAGED: "false"})
    warnings = await Annotations().warnings(new)
    assert [warning.partition(" is ")[0].partition(" has ")[0] for warning in warnings] == [
        f"VirtualMachine db: {MANAGED}='maybe'",
        f"VirtualMachine db: {SKIP}='maybe'",
        "the VM's spec.template.metadata: level 'most'",
        f"the VM's spec.template.metadata: {MANAGED}",
    ]


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (namespace({LEVEL: "most"}), namespace({LEVEL: "most"}, tier="open")),
        (namespace({LEVEL: "most", "a": "1"}), namespace({LEVEL: "most"})),
        (namespace({}), namespace({LEVEL: "most"})),
        (namespace({LEVEL: "filesystem"}), None),
        (namespace({LEVEL: "crash"}, tier="other"), None),
        (namespace({MANAGED: "false"}, tier="open"), None),
        (namespace({SKIP: "maybe"}), None),
        (machine({LEVEL: "most"}, {LEVEL: "least"}), machine({LEVEL: "most"}, {LEVEL: "least"}, labels={"a": "b"})),
        (machine({LEVEL: "filesystem"}, {LEVEL: "least"}), machine({LEVEL: "most"}, {LEVEL: "least"})),
        (machine(template={SKIP: "maybe"}), None),
        (machine({SKIP: "false", LEVEL: "filesystem"}), None),
        ({"metadata": {"name": "db"}, "spec": {"template": {"metadata": None}}}, None),
        ({"metadata": {"name": "db"}, "spec": {"template": []}}, None),
    ],
)
async def test_nothing_is_said(new: Object, old: Object | None) -> None:
    assert await Annotations().warnings(new, old) == []


async def test_a_pair_is_judged_when_half_of_it_changes() -> None:
    before, after = {LEVEL: "most", PROFILE: "script"}, {PROFILE: "script"}
    [warning] = await Annotations().warnings(namespace(after), namespace(before))
    assert f"{PROFILE} has no effect without {LEVEL}" in warning


async def test_what_the_policy_itself_asks_for_is_nobodys_typing_error() -> None:
    """Where a level is refused, the next source may be one that this version refuses as well."""
    policy = make_policy(default={"level": "application", "profile": "script"})
    [warning] = await Annotations(policy).warnings(machine({LEVEL: "most"}))
    assert warning.startswith("VirtualMachine db: ")


async def test_names_that_are_generated() -> None:
    [warning] = await Annotations().warnings(machine({LEVEL: "most"}, name=None, generateName="db-"))
    assert warning.startswith("VirtualMachine db-: ")


async def test_names_of_a_fork() -> None:
    fork = KubeVirtNames(api_group="fork.io", kind_prefix="Fork", skip_annotation="fork.io/skip")
    annotations = Annotations(names=fork)
    resource = {"group": "fork.io", "version": "v1", "resource": "forkvirtualmachines"}
    assert await annotations.warnings(machine({"fork.io/skip": "maybe"})) == []
    [warning] = await annotations.warnings(machine({"fork.io/skip": "maybe"}), resource=resource)
    assert "fork.io/skip='maybe'" in warning


async def test_without_a_policy_there_is_nothing_to_judge_by() -> None:
    assert await Annotations(policy=None).warnings(namespace({LEVEL: "most"})) == []


async def test_the_namespace_is_looked_up_only_for_news() -> None:
    annotations = Annotations()
    await annotations.warnings(machine({LEVEL: "most"}), machine({LEVEL: "most"}))
    assert annotations.namespaces.asked == []
    await annotations.warnings(machine({LEVEL: "most"}))
    assert annotations.namespaces.asked == ["team"]


async def test_a_failed_lookup_is_allowed_in_silence() -> None:
    annotations = Annotations(space=LookupFailed("the API server did not answer within 2 s"))
    verdict = await annotations.verdict(machine({LEVEL: "most"}))
    assert verdict == Verdict(trouble="the API server did not answer within 2 s")


@pytest.mark.parametrize(
    "fields",
    [
        {"operation": "DELETE", "oldObject": namespace()},
        {"resource": {"group": "", "version": "v1", "resource": "pods"}},
        {"resource": {"group": "x.io", "version": "v1", "resource": "virtualmachines"}},
        {"resource": MACHINES, "subResource": "status"},
    ],
    ids=["delete", "pods", "another-group", "status"],
)
async def test_anything_else_is_allowed_unread(fields: Object) -> None:
    assert await Annotations().verdict(namespace({LEVEL: "most"}), **fields) == Verdict()


@pytest.mark.parametrize("resource", [NAMESPACES, MACHINES])
@pytest.mark.parametrize("broken", [None, {}, {"metadata": "x"}], ids=["no-object", "no-metadata", "a-string"])
async def test_what_has_no_metadata_is_malformed(resource: Object, broken: Object | None) -> None:
    with pytest.raises(MalformedReview, match="metadata"):
        await Annotations().verdict(broken, resource=resource)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "x", "true", "filesystem"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["metadata", "spec", "template", "annotations", "labels", "name", "data", KEY, LEVEL, MANAGED]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(new=JSON_VALUES, old=JSON_VALUES, resource=st.sampled_from(["policy", "namespace", "vm"]))
async def test_whatever_comes_is_judged_or_malformed(new: object, old: object, resource: str) -> None:
    found: dict[str, Validator] = {
        "policy": policy_validator(),
        "namespace": Annotations().validator,
        "vm": Annotations().validator,
    }
    resources = {"policy": {"resource": "configmaps"}, "namespace": NAMESPACES, "vm": MACHINES}
    where = {"namespace": SPACE, "name": POLICY, "operation": "UPDATE", "resource": resources[resource]}
    try:
        request = make_request(object=new, oldObject=old, **where)
        verdict = await found[resource].validate(request)
    except MalformedReview:
        return
    assert verdict.denial is None or resource == "policy"
