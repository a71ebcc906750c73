"""Pods that are no launcher, and those that only claim to be one."""

from collections.abc import Callable

import pytest

from tests.apiserver.conftest import NewNamespace, SetPolicy
from tests.apiserver.pods import (
    EFFECTIVE_LEVEL,
    EXCLUDED,
    LEVEL,
    POST,
    PRE,
    PROFILE,
    decided,
    hooks,
    hooks_of,
    kubevirt_hooks,
    owner_of,
    pod_like_a_launcher,
    record,
)
from tests.infra.controlplane import (
    Client,
    ControlPlane,
    Json,
    export_pod,
    launcher_pod,
    make_migration,
    make_vm,
    run_stand_in_guest,
    stand_in_bound_pvc,
    stand_in_waiting_data_volume,
    wait_for,
)
from tests.infra.installation import annotations

ANYTHING = {PRE + "command": "freeze", POST + "on-error": "fail", EFFECTIVE_LEVEL: "crash", "example.com/a": "b"}
"""Annotations that would not stay on a launcher pod."""

RESTRICTED = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "compute",
            "image": "virt-launcher",
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    ],
}
"""What our own namespace admits."""


@pytest.fixture
def vmi(client: Client, namespace: str) -> Json:
    """An instance, whose VirtualMachine asks for crash."""
    client.create(make_vm("db", namespace, annotations={LEVEL: "crash"}))
    launcher_pod(client, "db", namespace)
    return client.get("virtualmachineinstances", "db", namespace)


# Pods that virt-controller makes.


def test_a_migration_target_is_like_its_source(client: Client, namespace: str) -> None:
    client.create(make_vm("moving", namespace, template_annotations={PRE + "on-error": "fail"}))
    source = run_stand_in_guest(client, "moving", namespace, "node-a")
    client.create(make_migration("moving", namespace))

    target = launcher_pod(client, "moving", namespace, not_uid=source["metadata"]["uid"])

    assert target["metadata"]["labels"]["kubevirt.io/migrationJobUID"]
    assert hooks(target) == hooks(source) == hooks_of("filesystem", "moving", namespace)
    assert record(target) == record(source)


def test_a_migration_target_follows_what_the_vm_says_by_now(client: Client, namespace: str) -> None:
    client.create(make_vm("moving", namespace))
    source = run_stand_in_guest(client, "moving", namespace, "node-a")
    client.patch("virtualmachines", "moving", {"metadata": {"annotations": {LEVEL: "crash"}}}, namespace)
    client.create(make_migration("moving", namespace))

    target = launcher_pod(client, "moving", namespace, not_uid=source["metadata"]["uid"])

    assert decided(target) == ("crash", "vm")
    assert hooks(target) == {}
    name = source["metadata"]["name"]
    wait_for(lambda: hooks(client.get("pods", name, namespace)) == {}, what="the source to follow as well")


def test_the_attachment_pod_of_a_hotplugged_volume_is_nobody_s(client: Client, namespace: str) -> None:
    client.create(make_vm("plugged", namespace, template_annotations=ANYTHING))
    run_stand_in_guest(client, "plugged", namespace, "node-a")
    stand_in_bound_pvc(client, "extra", namespace)
    volume = {"name": "extra", "persistentVolumeClaim": {"claimName": "extra", "hotpluggable": True}}
    disks = {"devices": {"disks": [{"name": "extra", "disk": {"bus": "scsi"}}]}}
    client.patch("virtualmachineinstances", "plugged", {"spec": {"domain": disks, "volumes": [volume]}}, namespace)

    try:
        attached = wait_for(
            lambda: client.list("pods", namespace, labels="kubevirt.io=hotplug-disk"), what="the attachment pod"
        )
    finally:  # or virt-controller goes on, a hundred times a second, to make that pod and to take it away again
        plain = {"spec": {"domain": {"devices": {"disks": None}}, "volumes": None}}
        client.patch("virtualmachineinstances", "plugged", plain, namespace)

    pod = attached[0]
    assert pod["metadata"]["ownerReferences"][0]["kind"] == "Pod"
    assert hooks(pod) == record(pod) == {}


def test_a_provisioning_pod_has_no_guest_to_freeze(client: Client, namespace: str) -> None:
    stand_in_waiting_data_volume(client, "late", namespace)
    volume = {"name": "late", "dataVolume": {"name": "late"}}
    asked = {LEVEL: "crash"}
    client.create(make_vm("early", namespace, annotations=asked, guest={"volumes": [volume]}))

    pod = launcher_pod(client, "early", namespace)

    assert annotations(pod)["kubevirt.io/ephemeral-provisioning"] == "true"
    assert hooks(pod) == kubevirt_hooks("early", namespace)
    assert record(pod) == {}


# Pods that somebody else makes.


@pytest.mark.parametrize(
    "owner",
    [
        lambda _: None,
        lambda vmi: owner_of(vmi, controller=False),
        lambda vmi: owner_of(vmi, apiVersion="kubevirt.example.com/v1"),
        lambda vmi: owner_of(vmi, apiVersion="v1"),
        lambda vmi: owner_of(vmi, kind="VirtualMachine"),
        lambda vmi: owner_of(vmi, kind="VirtualMachineInstanceMigration"),
        lambda vmi: owner_of(vmi, name="DB"),
        lambda vmi: owner_of(vmi, name="db --freeze"),
        lambda vmi: owner_of(vmi, name="../../db"),
        lambda vmi: owner_of(vmi, name="n" * 254),
    ],
    ids=[
        "no-owner",
        "not-the-controller",
        "another-group",
        "no-group",
        "a-vm",
        "a-migration",
        "capitals",
        "option-in-name",
        "path-in-name",
        "254-characters",
    ],
)
def test_the_label_alone_is_borrowed(
    client: Client, namespace: str, vmi: Json, owner: Callable[[Json], Json | None]
) -> None:
    pod = client.create(pod_like_a_launcher(namespace, owner(vmi), annotations=ANYTHING))

    assert annotations(pod) == ANYTHING
    assert client.warnings == ()


@pytest.mark.parametrize("label", [None, "hotplug-disk", "virt-exporter", "virt-handler"])
def test_without_the_label_the_owner_alone_is_borrowed(
    client: Client, namespace: str, vmi: Json, label: str | None
) -> None:
    pod = client.create(pod_like_a_launcher(namespace, owner_of(vmi), annotations=ANYTHING, label=label), dry_run=True)

    assert annotations(pod) == ANYTHING


def test_pods_of_excluded_namespaces_are_not_touched(client: Client, vmi: Json) -> None:
    for namespace in (EXCLUDED, "vm-consistency", "kube-public", "kube-node-lease"):
        pod = pod_like_a_launcher(namespace, owner_of(vmi), annotations=ANYTHING)
        pod["spec"] = RESTRICTED
        assert annotations(client.create(pod, dry_run=True)) == ANYTHING


def test_an_owner_that_does_not_exist_gets_hooks_of_its_name_but_no_wishes(
    client: Client, namespace: str, set_policy: SetPolicy
) -> None:
    rule = {"name": "apps", "match": {"namespaces": ["*"]}, "level": "application", "profile": "script"}
    set_policy({"default": {"level": "filesystem"}, "rules": [rule]})
    nobody = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": "no.body", "uid": "1"},
    }
    asked = {LEVEL: "application", PROFILE: "script"}

    pod = client.create(pod_like_a_launcher(namespace, owner_of(nobody), annotations=asked))

    assert decided(pod) == ("filesystem", "default"), "application is for instances that exist"
    assert hooks(pod) == hooks_of("filesystem", "no.body", namespace)
    assert len(client.warnings) == 2


def test_an_owner_of_another_uid_is_another_owner(client: Client, namespace: str, vmi: Json) -> None:
    owner = owner_of(vmi, uid="00000000-0000-4000-8000-000000000000")

    pod = client.create(pod_like_a_launcher(namespace, owner))

    assert decided(pod) == ("filesystem", "default"), "the VirtualMachine's wish is not for this pod"


def test_an_owner_in_another_namespace_is_no_owner(client: Client, new_namespace: NewNamespace, vmi: Json) -> None:
    elsewhere = new_namespace("elsewhere")

    pod = client.create(pod_like_a_launcher(elsewhere, owner_of(vmi)))

    assert decided(pod) == ("filesystem", "default")
    assert hooks(pod) == hooks_of("filesystem", "db", elsewhere)


def test_only_the_ownerreference_says_who_it_is(client: Client, namespace: str, vmi: Json) -> None:
    pod = pod_like_a_launcher(
        namespace, owner_of(vmi), annotations={"kubevirt.io/domain": "other", LEVEL: "filesystem"}
    )
    pod["metadata"]["labels"] |= {"vm.kubevirt.io/name": "other", "kubevirt.io/created-by": "other"}

    created = client.create(pod, dry_run=True)

    assert decided(created) == ("crash", "vm")


# Last, because virt-controller has to be started again after it.
def test_an_export_pod_is_nobody_s(control_plane: ControlPlane, client: Client, namespace: str) -> None:
    stand_in_bound_pvc(client, "exported", namespace)

    pod = export_pod(control_plane, "exported", namespace)

    assert "kubevirt.io" not in pod["metadata"]["labels"]
    assert hooks(pod) == record(pod) == {}
