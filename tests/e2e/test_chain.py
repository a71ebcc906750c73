"""From a VirtualMachine to its backup in the object store, through every part in between."""

import shlex
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from app.core.annotations import DECIDED_BY, EFFECTIVE_LEVEL, EFFECTIVE_PROFILE, HOOK_KEYS, ON_ERROR
from tests.e2e.conftest import SetHooks
from tests.infra.controlplane import Json, launcher_pod, wait_for
from tests.infra.guests.hypervisor import Hypervisor
from tests.infra.guests.snapshotter import DiskArray, Snapshot
from tests.infra.guests.velero import Velero, hook_counts, phase
from tests.infra.guests.world import World
from tests.infra.installation import annotations

PLACE_ORDERS = """
cd /
while [ ! -e /tmp/no-more-orders ]; do psql -Xqc 'INSERT INTO orders DEFAULT VALUES'; done
"""


@pytest.fixture
def events(world: World) -> Iterator[Callable[[], list[str]]]:
    """What reached the guest through the launcher socket since the test began, as `call state`."""
    before = len(world.guest.events())
    yield lambda: [f"{event.call} {event.state}" for event in world.guest.events()[before:]]
    assert not world.guest.frozen()


def test_a_vm_at_level_crash_is_backed_up_without_a_hook(
    world: World, velero: Velero, array: DiskArray, events: Callable[[], list[str]]
) -> None:
    backup = velero.backup("crash", world.namespace)

    assert (phase(backup), hook_counts(backup)) == ("Completed", (0, 0))
    assert events() == []
    assert [snapshot.volume for snapshot in array.snapshots("crash")] == [world.guest.data_disk]
    stored = annotations(stored_pod(velero, "crash", world))
    assert stored[EFFECTIVE_LEVEL] == "crash"
    assert not stored.keys() & set(HOOK_KEYS)


def test_at_level_filesystem_the_copy_is_taken_while_the_guest_is_frozen(
    world: World, velero: Velero, array: DiskArray, events: Callable[[], list[str]]
) -> None:
    world.choose("filesystem")

    backup = velero.backup("filesystem", world.namespace)

    assert (phase(backup), hook_counts(backup)) == ("Completed", (2, 0))
    assert [event for event in events() if event.startswith(("freeze", "thaw", "exec"))] == [
        "freeze sent",
        "freeze done",
        "thaw sent",
        "thaw done",
    ]
    assert_within_freeze(array.snapshots("filesystem"), world)
    assert annotations(stored_pod(velero, "filesystem", world))[EFFECTIVE_LEVEL] == "filesystem"


def test_at_level_application_the_copied_disk_starts_with_every_order_of_before(
    world: World, velero: Velero, array: DiskArray, hypervisor: Hypervisor
) -> None:
    world.choose("application", "postgresql")
    world.guest.psql("CREATE TABLE orders (id serial PRIMARY KEY, at timestamptz DEFAULT now())")
    world.guest.must_run(
        f"setsid runuser -u postgres -- sh -c {shlex.quote(PLACE_ORDERS)} >/dev/null 2>&1 </dev/null &"
    )
    wait_for(lambda: int(world.guest.psql("SELECT count(*) FROM orders")) > 5, 60, what="orders")
    before = int(world.guest.psql("SELECT max(id) FROM orders"))

    backup = velero.backup("application", world.namespace)

    assert (phase(backup), hook_counts(backup)) == ("Completed", (2, 0))
    [snapshot] = array.snapshots("application")
    assert_within_freeze([snapshot], world)
    after = int(world.guest.psql("SELECT max(id) FROM orders"))
    world.guest.must_run("touch /tmp/no-more-orders")
    stored = annotations(stored_pod(velero, "application", world))
    assert (stored[EFFECTIVE_LEVEL], stored[EFFECTIVE_PROFILE], stored[DECIDED_BY]) == (
        "application",
        "postgresql",
        "vm",
    )

    copy = hypervisor.start("copy", "db", data_disk=snapshot.copy).wait_agent()
    rows, last = map(int, copy.psql("SELECT count(*) || ' ' || max(id) FROM orders").split())
    copy.kill()
    assert before <= last <= after
    assert rows == last


def test_quiesce_steps_run_before_the_freeze_and_resume_steps_after_the_thaw(
    world: World, velero: Velero, array: DiskArray, events: Callable[[], list[str]]
) -> None:
    world.choose("application", "marked")

    backup = velero.backup("marked", world.namespace)

    assert (phase(backup), hook_counts(backup)) == ("Completed", (2, 0))
    calls = [event for event in events() if event.endswith("done")]
    assert "exec done" in calls[: calls.index("freeze done")]
    assert "exec done" in calls[calls.index("thaw done") :]
    assert not held(world)


@pytest.mark.parametrize("on_error", ["Continue", "Fail"])
def test_a_quiesce_step_that_fails_leaves_nothing_held(
    world: World,
    velero: Velero,
    array: DiskArray,
    events: Callable[[], list[str]],
    set_hooks: SetHooks,
    on_error: str,
) -> None:
    set_hooks(freeze={"timeout": "30s", "onError": on_error})
    world.choose("application", "failing")
    world.wait_for_pre_hook(on_error, ON_ERROR)
    name = f"failing-{on_error.lower()}"

    backup = velero.backup(name, world.namespace)

    assert phase(backup) == "PartiallyFailed"
    assert "pre hook failed: quiesce: step refuse ended with 3: the database is busy" in velero.log(name)
    assert not held(world)
    assert "freeze sent" not in events()
    stored = f"resources/pods/namespaces/{world.namespace}/{world.pod_name}" in velero.contents(name)
    # Velero takes the snapshot either way: Fail leaves out the pod and its post hook, not its volumes.
    assert (stored, hook_counts(backup)[0]) == ((True, 2) if on_error == "Continue" else (False, 1))
    assert len(array.snapshots(name)) == 1


def test_a_policy_that_changes_during_a_backup_does_not_leave_the_guest_frozen(
    world: World,
    velero: Velero,
    array: DiskArray,
    events: Callable[[], list[str]],
    set_default: Callable[[str], None],
) -> None:
    set_default("filesystem")
    world.wait_for_level("filesystem")
    with array.held():
        velero.start_backup("flip", world.namespace)
        array.wait_started("flip")
        assert world.guest.frozen()
        set_default("crash")
        world.wait_for_level("crash")
        assert not world.annotations().keys() & set(HOOK_KEYS)

    backup = velero.ended_backup("flip")

    assert (phase(backup), hook_counts(backup)) == ("Completed", (2, 0))
    assert events()[-1] == "thaw done"
    assert annotations(stored_pod(velero, "flip", world))[EFFECTIVE_LEVEL] == "filesystem"


def test_when_velero_dies_in_the_window_the_guest_thaws_and_the_application_resumes_by_itself(
    world: World, velero: Velero, array: DiskArray, events: Callable[[], list[str]], set_hooks: SetHooks
) -> None:
    # The dead-man waits for the sum of these and 15 s.
    set_hooks(freeze={"timeout": "5s"}, thaw={"timeout": "1s"}, autoThaw="8s")
    world.choose("application", "marked")
    world.wait_for_pre_hook('"5", "8"')
    with array.held():
        velero.start_backup("killed", world.namespace)
        array.wait_started("killed")
        assert world.guest.frozen()
        velero.process.kill()

    wait_for(lambda: not world.guest.frozen(), 30, what="the guest to thaw")
    assert held(world)
    wait_for(lambda: not held(world), 120, what="the application to resume")
    assert "safety-timer done" in events()
    velero.process.start()
    assert phase(velero.ended_backup("killed")) == "Failed"
    set_hooks()
    world.wait_for_pre_hook('"30", "300"')
    assert hook_counts(velero.backup("after-killed", world.namespace)) == (2, 0)


def test_a_restore_into_another_namespace_gets_hooks_for_that_namespace(world: World, velero: Velero) -> None:
    world.choose("application", "marked")
    velero.backup("restored", world.namespace)

    restore = velero.restore("restored", "restored", namespace_mapping={world.namespace: "second-shop"})

    assert phase(restore) == "Completed"
    pod = launcher_pod(world.client, "db", "second-shop")
    found = annotations(pod)
    assert (found[EFFECTIVE_LEVEL], found[EFFECTIVE_PROFILE]) == ("application", "marked")
    [pre] = [value for key, value in found.items() if key.startswith("pre.") and key.endswith("/command")]
    assert '"second-shop", "db"' in pre
    claim = world.client.get("persistentvolumeclaims", "data", "second-shop")
    volume = world.client.get("persistentvolumes", claim["spec"]["volumeName"])
    assert Path(volume["spec"]["hostPath"]["path"]).stat().st_size == world.guest.data_disk.stat().st_size
    assert volume["spec"]["hostPath"]["path"] != str(world.guest.data_disk)


def held(world: World) -> bool:
    return world.guest.run("test -e /data/held").exit_code == 0


def stored_pod(velero: Velero, backup: str, world: World) -> Json:
    """The launcher pod as it lies in the object store."""
    return velero.contents(backup)[f"resources/pods/namespaces/{world.namespace}/{world.pod_name}"]


def assert_within_freeze(snapshots: list[Snapshot], world: World) -> None:
    """The last freeze began before the first of `snapshots`, and its thaw after the last of them."""
    times = [event for event in world.guest.events() if event.call in ("freeze", "thaw")]
    frozen: datetime = [event.at for event in times if (event.call, event.state) == ("freeze", "done")][-1]
    thawed: datetime = [event.at for event in times if (event.call, event.state) == ("thaw", "sent")][-1]
    assert snapshots
    for snapshot in snapshots:
        assert snapshot.end is not None
        assert frozen < snapshot.start < snapshot.end < thawed
