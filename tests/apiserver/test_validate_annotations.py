"""Annotations on Namespaces and VirtualMachines: who writes what will not count is told at once, and never denied."""

from collections.abc import Mapping

import pytest

from tests.apiserver.conftest import NewNamespace, SetPolicy
from tests.apiserver.kubectl import kubectl, validate_again
from tests.apiserver.pods import LEVEL, PROFILE, SKIP
from tests.infra.controlplane import Client, make_namespace, make_vm
from tests.infra.installation import Installation, annotations

MANAGED = "vm-consistency.io/managed"
GUARDED = {
    "default": {"level": "filesystem"},
    "rules": [
        {"name": "guarded", "match": {"namespaceSelector": {"matchLabels": {"tier": "data"}}}, "allow": ["filesystem"]},
        {
            "name": "free",
            "match": {"namespaceSelector": {"matchLabels": {"tier": "free"}}},
            "allow": ["crash", "unmanaged"],
        },
    ],
}
LEVELS = "crash, filesystem, application"


def told(client: Client) -> list[str]:
    """The warnings in the answer to the last request."""
    return list(client.warnings)


@pytest.fixture(scope="module", autouse=True)
def validated(installation: Installation) -> None:
    validate_again(installation)


@pytest.fixture(autouse=True)
def guarded(set_policy: SetPolicy) -> None:
    set_policy(GUARDED)


@pytest.fixture
def space(new_namespace: NewNamespace) -> str:
    """A namespace in which the policy allows nothing but level filesystem."""
    return new_namespace(labels={"tier": "data"})


def test_kubectl_annotate_namespace_shows_the_warning(installation: Installation, client: Client, space: str) -> None:
    typed = kubectl(installation.cp, "annotate", "namespace", space, f"{LEVEL}=bulletproof")

    assert typed.status == 0
    assert typed.warnings == [f"Namespace {space}: level 'bulletproof' is none of {LEVELS}; the next source decides"]
    assert annotations(client.get("namespaces", space))[LEVEL] == "bulletproof"


def test_kubectl_apply_of_a_virtual_machine_shows_the_warning(
    installation: Installation, client: Client, space: str
) -> None:
    vm = make_vm("db", space, annotations={LEVEL: "crash"}, template_annotations={LEVEL: "most"})

    typed = kubectl(installation.cp, "apply", "-f", "-", objects=[vm])

    assert typed.status == 0
    assert typed.warnings == [
        "VirtualMachine db: level crash is not allowed by the policy here; the next source decides",
        f"the VM's spec.template.metadata: level 'most' is none of {LEVELS}; the next source decides",
    ]
    assert annotations(client.get("virtualmachines", "db", space))[LEVEL] == "crash"


CASES: list[tuple[Mapping[str, str], str]] = [
    ({LEVEL: ""}, "level '' is none of"),
    ({LEVEL: "crash"}, "level crash is not allowed by the policy here"),
    ({LEVEL: "application", PROFILE: "script"}, "level application is not allowed by the policy here"),
    ({PROFILE: "postgresql"}, f"{PROFILE} has no effect without {LEVEL}"),
    ({MANAGED: "false"}, f"{MANAGED}=false is not allowed by the policy here"),
    ({MANAGED: "no"}, f"{MANAGED}='no' is neither true nor false"),
]


@pytest.mark.parametrize(("asked", "expected"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_namespaces(client: Client, space: str, asked: Mapping[str, str], expected: str) -> None:
    client.patch("namespaces", space, {"metadata": {"annotations": dict(asked)}})

    [warning] = told(client)
    assert warning.startswith(f"vm-consistency: Namespace {space}: {expected}")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [*CASES, ({SKIP: "yes"}, f"{SKIP}='yes' is neither true nor false")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_virtual_machines(client: Client, space: str, asked: Mapping[str, str], expected: str) -> None:
    client.create(make_vm("db", space))
    assert told(client) == []

    client.patch("virtualmachines", "db", {"metadata": {"annotations": dict(asked)}}, space)

    [warning] = told(client)
    assert warning.startswith(f"vm-consistency: VirtualMachine db: {expected}")


def test_a_new_namespace_is_judged_by_its_own_labels(client: Client, space: str) -> None:
    for tier, warnings in (("data", 1), ("free", 0)):
        namespace = make_namespace(f"{space}-{tier}", labels={"tier": tier}, annotations={LEVEL: "crash"})
        client.create(namespace, dry_run=True)
        assert len(told(client)) == warnings, tier


def test_nobody_is_told_when_all_is_well(client: Client, new_namespace: NewNamespace) -> None:
    free = new_namespace(labels={"tier": "free"}, annotations={LEVEL: "crash", MANAGED: "false"})
    assert told(client) == []
    client.create(
        make_vm("db", free, annotations={LEVEL: "crash", SKIP: "true"}, template_annotations={LEVEL: "crash"})
    )
    assert told(client) == []


def test_nobody_is_told_of_what_others_wrote(client: Client, space: str) -> None:
    wrong = {LEVEL: "bulletproof"}
    client.create(make_vm("db", space, annotations=wrong, template_annotations=wrong))
    assert len(told(client)) == 2
    client.patch("namespaces", space, {"metadata": {"annotations": wrong}})
    assert len(told(client)) == 1

    for resource, name, namespace in (("virtualmachines", "db", space), ("namespaces", space, None)):
        client.patch(resource, name, {"metadata": {"annotations": {"example.com/note": "1"}}}, namespace)
        assert told(client) == []

    client.patch("virtualmachines", "db", {"metadata": {"annotations": {LEVEL: "filesystem"}}}, space)
    assert told(client) == [], "the template's level was there before"
    client.patch("virtualmachines", "db", {"metadata": {"annotations": {LEVEL: None}}}, space)
    assert told(client) == []


def test_a_warning_is_one_short_line(client: Client, space: str) -> None:
    client.patch("namespaces", space, {"metadata": {"annotations": {LEVEL: "no\nsuch \x1b[31mlevel " + "é" * 5000}}})
    [warning] = told(client)
    assert len(warning) <= 256
    assert warning.isprintable()
