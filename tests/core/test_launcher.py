from typing import Any

import pytest

from app.core.kubevirt_names import UPSTREAM, KubeVirtNames
from app.core.launcher import NotLauncher, PodView, recognise
from app.core.objects import OwnerReference
from tests.infra.factories import NAME, NAMESPACE, RECORDED, UID, make_owner, make_pod, view

FORK = KubeVirtNames(
    api_group="internal.virtualization.deckhouse.io",
    launcher_label="kubevirt.internal.virtualization.deckhouse.io",
    ephemeral_annotation="kubevirt.internal.virtualization.deckhouse.io/ephemeral-provisioning",
)
EPHEMERAL = UPSTREAM.ephemeral_annotation


def outcome(names: KubeVirtNames = UPSTREAM, **metadata: Any) -> str:
    """The name of the instance, or the reason."""
    found = recognise(view(make_pod(**metadata)), names)
    return found.value if isinstance(found, NotLauncher) else found.name


def owned_by(**fields: Any) -> dict[str, Any]:
    return {"ownerReferences": [make_owner(**fields)]}


@pytest.mark.parametrize("name", RECORDED)
def test_pod_made_by_virt_controller(name: str) -> None:
    pod = RECORDED[name]
    found = recognise(PodView.from_object(pod, pod["metadata"]["namespace"]), UPSTREAM)
    assert isinstance(found, OwnerReference)
    assert found.name == name


def test_owner_is_handed_on_whole() -> None:
    expected = OwnerReference("kubevirt.io/v1", "VirtualMachineInstance", NAME, UID)
    assert recognise(view(make_pod()), UPSTREAM) == expected


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(None, id="no-labels"),
        pytest.param({"app": "x"}, id="other-label"),
        pytest.param({"kubevirt.io": "hotplug-disk"}, id="hotplug-attachment"),
        pytest.param({"kubevirt.io": "virt-exporter"}, id="export"),
        pytest.param({"kubevirt.io": "virt-handler"}, id="control-plane"),
        pytest.param({"kubevirt.io": ""}, id="empty"),
    ],
)
def test_label_decides_first(labels: dict[str, str] | None) -> None:
    assert outcome(labels=labels) == NotLauncher.LABEL


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"ownerReferences": None}, id="borrowed-label"),
        pytest.param(owned_by(kind="Pod", apiVersion="v1"), id="owned-by-a-pod"),
        pytest.param(owned_by(apiVersion="v1"), id="core-group"),
        pytest.param(owned_by(apiVersion="fake.io/v1"), id="foreign-group"),
        pytest.param(owned_by(apiVersion="notkubevirt.io/v1"), id="group-that-ends-alike"),
        pytest.param(owned_by(apiVersion="kubevirt.io"), id="no-version"),
        pytest.param(owned_by(kind="VirtualMachine"), id="owned-by-a-VM"),
        pytest.param(owned_by(kind="virtualmachineinstance"), id="kind-in-lower-case"),
        pytest.param(owned_by(controller=False), id="not-the-controller"),
        pytest.param(
            {"ownerReferences": [make_owner(controller=False), make_owner(kind="ReplicaSet", apiVersion="apps/v1")]},
            id="controlled-by-something-else",
        ),
    ],
)
def test_owner_must_be_a_controlling_instance(metadata: dict[str, Any]) -> None:
    assert outcome(**metadata) == NotLauncher.OWNER


def test_further_owners_do_not_disturb() -> None:
    assert outcome(ownerReferences=[make_owner(kind="X", name="x", controller=False), make_owner()]) == NAME


def test_version_of_the_group_is_open() -> None:
    assert outcome(**owned_by(apiVersion="kubevirt.io/v2beta9")) == NAME


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("a", id="one-character"),
        pytest.param("db.shop.example", id="dots"),
        pytest.param("a" * 63, id="63"),
        pytest.param("a" * 64, id="64-in-one-part"),
        pytest.param("a" * 253, id="253"),
        pytest.param("0-9.a--b", id="digits-and-dashes"),
    ],
)
def test_names_of_instances(name: str) -> None:
    assert outcome(**owned_by(name=name)) == name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("a" * 254, id="254"),
        pytest.param("Db", id="upper-case"),
        pytest.param("a/b", id="slash"),
        pytest.param('a"b', id="quote"),
        pytest.param("a b", id="blank"),
        pytest.param("a\n", id="line-feed-at-the-end"),
        pytest.param("a..b", id="empty-part"),
        pytest.param("a.-b", id="part-that-starts-with-a-dash"),
        pytest.param("-a", id="dash-in-front"),
        pytest.param("a.", id="dot-at-the-end"),
        pytest.param("\N{ARABIC-INDIC DIGIT FIVE}", id="other-digits"),
        pytest.param("--name", id="option"),
    ],
)
def test_names_that_are_no_dns_subdomain(name: str) -> None:
    assert outcome(**owned_by(name=name)) == NotLauncher.OWNER_NAME


@pytest.mark.parametrize("value", ["true", "false", ""])
def test_pod_that_only_provisions_a_volume(value: str) -> None:
    # KubeVirt itself looks for the key alone (kubevirt v1.8.4, pkg/virt-controller/watch/vmi/lifecycle.go).
    assert outcome(annotations={EPHEMERAL: value}) == NotLauncher.EPHEMERAL


def test_terminating_pod() -> None:
    assert outcome(deletionTimestamp="2026-01-01T00:00:00Z") == NotLauncher.TERMINATING


def test_pod_without_annotations() -> None:
    assert outcome(annotations=None) == NAME


@pytest.mark.parametrize("borrowed", ["vm.kubevirt.io/name", "kubevirt.io/domain", "kubevirt.io/created-by"])
def test_identity_comes_from_the_owner_alone(borrowed: str) -> None:
    labels = {**make_pod()["metadata"]["labels"], borrowed: "somebody-else"}
    assert outcome(labels=labels, annotations={borrowed: "somebody-else"}) == NAME


def test_names_of_a_fork() -> None:
    labels = {FORK.launcher_label: "virt-launcher"}
    forked = {"labels": labels, **owned_by(apiVersion=f"{FORK.api_group}/v1")}
    assert outcome(FORK, **forked) == NAME
    assert outcome(FORK) == NotLauncher.LABEL
    assert outcome(FORK, labels=labels) == NotLauncher.OWNER
    assert outcome(UPSTREAM, **forked) == NotLauncher.LABEL
    assert outcome(FORK, **forked, annotations={FORK.ephemeral_annotation: "true"}) == NotLauncher.EPHEMERAL
    assert outcome(FORK, **forked, annotations={EPHEMERAL: "true"}) == NAME


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        pytest.param({"name": "named", "generateName": "na-"}, "named", id="named"),
        pytest.param({"name": None, "generateName": "na-"}, "na-", id="at-create-only-generateName"),
        pytest.param({"name": "", "generateName": None}, "", id="neither"),
    ],
)
def test_name_for_logs(metadata: dict[str, Any], name: str) -> None:
    assert view(make_pod(**metadata)).name == name


def test_namespace_is_the_requests() -> None:
    assert PodView.from_object(make_pod(namespace="elsewhere"), NAMESPACE).namespace == NAMESPACE


@pytest.mark.parametrize(
    ("pod", "field"),
    [
        pytest.param({}, "metadata", id="no-metadata"),
        pytest.param({"metadata": []}, "metadata", id="metadata-a-list"),
        pytest.param({"metadata": {"labels": "x"}}, "metadata.labels", id="labels-a-string"),
        pytest.param({"metadata": {"labels": {"a": 1}}}, "metadata.labels", id="label-a-number"),
        pytest.param({"metadata": {"annotations": ["a"]}}, "metadata.annotations", id="annotations-a-list"),
        pytest.param({"metadata": {"annotations": {"a": None}}}, "metadata.annotations", id="annotation-null"),
    ],
)
def test_malformed_pod_names_the_field(pod: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be"):
        PodView.from_object(pod, NAMESPACE)


def test_null_maps_count_as_absent() -> None:
    found = PodView.from_object({"metadata": {"labels": None, "annotations": None}}, NAMESPACE)
    assert (found.labels, found.annotations) == ({}, None)
