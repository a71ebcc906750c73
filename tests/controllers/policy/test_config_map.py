"""The policy of a cluster and the copy that outlives a restart, where the API server fails at the wrong moment."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from app.controllers.policy.active import PolicyKeeper
from app.controllers.policy.config_map import ConfigMapPolicy
from app.controllers.policy.last_good import SOURCE_UID, SOURCE_VERSION
from app.core.policy import Standing
from app.core.policy_v1alpha1.config_map import KEY
from app.kube.client import ApiError, ApiUnavailable, Json, KubeClient, KubeError, Page
from app.settings import Settings
from tests.infra.factories import policy_text

GOOD, OTHER = policy_text(default={"level": "crash"}), policy_text(default={"level": "filesystem"})
BAD = "mode: none"
SETTINGS = Settings()


class StandInApi:
    """The two ConfigMaps, and nothing else of an API server; `fault` is raised by every request for the copy."""

    def __init__(self, policy: Json | None, copy: Json | None = None) -> None:
        self.policy = policy
        self.copy: Json = {"metadata": {"resourceVersion": "1"}, **(copy or {})}
        self.fault: KubeError | None = None
        self.asked = 0
        self.patches: list[Json] = []
        self._events: asyncio.Queue[Any] = asyncio.Queue()

    async def list_page(self, path: str, **_: object) -> Page:
        return Page([self.policy] if self.policy else [], "1", "")

    @asynccontextmanager
    async def watch(self, path: str, **_: object) -> AsyncIterator[AsyncIterator[Any]]:
        async def events() -> AsyncIterator[Any]:
            while True:
                yield await self._events.get()

        yield events()

    def change(self, config_map: Json) -> None:
        """Let the watch tell of another version of the policy ConfigMap."""
        self._events.put_nowait(_Event("MODIFIED", config_map))

    async def get(self, path: str, **_: object) -> Json:
        self.asked += 1
        if self.fault:
            raise self.fault
        return self.copy

    async def patch(self, path: str, body: Json) -> Json:
        if self.fault:
            raise self.fault
        self.patches.append(body)
        self.copy = {"metadata": {**body["metadata"], "resourceVersion": "2"}, "data": body["data"]}
        return self.copy


class _Event:
    def __init__(self, kind: str, item: Json) -> None:
        self.type, self.object = kind, item


def config_map(text: str | None, version: int = 10, **fields: Any) -> Json:
    metadata = {"name": SETTINGS.policy_config_map, "namespace": SETTINGS.namespace, "uid": "u"}
    data = {} if text is None else {"data": {KEY: text}}
    return {"metadata": {**metadata, "resourceVersion": str(version)}, **data, **fields}


@asynccontextmanager
async def following(api: StandInApi) -> AsyncIterator[PolicyKeeper]:
    keeper = PolicyKeeper(lambda *_: None)
    policy = ConfigMapPolicy(cast(KubeClient, api), SETTINGS, keeper)
    task = asyncio.create_task(policy.run())
    try:
        yield keeper
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.controllers.policy.config_map._SAVE_AGAIN_SECONDS", (0.01, 0.02))
    monkeypatch.setattr("app.controllers.policy.last_good._RECALL_AGAIN_SECONDS", 0.01)


async def test_a_good_policy_waits_for_nobody() -> None:
    api = StandInApi(config_map(GOOD))
    api.fault = ApiError(500, "InternalError", "etcd is away")
    async with following(api) as keeper:
        await until(lambda: keeper.is_valid)


async def test_a_bad_policy_waits_for_the_last_good_one() -> None:
    api = StandInApi(config_map(BAD), {"data": {KEY: GOOD}})
    api.fault = ApiUnavailable("no answer")
    async with following(api) as keeper:
        await until(lambda: api.asked > 3)
        assert keeper.current().standing is Standing.UNKNOWN
        api.fault = None
        await until(lambda: keeper.current().standing is Standing.LAST_GOOD)


async def test_a_newer_policy_ends_the_wait() -> None:
    api = StandInApi(config_map(BAD))
    api.fault = ApiUnavailable("no answer")
    async with following(api) as keeper:
        await until(lambda: api.asked > 3)
        api.change(config_map(GOOD, 11))
        await until(lambda: keeper.is_valid)


@pytest.mark.parametrize("status", [403, 404])
async def test_without_a_copy_a_bad_policy_is_invalid(status: int) -> None:
    api = StandInApi(config_map(BAD))
    api.fault = ApiError(status, "", "no")
    async with following(api) as keeper:
        await until(lambda: keeper.current().standing is Standing.INVALID)


async def test_a_copy_that_failed_is_made_later_whatever_else_changes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "vm-consistency.policy")
    api = StandInApi(config_map(GOOD))
    api.fault = ApiUnavailable("no answer")
    async with following(api) as keeper:
        await until(lambda: keeper.is_valid and api.asked > 2)
        for version in (11, 12, 13):
            api.change(config_map(GOOD, version))
            await until(lambda asked=api.asked: api.asked > asked)  # type: ignore[misc]
        assert len(caplog.records) == 1, "one cause, one line"
        api.fault = None
        await until(lambda: bool(api.patches))
    [patch] = api.patches
    assert patch["data"] == {KEY: GOOD}
    assert patch["metadata"]["annotations"] == {SOURCE_UID: "u", SOURCE_VERSION: "13"}


@pytest.mark.parametrize(
    ("uid", "kept"), [pytest.param("u", True, id="newer-copy"), pytest.param("other-cluster", False, id="restored")]
)
async def test_an_older_policy_does_not_replace_a_newer_copy_of_the_same(uid: str, kept: bool) -> None:
    source = {SOURCE_UID: uid, SOURCE_VERSION: "9876543"}
    api = StandInApi(config_map(GOOD), {"data": {KEY: OTHER}})
    api.copy["metadata"]["annotations"] = source
    async with following(api):
        await until(lambda: bool(api.asked))
        if not kept:
            await until(lambda: bool(api.patches))
    assert api.copy["data"] == {KEY: OTHER if kept else GOOD}


async def test_a_binary_policy_is_called_so() -> None:
    api = StandInApi(config_map(None, binaryData={KEY: "6Q=="}))
    async with following(api) as keeper:
        await until(lambda: keeper.current().standing is Standing.INVALID)
        assert "save it as UTF-8 text" in str(keeper.current().error)


async def test_a_config_map_without_the_key_says_which() -> None:
    async with following(StandInApi(config_map(None))) as keeper:
        await until(lambda: keeper.current().standing is Standing.INVALID)
        assert keeper.current().error == "the ConfigMap has no key policy.yaml"
