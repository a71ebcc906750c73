"""The Lease on a real API server: who leads after a release, a crash and a restart of the server."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from app.controllers.leader.election import Leader
from app.controllers.leader.lease import LeaseTimings
from app.kube.client import KubeClient
from tests.controllers.certificates.test_real_api import until
from tests.infra.controlplane import ControlPlane, Json
from tests.infra.installation import NAME, NAMESPACE, Installation
from tests.kube.support import connections_closed

CANDIDATES = 3
EMPTY: Json = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {"name": NAME, "namespace": NAMESPACE},
}
TIMINGS = LeaseTimings(duration=8, deadline=5, renew=0.5, request=2)
PATIENT = LeaseTimings(duration=60, deadline=40, renew=0.5, request=10)
"""No Lease expires while a test runs, however busy the machine is."""
patiently = pytest.mark.parametrize("timings", [PATIENT], ids=["patient"])


class Candidate:
    """One replica's campaign. `worked` are the stretches of time in which its duties ran."""

    def __init__(
        self, client: KubeClient, identity: str, worked: list[tuple[float, str, bool]], timings: LeaseTimings
    ) -> None:
        self.client, self.identity, self.worked = client, identity, worked
        self.leader = Leader(client, namespace=NAMESPACE, name=NAME, identity=identity, timings=timings)
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
def timings() -> LeaseTimings:
    return TIMINGS


@pytest.fixture
async def candidates(control_plane: ControlPlane, timings: LeaseTimings) -> AsyncIterator[list[Candidate]]:
    if control_plane.client.find("leases", NAME, NAMESPACE):
        control_plane.client.delete("leases", NAME, NAMESPACE)
    control_plane.client.create(EMPTY)
    kubeconfig = control_plane.kubeconfig_for(NAMESPACE, NAME)
    worked: list[tuple[float, str, bool]] = []
    async with AsyncExitStack() as stack:
        made = []
        for number in range(CANDIDATES):
            client = await KubeClient.connect(kubeconfig)
            made.append(Candidate(client, f"candidate-{number}", worked, timings))
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
    return await until(lambda: next((one for one in candidates if one.leader.leading), None))


def lease(control_plane: ControlPlane) -> Json:
    found: Json = control_plane.client.get("leases", NAME, NAMESPACE)["spec"]
    return found


async def all_know(leader: Candidate, control_plane: ControlPlane) -> None:
    """Wait until every candidate has a watch on the Lease: the API server counts them."""

    def watches() -> float:
        return control_plane.metric("apiserver_longrunning_requests", resource="leases", scope="resource", verb="WATCH")

    await until(lambda: watches() >= CANDIDATES, watches)
    assert leader.leader.leading


@patiently
async def test_a_release_is_seen_at_once(control_plane: ControlPlane, candidates: list[Candidate]) -> None:
    first = await the_leader(candidates)
    others = [one for one in candidates if one is not first]
    await all_know(first, control_plane)
    begin = time.monotonic()
    await first.stop()
    second = await the_leader(others)
    print(f"hand-over after a release: {time.monotonic() - begin:.3f} s")
    assert time.monotonic() - begin < PATIENT.duration / 4, "the Lease was released, not left to expire"
    assert lease(control_plane)["leaseTransitions"] == 2
    await second.stop()
    await the_leader([one for one in others if one is not second])
    shown = control_plane.kubectl("get", "lease", NAME, "-n", NAMESPACE).split()
    assert {NAME, lease(control_plane)["holderIdentity"]} <= set(shown)


async def test_after_a_crash_another_takes_over_when_the_lease_has_expired(
    control_plane: ControlPlane, candidates: list[Candidate]
) -> None:
    first = await the_leader(candidates)
    await all_know(first, control_plane)
    begin = time.monotonic()
    await first.kill()
    assert lease(control_plane)["holderIdentity"] == first.identity
    await the_leader([one for one in candidates if one is not first])
    print(f"take-over after a crash: {time.monotonic() - begin:.3f} s of a Lease of {TIMINGS.duration} s")
    assert time.monotonic() - begin > TIMINGS.deadline - TIMINGS.renew


@patiently
async def test_followers_ask_for_nothing(control_plane: ControlPlane, candidates: list[Candidate]) -> None:
    first = await the_leader(candidates)
    await all_know(first, control_plane)
    since = control_plane.audit_position()
    await asyncio.sleep(6)  # the length of a measurement
    events = control_plane.audit_events(since=since, resource="leases", namespace=NAMESPACE)
    renewals = [event for event in events if event["verb"] == "patch"]
    others = [event for event in events if event["verb"] != "patch"]
    assert 3 <= len(renewals) <= 17  # one every half second, fewer on a busy machine
    assert others == []
    assert first.leader.leading


async def test_the_server_is_killed_and_restarted(control_plane: ControlPlane, candidates: list[Candidate]) -> None:
    first = await the_leader(candidates)
    control_plane.apiserver.kill()
    begin = time.monotonic()
    await until(lambda: not any(one.leader.leading for one in candidates))
    assert time.monotonic() - begin < TIMINGS.duration, "before another could lead"
    await asyncio.to_thread(control_plane.apiserver.start)
    await the_leader(candidates)
    assert not any(one.task.done() for one in candidates)
    assert first.worked[1][1:] == (first.identity, False)


async def test_a_server_that_does_not_answer(control_plane: ControlPlane, candidates: list[Candidate]) -> None:
    await the_leader(candidates)
    control_plane.etcd.pause()
    try:
        begin = time.monotonic()
        await until(lambda: not any(one.leader.leading for one in candidates))
        assert time.monotonic() - begin < TIMINGS.duration, "before another could lead"
        await until(lambda: len(candidates[0].worked) == 2)  # the duties have ended
    finally:
        control_plane.etcd.resume()
    await the_leader(candidates)


@patiently
async def test_a_lease_deleted_and_applied_again(control_plane: ControlPlane, candidates: list[Candidate]) -> None:
    first = await the_leader(candidates)
    await all_know(first, control_plane)
    control_plane.client.delete("leases", NAME, NAMESPACE)
    await until(lambda: not any(one.leader.leading for one in candidates), seconds=PATIENT.deadline / 2)
    Installation(control_plane).apply()
    await the_leader(candidates)


@patiently
async def test_applying_the_manifests_again_leaves_the_leader(
    control_plane: ControlPlane, candidates: list[Candidate]
) -> None:
    first = await the_leader(candidates)
    await asyncio.to_thread(Installation(control_plane).apply)
    await asyncio.sleep(2 * TIMINGS.renew)
    assert first.leader.leading
    assert lease(control_plane)["leaseTransitions"] == 1
