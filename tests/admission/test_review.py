"""AdmissionReviews as kube-apiserver writes and reads them (admission.k8s.io/v1)."""

import base64
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.admission.review import AdmissionRequest, MalformedReview, decode_review, encode_review
from app.core.annotations import MAX_WARNING_CHARS
from tests.admission.support import SAMPLE, make_request, make_review

UID = "705ab4f5-6393-11e8-b7cc-42010a800002"


def refusal(body: bytes) -> str:
    with pytest.raises(MalformedReview) as refused:
        decode_review(body)
    return str(refused.value)


def response(patch: Any = (), warnings: Any = ()) -> dict[str, Any]:
    review = json.loads(encode_review(UID, list(patch), list(warnings)))
    assert (review["apiVersion"], review["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert set(review) == {"apiVersion", "kind", "response"}
    return dict(review["response"])


def test_sample() -> None:
    request = SAMPLE["request"]
    assert make_request() == AdmissionRequest(
        uid=request["uid"],
        operation="CREATE",
        resource="pods",
        namespace=request["namespace"],
        name=request.get("name", ""),
        dry_run=False,
        object=request["object"],
        old_object=None,
    )


def test_objects_stay_as_they_came() -> None:
    odd = {"metadata": {"x": [1.5, None, "é"]}, "unknown": {"": "~/"}}
    request = make_request(operation="UPDATE", object=odd, oldObject=odd, dryRun=True)
    assert (request.object, request.old_object, request.dry_run) == (odd, odd, True)


@pytest.mark.parametrize(
    ("fields", "resource"),
    [
        pytest.param({}, "pods", id="core"),
        pytest.param({"resource": {"group": "apps", "resource": "deployments"}}, "apps/deployments", id="group"),
        pytest.param({"subResource": "status"}, "pods/status", id="subresource"),
        pytest.param({"subResource": ""}, "pods", id="empty-subresource"),
        pytest.param({"resource": None}, "", id="none"),
        pytest.param({"resource": {"group": "x.io", "resource": "pods"}}, "x.io/pods", id="pods-of-another-group"),
    ],
)
def test_resource(fields: dict[str, Any], resource: str) -> None:
    assert make_request(**fields).resource == resource


@pytest.mark.parametrize("field", ["namespace", "userInfo", "dryRun", "object", "oldObject", "options", "requestKind"])
def test_fields_that_may_be_absent(field: str) -> None:
    assert make_request(**{field: None}).uid == SAMPLE["request"]["uid"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(b"", "not JSON", id="empty"),
        pytest.param(b"{", "not JSON", id="cut-off"),
        pytest.param(b"\xff\xfe", "not JSON", id="no-UTF-8"),
        pytest.param(b'{"a": NaN}', "not JSON", id="NaN"),
        pytest.param(b'"\\ud800"', "not JSON", id="half-a-surrogate-pair"),
        pytest.param(b"[" * 100_000, "not JSON", id="nested"),
        pytest.param(b"null", "no AdmissionReview", id="null"),
        pytest.param(b"[]", "no AdmissionReview", id="list"),
        pytest.param(b"{}", "no AdmissionReview", id="no-fields"),
        pytest.param(orjson.dumps({**SAMPLE, "request": None}), "no AdmissionReview", id="no-request"),
        pytest.param(orjson.dumps({**SAMPLE, "request": []}), "no AdmissionReview", id="request-a-list"),
        pytest.param(orjson.dumps({**SAMPLE, "kind": "Pod"}), "no AdmissionReview", id="another-kind"),
        pytest.param(
            orjson.dumps({**SAMPLE, "apiVersion": "admission.k8s.io/v1beta1"}), "admissionReviewVersions", id="v1beta1"
        ),
        pytest.param(orjson.dumps({**SAMPLE, "apiVersion": None}), "admissionReviewVersions", id="no-version"),
    ],
)
def test_what_is_no_review(body: bytes, says: str) -> None:
    assert says in refusal(body)
    assert refusal(body).isprintable()


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        *(
            (field, value, f"request.{field} must be a string")
            for field in ("uid", "operation")
            for value in ("", 5, None)
        ),
        ("namespace", 5, "request.namespace must be a string"),
        ("resource", "pods", "request.resource must be an object"),
        ("object", [], "request.object must be an object"),
        ("oldObject", "x", "request.oldObject must be an object"),
    ],
)
def test_malformed_field_is_named(field: str, value: Any, says: str) -> None:
    assert refusal(orjson.dumps(make_review(**{field: value}))) == says


class TestResponse:
    def test_allows_and_echoes_the_uid(self) -> None:
        assert response() == {"uid": UID, "allowed": True}

    def test_patch(self) -> None:
        patch = [{"op": "add", "path": "/metadata/annotations", "value": {"é/~": "\N{PILE OF POO}\n"}}]
        answer = response(patch)
        assert answer.pop("patchType") == "JSONPatch"
        assert json.loads(base64.b64decode(answer.pop("patch"), validate=True)) == patch
        assert answer == {"uid": UID, "allowed": True}

    @pytest.mark.parametrize("length", [1, 240, 241, 242, 5000])
    def test_warnings_fit_what_every_api_server_passes_on(self, length: int) -> None:
        (warning,) = response(warnings=["é" * length])["warnings"]
        assert len(warning) <= MAX_WARNING_CHARS == 256
        assert warning.startswith("vm-consistency: é")
        assert warning.endswith("..." if length > 240 else "é")

    def test_several_warnings_keep_their_order(self) -> None:
        assert response(warnings=["a", "b"])["warnings"] == ["vm-consistency: a", "vm-consistency: b"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_a_review_or_malformed(body: bytes) -> None:
    assert refusal(body).isprintable()


@given(st.dictionaries(st.sampled_from(sorted({*SAMPLE["request"], "subResource"})), JSON))
def test_any_request_is_a_review_or_malformed(fields: dict[str, Any]) -> None:
    try:
        request = make_request(**fields)
    except MalformedReview as error:
        assert str(error).startswith("request.")  # noqa: PT017 - the other outcome is as good
    else:
        assert request.uid
        assert isinstance(request.object, dict | None)
