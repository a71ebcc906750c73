"""Requests to the API server by path: JSON in, JSON out.

The generated API classes of `kubernetes` are not used: four of them cost 32 MB, their models drop fields that they
don't know, and an informer of typed objects would hold some 100 kB per pod.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode, urlsplit

import aiohttp
import orjson

from app import __version__
from app.core.text import one_line
from app.kube.connection import ConfigException, Configuration, Refresh, Transport, load, reason_of
from app.kube.partial import read_event, read_page

Json = dict[str, Any]
Params = Mapping[str, str | int | bool]

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"

_ACCEPT = "application/json"
_ACCEPT_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
_ACCEPT_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
_TIMEOUT = 30.0
_PAGE = 500
"""Objects for each request of `list_all`."""
_PING_SECONDS = 10.0


class KubeError(Exception):
    """A request to the API server came to nothing; the message is one line."""


class ApiError(KubeError):
    """The API server answered with an error.

    `status` is the HTTP code, `reason` the machine-readable one such as "NotFound" (may be empty), `retry_after` the
    seconds that the server asks to wait.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {one_line(message)}" if reason else f"{status}: {one_line(message)}")
        self.status, self.reason, self.message, self.retry_after = status, reason, message, retry_after

    @classmethod
    def from_status(cls, body: Any, status: int = 0, retry_after: float | None = None) -> Self:
        """Read a Kubernetes `Status` object; `status` is the code where the object names none."""
        if not isinstance(body, dict):
            return cls(status, "", one_line(str(body))[:200], retry_after)
        code, details = body.get("code"), body.get("details")
        seconds = details.get("retryAfterSeconds") if isinstance(details, dict) else None
        if retry_after is None and isinstance(seconds, int):
            retry_after = float(seconds)
        reason, message = str(body.get("reason") or ""), str(body.get("message") or "no message")
        return cls(code if isinstance(code, int) else status, reason, message, retry_after)


class ApiUnavailable(KubeError):  # noqa: N818 - a state, not a fault in a request
    """No answer: the connection failed or broke, or time was up."""


class NeverConnected(ApiUnavailable):
    """No connection came about, so nothing was asked of the server."""


class UnreadableAnswer(KubeError):  # noqa: N818 - like ApiUnavailable
    """What came is not what the Kubernetes API sends; a proxy or the wrong address, perhaps."""


class Page(NamedTuple):
    """One page of a list; `continue_token` is empty on the last one."""

    items: list[Json]
    resource_version: str
    continue_token: str


class Event(NamedTuple):
    """A watch event: ADDED, MODIFIED, DELETED or BOOKMARK, and the object."""

    type: str
    object: Json


class KubeClient:
    """A connection to one API server. Make it and close it within a running event loop.

    Every method raises ApiError when the server says no, ApiUnavailable when it doesn't answer within `timeout`
    (seconds) and UnreadableAnswer when it answers nonsense. `metadata_only` asks for PartialObjectMetadata: of each
    object apiVersion, kind and metadata.
    """

    def __init__(self, configuration: Configuration, refresh: Refresh) -> None:
        self._configuration, self._refresh = configuration, refresh
        self._transport = Transport(configuration)
        self._refused = False
        self.server: str = urlsplit(configuration.host).netloc

    @classmethod
    async def connect(cls, kubeconfig: Path | None = None, context: str | None = None) -> Self:
        """A client of the cluster that `connection.load` finds; raises ConfigError. Sends nothing yet."""
        return cls(*await load(kubeconfig, context))

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()
        await asyncio.sleep(0)  # connections that were dropped close their sockets in the loop's next round

    async def get(
        self, path: str, *, params: Params | None = None, metadata_only: bool = False, timeout: float = _TIMEOUT
    ) -> Json:
        """GET an object."""
        return await self._json("GET", path, params, _ACCEPT_METADATA if metadata_only else _ACCEPT, timeout)

    async def list_page(
        self, path: str, *, params: Params | None = None, metadata_only: bool = False, timeout: float = _TIMEOUT
    ) -> Page:
        """GET a collection, or the part of it that `limit` and `continue` in `params` name."""
        accept = _ACCEPT_METADATA_LIST if metadata_only else _ACCEPT
        content = await self._answered("GET", path, params, accept, timeout)
        body = self._read(f"GET {path}", content, read_page(content) if metadata_only else _json(content))
        items, metadata = body.get("items"), body.get("metadata")
        if not isinstance(metadata, dict) or not metadata.get("resourceVersion"):
            raise UnreadableAnswer(f"{self.server}: {path} is not a list of objects")
        return Page(items or [], str(metadata["resourceVersion"]), str(metadata.get("continue") or ""))

    async def list_all(
        self, path: str, *, selectors: Mapping[str, str] | None = None, metadata_only: bool = False
    ) -> list[Json]:
        """GET a whole collection, page by page; ApiError 410 where it takes longer than the server keeps the pages."""
        params: dict[str, str | int | bool] = {"limit": _PAGE, **(selectors or {})}
        items: list[Json] = []
        while True:
            page = await self.list_page(path, params=params, metadata_only=metadata_only)
            items += page.items
            if not page.continue_token:
                return items
            params["continue"] = page.continue_token

    async def post(self, path: str, body: Json, *, params: Params | None = None, timeout: float = _TIMEOUT) -> Json:
        """Create an object in a collection, or send one to a subresource."""
        return await self._json("POST", path, params, _ACCEPT, timeout, body)

    async def put(self, path: str, body: Json, *, params: Params | None = None, timeout: float = _TIMEOUT) -> Json:
        """Replace an object; with its resourceVersion in it, ApiError 409 if somebody else wrote since."""
        return await self._json("PUT", path, params, _ACCEPT, timeout, body)

    async def patch(
        self,
        path: str,
        body: Json | Sequence[Json],
        content_type: str = MERGE_PATCH,
        *,
        params: Params | None = None,
        timeout: float = _TIMEOUT,
    ) -> Json:
        """Patch an object with MERGE_PATCH (an object) or JSON_PATCH (a list of operations); returns the object."""
        sent = body if isinstance(body, Mapping) else list(body)
        return await self._json("PATCH", path, params, _ACCEPT, timeout, sent, content_type)

    async def patch_unread(self, path: str, body: Sequence[Json], *, timeout: float = _TIMEOUT) -> bytes:
        """Patch an object with a JSON patch; returns what comes back, the object's metadata, as it came."""
        return await self._answered("PATCH", path, None, _ACCEPT_METADATA, timeout, list(body), JSON_PATCH)

    async def delete(self, path: str, *, timeout: float = _TIMEOUT) -> None:
        """DELETE an object."""
        await self._answered("DELETE", path, None, _ACCEPT, timeout)

    @contextlib.asynccontextmanager
    async def watch(
        self,
        path: str,
        *,
        params: Params,
        metadata_only: bool = False,
        timeout: float = _TIMEOUT,
        silence: float = 660.0,
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Watch a collection: entered when the server has accepted (within `timeout`), yields the events as they come.

        The iterator ends when the server ends the watch. It raises ApiError for an ERROR event, ApiUnavailable when
        the connection breaks or stays silent for `silence` seconds, and UnreadableAnswer for a line that is no event;
        nothing can be read after that.
        """
        accept = _ACCEPT_METADATA if metadata_only else _ACCEPT
        with self._faults(timeout):
            async with asyncio.timeout(timeout):
                response = await self._send("GET", path, {**params, "watch": "true"}, accept, silence=silence)
                if response.status != 200:
                    raise _error(response, await response.read())
        events = self._events(response, silence, read_event if metadata_only else orjson.loads)
        try:
            yield events
        finally:
            _abandon(response)
            await events.aclose()

    async def _events(
        self, response: aiohttp.ClientResponse, silence: float, read: Callable[[bytes], Any]
    ) -> AsyncGenerator[Event]:
        with self._faults(silence):
            async for line in response.content:
                if line.isspace():
                    continue
                try:
                    event = Event(**read(line))
                except (ValueError, TypeError) as error:
                    raise UnreadableAnswer(f"{self.server}: a line of the watch is no event: {line[:60]!r}") from error
                if event.type == "ERROR":
                    raise ApiError.from_status(event.object)
                yield event

    @contextlib.asynccontextmanager
    async def websocket(
        self, path: str, params: Sequence[tuple[str, str]], protocols: Sequence[str], *, timeout: float = _TIMEOUT
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open a WebSocket; entered when the server has taken it (within `timeout`).

        Raises NeverConnected, or ApiError where the server declines, whose message says little: aiohttp drops what
        the server writes to it. A peer that no longer answers pings ends it after `_PING_SECONDS` and half of that.
        """
        with self._faults(timeout):
            async with asyncio.timeout(timeout):
                url = f"{self._configuration.host}{path}?{urlencode(params)}"
                headers = await self._headers()
                try:
                    socket = await self._transport.websocket(url, headers, protocols, _PING_SECONDS)
                except aiohttp.WSServerHandshakeError as error:
                    self._refused = error.status == 401
                    raise ApiError(error.status, "", _phrase(error.status)) from error
        try:
            yield socket
        finally:
            await socket.close()

    def _read(self, request: str, content: bytes, body: Json | None) -> Json:
        if body is None:
            raise UnreadableAnswer(f"{self.server}: the answer to {request} is no JSON object: {content[:60]!r}")
        return body

    async def _json(self, method: str, path: str, *request: Any) -> Json:
        """`_answered`, and the object that it is."""
        content = await self._answered(method, path, *request)
        return self._read(f"{method} {path}", content, _json(content))

    async def _answered(
        self,
        method: str,
        path: str,
        params: Params | None,
        accept: str,
        timeout: float,
        body: object = None,
        content_type: str | None = None,
    ) -> bytes:
        with self._faults(timeout):
            async with asyncio.timeout(timeout):
                response = await self._send(method, path, params, accept, body, content_type)
                content = await response.read()  # and with that the connection is free again
        if not 200 <= response.status < 300:
            raise _error(response, content)
        return content

    async def _send(
        self,
        method: str,
        path: str,
        params: Params | None,
        accept: str,
        body: object = None,
        content_type: str | None = None,
        silence: float | None = None,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": accept, **await self._headers()}
        if content_type:
            headers["Content-Type"] = content_type
        url = self._configuration.host + path + (f"?{urlencode(params)}" if params else "")
        limits = aiohttp.ClientTimeout(total=None, sock_read=silence)  # the caller limits the whole
        answer = await self._transport.request(  # type: ignore[no-untyped-call]
            method, url, headers=headers, body=body, _request_timeout=limits
        )
        response: aiohttp.ClientResponse = answer.response
        self._refused = response.status == 401
        return response

    async def _headers(self) -> dict[str, str]:
        await self._refresh(self._refused)
        headers = {"User-Agent": f"vm-consistency/{__version__}"}
        if authorization := (await self._configuration.auth_settings()).get("BearerToken"):
            headers["Authorization"] = authorization["value"] or ""
        return headers

    @contextlib.contextmanager
    def _faults(self, seconds: float) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise ApiUnavailable(f"{self.server}: no answer within {seconds:g} s") from error
        except aiohttp.ClientConnectorError as error:
            raise NeverConnected(f"{self.server}: {reason_of(error)}") from error
        except (aiohttp.ClientError, OSError, ValueError, ConfigException) as error:
            # ValueError: a token that can't be a header, a line longer than the buffer
            raise ApiUnavailable(f"{self.server}: {reason_of(error)}") from error


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no message"


def _json(content: bytes) -> Json | None:
    try:
        answer = orjson.loads(content)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _abandon(response: aiohttp.ClientResponse) -> None:
    # Not by closing alone: that would take leave of the server, by TLS's rules and for up to 30 s, which may be dead.
    if response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()
    response.close()


def _error(response: aiohttp.ClientResponse, content: bytes) -> ApiError:
    try:
        body = orjson.loads(content)
    except ValueError:
        body = content.decode(errors="replace") or response.reason
    header = response.headers.get("Retry-After", "")  # the API server sends seconds, never a date
    return ApiError.from_status(body, response.status, float(header) if header.isdigit() else None)
