"""Who asks for something that does not count is told so: a warning in the answer to whoever creates the pod."""

from collections.abc import Mapping

import pytest

from tests.apiserver.conftest import NewNamespace
from tests.apiserver.pods import LEVEL, PROFILE, SKIP, decided, owner_of, pod_like_a_launcher
from tests.infra.controlplane import Client, Json, launcher_pod, make_vm, wait_for
from tests.infra.installation import Replica

MANAGED = "vm-consistency.io/managed"


def _vmi(client: Client, name: str, namespace: str) -> Json:
    """The instance of a VirtualMachine, whose own pod is there and decided already."""
    launcher_pod(client, name, namespace)
    return client.get("virtualmachineinstances", name, namespace)


def _create(client: Client, pod: Json) -> tuple[Json, tuple[str, ...]]:
    """Create the pod on trial, because virt-controller would not know what to make of a second one."""
    created = client.create(pod, dry_run=True)
    return created, client.warnings


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({LEVEL: "bulletproof"}, "VirtualMachine db: level 'bulletproof' is none of crash, filesystem, application"),
        ({LEVEL: ""}, "VirtualMachine db: level '' is none of crash, filesystem, application"),
        ({LEVEL: "application", PROFILE: "nobody-wrote-this"}, "VirtualMachine db: "),
        ({PROFILE: "postgresql"}, f"VirtualMachine db: {PROFILE} has no effect without {LEVEL}"),
        ({SKIP: "yes"}, f"VirtualMachine db: {SKIP}='yes' is neither true nor false"),
        ({MANAGED: "false"}, f"VirtualMachine db: {MANAGED}=false is not allowed by the policy here"),
    ],
    ids=[
        "unknown-level",
        "empty-level",
        "unknown-profile",
        "profile-alone",
        "skip-no-boolean",
        "unmanaged-not-allowed",
    ],
)
def test_the_creator_is_told_and_the_next_source_decides(
    client: Client, namespace: str, asked: Mapping[str, str], told: str
) -> None:
    client.create(make_vm("db", namespace, annotations=asked))
    owner = owner_of(_vmi(client, "db", namespace))

    created, warnings = _create(client, pod_like_a_launcher(namespace, owner))

    assert len(warnings) == 1
    assert warnings[0].startswith(f"vm-consistency: {told}")
    assert decided(created) == ("filesystem", "default")


def test_each_source_that_was_passed_over_is_named(client: Client, new_namespace: NewNamespace) -> None:
    namespace = new_namespace(annotations={LEVEL: "third"})
    client.create(make_vm("db", namespace, annotations={LEVEL: "first"}))
    owner = owner_of(_vmi(client, "db", namespace))

    _, warnings = _create(client, pod_like_a_launcher(namespace, owner, annotations={LEVEL: "second"}))

    assert [warning.split(": level ")[0] for warning in warnings] == [
        "vm-consistency: VirtualMachine db",
        "vm-consistency: the VM's spec.template.metadata",
        f"vm-consistency: Namespace {namespace}",
    ]


def test_a_warning_is_short_whatever_was_asked(client: Client, namespace: str) -> None:
    client.create(make_vm("db", namespace, annotations={LEVEL: "no\nsuch \x1b[31mlevel " + "é" * 5000}))
    owner = owner_of(_vmi(client, "db", namespace))

    _, [warning] = _create(client, pod_like_a_launcher(namespace, owner))

    assert len(warning) <= 256
    assert warning.isprintable()


def test_a_good_wish_and_an_update_warn_nobody(client: Client, namespace: str) -> None:
    client.create(make_vm("db", namespace, annotations={LEVEL: "crash"}))
    client.create(make_vm("bad", namespace, annotations={LEVEL: "bulletproof"}))

    _, warnings = _create(client, pod_like_a_launcher(namespace, owner_of(_vmi(client, "db", namespace))))
    assert warnings == ()

    pod = launcher_pod(client, "bad", namespace)
    client.patch("pods", pod["metadata"]["name"], {"metadata": {"labels": {"touched": "yes"}}}, namespace)
    assert client.warnings == ()


def _decisions(replica: Replica) -> list[Json]:
    return [line for line in replica.log_lines() if line["message"] == "pod decided"]


def test_what_was_refused_is_counted_and_logged(client: Client, namespace: str, replica: Replica) -> None:
    before = replica.metric("vm_consistency_refusals_total", source="vm", reason="unknown-level")
    client.create(make_vm("db", namespace, annotations={LEVEL: "bulletproof"}))
    launcher_pod(client, "db", namespace)

    wait_for(
        lambda: replica.metric("vm_consistency_refusals_total", source="vm", reason="unknown-level") == before + 1,
        what="the refusal in the metrics",
    )
    [line] = wait_for(
        lambda: [one for one in _decisions(replica) if one["namespace"] == namespace],
        what="the decision in the log",
    )
    assert line["decidedBy"] == "default"
    assert any("'bulletproof'" in warning for warning in line["warnings"])
