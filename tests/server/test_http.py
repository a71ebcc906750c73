"""`POST /mutate/pods`: whatever comes in, the pod is allowed or the request refused in one line, and nobody crashes."""

import json
import logging
from typing import Any

import pytest

from app.admission.ports import LookupFailed
from app.admission.review import MAX_REVIEW_BYTES
from app.core.annotations import LEVEL, MAX_ANNOTATIONS_BYTES
from app.core.policy import Level, PolicyState, Standing
from app.core.record import with_record
from app.server import http
from tests.infra.factories import make_facts, make_pod
from tests.server.support import SECRET, Endpoint, Object, fields, make_review, patched

HOOK = "pre.hook.backup.velero.io/command"
LOGGER = "vm-consistency.admission"


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


def test_a_launcher_pod_is_allowed_with_its_patch(endpoint: Endpoint) -> None:
    review = make_review()
    response = endpoint.response(review)

    assert response["allowed"] is True
    after = patched(review, response)["metadata"]["annotations"]
    assert after["vm-consistency.io/effective-level"] == "filesystem"
    assert after["pre.hook.backup.velero.io/on-error"] == "Continue"
    assert after["example.com/token"] == SECRET
    assert "warnings" not in response
    assert endpoint.sample("vm_consistency_admission_seconds_count") == 1


def malformed(**changes: Any) -> bytes:
    review = make_review()
    review.update(changes)
    return json.dumps({key: value for key, value in review.items() if value is not None}).encode()


def request(**changes: Any) -> bytes:
    return json.dumps(make_review(**changes)).encode()


MALFORMED = [
    pytest.param(b"", "not JSON", id="empty"),
    pytest.param(b"\x00\xff\xfe", "not JSON", id="binary"),
    pytest.param(b'{"kind": "AdmissionReview"', "not JSON", id="cut-short"),
    pytest.param(b'{"kind": "\xff\xfe"}', "not JSON", id="invalid-utf-8"),
    pytest.param(b'{"request": NaN}', "not JSON", id="nan"),
    pytest.param(b"[" * 100_000, "not JSON", id="deep"),
    pytest.param(b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "not JSON", id="deep-and-closed"),
    pytest.param(b"null", "no AdmissionReview", id="null"),
    pytest.param(b"[]", "no AdmissionReview", id="list"),
    pytest.param(b'"AdmissionReview"', "no AdmissionReview", id="string"),
    pytest.param(malformed(kind="Pod"), "no AdmissionReview", id="other-kind"),
    pytest.param(malformed(request=None), "no AdmissionReview", id="no-request"),
    pytest.param(malformed(request=[1]), "no AdmissionReview", id="request-is-a-list"),
    pytest.param(malformed(apiVersion="admission.k8s.io/v1beta1"), "must be admission.k8s.io/v1", id="v1beta1"),
    pytest.param(malformed(apiVersion=None), "must be admission.k8s.io/v1", id="no-version"),
    pytest.param(request(uid=None), "request.uid", id="no-uid"),
    pytest.param(request(uid=7), "request.uid", id="uid-is-a-number"),
    pytest.param(request(operation=None), "request.operation", id="no-operation"),
    pytest.param(request(namespace=7), "request.namespace", id="namespace-is-a-number"),
    pytest.param(request(namespace=None), "request.namespace", id="no-namespace"),
    pytest.param(request(resource="pods"), "request.resource", id="resource-is-a-string"),
    pytest.param(request(object="pod"), "request.object", id="object-is-a-string"),
    pytest.param(request(operation="UPDATE"), "the pod", id="update-without-an-old-object"),
    pytest.param(request(pod={"metadata": "x\ny"}), "metadata must be an object", id="metadata-is-a-string"),
    pytest.param(request(pod={}), "metadata must be an object", id="no-metadata"),
    pytest.param(request(pod={"metadata": {"labels": ["a"]}}), "metadata.labels", id="labels-are-a-list"),
    pytest.param(
        request(pod={"metadata": {"annotations": {"a": 7}}}), "metadata.annotations", id="annotation-is-a-number"
    ),
]


@pytest.mark.parametrize(("body", "reason"), MALFORMED)
def test_malformed_reviews_get_400_with_one_line_that_says_why(
    endpoint: Endpoint, body: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    status, text, _ = endpoint.post(body)

    assert status == 400
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    assert reason in text
    assert endpoint.sample("vm_consistency_errors_total", kind="malformed") == 1
    [record] = [record for record in caplog.records if record.name == LOGGER]
    assert fields(record)["reason"] == text.strip()


def test_a_body_that_no_api_server_sends_is_refused(endpoint: Endpoint) -> None:
    review = make_review(pod=make_pod(annotations={"blank": ""}))
    body = json.dumps(review).encode()
    assert endpoint.post(body + b" " * (MAX_REVIEW_BYTES - len(body)))[0] == 200

    status, text, _ = endpoint.post(body + b" " * (MAX_REVIEW_BYTES - len(body) + 1))

    assert (status, len(text.splitlines())) == (413, 1)
    assert str(MAX_REVIEW_BYTES) in text
    assert endpoint.sample("vm_consistency_errors_total", kind="too-large") == 1


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(endpoint: Endpoint, method: str) -> None:
    assert endpoint.http.request(method, "/mutate/pods").status_code == 405


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/redoc", "/mutate", "/validate", "/metrics", "/readyz"]
)
def test_nothing_else_is_served_over_https(endpoint: Endpoint, path: str) -> None:
    assert endpoint.http.get(path).status_code == 404


OTHERS = [
    pytest.param({"operation": "DELETE", "object": None, "oldObject": make_pod()}, id="delete"),
    pytest.param({"operation": "CONNECT", "object": {"kind": "PodExecOptions"}, "subResource": "exec"}, id="exec"),
    pytest.param({"operation": "UPDATE", "oldObject": make_pod(), "subResource": "status"}, id="status"),
    pytest.param(
        {"resource": {"group": "apps", "version": "v1", "resource": "deployments"}, "object": {"metadata": "odd"}},
        id="deployment",
    ),
    pytest.param({"resource": {"group": "metrics.k8s.io", "version": "v1", "resource": "pods"}}, id="other-group"),
    pytest.param({"resource": None, "object": {"metadata": ["odd"]}}, id="no-resource"),
    pytest.param({"resource": {"resource": {"pods": 1}}}, id="resource-of-another-shape"),
    pytest.param({"object": {"metadata": {"name": "web"}}}, id="other-pod"),
]


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
@pytest.mark.parametrize("changes", OTHERS)
def test_what_is_no_write_of_a_launcher_pod_is_allowed_unchanged(
    endpoint: Endpoint, changes: Object, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level)

    response = endpoint.response(make_review(**changes))

    assert response == {"uid": response["uid"], "allowed": True}
    assert endpoint.total("vm_consistency_decisions_total", action="ignored") == 1


def test_an_internal_fault_is_allowed_unchanged_warned_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    endpoint = Endpoint(facts=RuntimeError("a slip of ours"))
    review = make_review()

    response = endpoint.response(review)

    assert response["allowed"] is True
    assert patched(review, response) == review["request"]["object"]
    [warning] = response["warnings"]
    assert warning.startswith("vm-consistency: an internal error")
    assert endpoint.sample("vm_consistency_errors_total", kind="internal") == 1
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert fields(record)["uid"] == review["request"]["uid"]
    assert record.exc_info is not None
    assert "a slip of ours" in str(record.exc_info[1])


def test_a_fault_while_logging_is_still_an_answer(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a slip of ours")

    monkeypatch.setattr(http, "_report", broken)

    response = endpoint.response(make_review())

    assert response["allowed"] is True
    assert endpoint.sample("vm_consistency_errors_total", kind="internal") == 1


def test_a_failed_lookup_is_allowed_unchanged_and_says_what_failed() -> None:
    endpoint = Endpoint(facts=LookupFailed("the API server did not answer within 2 s"))
    review = make_review()

    response = endpoint.response(review)

    assert patched(review, response) == review["request"]["object"]
    [warning] = response["warnings"]
    assert "did not answer within 2 s" in warning
    assert endpoint.total("vm_consistency_decisions_total", action="none", reason="lookup-failed") == 1


def test_an_unusable_policy_leaves_the_pod_as_it_is_and_says_so() -> None:
    endpoint = Endpoint(state=PolicyState(Standing.INVALID, error="line 3: mode: must be enforce or audit"))
    review = make_review()

    response = endpoint.response(review)

    assert patched(review, response) == review["request"]["object"]
    assert "line 3: mode" in response["warnings"][0]


def test_warnings_go_to_whoever_creates_and_to_no_controller_that_updates() -> None:
    endpoint = Endpoint(facts=make_facts(vm={LEVEL: "most"}))
    review = make_review()
    created = endpoint.response(review)
    assert "'most'" in created["warnings"][0]

    pod = patched(review, created)
    touched = json.loads(json.dumps(pod))
    del touched["metadata"]["annotations"][HOOK]
    update = make_review(pod=touched, operation="UPDATE", oldObject=pod)
    updated = endpoint.response(update)

    assert "warnings" not in updated
    assert patched(update, updated)["metadata"]["annotations"][HOOK] == pod["metadata"]["annotations"][HOOK]


def test_a_fault_is_not_told_to_controllers_that_update(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("app.admission.mutate_pods.keep", broken)
    response = Endpoint().response(make_review(operation="UPDATE", oldObject=make_pod()))

    assert response == {"uid": response["uid"], "allowed": True}


def test_warnings_are_short_enough_for_every_api_server() -> None:
    endpoint = Endpoint(facts=LookupFailed("x" * 5000))

    response = endpoint.response(make_review())

    [warning] = response["warnings"]
    assert len(warning) == 256
    assert warning.endswith("...")


def test_a_pod_whose_annotations_would_grow_too_large_is_left_alone(endpoint: Endpoint) -> None:
    filled = {"example.com/filler": "x" * (MAX_ANNOTATIONS_BYTES - 100)}
    review = make_review(pod=make_pod(annotations=filled))

    response = endpoint.response(review)

    assert patched(review, response) == review["request"]["object"]
    assert str(MAX_ANNOTATIONS_BYTES) in response["warnings"][0]


def test_while_draining_every_answer_asks_for_another_connection(endpoint: Endpoint) -> None:
    assert "Connection" not in endpoint.post(make_review())[2]

    endpoint.server.draining = True

    for body in (make_review(), b"nonsense", b" " * (MAX_REVIEW_BYTES + 1)):
        assert endpoint.post(body)[2]["Connection"] == "close"


def test_nothing_of_a_pod_but_its_name_gets_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="vm-consistency")
    reviews = [make_review(), make_review(operation="UPDATE", oldObject=make_pod()), make_review(operation="DELETE")]
    for facts in (make_facts(), RuntimeError("a slip of ours"), LookupFailed("too late")):
        endpoint = Endpoint(facts=facts)
        for review in reviews:
            endpoint.response(review)
        endpoint.post(json.dumps(make_review(pod={"metadata": {"labels": [SECRET]}})).encode())
        endpoint.post(json.dumps(make_review()).encode()[:-1])

    assert [record.message for record in caplog.records].count("pod decided") == 9 - 1  # a slip decides nothing
    assert SECRET not in caplog.text
    for record in caplog.records:
        assert SECRET not in str(fields(record))


@pytest.mark.parametrize("field", ["name", "generateName"])
def test_what_stands_in_place_of_a_name_is_bounded_in_the_log(field: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="vm-consistency")
    for value, logged in (("x" * 100_000, "x" * 253), (["x"] * 1000, None), ({"x": "x"}, None)):
        caplog.clear()
        pod = make_pod()
        del pod["metadata"]["name"]
        pod["metadata"][field] = value
        Endpoint().post(make_review(pod=pod, uid="u" * 5000, namespace="n" * 5000))
        [record] = caplog.records
        assert fields(record).get("pod") == logged
        assert len(str(fields(record))) < 2000


def test_a_forged_profile_is_bounded_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="vm-consistency")
    forged = with_record({}, Level.CRASH, "p" * 50_000, "default")
    old, new = make_pod(annotations=forged), make_pod(annotations={})
    Endpoint().response(make_review(pod=new, operation="UPDATE", oldObject=old))

    [record] = caplog.records
    assert fields(record)["profile"] == "p" * 253


def test_a_decision_is_logged_with_what_an_admin_looks_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="vm-consistency")
    Endpoint(facts=make_facts(namespace={LEVEL: "crash"})).response(make_review(dryRun=True))

    [record] = caplog.records
    assert fields(record) | {"message": "", "asctime": ""} == {
        "message": "",
        "asctime": "",
        "uid": make_review()["request"]["uid"],
        "operation": "CREATE",
        "namespace": make_review()["request"]["namespace"],
        "pod": make_pod()["metadata"]["name"],
        "dryRun": True,
        "action": "patch",
        "reason": "decided",
        "level": "crash",
        "decidedBy": "namespace",
    }
