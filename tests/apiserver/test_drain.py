"""A rolling update: a replica that is told to end loses no review, and no pod goes without its hooks."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.apiserver.pods import LEVEL, decided, owner_of, pod_like_a_launcher
from tests.apiserver.routing import failed_open, lead_to
from tests.infra.controlplane import Client, Json, launcher_pod, make_vm, wait_for
from tests.infra.installation import Installation, Replica

DRAIN_SECONDS = 5.0
CREATORS = 4


@pytest.fixture
def leaving(installation: Installation) -> Iterator[Replica]:
    """A second replica, called by the API server; afterwards the first one is called again."""
    replica = installation.replica(env={"VM_CONSISTENCY_DRAIN_DELAY": str(DRAIN_SECONDS)})
    replica.process.start()
    lead_to(installation, replica)
    yield replica
    lead_to(installation, installation.replicas[0])
    replica.process.stop()
    installation.replicas.remove(replica)


class Creators:
    """Threads that create one pod after the other, on trial, and keep what came of it."""

    def __init__(self, client: Client, pod: Json) -> None:
        self._client, self._pod = client, pod
        self._over = threading.Event()
        self.levels: list[str | None] = []

    @contextmanager
    def running(self) -> Iterator["Creators"]:
        """Create pods until the end of the context; an error of any of them is one of the test."""
        with ThreadPoolExecutor(CREATORS) as pool:
            futures = [pool.submit(self._create) for _ in range(CREATORS)]
            try:
                yield self
            finally:
                self._over.set()
            for future in futures:
                future.result()

    def more(self, number: int) -> None:
        """Wait for so many more pods."""
        wanted = len(self.levels) + number
        wait_for(lambda: len(self.levels) >= wanted, what=f"{number} more pods")

    def _create(self) -> None:
        while not self._over.is_set():
            self.levels.append(decided(self._client.create(self._pod, dry_run=True))[0])


def test_no_review_is_lost_while_a_replica_ends(
    installation: Installation, client: Client, namespace: str, leaving: Replica
) -> None:
    client.create(make_vm("db", namespace, annotations={LEVEL: "crash"}))
    launcher_pod(client, "db", namespace)
    owner = owner_of(client.get("virtualmachineinstances", "db", namespace))
    without_us = failed_open(installation)

    with Creators(client, pod_like_a_launcher(namespace, owner)).running() as creators:
        creators.more(20)
        began = time.monotonic()
        leaving.process.terminate()
        wait_for(lambda: leaving.ops("/readyz")[0] == 503, what="the replica to say that it leaves")
        assert leaving.ops("/livez")[0] == 200, "or the kubelet would kill it"
        creators.more(20)  # the Service still leads to it
        installation.route_to(installation.replicas[0].url)  # what the change of readiness brings about in a cluster
        assert leaving.process.exit_code(60) == 0
        assert time.monotonic() - began >= DRAIN_SECONDS
        creators.more(20)

    assert set(creators.levels) == {"crash"}
    assert failed_open(installation) == without_us
    assert leaving.log_lines()[-1]["severity"] != "error"


def test_vms_are_created_all_the_while(
    installation: Installation, client: Client, namespace: str, leaving: Replica
) -> None:
    without_us = failed_open(installation)
    names = [f"vm-{number}" for number in range(30)]

    def create(names: list[str]) -> None:
        for name in names:
            client.create(make_vm(name, namespace, annotations={LEVEL: "crash"}))

    create(names[:10])
    leaving.process.terminate()
    create(names[10:20])
    installation.route_to(installation.replicas[0].url)
    create(names[20:])

    assert {decided(launcher_pod(client, name, namespace)) for name in names} == {("crash", "vm")}
    assert leaving.process.exit_code(60) == 0
    assert failed_open(installation) == without_us
