"""Whom the API server calls, changed by a test; and the certain knowledge that the change has arrived."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.apiserver.pods import pod_like_a_launcher
from tests.infra.controlplane import Client, wait_for
from tests.infra.installation import NAME, Installation, Replica

WEBHOOK = "pods.vm-consistency.io"
_REVIEWS = "vm_consistency_admission_seconds_count"


def probe(client: Client) -> None:
    """Have the API server call the webhook once, with a pod that belongs to no VM and is not stored."""
    client.create(pod_like_a_launcher("default", None), dry_run=True)


def lead_to(installation: Installation, replica: Replica) -> None:
    """Route the registration to `replica`, and return when the API server calls it."""
    before = replica.metric(_REVIEWS)
    installation.route_to(replica.url)
    _until(installation.cp.client, lambda: replica.metric(_REVIEWS) > before, f"calls of {replica.process.name}")


def lead_astray(installation: Installation, url: str, arrived: Callable[[], bool]) -> None:
    """Route the registration to `url`, and return when `arrived` tells that the API server has followed."""
    installation.route_to(url)
    _until(installation.cp.client, arrived, f"calls of {url}")


def _until(client: Client, arrived: Callable[[], bool], what: str) -> None:
    def look() -> bool:
        probe(client)
        return arrived()

    wait_for(look, what=what)


@contextmanager
def unregistered(installation: Installation) -> Iterator[None]:
    """Take the registration away; at the end it is put back, and the first replica called again."""
    client = installation.cp.client
    kept = client.get("mutatingwebhookconfigurations", NAME)
    client.delete("mutatingwebhookconfigurations", NAME)
    try:
        yield
    finally:
        del kept["metadata"]["resourceVersion"], kept["metadata"]["uid"]
        client.create(kept)
        lead_to(installation, installation.replicas[0])
        installation.replicas[0].wait_ready()


def failed_open(installation: Installation) -> float:
    """How often the API server went on without an answer of the webhook."""
    return installation.cp.metric("apiserver_admission_webhook_fail_open_count", name=WEBHOOK)
