"""Guests that are to be frozen and have nobody inside who does it."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import pytest

from app.cluster.pods import PodIndex, RunningPod, running_pod
from app.controllers.pods.guest_agents import GuestAgents, guest
from app.core.annotations import EFFECTIVE_LEVEL
from app.core.kubevirt_names import UPSTREAM
from app.kube.client import KubeClient
from app.kube.store import ObjectStore
from tests.infra.factories import NAMESPACE, make_owner, make_pod
from tests.infra.stand_ins.events import StandInRecorder
from tests.infra.subscriptions import counted_subscriptions
from tests.infra.virtual_time import in_virtual_time, pass_time

GRACE = 300


class Guests:
    """Instances and their pods, as their watches bring them, and what is told of them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pods: ObjectStore[RunningPod] = ObjectStore()
        self.recorder = StandInRecorder()
        self.shown = 0
        self.index = PodIndex(self.pods)
        self.agents = GuestAgents(
            self.pods, self.index, self.recorder, self.show, UPSTREAM, grace=GRACE, clock=lambda: self.now
        )
        self.store = self.agents.reflector(cast("KubeClient", None)).store
        """The instances, which a test puts here as the reflector would."""
        self.told: set[str] = set()

    def show(self, count: int) -> None:
        self.shown = count

    def instance(self, name: str, *, agent: bool = False, phase: str = "Running", uid: str = "") -> None:
        conditions = [{"type": "Ready", "status": "True"}, {"type": "AgentConnected", "status": str(agent)}]
        status = {"phase": phase, "conditions": conditions}
        item = {"metadata": {"namespace": NAMESPACE, "name": name, "uid": uid or f"vmi-{name}"}, "status": status}
        self.store.put((NAMESPACE, name), guest(item))

    def gone(self, name: str) -> None:
        self.store.put((NAMESPACE, name), None)

    def pod(self, name: str, instance: str, level: str | None = "filesystem", uid: str = "") -> None:
        owner = make_owner(name=instance, uid=uid or f"vmi-{instance}")
        item = make_pod(name=name, ownerReferences=[owner], annotations={EFFECTIVE_LEVEL: level} if level else {})
        item["metadata"] |= {"uid": f"pod-{name}", "resourceVersion": "1"}
        self.pods.put((NAMESPACE, name), running_pod(item, UPSTREAM))

    def look(self, after: float = 0) -> int:
        """Let time pass and look; returns how many guests are shown to lack their agent."""
        self.now += after
        self.told = asyncio.run(self.agents.look(self.told))
        return self.shown


@pytest.fixture
def guests() -> Iterator[Guests]:
    guests = Guests()
    yield guests
    guests.index.close()


@pytest.mark.parametrize(
    ("status", "running", "agent"),
    [
        pytest.param(None, False, False, id="no-status"),
        pytest.param({"phase": "Running"}, True, False, id="no-conditions"),
        pytest.param({"phase": "Running", "conditions": []}, True, False, id="no-condition"),
        pytest.param({"conditions": [{"type": "AgentConnected", "status": "True"}]}, False, True, id="connected"),
        pytest.param({"conditions": [{"type": "AgentConnected", "status": "False"}]}, False, False, id="was-connected"),
        pytest.param({"conditions": [{"type": "AgentVersionNotSupported", "status": "True"}]}, False, False, id="old"),
        pytest.param({"phase": "Scheduling", "conditions": None}, False, False, id="scheduling"),
    ],
)
def test_status_is_read(status: dict[str, Any] | None, running: bool, agent: bool) -> None:
    found = guest({"metadata": {"uid": "1"}, "status": status})
    assert (found.uid, found.is_running, found.has_agent) == ("1", running, agent)


def test_a_guest_without_its_agent_is_told_of_once_when_it_had_time_to_boot(guests: Guests) -> None:
    guests.instance("db")
    guests.pod("db-pod", "db")
    assert guests.look() == 0
    assert guests.look(GRACE - 1) == 0
    assert guests.recorder.events == []
    assert guests.look(1) == 1
    assert guests.look(1000) == 1
    (told,) = guests.recorder.events
    assert (told.type, told.reason) == ("Warning", "GuestAgentNotConnected")
    assert (told.about.api_version, told.about.kind) == ("kubevirt.io/v1", "VirtualMachineInstance")
    assert (told.about.namespace, told.about.name, told.about.uid) == (NAMESPACE, "db", "vmi-db")
    assert "filesystem" in told.message


def test_an_agent_that_connects_ends_it_and_its_loss_counts_anew(guests: Guests) -> None:
    guests.instance("db")
    guests.pod("db-pod", "db")
    assert guests.look(GRACE) == 1
    guests.instance("db", agent=True)
    assert guests.look(GRACE) == 0
    guests.instance("db")
    assert guests.look(GRACE - 1) == 0
    assert guests.look(1) == 1
    assert len(guests.recorder.events) == 2
    assert all(told.recurring for told in guests.recorder.events)


def test_other_changes_of_a_guest_do_not_start_its_time_anew(guests: Guests) -> None:
    guests.instance("db")
    guests.pod("db-pod", "db")
    guests.now += GRACE / 2
    guests.gone("other")
    guests.instance("db", phase="Running")
    assert guests.look(GRACE / 2) == 1


@pytest.mark.parametrize(
    ("level", "count"),
    [("filesystem", 1), ("application", 1), ("crash", 0), (None, 0), ("nonsense", 0)],
)
def test_only_levels_that_freeze_need_an_agent(guests: Guests, level: str | None, count: int) -> None:
    guests.instance("db")
    guests.pod("db-pod", "db", level)
    assert guests.look(GRACE) == count
    assert len(guests.recorder.events) == count


def test_a_level_that_changes_takes_effect(guests: Guests) -> None:
    guests.instance("db")
    guests.pod("db-pod", "db", "crash")
    assert guests.look(GRACE) == 0
    guests.pod("db-pod", "db", "application")
    assert guests.look() == 1
    assert "application" in guests.recorder.events[0].message
    guests.pod("db-pod", "db", "crash")
    assert guests.look() == 0


@pytest.mark.parametrize("phase", ["Pending", "Scheduling", "Scheduled", "Succeeded", "Failed", "Unknown", ""])
def test_guests_that_do_not_run_need_none(guests: Guests, phase: str) -> None:
    guests.instance("db", phase=phase)
    guests.pod("db-pod", "db")
    assert guests.look(10 * GRACE) == 0


def test_a_guest_that_is_replaced_under_its_name_is_another_one(guests: Guests) -> None:
    guests.instance("db")
    guests.pod("db-pod", "db")
    assert guests.look(GRACE) == 1
    guests.instance("db", uid="second")
    guests.pod("db-pod-2", "db", uid="second")
    assert guests.look() == 0, "it is booting"
    assert guests.look(GRACE) == 1
    assert [told.about.uid for told in guests.recorder.events] == ["vmi-db", "second"]


def test_two_pods_of_a_migration_are_one_guest(guests: Guests) -> None:
    guests.instance("db")
    guests.pod("source", "db", "crash")
    guests.pod("target", "db", "filesystem")
    assert guests.look(GRACE) == 1
    guests.pods.put((NAMESPACE, "source"), None)
    assert guests.look() == 1
    assert len(guests.recorder.events) == 1
    guests.pods.put((NAMESPACE, "target"), None)
    assert guests.look() == 0, "nothing to back up"


def test_pods_of_other_guests_do_not_count(guests: Guests) -> None:
    guests.instance("db")
    guests.pod("db", "web")
    assert guests.look(GRACE) == 0


def test_guests_that_are_gone_are_forgotten(guests: Guests) -> None:
    for number in range(50):
        guests.instance(f"vm-{number}")
        guests.pod(f"pod-{number}", f"vm-{number}")
    assert guests.look(GRACE) == 50
    for number in range(50):
        guests.gone(f"vm-{number}")
    assert guests.look() == 0
    assert guests.told == set()
    guests.instance("vm-0")
    assert guests.look(GRACE - 1) == 0, "it has the time to boot again"
    assert guests.look(1) == 1


@in_virtual_time
async def test_the_end_of_a_term_shows_nobody_and_leaves_no_subscription() -> None:
    with counted_subscriptions() as subscriptions:
        guests = Guests()
        guests.instance("db")
        guests.pod("db-pod", "db")
        running = asyncio.create_task(guests.agents.run())
        await pass_time(1)
        assert guests.shown == 0
        guests.now += GRACE
        await pass_time(5)
        assert guests.shown == 1
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        assert guests.shown == 0
        guests.index.close()  # which lasts as long as the term
        assert subscriptions.count(guests.pods) == 0


def test_of_thousands_a_few_are_told_at_a_time_and_none_is_forgotten(guests: Guests) -> None:
    for number in range(120):
        guests.instance(f"vm-{number}")
        guests.pod(f"pod-{number}", f"vm-{number}")
    assert guests.look(GRACE) == 120
    assert len(guests.recorder.events) == 50
    assert guests.look(5) == guests.look(5) == 120
    assert len(guests.recorder.events) == 120
    guests.look(5)
    assert len(guests.recorder.events) == 120
