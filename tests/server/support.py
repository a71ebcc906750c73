"""Reviews as kube-apiserver sends them, and an admission server whose log and metrics a test can read."""

import base64
import json
import logging
from collections.abc import Mapping
from typing import Any

import jsonpatch
from starlette.testclient import TestClient

from app.admission.mutate_pods import PodMutator
from app.admission.validator import Validator
from app.core.kubevirt_names import UPSTREAM, KubeVirtNames
from app.core.objects import Facts, OwnerReference
from app.core.policy import BUILT_IN, PolicyState, Standing
from app.server.http import AdmissionServer
from app.server.metrics import Metrics
from tests.infra.factories import NAMESPACE, make_facts, make_pod

Object = dict[str, Any]
UID = "705ab4f5-6393-11e8-b7cc-42010a800002"
SECRET = "hunter2-is-nobodys-business"
"""Stands in pods of these tests where a tenant may have put a password."""


def make_review(pod: Object | None = None, **request: Any) -> Object:
    """The AdmissionReview of a CREATE, with these fields of `request` instead; None takes a field away."""
    whole = {
        "uid": UID,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": NAMESPACE,
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kubevirt:kubevirt-controller", "extra": {"token": [SECRET]}},
        "object": secretive(make_pod()) if pod is None else pod,
        "oldObject": None,
        "dryRun": False,
        **request,
    }
    kept = {field: value for field, value in whole.items() if value is not None}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": kept}


def secretive(pod: Object) -> Object:
    """The pod with a secret wherever one may stand."""
    metadata = pod["metadata"]
    metadata["annotations"] = {**(metadata.get("annotations") or {}), "example.com/token": SECRET}
    metadata["labels"] = {**metadata.get("labels", {}), "token": SECRET}
    pod["spec"]["containers"][0]["env"] = [{"name": "PASSWORD", "value": SECRET}]
    return pod


class FixedPolicy:
    """A PolicySource that never changes."""

    def __init__(self, state: PolicyState) -> None:
        self._state = state

    def current(self) -> PolicyState:
        return self._state


class FixedFacts:
    """A FactsSource that knows one cluster, or fails in one way."""

    def __init__(self, facts: Facts | Exception) -> None:
        self._facts = facts

    async def facts(self, namespace: str, vmi: OwnerReference) -> Facts:
        if isinstance(self._facts, Exception):
            raise self._facts
        return self._facts


class Endpoint:
    """The HTTPS side without its TLS, in this process."""

    def __init__(
        self,
        *,
        state: PolicyState | None = None,
        facts: Facts | Exception | None = None,
        names: KubeVirtNames = UPSTREAM,
        validators: Mapping[str, Validator] | None = None,
    ) -> None:
        self.metrics = Metrics()
        policy = FixedPolicy(state or PolicyState(Standing.ABSENT, BUILT_IN))
        mutator = PodMutator(policy, FixedFacts(facts or make_facts()), names)
        self.server = AdmissionServer(mutator, self.metrics, validators=validators)
        self.http = TestClient(self.server.app)

    def post(self, body: bytes | Object, path: str = "/mutate/pods") -> tuple[int, str, Mapping[str, str]]:
        """Status, text and headers of the answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.http.post(path, content=content, headers={"Content-Type": "application/json"})
        return answer.status_code, answer.text, answer.headers

    def response(self, review: Object, path: str = "/mutate/pods") -> Object:
        """The `response` of a review that must be answered."""
        status, text, headers = self.post(review, path)
        assert (status, headers["Content-Type"]) == (200, "application/json")
        answer = json.loads(text)
        assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
        assert answer["response"]["uid"] == review["request"]["uid"]
        response: Object = answer["response"]
        return response

    def sample(self, name: str, **labels: str) -> float:
        """The value of one sample; 0 where there is none."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples that carry all of `labels`."""
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def patched(review: Object, response: Object) -> Object:
    """The object of the review after the response's patch, as the API server would apply it."""
    before: Object = review["request"]["object"]
    if "patch" not in response:
        assert "patchType" not in response
        return before
    assert response["patchType"] == "JSONPatch"
    after: Object = jsonpatch.apply_patch(before, json.loads(base64.b64decode(response["patch"])))
    return after


def fields(record: logging.LogRecord) -> Object:
    """The structured fields of a log record."""
    return {key: value for key, value in vars(record).items() if key not in vars(logging.makeLogRecord({}))}
