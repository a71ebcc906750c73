"""Stand-ins for an admission webhook: one that misbehaves, and one that remembers what it was asked."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

from app.tls.x509 import Authority, new_ca, new_leaf, read_certificates, read_key
from tests.infra.controlplane import Client, Json
from tests.infra.installation import NAMESPACE
from tests.infra.stand_ins.http_server import LOOPBACK, HttpRequest, HttpResponse, StandInHttpServer

ReviewAnswer: TypeAlias = Callable[[Json], HttpResponse | None]
"""Gives the response to the `request` of an AdmissionReview; None hangs up."""


def allowing(request: Json, **response: object) -> HttpResponse:
    """The review that allows the request, with these fields of `response` besides or instead."""
    whole = {"uid": request["uid"], "allowed": True, **response}
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": whole}
    return HttpResponse(200, json.dumps(review).encode(), {"Content-Type": "application/json"})


def patching(request: Json, patch: bytes) -> HttpResponse:
    """The review that allows the request with this as its JSONPatch."""
    return allowing(request, patchType="JSONPatch", patch=base64.b64encode(patch).decode())


def installed_ca(client: Client) -> Authority:
    """The CA that the API server trusts because the webhook's replicas share it."""
    data = client.get("secrets", "vm-consistency-certs", NAMESPACE)["data"]
    certificate, key = (base64.b64decode(data[name]) for name in ("ca.crt", "ca.key"))
    return Authority(read_certificates(certificate)[0], read_key(key, "ca.key"))  # type: ignore[arg-type]


def other_ca() -> Authority:
    """A CA that nobody trusts."""
    return new_ca(datetime.now(UTC))


class _HttpsWebhook(StandInHttpServer):
    """Serves HTTPS with a certificate of `authority`, and answers reviews by `answer`."""

    def __init__(self, authority: Authority, answer: ReviewAnswer) -> None:
        def answer_review(request: HttpRequest) -> HttpResponse | None:
            return answer(json.loads(request.body)["request"])

        super().__init__(answer_review, new_leaf(authority, [LOOPBACK], datetime.now(UTC)))
        self.url += "/mutate/pods"


class StandInWebhook(_HttpsWebhook):
    """Answers reviews of pods that have an owner by `answer`, while the context is open.

    Pods without an owner are probes: they are allowed, and counted in `probes`.
    """

    def __init__(self, authority: Authority, answer: ReviewAnswer) -> None:
        super().__init__(authority, self._respond)
        self.probes = 0
        self.answered: list[str] = []
        """The uids of the reviews that `answer` has answered."""
        self._answer = answer

    def _respond(self, request: Json) -> HttpResponse | None:
        if not request["object"]["metadata"].get("ownerReferences"):
            self.probes += 1
            return allowing(request)
        self.answered.append(request["uid"])
        return self._answer(request)


class RecordingWebhook(_HttpsWebhook):
    """Allows everything while the context is open. `requests` are the AdmissionRequests so far, oldest first."""

    def __init__(self) -> None:
        authority = new_ca(datetime.now(UTC))
        super().__init__(authority, self._respond)
        self.requests: list[Json] = []
        self.client_config = {"url": self.url, "caBundle": base64.b64encode(authority.cert_pem).decode()}

    def _respond(self, request: Json) -> HttpResponse:
        self.requests.append(request)
        return allowing(request)
