"""The Lease on a real API server: who leads after a release, a crash and a restart of the server."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from app.controllers.leader import Leader
from app.controllers.lease import LeaseTimings
from app.kube.client import KubeClient
from tests.controllers.test_real_api import connections_closed, until
from tests.infra.controlplane import ControlPlane, Json
from tests.infra.installation import NAME, NAMESPACE, Installation

EMPTY: Json = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {"name": NAME, "namespace": NAMESPACE},
}
TIMINGS = LeaseTimings(duration=3, deadline=2, renew=0.5, request=0.9)


@pytest.fixture(scope="module")
def control_plane(real_parts: None) -> Iterator[ControlPlane]:
    with ControlPlane() as started:
        Installation(started).apply()
        yield started


class Candidate:
    """One replica's campaign. `worked` are the stretches of time in which its duties ran."""

    def __init__(self, client: KubeClient, identity: str, worked: list[tuple[float, str, bool]]) -> None:
        self.client, self.identity, self.worked = client, identity, worked
        self.leader = Leader(client, namespace=NAMESPACE, name=NAME, identity=identity, timings=TIMINGS)
        self.task = asyncio.create_task(self.leader.run(client, self._duties))

    async def _duties(self) -> None:
        self.worked.append((time.monotonic(), self.identity, True))
        try:
            await asyncio.Event().wait()
        finally:
            self.worked.append((time.monotonic(), self.identity, False))

    async def stop(self) -> None:
        """As on SIGTERM."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.client.close()

    async def kill(self) -> None:
        """As by SIGKILL: nothing that it still wants to say arrives, and what it does ends."""

        async def dead(*_: object, **__: object) -> Json:
            raise asyncio.CancelledError

        self.client.get = self.client.patch = dead  # type: ignore[method-assign]
        await self.stop()


@pytest.fixture
async def candidates(control_plane: ControlPlane) -> AsyncIterator[list[Candidate]]:
    if control_plane.client.find("leases", NAME, NAMESPACE):
        control_plane.client.delete("leases", NAME, NAMESPACE)
    control_plane.client.create(EMPTY)
    kubeconfig = control_plane.kubeconfig_for(NAMESPACE, NAME)
    worked: list[tuple[float, str, bool]] = []
    async with AsyncExitStack() as stack:
        made = []
        for number in range(3):
            made.append(Candidate(await KubeClient.connect(kubeconfig), f"candidate-{number}", worked))
            stack.push_async_callback(made[-1].stop)
        yield made
    await connections_closed()
    assert alone(worked)


def alone(worked: list[tuple[float, str, bool]]) -> bool:
    """Whether there was never a second one at work."""
    at_work: list[str] = []
    for _, identity, begins in sorted(worked):
        if begins:
            at_work.append(identity)
        else:
            at_work.remove(identity)
        if len(at_work) > 1:
            return False
    return bool(worked)


async def the_leader(candidates: list[Candidate]) -> Candidate:
    return await until(lambda: next((one for one in candidates if one.leader.leading), None), seconds=15)


def lease(control_plane: ControlPlane) -> Json:
    found: Json = control_plane.client.get("leases", NAME, NAMESPACE)["spec"]
    return found


async def test_a_release_is_seen_at_once(control_plane: ControlPlane, candidates: list[Candidate]) -> None:
    first = await the_leader(candidates)
    others = [one for one in candidates if one is not first]
    await asyncio.sleep(1)  # the others' watches are open
    begin = time.monotonic()
    await first.stop()
    second = await the_leader(others)
    print(f"hand-over after a release: {time.monotonic() - begin:.3f} s")
    assert time.monotonic() - begin < 1
    assert lease(control_plane)["leaseTransitions"] == 2
    await second.stop()
    await the_leader([one for one in others if one is not second])
    shown = control_plane.kubectl("get", "lease", NAME, "-n", NAMESPACE).split()
    assert {NAME, lease(control_plane)["holderIdentity"]} <= set(shown)


async def test_after_a_crash_another_takes_over_when_the_lease_has_expired(
    control_plane: ControlPlane, candidates: list[Candidate]
) -> None:
    first = await the_leader(candidates)
    await asyncio.sleep(1)
    begin = time.monotonic()
    await first.kill()
    assert lease(control_plane)["holderIdentity"] == first.identity
    await the_leader([one for one in candidates if one is not first])
    print(f"take-over after a crash: {time.monotonic() - begin:.3f} s of a Lease of {TIMINGS.duration} s")
    assert TIMINGS.deadline - TIMINGS.renew < time.monotonic() - begin < TIMINGS.duration + 1


async def test_followers_ask_for_nothing(control_plane: ControlPlane, candidates: list[Candidate]) -> None:
    first = await the_leader(candidates)
    await asyncio.sleep(1)
    since = control_plane.audit_position()
    await asyncio.sleep(2 * TIMINGS.duration)
    events = control_plane.audit_events(since=since, resource="leases", namespace=NAMESPACE)
    renewals = [event for event in events if event["verb"] == "patch"]
    others = [event for event in events if event["verb"] != "patch"]
    assert 10 <= len(renewals) <= 17  # one every half second
    assert len(others) <= 6  # a look or two of each follower when it would expire
    assert first.leader.leading


async def test_the_server_is_killed_and_restarted(control_plane: ControlPlane, candidates: list[Candidate]) -> None:
    first = await the_leader(candidates)
    control_plane.apiserver.kill()
    begin = time.monotonic()
    await until(lambda: not any(one.leader.leading for one in candidates), seconds=TIMINGS.deadline + 1)
    assert time.monotonic() - begin < TIMINGS.deadline + 0.5
    await asyncio.to_thread(control_plane.apiserver.start)
    await the_leader(candidates)
    assert not any(one.task.done() for one in candidates)
    assert first.worked[1][1:] == (first.identity, False)


async def test_a_server_that_does_not_answer(control_plane: ControlPlane, candidates: list[Candidate]) -> None:
    await the_leader(candidates)
    control_plane.etcd.pause()
    try:
        await until(lambda: not any(one.leader.leading for one in candidates), seconds=TIMINGS.deadline + 0.5)
        await until(lambda: len(candidates[0].worked) == 2, seconds=0.5)  # the duties have ended
    finally:
        control_plane.etcd.resume()
    await the_leader(candidates)


async def test_a_lease_deleted_and_applied_again(control_plane: ControlPlane, candidates: list[Candidate]) -> None:
    await the_leader(candidates)
    await asyncio.sleep(1)
    control_plane.client.delete("leases", NAME, NAMESPACE)
    await until(lambda: not any(one.leader.leading for one in candidates), seconds=1)
    Installation(control_plane).apply()
    await the_leader(candidates)


async def test_applying_the_manifests_again_leaves_the_leader(
    control_plane: ControlPlane, candidates: list[Candidate]
) -> None:
    first = await the_leader(candidates)
    await asyncio.to_thread(Installation(control_plane).apply)
    await asyncio.sleep(2 * TIMINGS.renew)
    assert first.leader.leading
    assert lease(control_plane)["leaseTransitions"] == 1
