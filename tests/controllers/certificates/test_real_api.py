"""Certificates on a real API server: the shipped permissions, several replicas, the API server as the client."""

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from app.controllers.certificates.ca_injector import CaInjector
from app.controllers.certificates.secret import CertificateController
from app.controllers.reconcile_loop import Pace, Problem
from app.kube.client import JSON_PATCH, ApiError, KubeClient
from app.kube.resources import MUTATING_WEBHOOKS, SECRETS
from app.tls.serving import ServingContext
from app.tls.x509 import ca_certificates
from tests.infra.controlplane import ControlPlane, Json
from tests.infra.installation import NAME, NAMESPACE, WEBHOOK_USER, Installation
from tests.kube.support import connections_closed
from tests.tls.https import LOOPBACK, server

T = TypeVar("T")
SECRET = "vm-consistency-certs"
EMPTY: Json = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": NAMESPACE}}
CONFIGURATION = MUTATING_WEBHOOKS.object(NAME)
NAMES = ("vm-consistency.vm-consistency.svc", LOOPBACK)


@pytest.fixture(autouse=True)
def freshly_installed(control_plane: ControlPlane) -> None:
    """The Secret empty and the registration without a CA bundle, as the manifests bring them."""
    client = control_plane.client
    if client.find("secrets", SECRET, NAMESPACE):
        client.delete("secrets", SECRET, NAMESPACE)
    if client.find("mutatingwebhookconfigurations", NAME):
        client.delete("mutatingwebhookconfigurations", NAME)
    Installation(control_plane).apply()


@dataclass
class Replica:
    """The two controllers of one process, with a connection of their own."""

    client: KubeClient
    certificates: CertificateController
    injector: CaInjector

    @property
    def serving(self) -> ServingContext:
        return self.certificates.serving

    @property
    def problem(self) -> str | None:
        return self.certificates.problem() or self.injector.problem()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Replica"]:
        tasks = [
            asyncio.create_task(self.certificates.run(self.client)),
            asyncio.create_task(self.injector.run(self.client)),
        ]
        yield self
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def replicas(control_plane: ControlPlane) -> AsyncIterator[list[Replica]]:
    kubeconfig = control_plane.kubeconfig_for(NAMESPACE, NAME)
    made = []
    for _ in range(3):
        client, serving = await KubeClient.connect(kubeconfig), ServingContext(NAMES)
        pace = Pace(0.2)
        certificates = CertificateController(client, serving, namespace=NAMESPACE, secret=SECRET, pace=pace)
        injector = CaInjector(client, certificates, serving, name=NAME, pace=Pace(0.2))
        certificates.listen(injector.wake)
        made.append(Replica(client, certificates, injector))
    yield made
    for one in made:
        await one.client.close()
    await connections_closed()


@pytest.fixture
async def replica(replicas: list[Replica]) -> AsyncIterator[Replica]:
    """One replica, running and ready."""
    async with replicas[0].running() as one:
        await until(lambda: one.problem is None, lambda: one.problem)
        yield one


async def until(
    condition: Callable[[], T | None], seen: Callable[[], object] = lambda: "nothing", seconds: float = 60
) -> T:
    try:
        async with asyncio.timeout(seconds):
            while not (value := await asyncio.to_thread(condition)):  # noqa: ASYNC110 - it is in another process
                await asyncio.sleep(0.02)
            return value
    except TimeoutError:
        raise AssertionError(f"still not so after {seconds} s; seen: {seen()}") from None


def secret(control_plane: ControlPlane) -> Json:
    return control_plane.client.get("secrets", SECRET, NAMESPACE)


def registration(control_plane: ControlPlane) -> Json:
    return control_plane.client.get("mutatingwebhookconfigurations", NAME)


def version(item: Json) -> str:
    found: str = item["metadata"]["resourceVersion"]
    return found


def bundle(control_plane: ControlPlane) -> bytes:
    return b64decode(registration(control_plane)["webhooks"][0]["clientConfig"].get("caBundle", ""))


def edit_bundle(control_plane: ControlPlane, value: bytes) -> None:
    patch = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": b64encode(value).decode()}]
    control_plane.client.patch("mutatingwebhookconfigurations", NAME, patch)


async def test_replicas_that_start_at_once_end_with_one_ca_and_one_leaf(
    control_plane: ControlPlane, replicas: list[Replica]
) -> None:
    since = control_plane.audit_position()
    async with AsyncExitStack() as stack:
        for one in replicas:
            await stack.enter_async_context(one.running())
        for one in replicas:
            await until(lambda one=one: one.problem is None, lambda one=one: one.problem)  # type: ignore[misc]
    assert len({one.serving.fingerprint for one in replicas}) == 1
    held = b64decode(secret(control_plane)["data"]["ca.crt"])
    assert {one.certificates.ca_pem for one in replicas} == {held} == {bundle(control_plane)}
    assert len(ca_certificates(held)) == 1
    patches = control_plane.audit_events(since=since, user=WEBHOOK_USER, verb="patch", resource="secrets")
    assert [event["responseStatus"]["code"] for event in patches].count(200) == 1


async def test_nothing_is_written_when_all_is_well(
    control_plane: ControlPlane, replica: Replica, replicas: list[Replica]
) -> None:
    before = version(secret(control_plane)), version(registration(control_plane))
    for one in replicas:
        for _ in range(5):
            await one.certificates.reconcile()
            await one.injector.reconcile()
    assert (version(secret(control_plane)), version(registration(control_plane))) == before


@pytest.mark.parametrize("edited", [b"", b"junk"], ids=["emptied", "junk"])
async def test_an_edited_bundle_is_repaired(control_plane: ControlPlane, replica: Replica, edited: bytes) -> None:
    good = bundle(control_plane)
    edit_bundle(control_plane, edited)
    await until(lambda: bundle(control_plane) == good, lambda: bundle(control_plane))
    await until(lambda: replica.problem is None, lambda: replica.problem)


@pytest.mark.parametrize("key", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
async def test_an_edited_secret_is_repaired_and_every_replica_follows(
    control_plane: ControlPlane, replica: Replica, replicas: list[Replica], key: str
) -> None:
    ca = ca_certificates(replica.certificates.ca_pem)[0]
    async with replicas[1].running() as another:
        await until(lambda: another.problem is None, lambda: another.problem)
        control_plane.client.patch("secrets", SECRET, {"data": {key: None}}, NAMESPACE)
        await until(lambda: secret(control_plane)["data"].get(key))
        held = b64decode(secret(control_plane)["data"]["ca.crt"])
        for one in (replica, another):
            await until(lambda one=one: one.certificates.ca_pem == held == bundle(control_plane))  # type: ignore[misc]
            assert one.problem is None
    assert ca in ca_certificates(held)
    assert replica.serving.fingerprint == another.serving.fingerprint


async def test_a_registration_that_goes_and_comes_back(control_plane: ControlPlane, replica: Replica) -> None:
    control_plane.client.delete("mutatingwebhookconfigurations", NAME)
    gone = f"mutatingwebhookconfiguration {NAME} does not exist: apply the manifests, which bring it"
    await until(lambda: replica.problem == gone, lambda: replica.problem)
    Installation(control_plane).apply()
    await until(lambda: replica.problem is None, lambda: replica.problem)
    assert bundle(control_plane) == replica.certificates.ca_pem


async def test_without_its_secret_a_replica_says_what_to_do(
    control_plane: ControlPlane, replicas: list[Replica]
) -> None:
    control_plane.client.delete("secrets", SECRET, NAMESPACE)
    async with replicas[0].running() as one:
        want = f"Secret {NAMESPACE}/{SECRET} does not exist: apply the manifests, which bring it"
        await until(lambda: want in (one.problem or ""), lambda: one.problem)
        Installation(control_plane).apply()
        await until(lambda: one.problem is None, lambda: one.problem)


async def test_refusals_are_those_that_the_controllers_expect(control_plane: ControlPlane, replica: Replica) -> None:
    stale: Json = {"metadata": {"resourceVersion": "1"}, "data": {"other": "aGk="}}
    with pytest.raises(ApiError) as conflict:
        await replica.client.patch(SECRETS.object(SECRET, NAMESPACE), stale)
    assert (conflict.value.status, conflict.value.reason) == (409, "Conflict")
    for path in ("/metadata/resourceVersion", "/webhooks/0/name"):
        patch = [{"op": "test", "path": path, "value": "1"}]
        with pytest.raises(ApiError) as refused:
            await replica.client.patch(CONFIGURATION, patch, JSON_PATCH)
        assert refused.value.status == 422


async def test_an_immutable_secret_is_named(control_plane: ControlPlane, replicas: list[Replica]) -> None:
    control_plane.client.patch("secrets", SECRET, {"immutable": True}, NAMESPACE)
    with pytest.raises(Problem, match=f"Secret {NAMESPACE}/{SECRET} can't be written: 422 Invalid.*immutable"):
        await replicas[0].certificates.reconcile()


class Reviews:
    """Allows every review and counts them; each takes a connection, and so a handshake, of its own."""

    def __init__(self) -> None:
        self.answered = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        response = {"uid": json.loads(body)["request"]["uid"], "allowed": True}
        answer = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        self.answered += 1  # before the answer, which wakes the test in another thread
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


LAUNCHER: Json = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "virt-launcher-", "namespace": "default", "labels": {"kubevirt.io": "virt-launcher"}},
    "spec": {"containers": [{"name": "compute", "image": "example.invalid/launcher"}]},
}


async def test_the_api_server_trusts_every_certificate_in_turn(control_plane: ControlPlane, replica: Replica) -> None:
    """A registration fails open, so a review that arrives is the proof; here a failed handshake is a refusal too."""
    reviews = Reviews()

    async def create() -> None:
        before = reviews.answered
        await asyncio.to_thread(control_plane.client.create, LAUNCHER, dry_run=True)
        assert reviews.answered == before + 1

    with server(replica.serving, "uvloop", reviews) as port:
        await asyncio.to_thread(Installation(control_plane).route_to, f"https://{LOOPBACK}:{port}/mutate/pods")
        await until(lambda: replica.problem is None, lambda: replica.problem)
        await until(lambda: _reaches(control_plane, reviews))
        for key in ("tls.key", "ca.key", "tls.crt"):  # another leaf; another CA beside the old one; a leaf of that
            held = replica.serving.bundle
            await asyncio.to_thread(control_plane.client.patch, "secrets", SECRET, {"data": {key: None}}, NAMESPACE)
            await until(lambda held=held: replica.serving.bundle != held and replica.problem is None)  # type: ignore[misc]
            await until(lambda: _reaches(control_plane, reviews))
            for _ in range(5):
                await create()


async def test_a_secret_deleted_and_applied_again_costs_no_review(
    control_plane: ControlPlane, replicas: list[Replica]
) -> None:
    reviews, one = Reviews(), replicas[0]

    with server(one.serving, "uvloop", reviews) as port:
        await asyncio.to_thread(Installation(control_plane).route_to, f"https://{LOOPBACK}:{port}/mutate/pods")
        await one.certificates.reconcile()
        await one.injector.reconcile()
        await until(lambda: _reaches(control_plane, reviews))
        known = bundle(control_plane)
        await asyncio.to_thread(control_plane.client.delete, "secrets", SECRET, NAMESPACE)
        await asyncio.to_thread(control_plane.client.create, EMPTY)
        while delay := await one.certificates.reconcile():  # noqa: ASYNC110 - the controller asks for the pause
            await asyncio.sleep(delay)
        assert one.certificates.ca_pem != known == bundle(control_plane)  # the moment before the injector writes
        assert await asyncio.to_thread(_reaches, control_plane, reviews)


def _reaches(control_plane: ControlPlane, reviews: Reviews) -> bool:
    before = reviews.answered
    control_plane.client.create(LAUNCHER, dry_run=True)
    return reviews.answered > before
