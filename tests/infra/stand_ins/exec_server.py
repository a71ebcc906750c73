"""A stand-in for the server's end of an exec over WebSocket (RFC 6455; Kubernetes' v5.channel.k8s.io).

It sends what a test says, and reads nothing that the client sends after its request.
"""

import base64
import hashlib
import json
import struct

from tests.infra.stand_ins.api_server import Json, Reply, Request

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BINARY, _TEXT, _CLOSE = 0x82, 0x81, 0x88
_WORD = 126


class Terminal:
    """What the client of an exec request hears."""

    def __init__(self, reply: Reply) -> None:
        self._writer = reply.writer

    @classmethod
    async def accept(cls, request: Request, reply: Reply) -> "Terminal":
        """Take the upgrade."""
        key = request.headers["sec-websocket-key"] + _MAGIC
        digest = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {digest}",
            f"Sec-WebSocket-Protocol: {request.headers['sec-websocket-protocol'].split(',')[0]}",
        ]
        reply.writer.write("\r\n".join([*lines, "", ""]).encode())
        await reply.writer.drain()
        return cls(reply)

    async def stdout(self, text: str | bytes) -> None:
        await self.send(1, text)

    async def stderr(self, text: str | bytes) -> None:
        await self.send(2, text)

    async def send(self, channel: int, content: str | bytes) -> None:
        """One message of a channel."""
        data = content.encode() if isinstance(content, str) else content
        await self._frame(_BINARY, bytes([channel]) + data)

    async def text(self, content: str) -> None:
        """A message of the kind that no server of Kubernetes sends."""
        await self._frame(_TEXT, content.encode())

    async def exit(self, code: int) -> None:
        """The command ended by itself (kubelet, pkg/kubelet and apimachinery, metav1.Status)."""
        if code == 0:
            await self.status({"status": "Success"})
            return
        causes = {"causes": [{"reason": "ExitCode", "message": str(code)}]}
        await self.status({"status": "Failure", "reason": "NonZeroExitCode", "details": causes, "message": "exit"})

    async def fail(self, message: str) -> None:
        """The command came to no end of its own."""
        await self.status({"status": "Failure", "reason": "InternalError", "message": message, "code": 500})

    async def status(self, status: Json) -> None:
        await self.send(3, json.dumps({"kind": "Status", "metadata": {}, **status}))

    async def close(self) -> None:
        await self._frame(_CLOSE, struct.pack(">H", 1000))

    def drop(self) -> None:
        """End the connection as a crash does."""
        transport = self._writer.transport
        assert transport is not None
        transport.abort()

    async def _frame(self, kind: int, payload: bytes) -> None:
        length = bytes([len(payload)]) if len(payload) < _WORD else bytes([_WORD]) + struct.pack(">H", len(payload))
        self._writer.write(bytes([kind]) + length + payload)
        await self._writer.drain()
