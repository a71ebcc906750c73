"""The bodies of requests, bounded in size, in time and, over all requests together, in memory."""

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Message, Receive, Scope

from app.admission.review import MAX_REVIEW_BYTES

MAX_HELD_BYTES = 64 * 1024 * 1024
"""Some thousand reviews of usual size, and a quarter of the memory that a replica is given."""


class BodyRefused(Exception):  # noqa: N818 - HTTP's own term
    """A body that is not read to its end; `status` and `kind` are for the answer and the metric."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.kind = status, kind

    @property
    def closes(self) -> bool:
        """Whether the rest of the body is not worth waiting for."""
        return self.status in (408, 503)


class Budget:
    """Bytes of bodies that may be held by all requests together."""

    def __init__(self, limit: int = MAX_HELD_BYTES) -> None:
        self.left = limit


class Body:
    """A request's body; its bytes count against the budget until the context ends, with what was made of them.

    What came is counted, not what Content-Length promises: a promise costs its sender nothing, so ten clients that
    announce seven megabytes and send none could turn everybody else away.
    """

    __slots__ = ("_budget", "_taken")

    def __init__(self, budget: Budget) -> None:
        self._budget, self._taken = budget, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._budget.left += self._taken

    async def read(self, scope: Scope, receive: Receive, seconds: float) -> bytes:
        """Return the whole body of an ASGI request; raises BodyRefused."""
        if _announced(scope) > MAX_REVIEW_BYTES:
            raise _too_large()
        try:
            async with asyncio.timeout(seconds):
                message = await receive()
                first = self._piece(message)
                return first if not message.get("more_body") else await self._rest(first, receive)
        except TimeoutError:
            raise BodyRefused(408, "timeout", f"the review was not there after {seconds:g} s") from None

    async def _rest(self, first: bytes, receive: Receive) -> bytes:
        parts = bytearray(first)  # not a list: of single bytes, which would each be an object
        while True:
            message = await receive()
            parts += self._piece(message)
            if not message.get("more_body"):
                return bytes(parts)

    def _piece(self, message: Message) -> bytes:
        if message["type"] == "http.disconnect":
            raise BodyRefused(400, "malformed", "the connection ended before the review did")
        piece: bytes = message.get("body", b"")
        self._take(len(piece))
        return piece

    def _take(self, size: int) -> None:
        if self._taken + size > MAX_REVIEW_BYTES:
            raise _too_large()
        if size > self._budget.left:
            raise BodyRefused(503, "busy", "too many reviews are being read at once; try again")
        self._budget.left -= size
        self._taken += size


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0  # what comes is counted all the same


def _too_large() -> BodyRefused:
    return BodyRefused(413, "too-large", f"an AdmissionReview has at most {MAX_REVIEW_BYTES} bytes")
