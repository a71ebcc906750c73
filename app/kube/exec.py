"""Commands in a container of a pod, by the `exec` subresource over a WebSocket."""

from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson

from app.core.text import one_line
from app.kube.client import ApiError, ApiUnavailable, KubeClient, NeverConnected
from app.kube.resources import PODS

MAX_OUTPUT: Final = 64 * 1024
"""Bytes kept of each stream; what comes after them is read and dropped."""

# apimachinery, pkg/util/remotecommand/constants.go. The first byte of a message is the channel; v5 differs from v4 in
# a channel for the end of stdin, which is not used here.
_PROTOCOLS: Final = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDOUT, _STDERR, _STATUS = 1, 2, 3

_REFUSALS: Final = {
    400: "the pod has no such container, or does not run",
    403: "you need permission to get and create pods/exec in its namespace",
    404: "there is no such pod any more",
}


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a command ended.

    `exit_code` is None where it did not run to an end, and `error` says why in one line (no such program, no such
    container; empty otherwise). `stdout` and `stderr` as they came, control characters and all, cut to MAX_OUTPUT.
    """

    exit_code: int | None
    error: str
    stdout: str
    stderr: str


class NotExecuted(Exception):  # noqa: N818 - what became of the command, not a fault in a request
    """The command was certainly not started; `is_final`: to ask again won't help."""

    def __init__(self, message: str, *, is_final: bool) -> None:
        super().__init__(message)
        self.is_final = is_final


async def exec_in_pod(
    client: KubeClient, namespace: str, pod: str, container: str, command: tuple[str, ...]
) -> ExecResult:
    """Run `command` and wait for its end, however long it takes.

    Raises NotExecuted, and ApiUnavailable where the connection broke first: then the command may run, or have run.
    To cancel this ends the connection, not the command.
    """
    target = [("container", container), ("stdout", "true"), ("stderr", "true")]
    params = [*(("command", word) for word in command), *target]
    path = f"{PODS.object(pod, namespace)}/exec"
    try:
        async with client.websocket(path, params, _PROTOCOLS) as socket:
            return await _result(socket, client.server)
    except ApiError as error:
        words = _REFUSALS.get(error.status, "the API server, or the node's kubelet, refused it")
        what = f"running a command in pod {namespace}/{pod}: {words} ({error})"
        raise NotExecuted(what, is_final=error.status in _REFUSALS) from error
    except NeverConnected as error:
        raise NotExecuted(str(error), is_final=False) from error


async def _result(socket: aiohttp.ClientWebSocketResponse, server: str) -> ExecResult:
    streams = {_STDOUT: bytearray(), _STDERR: bytearray()}
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
            continue
        channel, data = message.data[0], message.data[1:]
        if channel in streams:
            streams[channel] += data[: MAX_OUTPUT - len(streams[channel])]
        elif channel == _STATUS:
            exit_code, error = _ending(data)
            stdout, stderr = (bytes(stream).decode(errors="replace") for stream in streams.values())
            return ExecResult(exit_code, error, stdout, stderr)
    reason = f": {one_line(str(socket.exception()))}" if socket.exception() else ""
    raise ApiUnavailable(f"{server}: the connection ended before the command did{reason}")


def _ending(content: bytes) -> tuple[int | None, str]:
    """Read the Status object that ends a command (client-go, tools/remotecommand/v4.go)."""
    try:
        status = orjson.loads(content)
    except ValueError:
        status = None
    if not isinstance(status, dict):
        return None, "what ended the command can't be read"
    if status.get("status") == "Success":
        return 0, ""
    code = _exit_code(status) if status.get("reason") == "NonZeroExitCode" else None
    return code, "" if code is not None else one_line(str(status.get("message") or "it failed, without a reason"))


def _exit_code(status: dict[str, Any]) -> int | None:
    details = status.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    for cause in causes if isinstance(causes, list) else ():
        if isinstance(cause, dict) and cause.get("reason") == "ExitCode":
            text = str(cause.get("message"))
            return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None
    return None
