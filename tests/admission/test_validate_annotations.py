"""What AnnotationValidator makes of writes of Namespaces and VirtualMachines."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.admission.ports import LookupFailed
from app.admission.review import MalformedReview, Verdict
from app.admission.validate_annotations import AnnotationValidator
from app.core.annotations import LEVEL, MANAGED, PROFILE
from app.core.kubevirt_names import UPSTREAM, KubeVirtNames
from app.core.objects import NamespaceView
from app.core.policy import Policy, PolicyState, Standing
from tests.admission.support import LIKE_OBJECTS, StandInPolicy, make_request
from tests.infra.factories import make_policy

Object = dict[str, Any]
SKIP = UPSTREAM.skip_annotation

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
        self._validator = AnnotationValidator(StandInPolicy(state), self.namespaces, names)

    async def verdict(self, new: Object | None, old: Object | None = None, **fields: Any) -> Verdict:
        is_machine = isinstance(new, dict) and "spec" in new
        request = {
            "resource": MACHINES if is_machine else NAMESPACES,
            "namespace": "team",
            "operation": "CREATE" if old is None else "UPDATE",
            **fields,
        }
        return await self._validator.validate(make_request(**{**request, "object": new, "oldObject": old}))

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


@given(new=LIKE_OBJECTS, old=LIKE_OBJECTS, resource=st.sampled_from([NAMESPACES, MACHINES]))
async def test_whatever_comes_is_judged_or_malformed(new: Any, old: Any, resource: Object) -> None:
    with contextlib.suppress(MalformedReview):
        verdict = await Annotations().verdict(new, old, resource=resource, operation="UPDATE")
        assert verdict.denial is None
