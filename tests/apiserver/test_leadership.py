"""What only the leading replica does: Events, the policy's state; and how another takes over."""

import time
from collections.abc import Callable, Iterator

import pytest

from app.core.annotations import POLICY_ACCEPTED, POLICY_ERROR, POLICY_STATE, POLICY_TIME
from tests.apiserver.pods import LEVEL, POST, decided, hooks, pod_like_a_launcher
from tests.apiserver.routing import lead_astray, lead_to
from tests.infra.controlplane import (
    Client,
    ControlPlane,
    Json,
    launcher_pod,
    make_namespace,
    make_vm,
    run_stand_in_guest,
    wait_for,
)
from tests.infra.installation import NAMESPACE, POLICY, Installation, Replica, annotations

LEASE_SECONDS = 10
AGENT_GRACE = 2
GRACE = 6


@pytest.fixture(scope="module")
def installation(real_parts: None) -> Iterator[Installation]:
    """Two replicas on a control plane of their own, impatient ones."""
    env = {"VM_CONSISTENCY_AGENT_GRACE": str(AGENT_GRACE), "VM_CONSISTENCY_POLICY_GRACE": str(GRACE)}
    with ControlPlane() as cp:
        cp.install_kubevirt()
        cp.start_virt_controller()
        installed = Installation(cp)
        installed.apply()
        first, second = installed.replica(env=env), installed.replica(env=env)
        installed.route_to(first.url)
        first.process.start()
        second.process.start()
        installed.change_policy({"default": {"level": "filesystem"}})
        yield installed
        installed.remove()


@pytest.fixture
def client(installation: Installation) -> Client:
    return installation.cp.client


@pytest.fixture
def policy(installation: Installation) -> Iterator[Callable[[object], None]]:
    yield installation.change_policy  # type: ignore[misc]
    installation.change_policy({"default": {"level": "filesystem"}})


@pytest.fixture
def pod(client: Client, namespace: str) -> Json:
    client.create(make_vm("db", namespace))
    return launcher_pod(client, "db", namespace)


def leader(installation: Installation) -> Replica:
    def leading() -> list[Replica]:
        return [one for one in installation.replicas if one.process.alive and one.leads()]

    [found] = wait_for(leading, what="a replica that leads")
    return found


def events(client: Client, namespace: str, reason: str) -> list[Json]:
    return [event for event in client.list("events", namespace) if event["reason"] == reason]


def the_event(client: Client, namespace: str, reason: str) -> Json:
    [event] = wait_for(lambda: events(client, namespace, reason), what=f"the Event {reason}")
    return event


def annotate(client: Client, name: str, namespace: str, value: str | None) -> None:
    client.patch("virtualmachines", name, {"metadata": {"annotations": {LEVEL: value}}}, namespace)


def test_one_replica_leads(installation: Installation, client: Client) -> None:
    replica = leader(installation)
    lease = client.get("leases", "vm-consistency", NAMESPACE)["spec"]
    assert lease["holderIdentity"]
    assert sum(one.leads() for one in installation.replicas) == 1
    follower = next(one for one in installation.replicas if one is not replica)
    assert follower.is_ready()


def test_a_change_of_level_is_told_on_the_instance(client: Client, pod: Json, namespace: str) -> None:
    annotate(client, "db", namespace, "crash")
    event = the_event(client, namespace, "LevelChanged")
    vmi = client.get("virtualmachineinstances", "db", namespace)
    assert event["involvedObject"]["uid"] == vmi["metadata"]["uid"]
    assert event["involvedObject"]["kind"] == "VirtualMachineInstance"
    assert event["type"] == "Normal"
    assert event["message"] == ("backups are now crash (decided by vm); before: filesystem (decided by default)")
    assert decided(client.get("pods", pod["metadata"]["name"], namespace)) == ("crash", "vm")


def test_what_is_refused_is_told_once(
    installation: Installation, client: Client, pod: Json, namespace: str, policy: Callable[[object], None]
) -> None:
    policy({"default": {"level": "filesystem", "allow": ["filesystem"]}})
    annotate(client, "db", namespace, "crash")
    event = the_event(client, namespace, "RequestRefused")
    assert event["type"] == "Warning"
    assert "crash is not allowed by the policy here" in event["message"]
    for value in ("1", "2", "3"):  # each makes the reconciler look again
        label = {"metadata": {"labels": {"touched": value}}}
        client.patch("pods", pod["metadata"]["name"], label, namespace)
        policy({"default": {"level": "filesystem", "allow": ["filesystem"]}})
    assert events(client, namespace, "RequestRefused") == [event]


def test_an_overwriting_stranger_is_told_of(client: Client, pod: Json, namespace: str) -> None:
    for number in range(3):
        edit = {"metadata": {"annotations": {POST + "timeout": f"{number + 1}s"}}}
        client.patch("pods", pod["metadata"]["name"], edit, namespace, subresource="status")
        wait_for(
            lambda: hooks(client.get("pods", pod["metadata"]["name"], namespace)) == hooks(pod),
            what="the hooks to be put right",
        )
    event = the_event(client, namespace, "HooksOverwritten")
    assert pod["metadata"]["name"] in event["message"]


def test_a_guest_without_its_agent_is_told_of(installation: Installation, client: Client, namespace: str) -> None:
    for name, level in (("lacking", "filesystem"), ("crashing", "crash")):
        client.create(make_vm(name, namespace, annotations={LEVEL: level}))
        run_stand_in_guest(client, name, namespace, "node-a")
    event = the_event(client, namespace, "GuestAgentNotConnected")
    assert event["involvedObject"]["name"] == "lacking"
    assert "guest agent is not connected" in event["message"]
    replica = leader(installation)
    assert replica.metric("vm_consistency_guest_agents_missing") == 1

    vmi = client.get("virtualmachineinstances", "lacking", namespace)
    stamp = vmi["status"]["conditions"][0]["lastTransitionTime"] or "2026-01-01T00:00:00Z"
    connected = {"type": "AgentConnected", "status": "True", "lastProbeTime": stamp, "lastTransitionTime": stamp}
    status = {"status": {"conditions": [*vmi["status"]["conditions"], connected]}}
    client.patch("virtualmachineinstances", "lacking", status, namespace)
    wait_for(lambda: replica.metric("vm_consistency_guest_agents_missing") == 0, what="the agent to be seen")
    assert len(events(client, namespace, "GuestAgentNotConnected")) == 1


def stated(client: Client) -> dict[str, str]:
    return annotations(client.get("configmaps", POLICY, NAMESPACE))


def test_state_of_the_policy_stands_on_its_config_map(
    installation: Installation, client: Client, policy: Callable[[object], None]
) -> None:
    policy({"default": {"level": "crash"}})
    wait_for(lambda: stated(client).get(POLICY_STATE) == "valid", what="the state to be valid")
    accepted = stated(client)
    assert accepted[POLICY_TIME].endswith("Z")
    assert POLICY_ERROR not in accepted

    policy("default: {level: everything}\n")
    wait_for(lambda: stated(client).get(POLICY_STATE) == "last-good", what="the state to be last-good")
    rejected = stated(client)
    assert rejected[POLICY_ACCEPTED]
    assert "level" in rejected[POLICY_ERROR] or "apiVersion" in rejected[POLICY_ERROR]
    assert the_event(client, NAMESPACE, "PolicyRejected")["involvedObject"]["name"] == POLICY
    assert wait_for(lambda: events(client, NAMESPACE, "PolicyAccepted"), what="the Event PolicyAccepted")


def test_running_pods_keep_to_a_deleted_policy_for_a_while(
    installation: Installation, client: Client, pod: Json, namespace: str, policy: Callable[[object], None]
) -> None:
    policy({"default": {"level": "crash"}})
    name = pod["metadata"]["name"]
    wait_for(lambda: decided(client.get("pods", name, namespace))[0] == "crash", what="the policy to reach the pod")
    deleted = time.monotonic()
    policy(None)
    fresh = client.create(pod_like_a_launcher(namespace, pod["metadata"]["ownerReferences"][0]), dry_run=True)
    assert decided(fresh) == ("filesystem", "built-in")
    assert decided(client.get("pods", name, namespace)) == ("crash", "default")
    wait_for(lambda: decided(client.get("pods", name, namespace)) == ("filesystem", "built-in"), what="the default")
    assert time.monotonic() - deleted >= GRACE - 0.5


def test_another_replica_takes_over_at_once_when_the_leader_stops(
    installation: Installation, client: Client, pod: Json, namespace: str
) -> None:
    first = leader(installation)
    other = next(one for one in installation.replicas if one is not first)
    lead_to(installation, other)
    first.process.stop()
    stopped = time.monotonic()
    wait_for(other.leads, what="the other replica to lead")
    assert time.monotonic() - stopped < LEASE_SECONDS / 2, "the Lease was released, not left to expire"
    annotate(client, "db", namespace, "crash")
    wait_for(
        lambda: decided(client.get("pods", pod["metadata"]["name"], namespace)) == ("crash", "vm"),
        what="the new leader's work",
    )
    first.process.start()


def test_another_replica_takes_over_when_the_leader_dies(
    installation: Installation, client: Client, pod: Json, namespace: str
) -> None:
    first = leader(installation)
    other = next(one for one in installation.replicas if one is not first)
    lead_to(installation, other)
    first.process.kill()
    annotate(client, "db", namespace, "crash")
    wait_for(
        lambda: decided(client.get("pods", pod["metadata"]["name"], namespace)) == ("crash", "vm"),
        what="the new leader's work",
    )
    first.process.start()


def test_vms_that_started_while_the_webhook_was_away_get_their_hooks(
    installation: Installation, client: Client, namespace: str
) -> None:
    lead_astray(installation, f"https://127.0.0.1:{installation.cp.port()}/mutate/pods", lambda: True)
    client.create(make_vm("missed", namespace))
    missed = launcher_pod(client, "missed", namespace)
    wait_for(
        lambda: decided(client.get("pods", missed["metadata"]["name"], namespace)) == ("filesystem", "default"),
        what="the pod to be found",
    )
    lead_to(installation, leader(installation))


def notes(replica: Replica) -> dict[str, str]:
    """What /readyz says beside its checks."""
    lines = (line[4:].partition(": ") for line in replica.ops("/readyz")[1].splitlines() if line.startswith("[!] "))
    return {name: note for name, _, note in lines}


def test_an_installation_of_the_former_version_serves_reviews_and_says_what_it_lacks(
    installation: Installation, client: Client, namespace: str
) -> None:
    role = client.get("clusterroles", "vm-consistency")
    former = [rule for rule in role["rules"] if rule["resources"] not in (["pods"], ["events"])]
    client.patch("clusterroles", "vm-consistency", {"rules": former})
    client.delete("leases", "vm-consistency", NAMESPACE)
    for replica in installation.replicas:
        replica.process.stop()
    [first, _] = installation.replicas
    first.process.start()
    lead_to(installation, first)
    wait_for(lambda: "apply the manifests" in notes(first).get("leader", ""), what="the Lease to be missed")
    client.create(make_vm("served", namespace, annotations={LEVEL: "crash"}))
    assert decided(launcher_pod(client, "served", namespace)) == ("crash", "vm")

    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    client.create({**lease, "metadata": {"name": "vm-consistency", "namespace": NAMESPACE}})
    wait_for(first.leads, what="the replica to lead")
    wait_for(lambda: "403" in notes(first).get("running pods", ""), what="the permission to be missed")
    assert "leader" not in notes(first)

    client.patch("clusterroles", "vm-consistency", {"rules": role["rules"]})
    client.patch("virtualmachines", "served", {"metadata": {"annotations": {LEVEL: None}}}, namespace)
    name = launcher_pod(client, "served", namespace)["metadata"]["name"]
    wait_for(lambda: decided(client.get("pods", name, namespace))[0] == "filesystem", what="its work")
    assert "running pods" not in notes(first)
    installation.replicas[1].process.start()


@pytest.fixture
def namespace(client: Client, request: pytest.FixtureRequest) -> str:
    name = f"lead-{abs(hash(request.node.name)) % 10**8}"
    client.create(make_namespace(name))
    return name
