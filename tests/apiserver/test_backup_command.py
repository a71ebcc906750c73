"""`backup NAME` with the real API server: real launcher pods in an archive, and Velero's kinds.

Velero's server and the object store are stand-ins here; tests/e2e has the real ones.
"""

import asyncio
import base64
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from app.kube.client import KubeClient
from app.velero import api as velero
from tests.apiserver.conftest import SetPolicy
from tests.apiserver.pods import LEVEL
from tests.cli.support import Ran, run
from tests.core.evidence.test_backup_report import argv
from tests.core.evidence.velero_log import DONE, NO_AGENT, VeleroLog
from tests.infra.controlplane import Client, ControlPlane, Json, launcher_pod, make_namespace, make_vm, set_pod_running
from tests.infra.controlplane.velero import install_velero_crds
from tests.infra.stand_ins.object_store import StandInStore, archive, log_file
from tests.infra.stand_ins.velero import StandInVelero

COMPLETED: Json = {"phase": "Completed", "hookStatus": {"hooksAttempted": 4}}


@pytest.fixture(scope="module")
def server(control_plane: ControlPlane) -> Iterator[StandInVelero]:
    install_velero_crds(control_plane.client)
    namespace = f"velero-{secrets.token_hex(3)}"
    control_plane.client.create(make_namespace(namespace))
    with StandInStore() as store, StandInVelero(control_plane.client, namespace, store) as server:
        yield server


@pytest.fixture
def name() -> str:
    return f"backup-{secrets.token_hex(3)}"


def tell(server: StandInVelero, kubeconfig: Path, name: str, *words: str | Path) -> Ran:
    return run("backup", name, "--kubeconfig", kubeconfig, "--velero-namespace", server.namespace, *words)


class Vms:
    """VMs with their real launcher pods, as a backup would have them."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.objects: dict[str, Json] = {}
        self.hooks: dict[str, Mapping[str, str]] = {}
        self._client, self._namespace = client, namespace

    def add(self, vm: str, level: str) -> None:
        client, namespace = self._client, self._namespace
        client.create(make_vm(vm, namespace, annotations={LEVEL: level}))
        pod = set_pod_running(client, launcher_pod(client, vm, namespace))
        self.objects[f"pods/{namespace}/{pod['metadata']['name']}"] = pod
        for kind in ("virtualmachines", "virtualmachineinstances"):
            self.objects[f"{kind}.kubevirt.io/{namespace}/{vm}"] = client.get(kind, vm, namespace)
        self.hooks[vm] = pod["metadata"]["annotations"]

    def freeze(self, log: VeleroLog, vm: str, stderr: str) -> None:
        for phase in ("pre", "post"):
            log.hook(phase, argv(self.hooks[vm], phase), stderr=stderr)
            log.at += 3


@pytest.fixture
def vms(client: Client, namespace: str, set_policy: SetPolicy) -> Vms:
    set_policy({"default": {"level": "filesystem"}})
    return Vms(client, namespace)


def test_a_report(control_plane: ControlPlane, namespace: str, server: StandInVelero, vms: Vms, name: str) -> None:
    for vm, level in {"db": "filesystem", "old": "crash", "web": "filesystem"}.items():
        vms.add(vm, level)
    log = VeleroLog()
    vms.freeze(log, "db", DONE)
    vms.freeze(log, "web", NO_AGENT)
    server.backup(name, COMPLETED)
    server.store.files |= {f"{name}.tar.gz": archive(vms.objects), f"{name}-logs.gz": log_file(log.lines)}

    text, ran = (tell(server, control_plane.kubeconfig, name, *words) for words in ((), ("-o", "json")))

    assert (text.exit_code, ran.exit_code) == (1, 1)
    assert (text.stderr, ran.stderr) == ("", "")
    assert [line.split() for line in text.stdout.splitlines()] == [
        f"{server.namespace}/{name}: Completed; Velero counts 4 hooks attempted, 0 failed".split(),
        ["NAMESPACE", "VM", "LEVEL", "ACHIEVED", "HOOKS", "FAILED", "HELD"],
        [namespace, *["db", "filesystem", "frozen", "2", "0", "3", "s"]],
        [namespace, *["old", "crash", "not", "frozen", "0", "0", "-"]],
        [namespace, *["web", "filesystem", "not", "frozen", "2", "0", "-"]],
        ["!", "virt-freezer", "did", "nothing:", "No", "guest", "agent,", "exiting"],
        ["3", "VM(s),", "1", "finding(s)"],
    ]
    told = {vm["vm"]: vm for vm in ran.json()["vms"]}
    assert {vm: (entry["achieved"], entry["finding"]) for vm, entry in told.items()} == {
        "db": ("frozen", False),
        "old": ("not frozen", False),
        "web": ("not frozen", True),
    }
    assert told["db"]["record"] == {"state": "intact", "level": "filesystem", "profile": None, "decidedBy": "vm"}
    assert told["db"]["hooks"] == {"attempted": 2, "failed": 0}
    assert server.requests() == []


def test_nothing_to_find(control_plane: ControlPlane, server: StandInVelero, vms: Vms, name: str) -> None:
    vms.add("db", "filesystem")
    log = VeleroLog(as_json=True)
    vms.freeze(log, "db", DONE)
    server.backup(name, COMPLETED)
    server.store.files |= {f"{name}.tar.gz": archive(vms.objects), f"{name}-logs.gz": log_file(log.lines)}

    ran = tell(server, control_plane.kubeconfig, name)

    assert (ran.exit_code, ran.stdout.splitlines()[-1]) == (0, "1 VM(s), 0 finding(s)")


def test_no_hook_ran_in_a_backup_of_one_vm_by_its_label(
    control_plane: ControlPlane, server: StandInVelero, vms: Vms, name: str
) -> None:
    vms.add("db", "filesystem")
    server.backup(name, {"phase": "Completed", "hookStatus": {}}, labelSelector={"matchLabels": {"app": "db"}})
    server.store.files |= {f"{name}.tar.gz": archive(vms.objects), f"{name}-logs.gz": log_file(VeleroLog().lines)}

    ran = tell(server, control_plane.kubeconfig, name)

    assert ran.exit_code == 1
    assert "    ! no hook ran: the backup selects by labels" in ran.stdout


def test_a_backup_without_a_log(control_plane: ControlPlane, server: StandInVelero, vms: Vms, name: str) -> None:
    vms.add("db", "filesystem")
    server.backup(name, COMPLETED)
    server.store.files[f"{name}.tar.gz"] = archive(vms.objects)

    ran = tell(server, control_plane.kubeconfig, name)

    assert ran.exit_code == 1
    assert "    ! the backup has no log" in ran.stdout
    assert [line.split()[2:] for line in ran.stdout.splitlines() if " db " in line] == [
        ["filesystem", "unknown", "?", "?", "-"]
    ]


@pytest.mark.parametrize("phase", ["New", "Queued", "ReadyToStart", "InProgress"])
def test_a_backup_that_has_not_ended(control_plane: ControlPlane, server: StandInVelero, name: str, phase: str) -> None:
    server.backup(name, {"phase": phase})

    ran = tell(server, control_plane.kubeconfig, name)

    assert (ran.exit_code, ran.stdout) == (2, "")
    assert f"backup {name} is in phase {phase}: there is nothing to read before it has ended" in ran.stderr


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ({"phase": "FailedValidation", "validationErrors": ["no location"]}, ["no location", "nothing was backed up"]),
        (
            {"phase": "Failed", "failureReason": "Velero was restarted"},
            ["phase Failed: Velero was restarted", "its contents were not stored"],
        ),
    ],
)
def test_a_backup_that_failed(
    control_plane: ControlPlane, server: StandInVelero, name: str, status: Json, told: list[str]
) -> None:
    server.backup(name, status)

    text, ran = (tell(server, control_plane.kubeconfig, name, *words) for words in ((), ("-o", "json")))

    assert (text.exit_code, ran.exit_code) == (1, 1)
    for part in told:
        assert any(line.startswith("! ") and part in line for line in text.stdout.splitlines()), part
        assert any(part in finding for finding in ran.json()["findings"])
    assert ran.json()["vms"] == []


def test_a_backup_whose_name_is_another_one_s(control_plane: ControlPlane, server: StandInVelero, name: str) -> None:
    """The files of that name are not its own."""
    server.backup(name, {"phase": "Failed", "failureReason": "backup already exists in object storage"})
    server.store.files |= {f"{name}.tar.gz": archive({}), f"{name}-logs.gz": log_file(VeleroLog().lines)}
    asked = len(server.store.asked)

    ran = tell(server, control_plane.kubeconfig, name)

    assert ran.exit_code == 1
    assert "! nothing was backed up" in ran.stdout
    assert server.store.asked[asked:] == []


def test_contents_that_are_gone(control_plane: ControlPlane, server: StandInVelero, name: str) -> None:
    server.backup(name, COMPLETED)

    ran = tell(server, control_plane.kubeconfig, name)

    assert (ran.exit_code, ran.stdout) == (2, "")
    assert f"the object store does not have the contents of backup {name}" in ran.stderr


@pytest.mark.parametrize("spoil", [lambda content: content[:-20], lambda content: b"<html>", lambda content: b""])
def test_contents_that_are_damaged(
    control_plane: ControlPlane, server: StandInVelero, vms: Vms, name: str, spoil: Any
) -> None:
    vms.add("db", "filesystem")
    server.backup(name, COMPLETED)
    server.store.files[f"{name}.tar.gz"] = spoil(archive(vms.objects))

    ran = tell(server, control_plane.kubeconfig, name)

    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "cut short or is damaged" in ran.stderr
    assert "signature" not in ran.stderr


def test_no_such_backup(control_plane: ControlPlane, server: StandInVelero) -> None:
    ran = tell(server, control_plane.kubeconfig, "nowhere")

    assert (ran.exit_code, ran.stdout) == (2, "")
    assert f"there is no Backup nowhere in namespace {server.namespace}; --velero-namespace names another" in ran.stderr


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_what_is_no_name(control_plane: ControlPlane, server: StandInVelero, name: str) -> None:
    assert tell(server, control_plane.kubeconfig, name).exit_code == 2


def test_a_velero_that_does_not_answer(
    control_plane: ControlPlane, server: StandInVelero, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.backup(name, COMPLETED)
    monkeypatch.setattr(velero, "URL_SECONDS", 0.5)
    monkeypatch.setattr(server, "answers", False)

    ran = tell(server, control_plane.kubeconfig, name)

    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "Velero did not say within 0.5 s where" in ran.stderr
    assert server.requests() == []


PEM = b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("store", "told"),
    [
        pytest.param({"caCert": base64.b64encode(PEM).decode()}, PEM.decode(), id="inline"),
        pytest.param({"caCertRef": {"name": "store-ca", "key": "ca.crt"}}, PEM.decode(), id="in-a-secret"),
        pytest.param({"caCertRef": {"name": "store-ca", "key": "other"}}, "", id="no-such-key"),
        pytest.param({"caCertRef": {"name": "no-such-secret", "key": "ca.crt"}}, "", id="no-such-secret"),
        pytest.param({}, "", id="none"),
        pytest.param(None, "", id="no-location"),
    ],
)
def test_the_authority_of_a_backup_storage_location(
    control_plane: ControlPlane, client: Client, server: StandInVelero, name: str, store: Json | None, told: str
) -> None:
    namespace = server.namespace
    if not client.find("secrets", "store-ca", namespace):
        metadata = {"name": "store-ca", "namespace": namespace}
        data = {"ca.crt": base64.b64encode(PEM).decode()}
        client.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})
    if store is not None:
        location = {"apiVersion": "velero.io/v1", "kind": "BackupStorageLocation"}
        spec = {"provider": "aws", "objectStorage": {"bucket": "backups", **store}}
        client.create({**location, "metadata": {"name": name, "namespace": namespace}, "spec": spec})

    async def asked() -> str:
        connected = await KubeClient.connect(control_plane.kubeconfig)
        try:
            return await velero.Velero(connected, namespace).authority(name)
        finally:
            await connected.close()

    assert asyncio.run(asked()) == told


def grant(client: Client, namespace: str, *rules: Json) -> str:
    """A ServiceAccount that may do just this there; returns its name."""
    name = f"admin-{secrets.token_hex(3)}"
    client.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}})
    rbac, metadata = "rbac.authorization.k8s.io", {"name": name, "namespace": namespace}
    client.create({"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": metadata, "rules": list(rules)})
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    role = {"apiGroup": rbac, "kind": "Role", "name": name}
    binding = {"apiVersion": f"{rbac}/v1", "kind": "RoleBinding", "metadata": metadata}
    client.create({**binding, "subjects": [subject], "roleRef": role})
    return name


def rule(resource: str, *verbs: str) -> Json:
    return {"apiGroups": ["velero.io"], "resources": [resource], "verbs": list(verbs)}


def test_the_least_rights_are_those_that_velero_s_command_line_needs(
    control_plane: ControlPlane, client: Client, server: StandInVelero, vms: Vms, name: str
) -> None:
    vms.add("db", "filesystem")
    log = VeleroLog()
    vms.freeze(log, "db", DONE)
    server.backup(name, COMPLETED)
    server.store.files |= {f"{name}.tar.gz": archive(vms.objects), f"{name}-logs.gz": log_file(log.lines)}
    account = grant(client, server.namespace, rule("backups", "get"), rule("downloadrequests", "create", "get"))

    ran = tell(server, control_plane.kubeconfig_for(server.namespace, account), name)

    assert ran.exit_code == 0, ran.stderr
    left = {request["spec"]["target"]["kind"] for request in server.requests()}
    assert left == {"BackupContents", "BackupLog"}  # Velero deletes them when they have expired


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ([], "backups"),
        ([rule("backups", "get")], "permission to create and get downloadrequests.velero.io in namespace"),
    ],
)
def test_missing_rights_are_told(
    control_plane: ControlPlane, client: Client, server: StandInVelero, name: str, rules: list[Json], told: str
) -> None:
    server.backup(name, COMPLETED)
    account = grant(client, server.namespace, *rules)

    ran = tell(server, control_plane.kubeconfig_for(server.namespace, account), name)

    assert (ran.exit_code, ran.stdout) == (2, "")
    assert told in ran.stderr
