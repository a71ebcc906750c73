"""Many VMs at once, and requests on trial, which leave nothing behind."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.apiserver.conftest import NewNamespace
from tests.apiserver.pods import LEVEL, SKIP, decided, filesystem_hooks, hooks, owner_of, pod_like_a_launcher
from tests.apiserver.routing import WEBHOOK, failed_open
from tests.infra.controlplane import Client, Json, launcher_pod, make_vm, wait_for
from tests.infra.installation import LAST_GOOD, NAMESPACE, POLICY, WEBHOOK_USER, Installation, Replica

VMS = 200
CREATORS = 16


@pytest.fixture
def created(client: Client) -> Iterator[list[Json]]:
    """Holds a test's VMs, and stops them at its end: else every change of policy in later tests reaches their pods."""
    vms: list[Json] = []
    yield vms
    with ThreadPoolExecutor(CREATORS) as pool:
        list(pool.map(lambda vm: _halt(client, vm), vms))
    wait_for(lambda: not any(client.list("pods", place) for place in {_place(vm) for vm in vms}), 180, what="their end")


def _place(vm: Json) -> str:
    return str(vm["metadata"]["namespace"])


def _halt(client: Client, vm: Json) -> None:
    client.patch("virtualmachines", vm["metadata"]["name"], {"spec": {"runStrategy": "Halted"}}, _place(vm))


def test_two_hundred_vms_at_once(
    installation: Installation,
    client: Client,
    new_namespace: NewNamespace,
    replica: Replica,
    created: list[Json],
) -> None:
    quiet, crashing = new_namespace("load"), new_namespace("load-crash", annotations={LEVEL: "crash"})
    wishes: list[tuple[str, dict[str, Any], tuple[str, str]]] = [
        (quiet, {}, ("filesystem", "default")),
        (quiet, {"annotations": {LEVEL: "crash"}}, ("crash", "vm")),
        (quiet, {"template_annotations": {LEVEL: "crash"}}, ("crash", "template")),
        (quiet, {"annotations": {SKIP: "true"}}, ("crash", "skip-backup-hooks")),
        (crashing, {}, ("crash", "namespace")),
        (crashing, {"annotations": {LEVEL: "filesystem"}}, ("filesystem", "vm")),
        (crashing, {"template_annotations": {LEVEL: "filesystem"}}, ("filesystem", "template")),
        (crashing, {"annotations": {LEVEL: "bulletproof"}}, ("crash", "namespace")),
    ]
    expected = {(wishes[n % 8][0], f"vm-{n}"): wishes[n % 8][2] for n in range(VMS)}
    without_us = failed_open(installation)
    lookups_failed = replica.metric("vm_consistency_decisions_total", reason="lookup-failed")

    with ThreadPoolExecutor(CREATORS) as pool:
        vms = [make_vm(f"vm-{n}", wishes[n % 8][0], **wishes[n % 8][1]) for n in range(VMS)]
        created += pool.map(client.create, vms)
    pods = wait_for(lambda: _all_launchers(client, [quiet, crashing]), 180, what=f"{VMS} launcher pods", interval=0.5)

    assert {vm: decided(pod) for vm, pod in pods.items()} == expected
    for (namespace, name), pod in pods.items():
        level = expected[namespace, name][0]
        assert hooks(pod) == ({} if level == "crash" else filesystem_hooks(name, namespace))
    assert failed_open(installation) == without_us
    assert replica.metric("vm_consistency_decisions_total", reason="lookup-failed") == lookups_failed
    for kind in ("internal", "malformed", "too-large"):
        assert replica.metric("vm_consistency_errors_total", kind=kind) == 0
    assert installation.cp.metric("apiserver_admission_webhook_rejection_count", name=WEBHOOK) == 0


def _all_launchers(client: Client, namespaces: list[str]) -> dict[tuple[str, str], Json] | None:
    """The pods by namespace and name of the VM, once they are all there, and not one too many."""
    pods = [pod for namespace in namespaces for pod in client.list("pods", namespace)]
    found = {(pod["metadata"]["namespace"], pod["metadata"]["ownerReferences"][0]["name"]): pod for pod in pods}
    return found if len(found) == VMS == len(pods) else None


def test_what_is_on_trial_leaves_nothing_behind(
    installation: Installation, client: Client, namespace: str, replica: Replica
) -> None:
    client.create(make_vm("db", namespace, annotations={LEVEL: "bulletproof"}))
    stored = launcher_pod(client, "db", namespace)
    owner = owner_of(client.get("virtualmachineinstances", "db", namespace))
    config_maps = {name: client.get("configmaps", name, NAMESPACE) for name in (POLICY, LAST_GOOD)}
    wait_for(lambda: _by_us(client.list("events", namespace)), what="the refusal of the one that is stored")
    events = client.list("events", namespace)
    since = installation.cp.audit_position()

    client.create(make_vm("trial", namespace), dry_run=True)
    pod = client.create(pod_like_a_launcher(namespace, owner), dry_run=True)
    edit = {"metadata": {"annotations": {"pre.hook.backup.velero.io/command": "x"}}}
    edited = client.patch("pods", stored["metadata"]["name"], edit, namespace, dry_run=True)

    assert decided(pod) == ("filesystem", "default")
    assert hooks(pod) == hooks(edited) == filesystem_hooks("db", namespace)
    asked = [line for line in replica.log_lines() if line.get("namespace") == namespace and line.get("dryRun")]
    assert [line["operation"] for line in asked] == ["CREATE"], "an UPDATE is logged at debug level only"

    assert [vm["metadata"]["name"] for vm in client.list("virtualmachines", namespace)] == ["db"]
    assert client.list("pods", namespace) == [client.get("pods", stored["metadata"]["name"], namespace)]
    assert hooks(client.list("pods", namespace)[0]) == filesystem_hooks("db", namespace)
    assert {name: client.get("configmaps", name, NAMESPACE) for name in config_maps} == config_maps
    assert _by_us(client.list("events", namespace)) == _by_us(events)
    for place in (namespace, NAMESPACE):  # elsewhere the pods of other tests may still be brought in line
        asked = installation.cp.audit_events(since=since, user=WEBHOOK_USER, namespace=place)
        assert [event for event in asked if _writes(event)] == []


def _by_us(events: list[Json]) -> list[Json]:
    return [event for event in events if "vm-consistency" in str(event.get("reportingComponent") or event["source"])]


def _writes(event: Json) -> bool:
    """Whether something was written, other than the Lease that the leader renews every few seconds."""
    return event["verb"] not in ("get", "list", "watch") and event["objectRef"]["resource"] != "leases"
