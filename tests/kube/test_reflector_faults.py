"""What a reflector does when the API server misbehaves, told by requests and by the pauses between them."""

import asyncio
import logging

import pytest

from app.kube.reflector import Timings
from tests.infra.stand_ins.api_server import Reply, Request, StandInServer, forever, item, listed
from tests.kube.support import QUICK, Naps, eventually, healthy, names, plain_client, reflector_of, running


async def _one_item_then_silence(request: Request, reply: Reply) -> None:
    if not request.is_watch:
        return await reply.json(listed(item("a"), version=5))
    await reply.stream()
    return await forever()


def _assert_backed_off(naps: Naps, rounds: int) -> None:
    """The pauses grow like client-go's, within their jitter, up to the longest one."""
    assert len(naps.asked) >= rounds
    for attempt, pause in enumerate(naps.asked):
        full = min(30.0, 0.8 * 2**attempt)
        assert full / 2 <= pause <= full, (attempt, pause)


@pytest.mark.parametrize("status", [403, 500, 503])
async def test_refused_lists_are_retried_ever_more_slowly(status: int, caplog: pytest.LogCaptureFixture) -> None:
    async def script(request: Request, reply: Reply) -> None:
        await reply.status(status, "Refused", "no such right")

    naps = Naps()
    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        reflector = reflector_of(client, timings=Timings(), naps=naps)
        async with running(reflector):
            await eventually(lambda: len(naps.asked) >= 8)
            assert len(server.requests) <= len(naps.asked) + 1
        _assert_backed_off(naps, 8)
        assert not reflector.synced
        assert not healthy(reflector)
        assert reflector.describe().endswith(f": {status} Refused: no such right")
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1, "the same error is said once"


async def test_a_watch_that_closes_at_once_is_not_retried_at_once() -> None:
    async def script(request: Request, reply: Reply) -> None:
        if not request.is_watch:
            return await reply.json(listed(item("a"), version=5))
        await reply.stream()
        return await reply.end()

    naps = Naps()
    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        reflector = reflector_of(client, timings=Timings(), naps=naps)
        async with running(reflector):
            await eventually(lambda: len(naps.asked) >= 10)
            assert len(server.watches) <= len(naps.asked) + 1
            assert len(server.lists) <= len(naps.asked) + 1
        _assert_backed_off(naps, 10)
        assert reflector.synced
        assert reflector.last_error == "the server ends each watch at once"
        assert names(reflector) == {"a": "1"}


async def test_a_watch_that_closes_after_each_event_is_followed_by_short_pauses() -> None:
    async def script(request: Request, reply: Reply) -> None:
        if not request.is_watch:
            return await reply.json(listed(version=5))
        await reply.stream()
        await reply.event("MODIFIED", item("a", int(request.query["resourceVersion"]) + 1))
        return await reply.end()

    naps = Naps()
    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        reflector = reflector_of(client, timings=Timings(), naps=naps)
        async with running(reflector):
            await eventually(lambda: len(naps.asked) >= 10)
            assert len(server.watches) <= len(naps.asked) + 1
        assert all(0.4 <= pause <= 0.8 for pause in naps.asked)
        assert len(server.lists) == 1


async def test_retry_after_is_heeded() -> None:
    async def script(request: Request, reply: Reply) -> None:
        await reply.status(429, "TooManyRequests", "try later", Retry_After="17")

    naps = Naps()
    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        async with running(reflector_of(client, timings=Timings(), naps=naps)):
            await eventually(lambda: len(naps.asked) >= 3)
        assert all(pause >= 17 for pause in naps.asked)


async def test_an_expired_continue_token_restarts_the_list_and_half_a_list_is_never_seen() -> None:
    expired = False

    async def script(request: Request, reply: Reply) -> None:
        nonlocal expired
        if request.is_watch:
            await reply.stream()
            return await forever()
        if request.query.get("continue"):
            if not expired:
                expired = True
                return await reply.status(410, "Expired", "the provided continue parameter is too old")
            return await reply.json(listed(item("b"), version=7))
        return await reply.json(listed(item("a"), version=7, more="there is more"))

    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        reflector = reflector_of(client)
        seen: list[int] = []
        reflector.store.subscribe(lambda key, old, new: seen.append(len(reflector.store)))
        async with running(reflector):
            await reflector.wait_synced()
            assert names(reflector) == {"a": "1", "b": "1"}
            await eventually(lambda: server.watches)
        assert [request.query.get("continue") for request in server.lists] == [None, "there is more"] * 2
        assert {request.query["limit"] for request in server.lists} == {"100"}
        assert server.watches[0].query["resourceVersion"] == "7"
        assert set(seen) == {2}


@pytest.mark.parametrize("how", ["event", "status"])
async def test_a_resource_version_that_is_too_old_leads_to_a_new_list(how: str) -> None:
    async def script(request: Request, reply: Reply) -> None:
        if not request.is_watch:
            again = len(server.lists) > 1
            return await reply.json(listed(item("new" if again else "old"), version=9 if again else 5))
        if request.query["resourceVersion"] == "9":
            await reply.stream()
            return await forever()
        if how == "status":
            return await reply.status(410, "Expired", "too old resource version: 5 (8)")
        await reply.stream()
        return await reply.event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})

    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        reflector = reflector_of(client)
        changes: list[tuple[str, str | None, str | None]] = []
        reflector.store.subscribe(lambda key, old, new: changes.append((key[1], old, new)))
        async with running(reflector):
            await eventually(lambda: names(reflector) == {"new": "1"})
            await eventually(lambda: len(server.watches) == 2)
        assert changes == [("old", None, "1"), ("old", "1", None), ("new", None, "1")]
        assert [watch.query["resourceVersion"] for watch in server.watches] == ["5", "9"]


async def test_endless_410_is_no_tight_loop() -> None:
    async def script(request: Request, reply: Reply) -> None:
        if not request.is_watch:
            return await reply.json(listed(version=5))
        return await reply.status(410, "Expired")

    naps = Naps()
    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        async with running(reflector_of(client, timings=Timings(), naps=naps)):
            await eventually(lambda: len(naps.asked) >= 8)
            assert len(server.requests) <= 2 * len(naps.asked) + 2
        _assert_backed_off(naps, 8)


async def test_other_error_events_are_retried_from_the_last_version() -> None:
    async def script(request: Request, reply: Reply) -> None:
        if not request.is_watch:
            return await reply.json(listed(version=5))
        await reply.stream()
        if len(server.watches) == 1:
            await reply.event("ADDED", item("a", 6))
            return await reply.event("ERROR", {"kind": "Status", "code": 500, "message": "etcd is slow"})
        return await forever()

    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        async with running(reflector_of(client)):
            await eventually(lambda: len(server.watches) == 2)
        assert server.watches[1].query["resourceVersion"] == "6"
        assert len(server.lists) == 1


async def test_a_version_from_before_a_restored_etcd_is_given_up() -> None:
    async def script(request: Request, reply: Reply) -> None:
        if not request.is_watch:
            return await reply.json(listed(item("a"), version=50 if len(server.lists) == 1 else 7))
        if request.query["resourceVersion"] == "50":
            return await reply.status(504, "Timeout", "Too large resource version: 50, current: 7")
        await reply.stream()
        return await forever()

    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        async with running(reflector_of(client)):
            await eventually(lambda: server.watches and server.watches[-1].query["resourceVersion"] == "7")
        assert len(server.lists) == 2


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b'{"type":"ADDED","object":{"metadata":{"na', id="cut-mid-line"),
        pytest.param(b"<html>proxy error</html>\n", id="garbage-line"),
        pytest.param(b'["ADDED"]\n', id="no-event"),
        pytest.param(b'{"type":"ADDED"}\n', id="half-an-event"),
    ],
)
async def test_a_broken_stream_goes_on_from_the_last_good_event(rest: bytes) -> None:
    async def script(request: Request, reply: Reply) -> None:
        if not request.is_watch:
            return await reply.json(listed(version=5))
        await reply.stream()
        if len(server.watches) == 1:
            await reply.event("ADDED", item("a", 6))
            return await reply.chunk(rest)
        await reply.event("ADDED", item("b", 7))
        return await forever()

    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        reflector = reflector_of(client)
        async with running(reflector):
            await eventually(lambda: names(reflector) == {"a": "6", "b": "7"})
        assert server.watches[1].query["resourceVersion"] == "6"
        assert len(server.lists) == 1


async def test_objects_that_cannot_be_read_are_skipped_and_keep_their_last_view(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def script(request: Request, reply: Reply) -> None:
        if not request.is_watch:
            return await reply.json(listed({"metadata": None}, item("bad", 4), item("a", 4), version=5))
        await reply.stream()
        await reply.event("MODIFIED", item("a", 6, bad=True))
        nonsense: object
        for nonsense in (None, [], {}, {"metadata": {}}, {"metadata": {"name": "x", "namespace": 7}}):
            await reply.event("ADDED", nonsense)
        await reply.event("RENAMED", item("c", 6))
        await reply.event("ADDED", item("b", 7))
        return await forever()

    def picky(obj: dict[str, dict[str, object]]) -> str | None:
        if obj["metadata"].get("bad"):
            raise ValueError("scripted")
        version, name = obj["metadata"]["resourceVersion"], obj["metadata"]["name"]
        return None if name == "bad" else str(version)

    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        reflector = reflector_of(client, decode=picky)
        async with running(reflector):
            await eventually(lambda: "b" in names(reflector))
            assert names(reflector) == {"a": "4", "b": "7"}
        assert len(server.watches) == 1, "no object ends the watch"
    assert "scripted" in caplog.text


async def test_a_callback_that_fails_is_logged_and_the_others_are_called(caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("scripted")

    async with StandInServer(_one_item_then_silence).running() as server, plain_client(server.url) as client:
        reflector = reflector_of(client)
        changes: list[object] = []
        reflector.store.subscribe(fails)
        reflector.store.subscribe(lambda *change: changes.append(change))
        async with running(reflector):
            await eventually(lambda: changes)
            await eventually(lambda: server.watches)
        assert changes == [(("", "a"), None, "1")]
    assert "RuntimeError: scripted" in caplog.text


async def test_bookmarks_move_the_version_and_nothing_else() -> None:
    async def script(request: Request, reply: Reply) -> None:
        if not request.is_watch:
            return await reply.json(listed(item("a"), version=5))
        await reply.stream()
        if len(server.watches) == 1:
            return await reply.event("BOOKMARK", {"metadata": {"resourceVersion": "80"}})  # and the connection breaks
        return await forever()

    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        reflector = reflector_of(client)
        async with running(reflector):
            await eventually(lambda: len(server.watches) == 2 and reflector.stale_seconds == 0)
            assert names(reflector) == {"a": "1"}
        first, second = (watch.query for watch in server.watches)
        assert (first["resourceVersion"], second["resourceVersion"]) == ("5", "80")
        assert first["allowWatchBookmarks"] == "true"
        assert 300 <= int(first["timeoutSeconds"]) <= 600


async def test_a_silent_watch_is_given_up() -> None:
    impatient = Timings(first_backoff=0.01, longest_backoff=0.1, settled=0.05, watch=(0, 0), grace=0.2)
    async with StandInServer(_one_item_then_silence).running() as server, plain_client(server.url) as client:
        reflector = reflector_of(client, timings=impatient)
        async with running(reflector):
            await eventually(lambda: len(server.watches) == 2)
            assert reflector.last_error == f"{client.server}: no answer within 0.2 s"
            await eventually(lambda: healthy(reflector), what="a watch that lives settles it")
        assert len(server.lists) == 1


async def test_a_watch_that_ended_in_its_own_time_is_opened_again_at_once() -> None:
    async def script(request: Request, reply: Reply) -> None:
        if not request.is_watch:
            return await reply.json(listed(version=5))
        await reply.stream()
        await asyncio.sleep(0.05)
        return await reply.end()

    naps = Naps()
    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        reflector = reflector_of(client, timings=Timings(settled=0.01), naps=naps)
        async with running(reflector):
            await eventually(lambda: len(server.watches) == 3)
            assert healthy(reflector)
        assert naps.asked == []


async def test_a_server_that_is_slow_to_accept_a_watch_is_given_up() -> None:
    async def script(request: Request, reply: Reply) -> None:
        await (forever() if request.is_watch else reply.json(listed(version=5)))

    timings = Timings(first_backoff=0.01, longest_backoff=0.1, request=0.1)
    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        reflector = reflector_of(client, timings=timings)
        async with running(reflector):
            await eventually(lambda: len(server.watches) == 2)
            assert reflector.last_error == f"{client.server}: no answer within 0.1 s"
            assert reflector.stale_seconds > 0
            assert "without a watch" in reflector.describe()


async def test_absent_present_and_deleted_again() -> None:
    served = False

    async def script(request: Request, reply: Reply) -> None:
        if not served:
            return await reply.raw(b"404 page not found\n", 404)
        return await _one_item_then_silence(request, reply)

    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        reflector = reflector_of(client)
        async with running(reflector):
            await reflector.wait_synced()
            assert healthy(reflector)
            assert reflector.describe() == "namespaces: not served by this cluster"
            assert (len(reflector.store), reflector.stale_seconds) == (0, 0.0)
            served = True
            await eventually(lambda: names(reflector) == {"a": "1"})
            assert reflector.describe() == "namespaces: 1 objects"


async def test_a_resource_that_is_no_longer_served_leaves_nothing() -> None:
    async def script(request: Request, reply: Reply) -> None:
        if len(server.requests) == 1:
            return await reply.json(listed(item("a"), version=5))
        return await reply.raw(b"404 page not found\n", 404)

    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        reflector = reflector_of(client)
        async with running(reflector):
            await eventually(lambda: reflector.describe() == "namespaces: not served by this cluster")
            assert (len(reflector.store), healthy(reflector)) == (0, True)


async def test_an_absent_resource_is_a_sound_state_between_failures() -> None:
    answers = [500, 500, 500, 404, 500]
    states: list[tuple[bool, bool]] = []
    pauses: list[float] = []

    async def script(request: Request, reply: Reply) -> None:
        await reply.status(answers[len(server.requests) - 1], "Scripted")

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        states.append((healthy(reflector), reflector.stale_seconds > 0))
        await (forever() if len(pauses) == len(answers) else asyncio.sleep(0.001))
        if len(pauses) == len(answers) - 1:
            assert reflector.stale_seconds == 0

    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        reflector = reflector_of(client, timings=Timings(), naps=note)
        async with running(reflector):
            await eventually(lambda: len(pauses) == len(answers))
            await eventually(lambda: reflector.stale_seconds > 0)
        assert [healthy for healthy, _ in states] == [False, False, False, True, False]
        assert pauses[4] <= 0.8 < pauses[2]


async def test_looks_for_an_absent_resource_are_two_seconds_apart() -> None:
    async def script(request: Request, reply: Reply) -> None:
        await reply.raw(b"404 page not found\n", 404)

    naps = Naps()
    async with StandInServer(script).running() as server, plain_client(server.url) as client:
        async with running(reflector_of(client, timings=Timings(), naps=naps)):
            await eventually(lambda: len(naps.asked) >= 20)
            assert len(server.requests) <= len(naps.asked) + 1
        assert all(1.5 <= pause <= 2.5 for pause in naps.asked)
        assert len(set(naps.asked)) > 10, "jitter"


async def test_a_server_that_is_not_there_is_named_in_one_line() -> None:
    async with StandInServer(_one_item_then_silence).running() as server, plain_client(server.url) as client:
        pass
    async with plain_client(server.url) as client:
        reflector = reflector_of(client, timings=QUICK)
        async with running(reflector):
            await eventually(lambda: reflector.last_error)
            assert reflector.last_error is not None
            assert client.server in reflector.last_error
            assert "\n" not in reflector.last_error
            assert not reflector.synced


async def test_one_object_is_asked_for_by_field_selector() -> None:
    async with StandInServer(_one_item_then_silence).running() as server, plain_client(server.url) as client:
        reflector = reflector_of(client, name="policy", namespace="here")
        async with running(reflector):
            await eventually(lambda: server.watches)
        assert {request.query["fieldSelector"] for request in server.requests} == {"metadata.name=policy"}
        assert {request.path for request in server.requests} == {"/api/v1/namespaces/here/namespaces"}
        assert reflector.title == "namespaces here/policy"
