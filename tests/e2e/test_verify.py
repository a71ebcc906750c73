"""`verify` on real guests: what it tells is what the guest did, and the guest is thawed when it ends."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from app.core.annotations import TIMEOUT
from tests.cli.support import run
from tests.e2e.conftest import SetHooks
from tests.infra.controlplane import ControlPlane, Json, wait_for
from tests.infra.guests.domain import Agent
from tests.infra.guests.hypervisor import Hypervisor
from tests.infra.guests.snapshotter import DiskArray
from tests.infra.guests.velero import Velero, hook_counts, phase
from tests.infra.guests.world import World, Worlds

HELD = "/data/held"


@pytest.fixture(autouse=True)
def _left_thawed(world: World) -> Iterator[None]:
    """Whatever a test does to the guest."""
    yield
    world.guest.on_freeze("")
    assert not world.guest.frozen()
    assert world.guest.run(f"test -e {HELD}").exit_code != 0


def words(world: World, cluster: ControlPlane) -> list[str]:
    """The command line."""
    return ["verify", world.name, "-n", world.namespace, "--kubeconfig", str(cluster.kubeconfig), "--yes", "-o", "json"]


def told(world: World, cluster: ControlPlane, exit_code: int = 0) -> Json:
    """What the command tells."""
    ran = run(*words(world, cluster))
    assert ran.exit_code == exit_code, ran.stdout + ran.stderr
    result: Json = ran.json()
    return result


@contextmanager
def running(world: World, cluster: ControlPlane) -> Iterator["subprocess.Popen[str]"]:
    """The command as a process; entered when the guest has begun to freeze."""
    before = len(world.guest.events())
    command = [sys.executable, "-m", "app", *words(world, cluster)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(
            lambda: any(event.call == "freeze" for event in world.guest.events()[before:]), what="the freeze to begin"
        )
        yield process


def events_since(world: World) -> Callable[[], list[str]]:
    """What reached the guest since then, as `call state`, without questions."""
    before = len(world.guest.events())
    return lambda: [
        f"{event.call} {event.state}"
        for event in world.guest.events()[before:]
        if event.call in ("freeze", "thaw", "exec") and event.state == "done"
    ]


def test_crash(world: World, cluster: ControlPlane) -> None:
    events = events_since(world)

    result = told(world, cluster)

    assert (result["ran"], result["level"], result["record"]) == (False, "crash", "intact")
    assert events() == []


def test_filesystem(world: World, cluster: ControlPlane) -> None:
    world.choose("filesystem")
    events = events_since(world)

    result = told(world, cluster)

    assert events() == ["freeze done", "thaw done"]
    assert result["findings"] == []
    assert (result["frozen"]["answer"], result["frozen"]["verified"], result["thawed"]) == ("yes", False, "yes")
    assert [step["exitCode"] for step in result["steps"]] == [0, 0]
    assert 0 < result["frozenAtMostSeconds"] < 60


def test_filesystem_with_a_guest_that_is_asked(world: World, cluster: ControlPlane, set_hooks: SetHooks) -> None:
    set_hooks(requireFrozen=True)
    world.choose("filesystem")

    def verified() -> Json | None:
        """The new hooks arrive a little later."""
        result = told(world, cluster)
        return result if result["frozen"]["verified"] else None

    result = wait_for(verified, 60, what="hooks that ask the guest")

    assert (result["held"]["answer"], result["thawed"], result["findings"]) == ("yes", "yes", [])


def test_application(world: World, cluster: ControlPlane) -> None:
    world.choose("application", "marked")
    world.guest.on_freeze(f"test -e {HELD} && touch /run/was-held")

    result = told(world, cluster)

    world.guest.must_run("test -e /run/was-held && rm /run/was-held")
    assert (result["level"], result["profile"], result["decidedBy"]) == ("application", "marked", "vm")
    assert (result["frozen"]["verified"], result["held"]["answer"], result["findings"]) == (True, "yes", [])


def test_a_step_that_fails(world: World, cluster: ControlPlane) -> None:
    world.choose("application", "failing")

    result = told(world, cluster, exit_code=1)

    assert result["frozen"]["answer"] == "no"
    assert "pre hook failed: quiesce: step refuse ended with 3" in result["frozen"]["evidence"]
    assert any(finding.startswith("the pre hook failed") for finding in result["findings"])
    assert result["thawed"] == "yes"


def test_a_freeze_that_fails(world: World, cluster: ControlPlane) -> None:
    world.choose("filesystem")
    world.guest.on_freeze("exit 1")

    result = told(world, cluster, exit_code=1)

    assert result["frozen"]["answer"] == "no"
    assert "Freezing VMI failed" in result["frozen"]["evidence"]
    assert result["thawed"] == "yes"


def test_interrupted_while_the_guest_freezes(world: World, cluster: ControlPlane) -> None:
    world.choose("filesystem")
    world.guest.on_freeze("sleep 5")
    events = events_since(world)
    with running(world, cluster) as process:
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=90)

    result = json.loads(stdout)
    assert process.returncode == 1
    assert (result["interruptedBy"], result["thawed"]) == ("SIGTERM", "yes")
    assert events() == ["freeze done", "thaw done"]


def test_an_api_server_that_is_gone_while_the_guest_is_frozen(
    world: World, cluster: ControlPlane, set_hooks: SetHooks
) -> None:
    set_hooks(freeze={"timeout": "5s"})
    world.choose("filesystem")
    world.wait_for_pre_hook("5s", TIMEOUT)
    world.guest.on_freeze("sleep 3")
    with running(world, cluster) as process:
        cluster.apiserver.kill()
        cluster.apiserver.start()
        stdout, _ = process.communicate(timeout=180)

    result = json.loads(stdout)
    assert process.returncode == 1
    assert "the connection ended before the command did" in result["steps"][0]["error"]
    assert result["thawed"] == "yes"


def test_a_backup_in_progress(world: World, cluster: ControlPlane, velero: Velero, array: DiskArray) -> None:
    world.choose("filesystem")
    with array.held():
        velero.start_backup("verified-meanwhile", world.namespace)
        array.wait_started("verified-meanwhile")
        ran = run(*words(world, cluster))

    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "Velero's backup verified-meanwhile is in progress" in ran.stderr
    backup = velero.ended_backup("verified-meanwhile")
    assert (phase(backup), hook_counts(backup)) == ("Completed", (2, 0))


def test_a_guest_without_an_agent(worlds: Worlds, hypervisor: Hypervisor, cluster: ControlPlane) -> None:
    guest = hypervisor.start("verify-no-agent", "db", agent=Agent.NONE)
    world = worlds.around(guest, agent=False).choose("filesystem")

    result = told(world, cluster, exit_code=1)

    assert result["findings"] == ["the guest was not frozen: virt-freezer did nothing: No guest agent, exiting"]
    assert [step["exitCode"] for step in result["steps"]] == [0, 0]
    assert (result["thawed"], result["frozenAtMostSeconds"]) == ("yes", 0.0)
    assert "KubeVirt sees no guest agent" in result["notes"][0]
    guest.close()


class TestPermissions:
    """What the caller needs, and no more."""

    NEEDED = (
        ("kubevirt.io", "virtualmachineinstances", ["get"]),
        ("", "pods", ["get", "list"]),
        ("", "pods/exec", ["get", "create"]),
    )

    def grant(self, world: World, rules: tuple[tuple[str, str, list[str]], ...]) -> None:
        """Let the ServiceAccount `u` of the VM's namespace do that there."""
        client, rbac = world.client, "rbac.authorization.k8s.io"
        metadata = {"name": "verify", "namespace": world.namespace}
        made = [{"apiGroups": [group], "resources": [plural], "verbs": verbs} for group, plural, verbs in rules]
        client.apply({"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": metadata, "rules": made})
        subject = {"kind": "ServiceAccount", "name": "u", "namespace": world.namespace}
        role = {"kind": "Role", "name": "verify", "apiGroup": rbac}
        client.apply(
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "RoleBinding",
                "metadata": metadata,
                "roleRef": role,
                "subjects": [subject],
            }
        )

    def test_enough(self, world: World, cluster: ControlPlane) -> None:
        world.client.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "u", "namespace": world.namespace}}
        )
        kubeconfig = cluster.kubeconfig_for(world.namespace, "u")
        world.choose("filesystem")

        def ran_with(*rules: tuple[str, str, list[str]]) -> str:
            self.grant(world, rules)
            ran = run("verify", world.name, "-n", world.namespace, "--kubeconfig", kubeconfig, "--yes")
            return ran.stdout if ran.exit_code == 0 else ran.stderr

        def says(text: str, *rules: tuple[str, str, list[str]]) -> str | None:
            """RBAC takes a moment to arrive."""
            said = ran_with(*rules)
            return said if text in said else None

        wait_for(lambda: says("virtualmachineinstances"), what="the instance to be forbidden")
        wait_for(lambda: says("pods is forbidden", self.NEEDED[0]), what="pods to be forbidden")
        refused = wait_for(
            lambda: says("get and create pods/exec", *self.NEEDED[:2]), what="the command to be forbidden"
        )
        assert "403" in refused
        ran = wait_for(lambda: says("thawed: yes", *self.NEEDED), what="the permission to be enough")

        assert "you may not list backups.velero.io in namespace velero" in ran
