"""Commands in pods, against a stand-in for the API server that ends them as no real one can be told to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from app.kube.client import ApiUnavailable, KubeClient
from app.kube.exec import MAX_OUTPUT, ExecResult, NotExecuted, exec_in_pod
from tests.infra.stand_ins.api_server import Reply, Request, StandInServer
from tests.infra.stand_ins.exec_server import Terminal
from tests.kube.support import plain_client

Script = Callable[[Terminal], Awaitable[None]]
WORDS = ("/bin/sh", "-c", "a b&c=d;e+f %41#?\\\"$`|^[]{}<>@:/~\n'\N{SNOWMAN}'", "")


class Pod:
    """A pod in which every command does what a test's script says."""

    def __init__(self, server: StandInServer, client: KubeClient) -> None:
        self.server, self._client = server, client

    async def run(self, script: Script) -> ExecResult:
        """Run a command."""

        async def answer(request: Request, reply: Reply) -> None:
            await script(await Terminal.accept(request, reply))

        self.server.script = answer
        return await self.ask()

    async def ask(self) -> ExecResult:
        """Run a command, whatever the server does."""
        return await exec_in_pod(self._client, "shop", "virt-launcher-db", "compute", WORDS)


async def not_found(_: Request, reply: Reply) -> None:
    await reply.status(404, "NotFound")


@pytest.fixture
async def pod() -> AsyncIterator[Pod]:
    async with StandInServer(not_found).running() as server, plain_client(server.url) as client:
        yield Pod(server, client)


async def test_what_is_asked(pod: Pod) -> None:
    await pod.run(lambda terminal: terminal.exit(0))

    [request] = pod.server.requests
    assert (request.method, request.path) == ("GET", "/api/v1/namespaces/shop/pods/virt-launcher-db/exec")
    assert request.command == WORDS
    assert request.query["container"] == "compute"
    assert (request.query["stdout"], request.query["stderr"]) == ("true", "true")
    assert "stdin" not in request.query
    assert "tty" not in request.query
    assert request.headers["sec-websocket-protocol"] == "v5.channel.k8s.io,v4.channel.k8s.io"


async def test_output_and_exit_code(pod: Pod) -> None:
    async def script(terminal: Terminal) -> None:
        await terminal.stdout("")  # the real one begins so
        await terminal.stdout("ou")
        await terminal.stderr("err\n\x1b[31m")
        await terminal.stdout("t\n")
        await terminal.exit(7)

    assert await pod.run(script) == ExecResult(7, "", "out\n", "err\n\x1b[31m")


async def test_success(pod: Pod) -> None:
    assert await pod.run(lambda terminal: terminal.exit(0)) == ExecResult(0, "", "", "")


async def test_characters_that_are_torn_apart_and_bytes_that_are_none(pod: Pod) -> None:
    async def script(terminal: Terminal) -> None:
        first, second = "\N{SNOWMAN}".encode()[:1], "\N{SNOWMAN}".encode()[1:]
        await terminal.stdout(first)
        await terminal.stdout(second + b"\xff")
        await terminal.exit(0)

    assert (await pod.run(script)).stdout == "\N{SNOWMAN}\N{REPLACEMENT CHARACTER}"


async def test_output_without_end_is_cut_and_its_end_is_seen(pod: Pod) -> None:
    async def script(terminal: Terminal) -> None:
        for _ in range(10):
            await terminal.stdout("x" * 30_000)
        await terminal.stderr("why")
        await terminal.exit(3)

    result = await pod.run(script)

    assert (len(result.stdout), result.stderr, result.exit_code) == (MAX_OUTPUT, "why", 3)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        pytest.param(lambda t: t.fail("no such file or directory"), "no such file or directory", id="not-started"),
        pytest.param(lambda t: t.fail("two\nlines\x07"), "two lines\\x07", id="printable"),
        pytest.param(lambda t: t.status({"status": "Failure"}), "without a reason", id="no-message"),
        pytest.param(lambda t: t.send(3, "no json"), "can't be read", id="no-json"),
        pytest.param(lambda t: t.send(3, "[]"), "can't be read", id="no-object"),
        pytest.param(
            lambda t: t.status({"reason": "NonZeroExitCode", "message": "m", "details": {"causes": [{}, "x"]}}),
            "m",
            id="no-code",
        ),
        pytest.param(
            lambda t: t.status(
                {
                    "reason": "NonZeroExitCode",
                    "message": "m",
                    "details": {"causes": [{"reason": "ExitCode", "message": "9" * 5000}]},
                }
            ),
            "m",
            id="absurd-code",
        ),
        pytest.param(lambda t: t.status({"reason": "NonZeroExitCode", "message": "m"}), "m", id="no-details"),
    ],
)
async def test_commands_without_an_exit_code(pod: Pod, script: Script, error: str) -> None:
    result = await pod.run(script)

    assert result.exit_code is None
    assert error in result.error


async def test_what_no_server_sends_is_passed_over(pod: Pod) -> None:
    async def script(terminal: Terminal) -> None:
        await terminal.text("\x03text")
        await terminal.send(255, "close of stdin")
        await terminal.stdout("x")
        await terminal.exit(0)

    assert await pod.run(script) == ExecResult(0, "", "x", "")


async def test_a_connection_that_breaks_leaves_it_open_what_became_of_the_command(pod: Pod) -> None:
    async def script(terminal: Terminal) -> None:
        await terminal.stdout("x")
        terminal.drop()

    with pytest.raises(ApiUnavailable, match="ended before the command did"):
        await pod.run(script)


async def test_so_does_one_that_is_closed_in_good_order(pod: Pod) -> None:
    with pytest.raises(ApiUnavailable, match="ended before the command did"):
        await pod.run(lambda terminal: terminal.close())


async def test_so_does_one_that_breaks_before_the_answer(pod: Pod) -> None:
    async def hang_up(_: Request, reply: Reply) -> None:
        Terminal(reply).drop()

    pod.server.script = hang_up

    with pytest.raises(ApiUnavailable):
        await pod.ask()


async def test_a_server_that_falls_silent(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.kube.client._PING_SECONDS", 0.1)  # and it reads no pings

    async def silent(_: Terminal) -> None:
        await asyncio.Event().wait()

    with pytest.raises(ApiUnavailable, match="ended before the command did"):
        await asyncio.wait_for(pod.run(silent), 5)


@pytest.mark.parametrize(
    ("status", "is_final", "says"),
    [
        (400, True, "no such container"),
        (403, True, "get and create pods/exec"),
        (404, True, "no such pod"),
        (401, False, "401: Unauthorized"),
        (500, False, "500: Internal Server Error"),
        (299, False, "299: no message"),
    ],
)
async def test_refusals(pod: Pod, status: int, is_final: bool, says: str) -> None:
    async def refuse(_: Request, reply: Reply) -> None:
        await reply.status(status, "Scripted")

    pod.server.script = refuse

    with pytest.raises(NotExecuted) as caught:
        await pod.ask()

    assert caught.value.is_final is is_final
    assert says in str(caught.value)
    assert "shop/virt-launcher-db" in str(caught.value)


async def test_a_server_that_is_not_there() -> None:
    async with StandInServer(not_found).running() as server:
        url = server.url
    async with plain_client(url) as client:
        with pytest.raises(NotExecuted) as caught:
            await exec_in_pod(client, "shop", "p", "compute", WORDS)

    assert not caught.value.is_final
