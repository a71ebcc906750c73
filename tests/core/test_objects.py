from typing import Any

import pytest

from app.core.annotations import LEVEL, MANAGED, PROFILE
from app.core.kubevirt_names import UPSTREAM, KubeVirtNames
from app.core.objects import (
    SILENT,
    NamespaceView,
    OwnerReference,
    VirtualMachineInstanceView,
    VirtualMachineView,
    Wishes,
    controller_of,
)
from tests.infra.factories import make_owner

OWNER = make_owner()
WISHES = {LEVEL: "crash", PROFILE: "p", MANAGED: "false", UPSTREAM.skip_annotation: "true", "other": "x"}


@pytest.mark.parametrize(
    ("references", "name"),
    [
        pytest.param([make_owner(name="a")], "a", id="one"),
        pytest.param([make_owner(name="b", controller=False), make_owner(name="a")], "a", id="the-controller-of-two"),
        pytest.param([make_owner(name="b", controller="true"), make_owner(name="a")], "a", id="a-string-is-not-true"),
        pytest.param([make_owner(controller=False)], None, id="controller-false"),
        pytest.param([{key: OWNER[key] for key in OWNER if key != "controller"}], None, id="controller-absent"),
        pytest.param([make_owner(uid=5)], None, id="uid-no-string"),
        pytest.param([make_owner(name=None)], None, id="name-null"),
        pytest.param([], None, id="none"),
        pytest.param(None, None, id="null"),
        pytest.param({"controller": True}, None, id="no-list"),
        pytest.param(["x", None], None, id="no-objects"),
    ],
)
def test_controller(references: Any, name: str | None) -> None:
    found = controller_of({"ownerReferences": references})
    assert (found and found.name) == name


@pytest.mark.parametrize(
    ("api_version", "group"),
    [("kubevirt.io/v1", "kubevirt.io"), ("v1", ""), ("", ""), ("kubevirt.io/", "kubevirt.io")],
)
def test_group(api_version: str, group: str) -> None:
    assert OwnerReference(api_version, "K", "n", "u").group == group


def test_wishes_of_each_kind() -> None:
    metadata = {"namespace": "ns", "name": "n", "uid": "u", "annotations": WISHES, "ownerReferences": [OWNER]}
    vm = VirtualMachineView.from_metadata(metadata)
    vmi = VirtualMachineInstanceView.from_metadata(metadata)
    assert vm == VirtualMachineView("ns", "n", "u", Wishes("crash", "p", "false", "true"))
    assert vmi == VirtualMachineInstanceView("ns", "n", "u", controller_of(metadata), vm.wishes)
    # KubeVirt reads its switch on no Namespace.
    namespace = NamespaceView.from_metadata({**metadata, "labels": {"a": "b"}})
    assert namespace == NamespaceView("n", {"a": "b"}, Wishes("crash", "p", "false", None))


def test_name_of_the_switch_is_a_forks() -> None:
    names = KubeVirtNames(skip_annotation="fork.io/skip")
    metadata = {"annotations": {"fork.io/skip": "1", UPSTREAM.skip_annotation: "0"}}
    assert VirtualMachineView.from_metadata(metadata, names).wishes.skip == "1"
    assert VirtualMachineInstanceView.from_metadata(metadata, names).wishes.skip == "1"


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({}, id="empty"),
        pytest.param({"annotations": None, "labels": None}, id="null"),
        pytest.param({"annotations": [], "labels": "x", "ownerReferences": "x"}, id="other-types"),
        pytest.param({"annotations": {MANAGED: False}, "labels": {"a": [1]}}, id="values-that-are-no-strings"),
    ],
)
def test_odd_metadata_counts_as_silent(metadata: dict[str, Any]) -> None:
    # The very same object, because most objects of a cluster are silent.
    assert VirtualMachineView.from_metadata(metadata).wishes is SILENT
    assert VirtualMachineInstanceView.from_metadata(metadata).wishes is SILENT
    assert NamespaceView.from_metadata(metadata).wishes is SILENT
    assert NamespaceView.from_metadata(metadata).labels == {}


@pytest.mark.parametrize(
    ("owner", "found"),
    [
        pytest.param({"kind": "VirtualMachine"}, True, id="VirtualMachine"),
        pytest.param({"kind": "VirtualMachine", "apiVersion": "kubevirt.io/v1alpha3"}, True, id="older-version"),
        pytest.param({"kind": "VirtualMachineInstanceReplicaSet"}, False, id="replica-set"),
        pytest.param({"kind": "VirtualMachine", "apiVersion": "other.io/v1"}, False, id="foreign-group"),
        pytest.param({"kind": "VirtualMachine", "controller": False}, False, id="no-controller"),
        pytest.param(None, False, id="bare"),
    ],
)
def test_virtual_machine_of_an_instance(owner: dict[str, Any] | None, found: bool) -> None:
    metadata = {"ownerReferences": [make_owner(**owner)] if owner else []}
    assert (VirtualMachineInstanceView.from_metadata(metadata).virtual_machine() is not None) is found


def test_no_more_is_kept_of_a_wish_than_any_could_be() -> None:
    """A thousand VirtualMachines with annotations of 256 KiB must not fill the memory of every replica."""
    huge = "x" * 250_000
    metadata = {"annotations": {LEVEL: huge, PROFILE: huge, MANAGED: huge, UPSTREAM.skip_annotation: huge}}
    for view in (NamespaceView, VirtualMachineView, VirtualMachineInstanceView):
        wishes = view.from_metadata(metadata).wishes
        assert all(len(wish) < 300 for wish in (wishes.level, wishes.profile, wishes.managed, wishes.skip) if wish)
        assert wishes.level is not None


@pytest.mark.parametrize("field", ["apiVersion", "kind", "name", "uid"])
def test_a_reference_longer_than_any_name_is_none(field: str) -> None:
    reference = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "a", "uid": "1", "controller": True}
    assert controller_of({"ownerReferences": [reference]}) is not None
    assert controller_of({"ownerReferences": [{**reference, field: "x" * 1000}]}) is None
