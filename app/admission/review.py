"""AdmissionReview (admission.k8s.io/v1): from bytes, and back to bytes."""

import base64
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.core.annotations import MAX_WARNING_CHARS
from app.core.jsonpatch import Operation

API_VERSION = "admission.k8s.io/v1"
KIND = "AdmissionReview"
CREATE = "CREATE"
UPDATE = "UPDATE"
DELETE = "DELETE"

MAX_REVIEW_BYTES = 7 * 1024 * 1024
"""kube-apiserver takes requests of up to 3 MiB, and an UPDATE carries the object twice, besides the envelope."""


class MalformedReview(ValueError):  # noqa: N818 - the name of a state, as in the protocol's own terms
    """The request is no AdmissionReview; the message is one line for whoever sent it."""


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """What a decision needs of `request`; the objects stay raw, so nothing unknown is lost."""

    uid: str
    operation: str
    resource: str
    """Plural name, with its API group in front where it has one, and its subresource behind a slash."""
    namespace: str
    name: str
    """Empty where the API server has yet to generate one."""
    dry_run: bool
    object: dict[str, Any] | None
    old_object: dict[str, Any] | None


def decode_review(body: bytes) -> AdmissionRequest:
    """Read an AdmissionReview; raises MalformedReview."""
    try:
        review = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedReview(f"the body is not JSON: {error}") from None
    request = review.get("request") if isinstance(review, dict) else None
    if not isinstance(request, dict) or review.get("kind") != KIND:
        raise MalformedReview(f"the body is no {KIND} with a request")
    if review.get("apiVersion") != API_VERSION:
        raise MalformedReview(f"apiVersion must be {API_VERSION}; list v1 in admissionReviewVersions")
    return AdmissionRequest(
        uid=_text(request, "uid"),
        operation=_text(request, "operation"),
        resource=_resource(request),
        namespace=_text(request, "namespace", required=False),
        name=_text(request, "name", required=False),
        dry_run=request.get("dryRun") is True,
        object=_map(request, "object"),
        old_object=_map(request, "oldObject"),
    )


def _text(parent: dict[str, Any], field: str, *, required: bool = True) -> str:
    value = parent.get(field)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value):
        raise MalformedReview(f"request.{field} must be a string")
    return value


def _map(parent: dict[str, Any], field: str) -> dict[str, Any] | None:
    value = parent.get(field)
    if value is not None and not isinstance(value, dict):
        raise MalformedReview(f"request.{field} must be an object")
    return value


def _resource(request: dict[str, Any]) -> str:
    resource = _map(request, "resource") or {}
    group = resource.get("group")
    subresource = request.get("subResource")
    plural = str(resource.get("resource", ""))
    return f"{f'{group}/' if group else ''}{plural}{f'/{subresource}' if subresource else ''}"


def encode_review(uid: str, patch: list[Operation], warnings: list[str]) -> bytes:
    """Return the review that allows the request, with `patch` unless it is empty."""
    response: dict[str, Any] = {"uid": uid, "allowed": True}
    if patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(orjson.dumps(patch)).decode("ascii")
    return _encoded(response, warnings)


@dataclass(frozen=True, slots=True)
class Denial:
    """Why an object is not stored: all that is wrong with one of its fields, a line each."""

    kind: str
    name: str
    field: str
    summary: str
    errors: list[str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a validation."""

    warnings: list[str] = field(default_factory=list)
    """One line each, for the person who writes the object."""
    denial: Denial | None = None
    trouble: str | None = None
    """Why the object could not be judged."""


def encode_verdict(uid: str, verdict: Verdict) -> bytes:
    """Return the review that allows the request or denies it, as an invalid object is by the API server itself."""
    response: dict[str, Any] = {"uid": uid, "allowed": verdict.denial is None}
    if verdict.denial:
        response["status"] = _status(verdict.denial)
    return _encoded(response, verdict.warnings)


def _status(denial: Denial) -> dict[str, Any]:
    # kubectl shows the causes where it writes one object, and the message where it writes several.
    causes = [{"reason": "FieldValueInvalid", "field": denial.field, "message": error} for error in denial.errors]
    return {
        "code": 422,
        "reason": "Invalid",
        "message": "\n".join([denial.summary, *denial.errors]),
        "details": {"kind": denial.kind, "name": denial.name, "causes": causes},
    }


def _encoded(response: dict[str, Any], warnings: list[str]) -> bytes:
    if warnings:
        response["warnings"] = [clipped(f"vm-consistency: {warning}") for warning in warnings]
    return orjson.dumps({"apiVersion": API_VERSION, "kind": KIND, "response": response})


def clipped(line: str) -> str:
    """Cut a warning to what every API server passes on whole."""
    return line if len(line) <= MAX_WARNING_CHARS else line[: MAX_WARNING_CHARS - 3] + "..."
