"""The HTTPS side: bytes in, bytes out, and the one place where a decision is logged and counted."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.telemetry import TelemetryConfig
from starlette.types import Receive, Scope, Send

from app.admission.mutate_pods import PodMutator, warnings_for
from app.admission.review import (
    CREATE,
    AdmissionRequest,
    MalformedReview,
    Verdict,
    decode_review,
    encode_review,
    encode_verdict,
)
from app.admission.validator import Validator
from app.core.decision import Action, Decision
from app.core.text import one_line
from app.server.body import Body, BodyRefused, Budget
from app.server.metrics import Metrics

Answer = Callable[[bytes], Awaitable[bytes]]
"""An AdmissionReview v1 in, an AdmissionReview v1 out; raises MalformedReview."""

_log = logging.getLogger("vm-consistency.admission")
_FAULT = "an internal error kept the hooks as they are; the log of the webhook has the details"
_UNCHECKED = "an internal error kept this from being checked; the log of the webhook has the details"
_MAX_LOGGED = 253
"""The longest name of an object. Admission runs before validation, so anything may stand in its place."""


def bare_app() -> FastAPI:
    """An application without generated pages, and without telemetry, which could export what is in a pod."""
    off: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
    return FastAPI(openapi_url=None, docs_url=None, redoc_url=None, telemetry=off)


class AdmissionServer:
    """Answers reviews; `draining` asks clients to open their next connection elsewhere."""

    def __init__(
        self,
        mutator: PodMutator,
        metrics: Metrics,
        deadline: float = 2.0,
        budget: Budget | None = None,
        validators: Mapping[str, Validator] | None = None,
    ) -> None:
        """`deadline`: seconds for the body of a request to arrive. `validators` are by what they validate."""
        self._mutator = mutator
        self._metrics = metrics
        self._deadline = deadline
        self._budget = budget or Budget()
        self.draining = False
        self._answers: dict[str, Answer] = {"/mutate/pods": self._mutated}
        for name, validator in (validators or {}).items():
            self._answers[f"/validate/{name}"] = partial(self._validated, validator)
        self._fastapi = bare_app()
        for path in self._answers:
            self._fastapi.add_route(path, _never_called, methods=["POST"])

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application. Reviews don't pass the framework, which would cost a third of their time.

        FastAPI answers whatever else comes: other paths, other methods.
        """
        answer = self._answers.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if answer is None:
            await self._fastapi(scope, receive, send)
            return
        try:
            with Body(self._budget) as body:
                answered = await answer(await body.read(scope, receive, self._deadline))
        except BodyRefused as refused:
            await self._refuse(send, refused.status, refused.kind, str(refused), close=refused.closes)
        except MalformedReview as error:
            await self._refuse(send, 400, "malformed", str(error))
        else:
            await self._send(send, 200, b"application/json", answered)

    async def _mutated(self, body: bytes) -> bytes:
        """`POST /mutate/pods`: always allowed."""
        started = time.perf_counter()
        answer = await self._decided(decode_review(body))
        self._metrics.admission_seconds.observe(time.perf_counter() - started)
        return answer

    async def _decided(self, review: AdmissionRequest) -> bytes:
        try:
            decision = await self._mutator.mutate(review)
            answer = encode_review(review.uid, decision.patch, warnings_for(review, decision))
            self._metrics.decided(decision)
            _report(review, decision)
        except MalformedReview:
            raise
        except Exception:
            self._metrics.error("internal")
            fields = {"uid": _clipped(review.uid), "namespace": _clipped(review.namespace)}
            _log.exception("review failed; the pod is allowed unchanged", extra=fields)
            return encode_review(review.uid, [], [_FAULT] if review.operation == CREATE else [])
        return answer

    async def _validated(self, validator: Validator, body: bytes) -> bytes:
        """`POST /validate/...`: denied only by a verdict."""
        review = decode_review(body)
        try:
            verdict = await validator.validate(review)
            answer = encode_verdict(review.uid, verdict)
            _report_verdict(review, verdict)
        except MalformedReview:
            raise
        except Exception:
            self._metrics.error("internal")
            fields = {"uid": _clipped(review.uid), "resource": _clipped(review.resource)}
            _log.exception("validation failed; the write is allowed unchecked", extra=fields)
            return encode_review(review.uid, [], [_UNCHECKED])
        return answer

    async def _refuse(self, send: Send, status: int, kind: str, reason: str, *, close: bool = False) -> None:
        self._metrics.error(kind)
        line = one_line(reason)
        _log.warning("request refused", extra={"status": status, "reason": line})
        await self._send(send, status, b"text/plain; charset=utf-8", line.encode() + b"\n", close=close)

    async def _send(self, send: Send, status: int, content_type: bytes, body: bytes, *, close: bool = False) -> None:
        headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
        if close or self.draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _never_called(_: Request) -> Response:
    """Stands in FastAPI's table for a path that was taken before, so that another method gets a 405 there."""
    raise AssertionError


def _report(review: AdmissionRequest, decision: Decision) -> None:
    # Restoring what KubeVirt's re-sync changes is everyday work: several times a minute for each VM at level crash.
    told = review.operation == CREATE and decision.action is not Action.IGNORED
    level = logging.WARNING if decision.trouble else logging.INFO if told else logging.DEBUG
    if not _log.isEnabledFor(level):
        return
    fields = {
        "uid": _clipped(review.uid),
        "operation": _clipped(review.operation),
        "namespace": _clipped(review.namespace),
        "pod": _name(review.object),
        "dryRun": review.dry_run,
        "action": decision.action,
        "reason": decision.reason,
        "level": decision.level,
        "profile": _clipped(decision.profile),
        "decidedBy": _clipped(decision.decided_by),
        "warnings": decision.warnings,
    }
    _log.log(level, "pod decided", extra={key: value for key, value in fields.items() if value})


def _report_verdict(review: AdmissionRequest, verdict: Verdict) -> None:
    is_bad = verdict.denial or verdict.trouble
    level = logging.WARNING if is_bad else logging.INFO if verdict.warnings else logging.DEBUG
    if not _log.isEnabledFor(level):
        return
    fields = {
        "uid": _clipped(review.uid),
        "operation": _clipped(review.operation),
        "resource": _clipped(review.resource),
        "namespace": _clipped(review.namespace),
        "object": _clipped(review.name),
        "dryRun": review.dry_run,
        "warnings": verdict.warnings,
        "errors": verdict.denial.errors if verdict.denial else [],
        "reason": verdict.trouble,
    }
    message = "write denied" if verdict.denial else "write allowed"
    _log.log(level, message, extra={key: value for key, value in fields.items() if value})


def _name(obj: dict[str, Any] | None) -> str | None:
    metadata = (obj or {}).get("metadata")
    if not isinstance(metadata, dict):  # what is no pod was not looked into
        return None
    return _clipped(metadata.get("name") or metadata.get("generateName"))


def _clipped(text: Any) -> str | None:
    return one_line(text[:_MAX_LOGGED])[:_MAX_LOGGED] if isinstance(text, str) else None
