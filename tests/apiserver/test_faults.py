"""A webhook that is down or talks nonsense: VMs start all the same, with what KubeVirt wrote on their pods.

The registration is the shipped one, with only its address changed.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.apiserver.creation import start_vm, timeout_of
from tests.apiserver.pods import PRE, decided, hooks, kubevirt_hooks, owner_of, pod_like_a_launcher, record
from tests.apiserver.routing import failed_open, lead_astray, lead_to
from tests.infra.controlplane import ApiError, Json, launcher_pod, make_vm
from tests.infra.installation import Installation
from tests.infra.stand_ins.http_server import HttpResponse
from tests.infra.stand_ins.webhook import ReviewAnswer, StandInWebhook, allowing, installed_ca, other_ca, patching

SLOW = 15.0
MARGIN = 5.0
"""Seconds beyond the webhook's timeout that a request may take on a busy machine."""


pytestmark = pytest.mark.usefixtures("undisturbed_apart")


@pytest.fixture(autouse=True)
def _called_again(apart: Installation) -> Iterator[None]:
    yield
    lead_to(apart, apart.replicas[0])


StandIn = Callable[[ReviewAnswer], StandInWebhook]


@pytest.fixture
def stand_in(apart: Installation) -> Iterator[StandIn]:
    """Have the API server call a stand-in instead of the webhook."""
    with ExitStack() as running:

        def lead(answer: ReviewAnswer) -> StandInWebhook:
            webhook = running.enter_context(StandInWebhook(installed_ca(apart.cp.client), answer))
            lead_astray(apart, webhook.url, lambda: webhook.probes > 0)
            return webhook

        yield lead


def assert_starts_without_us(installation: Installation, namespace: str) -> None:
    """A VM's pod is created within the timeout, and is what KubeVirt made of it."""
    before = failed_open(installation)
    pod, creation = start_vm(installation.cp, "db", namespace)

    assert creation.seconds < timeout_of(installation) + MARGIN
    assert creation.failed_open, "or else nothing failed"
    assert failed_open(installation) > before
    assert hooks(pod) == kubevirt_hooks("db", namespace)
    assert record(pod) == {}


def other_json(request: Json) -> HttpResponse:
    return HttpResponse(body=json.dumps({"apiVersion": "v1", "kind": "Status", "status": "Success"}).encode())


def no_response(request: Json) -> HttpResponse:
    return HttpResponse(body=json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}).encode())


NONSENSE: dict[str, ReviewAnswer] = {
    "no-json": lambda request: HttpResponse(body=b"<html>It works!</html>"),
    "other-json": other_json,
    "no-response": no_response,
    "empty": lambda request: HttpResponse(),
    "wrong-uid": lambda request: allowing(request, uid="somebody-else"),
    "patch-that-is-no-base64": lambda request: allowing(request, patchType="JSONPatch", patch="%%%"),
    "patch-that-is-no-json": lambda request: patching(request, b"remove the hooks, please"),
    "patch-without-a-type": lambda request: allowing(request, patch="W10="),
    "http-500": lambda request: HttpResponse(500, b"Internal Server Error"),
    "http-404": lambda request: HttpResponse(404, b"Not Found"),
    "hangs-up": lambda request: None,
}


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE)
def test_vms_start_when_the_webhook_talks_nonsense(
    apart: Installation, namespace_apart: str, stand_in: StandIn, answer: ReviewAnswer
) -> None:
    webhook = stand_in(answer)

    assert_starts_without_us(apart, namespace_apart)
    assert webhook.answered


def test_vms_start_when_the_webhook_is_slow(apart: Installation, namespace_apart: str, stand_in: StandIn) -> None:
    over = threading.Event()

    def late(request: Json) -> HttpResponse:
        over.wait(SLOW)
        return allowing(request)

    webhook = stand_in(late)
    try:
        assert timeout_of(apart) + MARGIN < SLOW
        assert_starts_without_us(apart, namespace_apart)
    finally:
        over.set()
    assert webhook.answered


def test_vms_start_when_the_webhook_is_down(apart: Installation, namespace_apart: str) -> None:
    port, before = apart.cp.port(), failed_open(apart)
    lead_astray(apart, f"https://127.0.0.1:{port}/mutate/pods", lambda: failed_open(apart) > before)

    assert_starts_without_us(apart, namespace_apart)


def test_vms_start_when_somebody_else_answers_in_its_place(apart: Installation, namespace_apart: str) -> None:
    def evil(request: Json) -> HttpResponse:
        return patching(request, json.dumps([{"op": "remove", "path": "/metadata/annotations"}]).encode())

    with StandInWebhook(other_ca(), evil) as webhook:
        before = failed_open(apart)
        lead_astray(apart, webhook.url, lambda: failed_open(apart) > before)

        assert_starts_without_us(apart, namespace_apart)
        assert (webhook.probes, webhook.answered) == (0, [])


def test_and_when_it_is_well_again_so_are_the_next_pods(
    apart: Installation, namespace_apart: str, stand_in: StandIn
) -> None:
    stand_in(NONSENSE["no-json"])
    start_vm(apart.cp, "before", namespace_apart)
    lead_to(apart, apart.replicas[0])

    pod, creation = start_vm(apart.cp, "after", namespace_apart)

    assert (hooks(pod), decided(pod)) == ({}, ("crash", "vm"))
    assert not creation.failed_open


FATAL: dict[str, bytes] = {
    "removes-what-is-not-there": b'[{"op": "remove", "path": "/metadata/annotations/example.com~1none"}]',
    "adds-below-what-is-not-there": b'[{"op": "add", "path": "/metadata/none/key", "value": "x"}]',
    "failing-test": b'[{"op": "test", "path": "/metadata/name", "value": "somebody-else"}]',
    "too-many-annotations": json.dumps(
        [{"op": "add", "path": "/metadata/annotations", "value": {"example.com/filler": "x" * 262_144}}]
    ).encode(),
    "annotation-that-is-no-string": b'[{"op": "add", "path": "/metadata/annotations", "value": {"a": 1}}]',
}


@pytest.mark.parametrize("patch", FATAL.values(), ids=FATAL)
def test_some_answers_refuse_the_pod_even_under_ignore(
    apart: Installation, namespace_apart: str, stand_in: StandIn, patch: bytes
) -> None:
    """Why patches have to be right by construction: of these, no failurePolicy saves anybody.

    That the webhook never answers so is what the property tests of app/core and app/admission show.
    """
    client = apart.cp.client
    client.create(make_vm("db", namespace_apart))
    launcher_pod(client, "db", namespace_apart)
    owner = owner_of(client.get("virtualmachineinstances", "db", namespace_apart))
    pod = pod_like_a_launcher(namespace_apart, owner, annotations={PRE + "on-error": "fail"})
    assert client.create(pod, dry_run=True)
    stand_in(lambda request: patching(request, patch))

    with pytest.raises(ApiError) as refused:
        client.create(pod, dry_run=True)

    assert refused.value.status >= 400
