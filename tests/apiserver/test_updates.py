"""UPDATE keeps: what the webhook decided at the pod's creation stays, whoever writes to the pod and however."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import yaml

from app.core.annotations import HOOK_KEYS, OWN_KEYS
from app.core.policy import Level
from app.core.record import with_record
from tests.apiserver.conftest import SetPolicy
from tests.apiserver.pods import (
    DECIDED_BY,
    EFFECTIVE_LEVEL,
    LEGACY,
    LEVEL,
    POST,
    PRE,
    decided,
    foreign,
    hooks,
    record,
)
from tests.infra.controlplane import Client, ControlPlane, Json, bind_pod, launcher_pod, make_vm, stand_in_node
from tests.infra.installation import annotations

EVIL = '["/bin/sh", "-c", "id"]'
FORGED = with_record({PRE + "command": EVIL, PRE + "container": "compute"}, Level.APPLICATION, "oracle", "vm")
"""Hooks with a record whose digest is right."""


@dataclass(frozen=True)
class Launcher:
    """A launcher pod, and ways to write to it; each returns the pod as the write left it."""

    cp: ControlPlane
    before: Json

    @property
    def name(self) -> str:
        return str(self.before["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.before["metadata"]["namespace"])

    def now(self) -> Json:
        return self.cp.client.get("pods", self.name, self.namespace)

    def kubectl(self, *args: str, obj: Json | None = None) -> Json:
        text = yaml.safe_dump(obj) if obj else None
        written: Json = json.loads(self.cp.kubectl("-n", self.namespace, *args, "-o", "json", input=text))
        return written

    def annotate(self, *pairs: str) -> Json:
        return self.kubectl("annotate", "--overwrite", "pod", self.name, *pairs)

    def patch(self, metadata: Json) -> Json:
        return self.cp.client.patch("pods", self.name, {"metadata": metadata}, self.namespace)


@pytest.fixture(params=["filesystem", "crash"])
def launcher(request: pytest.FixtureRequest, control_plane: ControlPlane, client: Client, namespace: str) -> Launcher:
    """A pod of either level, made by virt-controller."""
    client.create(make_vm("db", namespace, annotations={LEVEL: request.param}))
    return Launcher(control_plane, launcher_pod(client, "db", namespace))


def _own(pod: Json) -> dict[str, str]:
    return {key: value for key, value in annotations(pod).items() if key in OWN_KEYS}


def _edit_hooks(pod: Launcher) -> Json:
    return pod.annotate(f"{PRE}command={EVIL}", f"{PRE}on-error=Fail", f"{LEGACY}command={EVIL}", f"{POST}timeout=9h")


def _forge_record(pod: Launcher) -> Json:
    return pod.annotate(
        f"{EFFECTIVE_LEVEL}=application", "vm-consistency.io/effective-profile=oracle", f"{DECIDED_BY}=vm"
    )


def _forge_everything(pod: Launcher) -> Json:
    return pod.annotate(*(f"{key}={value}" for key, value in FORGED.items()))


def _remove_ours(pod: Launcher) -> Json:
    return pod.annotate(*(f"{key}-" for key in OWN_KEYS))


def _remove_hooks(pod: Launcher) -> Json:
    return pod.annotate(*(f"{key}-" for key in HOOK_KEYS))


def _remove_digest(pod: Launcher) -> Json:
    return pod.annotate("vm-consistency.io/hooks-digest-")


def _strip_label_and_hooks(pod: Launcher) -> Json:
    return pod.patch({"labels": {"kubevirt.io": None}, "annotations": {PRE + "command": EVIL, EFFECTIVE_LEVEL: None}})


def _change_label_and_hooks(pod: Launcher) -> Json:
    return pod.patch({"labels": {"kubevirt.io": "virt-handler"}, "annotations": {PRE + "command": EVIL}})


def _strip_owner_and_hooks(pod: Launcher) -> Json:
    return pod.patch({"ownerReferences": None, "annotations": dict(FORGED)})


def _call_it_provisioning(pod: Launcher) -> Json:
    return pod.annotate("kubevirt.io/ephemeral-provisioning=true", f"{PRE}command={EVIL}")


def _by_json_patch(pod: Launcher) -> Json:
    value = {**annotations(pod.before), PRE + "command": EVIL}
    patch = [{"op": "replace", "path": "/metadata/annotations", "value": value}]
    return pod.cp.client.patch("pods", pod.name, patch, pod.namespace)


def _by_replace(pod: Launcher) -> Json:
    edited = pod.now()
    del edited["metadata"]["resourceVersion"]  # virt-controller may write meanwhile, and that is not at issue
    edited["metadata"]["annotations"] = {**foreign(edited), **FORGED}
    return pod.kubectl("replace", "-f", "-", obj=edited)


def _by_server_side_apply(pod: Launcher) -> Json:
    metadata = {"name": pod.name, "namespace": pod.namespace, "annotations": {PRE + "command": EVIL, **FORGED}}
    applied = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
    return pod.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", obj=applied)


@pytest.mark.parametrize(
    "write",
    [
        _edit_hooks,
        _forge_record,
        _forge_everything,
        _remove_ours,
        _remove_hooks,
        _remove_digest,
        _strip_label_and_hooks,
        _change_label_and_hooks,
        _strip_owner_and_hooks,
        _call_it_provisioning,
        _by_json_patch,
        _by_replace,
        _by_server_side_apply,
    ],
    ids=lambda write: write.__name__.removeprefix("_").replace("_", "-"),
)
def test_what_somebody_else_writes_is_put_back(launcher: Launcher, write: Callable[[Launcher], Json]) -> None:
    written = write(launcher)

    assert _own(written) == _own(launcher.before)


def test_all_annotations_removed_leaves_ours(launcher: Launcher) -> None:
    written = launcher.patch({"annotations": None})

    assert annotations(written) == _own(launcher.before)


def test_foreign_annotations_come_and_go(launcher: Launcher) -> None:
    launcher.annotate("example.com/mine=1", "example.com/domain=2", f"{PRE}command=3")
    written = launcher.annotate("example.com/domain-", f"{POST}command-")

    assert foreign(written) == {**foreign(launcher.before), "example.com/mine": "1"}
    assert _own(written) == _own(launcher.before)


def test_an_annotation_written_on_the_pod_chooses_nothing(launcher: Launcher) -> None:
    other = {"crash": "filesystem", "filesystem": "crash"}[str(decided(launcher.before)[0])]

    written = launcher.annotate(f"{LEVEL}={other}", "vm-consistency.io/managed=false")

    assert _own(written) == _own(launcher.before)


def test_a_label_of_somebody_s_own_changes_no_annotation(launcher: Launcher) -> None:
    written = launcher.kubectl("label", "pod", launcher.name, "team=a")

    assert annotations(written) == annotations(launcher.before)


def test_a_terminating_pod_is_not_touched(launcher: Launcher) -> None:
    client = launcher.cp.client
    launcher.patch({"finalizers": ["example.com/wait"]})
    client.delete("pods", launcher.name, launcher.namespace)
    assert launcher.now()["metadata"]["deletionTimestamp"]

    written = launcher.annotate(f"{PRE}command={EVIL}", f"{EFFECTIVE_LEVEL}=application")

    assert hooks(written)[PRE + "command"] == EVIL
    assert decided(written)[0] == "application"
    launcher.patch({"finalizers": None})


def test_a_pod_on_a_node_can_be_terminating_too(launcher: Launcher) -> None:
    client = launcher.cp.client
    stand_in_node(client, "node-a")
    bind_pod(client, launcher.before, "node-a")
    client.delete("pods", launcher.name, launcher.namespace)
    assert launcher.now()["metadata"]["deletionGracePeriodSeconds"]

    written = launcher.annotate(f"{PRE}command={EVIL}")

    assert hooks(written)[PRE + "command"] == EVIL
    client.delete("pods", launcher.name, launcher.namespace, grace_seconds=0)


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize(
    "forged", [FORGED, {EFFECTIVE_LEVEL: "crash"}, {DECIDED_BY: "vm"}], ids=["whole", "level", "who"]
)
def test_a_pod_without_a_record_gets_none_by_an_update(
    control_plane: ControlPlane,
    client: Client,
    namespace: str,
    set_policy: SetPolicy,
    forged: Mapping[str, str],
) -> None:
    set_policy({"mode": "audit"})
    client.create(make_vm("db", namespace))
    launcher = Launcher(control_plane, launcher_pod(client, "db", namespace))
    set_policy({"default": {"level": "filesystem"}})

    written = launcher.annotate(*(f"{key}={value}" for key, value in forged.items()), "example.com/mine=1")

    assert record(written) == {}
    assert hooks(written) == {**hooks(launcher.before), **hooks({"metadata": {"annotations": forged}})}
    assert annotations(written)["example.com/mine"] == "1"
