"""Events on a real API server, by the shipped permissions."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.controllers.events.recorder import NORMAL, WARNING, EventRecorder, ObjectRef, Result
from app.controllers.policy.active import PolicyKeeper, digest
from app.controllers.policy.config_map import ConfigMapPolicy
from app.controllers.policy.status import PolicyStatus
from app.controllers.reconcile_loop import Pace
from app.core.annotations import POLICY_ACCEPTED, POLICY_STATE
from app.kube.client import KubeClient
from app.settings import Settings
from tests.controllers.certificates.test_real_api import until
from tests.infra.controlplane import ControlPlane, Json, make_namespace, make_vmi
from tests.infra.installation import NAME, NAMESPACE, POLICY, Installation, policy_text
from tests.kube.support import connections_closed


class Written:
    """A recorder with a connection of its own, and what became of its Events."""

    def __init__(self, instance: str) -> None:
        self.results: list[Result] = []
        self.recorder = EventRecorder(
            instance=instance, on_result=lambda _, result: self.results.append(result), interval=0.5
        )
        self.record = self.recorder.record

    @asynccontextmanager
    async def running(self, control_plane: ControlPlane) -> AsyncIterator[None]:
        client = await KubeClient.connect(control_plane.kubeconfig_for(NAMESPACE, NAME))
        task = asyncio.create_task(self.recorder.run(client))
        try:
            yield
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await client.close()
            await connections_closed()

    async def settled(self, result: Result = "sent", *, number: int = 2) -> None:
        await until(lambda: self.results == [result] * number, lambda: self.results)


def reference(item: Json) -> ObjectRef:
    metadata = item["metadata"]
    return ObjectRef(item["apiVersion"], item["kind"], metadata["namespace"], metadata["name"], metadata["uid"])


def events(control_plane: ControlPlane, namespace: str) -> list[Json]:
    return control_plane.client.list("events", namespace)


async def test_kubectl_describe_shows_it(control_plane: ControlPlane) -> None:
    control_plane.client.create(make_namespace("shop"))
    vmi = control_plane.client.create(make_vmi("a" * 60 + "." + "b" * 60, "shop"))
    one = Written("replica-1")
    long = "übergroß " * 200
    async with one.running(control_plane):
        one.record(reference(vmi), NORMAL, "LevelChanged", "the level is now filesystem")
        one.record(reference(vmi), WARNING, "HooksNotWritten", long)
        await one.settled()
    shown = control_plane.kubectl("describe", "vmi", vmi["metadata"]["name"], "-n", "shop")
    assert "the level is now filesystem" in shown
    assert "vm-consistency" in shown
    assert "übergroß" in shown


async def test_counts_rise_across_leaders(control_plane: ControlPlane) -> None:
    policy = reference(control_plane.client.get("configmaps", POLICY, NAMESPACE))
    for number in (1, 2):
        one = Written(f"replica-{number}")
        async with one.running(control_plane):
            one.record(policy, WARNING, "PolicyRejected", "rules[0]: no")
            one.record(policy, WARNING, "HooksOverwritten", "again", recurring=True)
            await one.settled(number=3 - number)
            for _ in range(3):
                one.record(policy, WARNING, "HooksOverwritten", "again", recurring=True)
            one.record(policy, WARNING, "PolicyRejected", "rules[0]: no")
            await one.settled(number=4 - number)
        counts = {event["reason"]: event["count"] for event in events(control_plane, NAMESPACE)}
        assert counts == {"PolicyRejected": 1, "HooksOverwritten": 4 * number}


async def test_a_namespace_that_goes_takes_its_events_with_it(
    control_plane: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    control_plane.client.create(make_namespace("going"))
    vmi = reference(control_plane.client.create(make_vmi("db", "going")))
    control_plane.client.delete("namespaces", "going")  # stays Terminating: nobody here empties it
    one = Written("replica-1")
    async with one.running(control_plane):
        one.record(vmi, NORMAL, "LevelChanged", "too late")
        one.record(ObjectRef("v1", "Pod", "gone", "db", "uid"), NORMAL, "LevelChanged", "far too late")
        await one.settled("dropped")
    assert caplog.records == []


async def test_the_policy_s_state_stands_on_its_configmap(control_plane: ControlPlane) -> None:
    """With the controller that reads the policy, as a leader has it; neither wakes the other for ever."""
    installation = Installation(control_plane)
    kubeconfig = control_plane.kubeconfig_for(NAMESPACE, NAME)
    client = await KubeClient.connect(kubeconfig)
    one, keeper = Written("replica-1"), PolicyKeeper(lambda state, good: None)
    status = PolicyStatus(client, keeper, one.recorder, namespace=NAMESPACE, name=POLICY, pace=Pace(0.1))
    keeper.listen(status.wake)
    policy = ConfigMapPolicy(client, Settings(namespace=NAMESPACE), keeper)

    def seen() -> tuple[str | None, ...]:
        annotations = control_plane.client.get("configmaps", POLICY, NAMESPACE)["metadata"].get("annotations") or {}
        return annotations.get(POLICY_STATE), annotations.get(POLICY_ACCEPTED)

    async def shown(state: str, accepted: str | None) -> None:
        await until(lambda: seen() == (state, accepted), seen)

    async with one.running(control_plane):
        tasks = [asyncio.create_task(policy.run()), asyncio.create_task(status.run(client))]
        good, bad = policy_text({"default": {"level": "crash"}}), "mode: none"
        installation.set_policy(good)
        await shown("valid", digest(good))
        installation.set_policy(bad)
        await shown("last-good", digest(good))
        installation.set_policy(None)
        installation.set_policy(bad)  # as a GitOps tool does it
        await shown("last-good", digest(good))
        since = control_plane.audit_position()
        await asyncio.sleep(2)
        requests = control_plane.audit_events(since=since, resource="configmaps", name=POLICY)
        assert [event["verb"] for event in requests if event["verb"] != "watch"] in ([], ["get"])
        await until(lambda: len(one.results) >= 3, lambda: one.results)
        for task in tasks:
            assert not task.done(), task
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()
    shown_to_people = control_plane.kubectl("describe", "configmap", POLICY, "-n", NAMESPACE)
    assert "PolicyRejected" in shown_to_people
    assert "mode" in shown_to_people
