"""What a cluster's objects, exported to files, tell a decision."""

from typing import Any

import pytest

from app.core.annotations import LEVEL, PROFILE
from app.core.known_objects import KnownObjects, UnusableObject
from app.core.kubevirt_names import UPSTREAM, KubeVirtNames
from app.core.objects import OwnerReference
from tests.infra.factories import NAME, NAMESPACE, UID, annotations_after, decide_pod, make_owner, make_pod, make_policy

Object = dict[str, Any]
ASKED = {LEVEL: "application", PROFILE: "postgresql"}
VM_OWNER = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": NAME, "uid": "vm", "controller": True}
SPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "annotations": {LEVEL: "crash"}}}


def machine(**metadata: Any) -> Object:
    named = {"namespace": NAMESPACE, "name": NAME, "uid": "vm", **metadata}
    return {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": named}


def instance(**metadata: Any) -> Object:
    named = {"namespace": NAMESPACE, "name": NAME, "uid": UID, "ownerReferences": [VM_OWNER], **metadata}
    return {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": named}


def read(*objects: Any, names: KubeVirtNames = UPSTREAM) -> KnownObjects:
    return KnownObjects.read(
        ((f"objects.yaml: object {number}", item) for number, item in enumerate(objects, 1)), names
    )


def decided(*objects: Object) -> tuple[str | None, str | None]:
    """Level and source of the recorded pod in a cluster with these objects; the policy's default is filesystem."""
    facts = read(*objects).facts(NAMESPACE, OwnerReference("kubevirt.io/v1", "VirtualMachineInstance", NAME, UID))
    policy = make_policy(default={"level": "filesystem", "allowProfiles": ["postgresql"]})
    after = annotations_after(make_pod(), decide_pod(make_pod(), facts, policy))
    return after["vm-consistency.io/effective-level"], after["vm-consistency.io/decided-by"]


@pytest.mark.parametrize(
    ("objects", "level", "source"),
    [
        ([], "filesystem", "default"),
        ([SPACE], "crash", "namespace"),
        ([SPACE, machine(annotations=ASKED), instance()], "application", "vm"),
        ([instance(annotations=ASKED, ownerReferences=[])], "application", "vm"),
        ([machine(annotations=ASKED)], "filesystem", "default"),
        ([machine(annotations=ASKED, uid="before"), instance()], "filesystem", "default"),
        ([machine(annotations=ASKED), instance(uid="before")], "filesystem", "default"),
        ([machine(annotations=ASKED, namespace="other"), instance()], "filesystem", "default"),
    ],
    ids=["nothing", "namespace", "vm", "bare-vmi", "no-vmi", "vm-of-before", "vmi-of-before", "other-namespace"],
)
def test_they_decide_as_they_do_in_a_cluster(objects: list[Object], level: str, source: str) -> None:
    assert decided(*objects) == (level, source)


def test_the_switch_of_the_kubevirt_object_is_known() -> None:
    switch = {UPSTREAM.skip_annotation: "true"}
    kubevirt = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "annotations": switch},
    }
    facts = read(kubevirt, instance()).facts(NAMESPACE, OwnerReference("", "", NAME, UID))

    assert decide_pod(make_pod(), facts).level == "crash"


def test_objects_of_other_kinds_are_passed_over() -> None:
    other = {"apiVersion": "vmoperator.vmware.com/v1", "kind": "VirtualMachine", "metadata": {"name": "x"}}
    assert decided({"apiVersion": "v1", "kind": "Secret", "metadata": {}}, other, SPACE)[0] == "crash"


def test_names_of_forks() -> None:
    names = KubeVirtNames(api_group="fork.example", kind_prefix="Internal")
    forked = {**machine(annotations=ASKED), "apiVersion": "fork.example/v1", "kind": "InternalVirtualMachine"}

    assert list(read(forked, machine(), names=names).machines) == [(NAMESPACE, NAME)]


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("text", "object 1: apiVersion and kind must be there"),
        ({"kind": "Namespace"}, "object 1: apiVersion and kind must be there"),
        ({"apiVersion": "v1", "kind": "Namespace"}, "object 1: Namespace: metadata.name must be there"),
        ({**SPACE, "metadata": ["shop"]}, "object 1: Namespace: metadata.name must be there"),
        (machine(uid=None), f"object 1: VirtualMachine {NAME}: metadata.uid must be there, as `kubectl get -o yaml`"),
        (instance(namespace=None), f"VirtualMachineInstance {NAME}: metadata.namespace must be there"),
    ],
)
def test_what_no_decision_can_rest_on_is_named(item: Any, says: str) -> None:
    with pytest.raises(UnusableObject) as raised:
        read(item)
    assert says in str(raised.value)


def test_an_object_that_is_there_twice_is_named_with_both_places() -> None:
    with pytest.raises(UnusableObject) as raised:
        read(machine(), instance(), machine(annotations=ASKED))
    expected = (
        f"objects.yaml: object 3: VirtualMachine {NAMESPACE}/{NAME} is there twice, also as objects.yaml: object 1"
    )
    assert str(raised.value) == expected


def test_a_pod_of_an_instance_that_is_not_known_gets_no_application_level() -> None:
    policy = make_policy(default={"level": "application", "profile": "postgresql"})
    facts = read(machine(), instance()).facts(NAMESPACE, OwnerReference("", "", NAME, "forged"))

    decision = decide_pod(make_pod(ownerReferences=[make_owner(uid="forged")]), facts, policy)

    assert decision.level == "filesystem"
    assert "VirtualMachineInstance" in decision.warnings[0]
