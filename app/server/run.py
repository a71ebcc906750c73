"""The life of the process: start both servers and the controllers, drain on SIGTERM, stop."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import uvicorn
import uvloop

from app.admission.mutate_pods import PodMutator
from app.admission.validator import Validator
from app.controllers.gc_freeze import settle
from app.core.text import one_line
from app.server.health import Check, OpsServer
from app.server.http import AdmissionServer
from app.server.metrics import Metrics
from app.settings import Settings
from app.tls.serving import ServingContext

_log = logging.getLogger("vm-consistency.run")

_RESTART_SECONDS = (1.0, 30.0)
_STOP_SECONDS = 10.0
"""For the workers to end; the leader's needs up to 7 s where the API server does not answer."""
_SETTLED_SECONDS = 60.0
"""A worker that lives as long is well again."""
_READINESS_SECONDS = 1.0
_KEEP_ALIVE_SECONDS = 120
"""Above the 90 s after which Go's client drops an idle connection: closing first would race with its next request."""

Worker = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a process is made of, assembled with or without a cluster."""

    mutator: PodMutator
    serving: ServingContext
    metrics: Metrics
    workers: Mapping[str, Worker] = field(default_factory=dict)
    """Run for ever; one that fails is reported and started again, as the webhook goes on without it."""
    checks: Mapping[str, Check] = field(default_factory=dict)
    notes: Mapping[str, Check] = field(default_factory=dict)
    validators: Mapping[str, Validator] = field(default_factory=dict)
    """By the last part of their path."""


Assembly = Callable[[Settings], contextlib.AbstractAsyncContextManager[Parts]]


class _Server(uvicorn.Server):
    """Leaves signals to the process, which has two servers to stop in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(settings: Settings, assembly: Assembly) -> None:
    """Serve until SIGTERM or SIGINT."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(settings, assembly))


async def _main(settings: Settings, assembly: Assembly) -> None:
    async with assembly(settings) as parts, _workers(parts.workers) as troubles:
        await _serve(settings, parts, troubles)


@contextlib.asynccontextmanager
async def _workers(workers: Mapping[str, Worker]) -> AsyncIterator[Mapping[str, str]]:
    """Run the workers; yields what went wrong with those that are being started again."""
    troubles: dict[str, str] = {}
    stopping = asyncio.Event()
    tasks = [
        asyncio.create_task(_restarting(name, worker, troubles, stopping), name=name)
        for name, worker in workers.items()
    ]
    try:
        yield troubles
    finally:
        stopping.set()
        for task in tasks:
            task.cancel()
        _, left = await asyncio.wait(tasks, timeout=_STOP_SECONDS) if tasks else ((), set())
        if left:
            _log.error("workers do not stop", extra={"workers": sorted(task.get_name() for task in left)})


async def _restarting(name: str, worker: Worker, troubles: dict[str, str], stopping: asyncio.Event) -> None:
    shortest, longest = _RESTART_SECONDS
    pause = shortest
    while not stopping.is_set():  # a worker may end its own cancellation with an error of its cleanup
        started = time.monotonic()
        well = asyncio.get_running_loop().call_later(_SETTLED_SECONDS, troubles.pop, name, None)
        try:
            await worker()
        except Exception as error:
            _log.exception("worker failed; it is started again", extra={"worker": name, "seconds": pause})
            troubles[name] = f"failed and is started again: {type(error).__name__}: {one_line(str(error))}"
        finally:
            well.cancel()
        if stopping.is_set():
            return
        if time.monotonic() - started > _SETTLED_SECONDS:
            pause = shortest
        await asyncio.sleep(pause)
        pause = min(2 * pause, longest)


async def _serve(settings: Settings, parts: Parts, troubles: Mapping[str, str]) -> None:
    admission = AdmissionServer(parts.mutator, parts.metrics, settings.deadline, validators=parts.validators)
    checks = {**parts.checks, "not-draining": lambda: "the process is stopping" if admission.draining else None}
    failing: dict[str, Check] = {f"worker {name}": partial(troubles.get, name) for name in parts.workers}
    notes = {**parts.notes, **failing}
    ops = OpsServer(checks, notes, parts.metrics)
    https = _Server(
        _config(admission.app, settings, settings.port, ssl_context_factory=parts.serving.ssl_context_factory)
    )
    plain = _Server(_config(ops.app, settings, settings.ops_port))
    stopping = _stop_signal()
    async with asyncio.TaskGroup() as group:
        group.create_task(plain.serve())
        serving = group.create_task(https.serve())
        watch = group.create_task(_report_readiness(ops))
        interactive = await stopping
        admission.draining = True
        _log.info("draining", extra={"seconds": 0 if interactive else settings.drain_delay})
        if not interactive:
            await asyncio.sleep(settings.drain_delay)
        https.should_exit = True
        await serving
        plain.should_exit = True
        watch.cancel()


def _config(app: object, settings: Settings, port: int, **tls: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=settings.host,
        port=port,
        interface="asgi3",
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.deadline) + 1,
        **tls,  # type: ignore[arg-type]
    )


def _stop_signal() -> asyncio.Future[bool]:
    """Resolve on the first SIGTERM or SIGINT; True for the latter, when a person waits at a terminal."""
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[bool] = loop.create_future()

    def stop(number: signal.Signals) -> None:
        if not stopping.done():
            stopping.set_result(number is signal.SIGINT)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return stopping


async def _report_readiness(ops: OpsServer) -> None:
    """Log each change of readiness, as a probe's failure tells nobody why. Probes don't wait for this."""
    before: dict[str, str] | None = None
    is_settled = False
    while True:
        problems = ops.problems()
        if not problems and not is_settled:
            settle()
            is_settled = True
        if problems != before:
            message = "not ready" if problems else "ready"
            _log.log(
                logging.WARNING if problems and before == {} else logging.INFO, message, extra={"checks": problems}
            )
        before = problems
        await asyncio.sleep(_READINESS_SECONDS)
