"""The log of a process that is not ready: what changes, and not how long it has been so."""

import asyncio
import logging
import time

import pytest

from app.kube.client import KubeClient
from app.kube.connection import Configuration
from app.kube.reflector import Reflector
from app.server import run
from app.server.health import OpsServer
from app.server.in_cluster import _stale, _unsynced
from app.server.metrics import Metrics
from tests.kube.support import no_refresh, reflector_of
from tests.server.support import fields


async def unsynced_for(reflector: Reflector[str], seconds: float) -> None:
    reflector.last_error = "403 Forbidden: no such right"
    reflector.store.out_of_touch_since = time.monotonic() - seconds


async def test_time_that_goes_by_is_no_news(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="vm-consistency.run")
    client = KubeClient(Configuration(host="http://127.0.0.1:1"), no_refresh)
    reflector = reflector_of(client)
    ops = OpsServer({"namespaces": _unsynced(reflector)}, {}, Metrics())
    looks: list[float] = []

    async def sleep(seconds: float) -> None:
        looks.append(seconds)
        await unsynced_for(reflector, 10.0 * len(looks))
        if len(looks) == 5:
            reflector.last_error = "500: out of order"
        if len(looks) == 6:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    await unsynced_for(reflector, 0)
    with pytest.raises(asyncio.CancelledError):
        await run._report_readiness(ops)
    monkeypatch.undo()
    await client.close()

    told = [fields(record)["checks"]["namespaces"] for record in caplog.records if record.message == "not ready"]
    assert told == [
        "namespaces: not read yet: 403 Forbidden: no such right",
        "namespaces: not read yet: 500: out of order",
    ]
    assert set(looks) == {1.0}
    assert "60 s without a watch" in (_stale(reflector)() or ""), "the page says how long"
