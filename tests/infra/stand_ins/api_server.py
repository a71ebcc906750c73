"""A stand-in for kube-apiserver over plain HTTP, for faults that a real one can't be told to produce."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

Json = dict[str, Any]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    command: tuple[str, ...] = ()
    """All values of that parameter, which an exec request repeats."""

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "true"


@dataclass
class Reply:
    """What a script answers with: one of `json`, or `stream` and then events; the connection closes after it."""

    writer: asyncio.StreamWriter
    ended: bool = field(default=False, init=False)

    async def json(self, body: object, status: int = 200, **headers: str) -> None:
        await self.raw(json.dumps(body).encode(), status, **headers)

    async def raw(self, content: bytes, status: int = 200, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Scripted", f"Content-Length: {len(content)}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        await self.writer.drain()

    async def status(self, code: int, reason: str, message: str = "scripted", **headers: str) -> None:
        await self.json({"kind": "Status", "code": code, "reason": reason, "message": message}, code, **headers)

    async def stream(self) -> None:
        self.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        await self.writer.drain()

    async def event(self, kind: str, obj: object) -> None:
        await self.chunk(json.dumps({"type": kind, "object": obj}).encode() + b"\n")

    async def chunk(self, content: bytes) -> None:
        self.writer.write(b"%x\r\n%s\r\n" % (len(content), content))
        await self.writer.drain()

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()


Script = Callable[[Request, Reply], Awaitable[None]]


class StandInServer:
    """Answers every request by `script`, which a test may exchange at any time, and remembers the requests."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.url = ""
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def watches(self) -> list[Request]:
        return [request for request in self.requests if request.is_watch]

    @property
    def lists(self) -> list[Request]:
        return [request for request in self.requests if not request.is_watch]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["StandInServer"]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                request = await _read(reader)
                self.requests.append(request)
                await self.script(request, Reply(writer))
        finally:
            self._connections.discard(task)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = head[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    await reader.readexactly(int(headers.get("content-length", 0)))
    url = urlsplit(target)
    query = parse_qsl(url.query, keep_blank_values=True)
    command = tuple(value for key, value in query if key == "command")
    return Request(method, unquote(url.path), dict(query), headers, command)


def item(name: str, version: int = 1, namespace: str = "", **metadata: object) -> Json:
    named = {"name": name, "resourceVersion": str(version), "uid": f"uid-{name}", **metadata}
    return {"metadata": {**named, "namespace": namespace} if namespace else named}


def listed(*items: Json, version: int = 1, more: str = "") -> Json:
    return {"items": list(items), "metadata": {"resourceVersion": str(version), "continue": more}}


async def forever() -> None:
    await asyncio.Event().wait()
