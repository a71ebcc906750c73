"""What callers of the client see: answers, or errors on one line."""

import asyncio
import time

import pytest

from app.core.kubevirt_names import KubeVirtNames
from app.kube.client import JSON_PATCH, ApiError, ApiUnavailable, KubeClient, UnreadableAnswer
from app.kube.connection import Configuration, Refresh
from app.kube.resources import NAMESPACES, Resource, virtual_machines
from tests.infra.stand_ins.api_server import Reply, Request, StandInServer, forever, listed
from tests.kube.support import eventually, no_refresh, plain_client

_PATH = NAMESPACES.object("a")


async def _get(server: StandInServer, *, timeout: float = 5.0) -> dict[str, object]:
    async with plain_client(server.url) as client:
        return await client.get(_PATH, timeout=timeout)


async def test_a_status_becomes_an_api_error() -> None:
    async def script(request: Request, reply: Reply) -> None:
        await reply.status(429, "TooManyRequests", "too many\n requests", Retry_After="3")

    async with StandInServer(script).running() as server:
        with pytest.raises(ApiError) as caught:
            await _get(server)
    error = caught.value
    assert (error.status, error.reason, error.retry_after) == (429, "TooManyRequests", 3.0)
    assert str(error) == "429 TooManyRequests: too many requests"


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"404 page not found\n", "404: 404 page not found"), (b"", "404: Scripted"), (b"[]", "404: []")],
)
async def test_an_error_without_a_status_keeps_its_text(content: bytes, text: str) -> None:
    async def script(request: Request, reply: Reply) -> None:
        await reply.raw(content, 404)

    async with StandInServer(script).running() as server:
        with pytest.raises(ApiError) as caught:
            await _get(server)
    assert str(caught.value) == text


@pytest.mark.parametrize("content", [b"<html>Log in</html>", b"[1]", b""])
async def test_an_answer_that_is_no_object_is_unreadable(content: bytes) -> None:
    async def script(request: Request, reply: Reply) -> None:
        await reply.raw(content)

    async with StandInServer(script).running() as server:
        with pytest.raises(UnreadableAnswer, match=f"{server.url.removeprefix('http://')}: the answer to GET {_PATH}"):
            await _get(server)


async def test_a_list_without_a_version_is_unreadable() -> None:
    async def script(request: Request, reply: Reply) -> None:
        await reply.json({"items": []})

    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        with pytest.raises(UnreadableAnswer, match="is not a list of objects"):
            await client.list_page(NAMESPACES.collection())


@pytest.mark.parametrize("when", ["before-headers", "in-the-body"])
async def test_time_is_limited(when: str) -> None:
    async def script(request: Request, reply: Reply) -> None:
        if when == "in-the-body":
            await reply.stream()
            await reply.chunk(b"{")
        await forever()

    started = time.monotonic()
    async with StandInServer(script).running() as server:
        with pytest.raises(ApiUnavailable, match=r"no answer within 0.1 s"):
            await _get(server, timeout=0.1)
    assert time.monotonic() - started < 2


async def test_a_connection_that_breaks_is_unavailable() -> None:
    async def script(request: Request, reply: Reply) -> None:
        await reply.stream()
        await reply.chunk(b"{")

    async with StandInServer(script).running() as server:
        with pytest.raises(ApiUnavailable):
            await _get(server)


async def test_credentials_that_cannot_be_read_make_the_server_unavailable() -> None:
    asked: list[bool] = []

    def gone(configuration: Configuration) -> None:
        raise FileNotFoundError("no token file")

    async with StandInServer(lambda request, reply: reply.json({})).running() as server:
        configuration = Configuration(host=server.url, api_key={"BearerToken": "bearer old"})
        vars(configuration)["refresh_api_key_hook"] = gone  # untyped: None
        client = KubeClient(configuration, _noting(asked))
        with pytest.raises(ApiUnavailable, match="no token file"):
            await client.get(_PATH)
        await client.close()
    assert (server.requests, asked) == ([], [False])


def _noting(asked: list[bool]) -> Refresh:
    async def refresh(refused: bool) -> None:
        asked.append(refused)

    return refresh


async def test_credentials_are_renewed_before_a_request_and_the_sooner_after_a_401() -> None:
    async def script(request: Request, reply: Reply) -> None:
        await (reply.status(401, "Unauthorized") if len(server.requests) == 2 else reply.json({}))

    asked: list[bool] = []
    async with StandInServer(script).running() as server:
        client = KubeClient(Configuration(host=server.url), _noting(asked))
        await client.get(_PATH)
        with pytest.raises(ApiError, match="401 Unauthorized"):
            await client.get(_PATH)
        await client.get(_PATH)
        await client.get(_PATH)
        await client.close()
    assert asked == [False, False, True, False]


async def test_gets_do_not_queue_behind_watches() -> None:
    async def script(request: Request, reply: Reply) -> None:
        if request.is_watch:
            await reply.stream()
            return await forever()
        return await reply.json({"found": True})

    async with StandInServer(script).running() as server, plain_client(server.url) as client:

        async def watch() -> None:
            async with client.watch(NAMESPACES.collection(), params={}) as events:
                async for _ in events:
                    pass

        watches = [asyncio.create_task(watch()) for _ in range(20)]
        try:
            await eventually(lambda: len(server.watches) == 20)
            answers = await asyncio.gather(*(client.get(_PATH, timeout=5) for _ in range(20)))
            assert answers == [{"found": True}] * 20
        finally:
            for task in watches:
                task.cancel()
            await asyncio.gather(*watches, return_exceptions=True)


async def test_what_is_sent() -> None:
    async def script(request: Request, reply: Reply) -> None:
        await reply.json(listed())

    async with StandInServer(script).running() as server:
        configuration = Configuration(host=server.url, api_key={"BearerToken": "Bearer secret"})
        client = KubeClient(configuration, no_refresh)
        await client.get(_PATH, metadata_only=True)
        await client.list_page(NAMESPACES.collection(), params={"limit": 5, "continue": "a+b/c=="}, metadata_only=True)
        await client.patch(_PATH, [{"op": "test", "path": "/x", "value": 1}], JSON_PATCH, params={"dryRun": "All"})
        await client.patch(_PATH, {"metadata": {}})
        await client.close()
    got, paged, patched, merged = server.requests
    assert got.headers["accept"].startswith("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
    assert got.headers["authorization"] == "Bearer secret"
    assert got.headers["user-agent"].startswith("vm-consistency/")
    assert paged.headers["accept"].startswith("application/json;as=PartialObjectMetadataList;")
    assert paged.query == {"limit": "5", "continue": "a+b/c=="}
    assert (patched.method, patched.headers["content-type"]) == ("PATCH", "application/json-patch+json")
    assert patched.query == {"dryRun": "All"}
    assert merged.headers["content-type"] == "application/merge-patch+json"


def test_paths() -> None:
    machines = virtual_machines(KubeVirtNames(api_group="fork.example", kind_prefix="Fork"))
    assert machines.object("db.1", "team") == "/apis/fork.example/v1/namespaces/team/forkvirtualmachines/db.1"
    assert machines.collection() == "/apis/fork.example/v1/forkvirtualmachines"
    assert NAMESPACES.collection() == "/api/v1/namespaces"
    assert str(machines) == "forkvirtualmachines.fork.example"


@pytest.mark.parametrize("name", ["", ".", "..", "../secrets/x", "a%2Fb"])
def test_names_that_lead_elsewhere_are_no_names(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        Resource("", "v1", "pods").object(name, "default")
