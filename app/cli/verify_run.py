"""The run of a pod's hooks by `verify`: whatever happens between freeze and thaw, the guest is thawed."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace

from app.cli.verify_target import FROZEN, Reading, Target
from app.core.evidence.hook_output import Known
from app.core.evidence.hook_trial import Step, Trial, nothing_was_frozen, thaw_command, thaw_of
from app.core.evidence.velero_hooks import Phase, VeleroHook
from app.core.kubevirt_names import KubeVirtNames
from app.kube.client import KubeClient, KubeError
from app.kube.exec import ExecResult, NotExecuted, exec_in_pod

Tell = Callable[[str], None]

_THAW_SECONDS = 60.0
_THAWS = 3


@dataclass(frozen=True, slots=True)
class Pace:
    """Times in seconds.

    `late`: how long a hook that Velero would have given up on is waited for; virt-freezer itself waits 60 s for a
    freeze (kubevirt v1.8.4, pkg/virt-handler/cmd-client). `outlast`: how long beyond its timeout a pre hook may run
    that we lost sight of. `patience`: how long an API server that can't be reached is
    asked again while the guest may be frozen. `pause`: between two thaws. `look`: between two looks at the
    VirtualMachineInstance. `settle`: how long its status may lag behind a thaw; KubeVirt asks the guest every 5 s.
    """

    late: float = 90.0
    outlast: float = 15.0
    patience: float = 120.0
    pause: float = 5.0
    look: float = 1.0
    settle: float = 20.0
    unbounded: float = 600.0
    """For a hook whose timeout never passes."""


class Interrupt:
    """The wish to end early. It is told and noted only: both hooks are run to their end, to leave the guest thawed."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self.name: str | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Meanwhile SIGINT, SIGTERM and SIGHUP are wishes; needs the running loop of the main thread."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in signals:
            loop.add_signal_handler(number, self._wish, number.name)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def _wish(self, name: str) -> None:
        self.name = self.name or name
        self._tell(f"{name}: the guest has to be thawed first, please wait")


class Run:
    """One run of the hooks of one pod."""

    def __init__(
        self, client: KubeClient, target: Target, names: KubeVirtNames, tell: Tell, pace: Pace, reading: Reading
    ) -> None:
        self._client, self._target, self._subject, self._names = client, target, target.subject, names
        self._tell, self._pace, self._reading = tell, pace, reading
        self._interrupt = Interrupt(tell)
        self._seen_frozen = False

    async def trial(self) -> Trial:
        """Run the hooks; raises NotExecuted where the pre hook was not even started. Needs the main thread."""
        pre_hook, post_hook = self._subject.hooks.pre, self._subject.hooks.post
        assert pre_hook is not None
        assert post_hook is not None
        with self._interrupt.watched():
            async with self._watching():
                try:
                    pre, may_run_on = await self._execute("pre hook", pre_hook)
                    if may_run_on:
                        await self._outlast(pre)
                    post = await self._surely("post hook", post_hook)
                    thaws = await self._settle(pre, post, may_run_on)
                except NotExecuted:
                    raise
                except Exception:
                    await self._thaw()  # a fault of ours must not leave a guest frozen either
                    raise
            still = await self._still_frozen()
            backups = await self._new_backups()
        return Trial(pre, post, thaws, self._seen_frozen, still, self._interrupt.name, backups)

    async def _execute(self, name: str, hook: VeleroHook) -> tuple[Step, bool]:
        """Run a hook to its end, also beyond its timeout, and return whether its command may still be running.

        Raises NotExecuted.
        """
        self._tell(f"{name} ...")
        subject, limit = self._subject, self._pace.unbounded if hook.timeout is None else hook.timeout
        command = exec_in_pod(self._client, subject.namespace, subject.pod, hook.container, hook.command)
        started = time.monotonic()
        running = asyncio.create_task(command)
        await asyncio.wait({running}, timeout=limit)
        if not running.done():
            self._tell(f"the {name} is still running, and nothing ends it: waiting")
            await asyncio.wait({running}, timeout=started + limit + self._pace.late - time.monotonic())
        result = await _result(running)
        ended = time.monotonic()
        if isinstance(result, ExecResult):
            code, error, stdout, stderr = result.exit_code, result.error, result.stdout, result.stderr
            return Step(name, started, ended, code, error, stdout, stderr, hook.timeout), False
        error = result or f"it was still running after {ended - started:.0f} s"
        return Step(name, started, ended, None, f"{error}; it may run on", "", "", hook.timeout), True

    async def _surely(self, name: str, hook: VeleroHook) -> Step:
        """Try until the command was started, as long as that may help; the guest may be frozen meanwhile."""
        started = time.monotonic()
        while True:
            try:
                return (await self._execute(name, hook))[0]
            except NotExecuted as error:
                now = time.monotonic()
                if error.is_final or now > started + self._pace.patience:
                    return Step(name, started, now, None, str(error), "", "", hook.timeout)
                self._tell(f"{error}; trying again")
                await asyncio.sleep(self._pace.look)

    async def _thaw(self) -> Step:
        """Have virt-freezer thaw, whatever the hooks are; a guest that is thawed stays as it is."""
        command = thaw_command(self._subject, self._names)
        hook = VeleroHook(Phase.POST, self._names.container, command, _THAW_SECONDS, False, None, ())
        return replace(await self._surely("thaw", hook), timeout=None)  # it is none of Velero's

    async def _outlast(self, pre: Step) -> None:
        """Thaw again and again until a pre hook that we lost sight of must be over, so that no late freeze lasts."""
        limit = self._pace.unbounded if pre.timeout is None else pre.timeout
        while time.monotonic() < pre.started + limit + self._pace.outlast:
            await self._thaw()
            await asyncio.sleep(self._pace.pause)

    async def _settle(self, pre: Step, post: Step, may_run_on: bool) -> tuple[Step, ...]:
        """Thaw until virt-freezer says so, where the post hook doesn't."""
        thaws: list[Step] = []
        is_thawed = nothing_was_frozen(pre) or thaw_of(post).thawed is Known.YES
        while (not is_thawed and len(thaws) < _THAWS) or (may_run_on and not thaws):
            if thaws or may_run_on:
                await asyncio.sleep(self._pace.pause)
            thaws.append(await self._thaw())
            is_thawed = thaw_of(thaws[-1]).thawed is Known.YES
        return tuple(thaws)

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        """Meanwhile look at what KubeVirt says of the guest."""

        async def watch() -> None:
            while True:
                self._seen_frozen = await self._reported_frozen() or self._seen_frozen
                await asyncio.sleep(self._pace.look)

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    async def _still_frozen(self) -> bool:
        """Whether KubeVirt goes on to report the guest as frozen for longer than its report may be late."""
        end = time.monotonic() + self._pace.settle
        while await self._reported_frozen():
            if time.monotonic() > end:
                return True
            await asyncio.sleep(self._pace.look)
        return False

    async def _new_backups(self) -> tuple[str, ...]:
        with suppress(KubeError):
            return await self._reading.new_backups(self._target)
        return ()

    async def _reported_frozen(self) -> bool:
        with suppress(KubeError):  # additional evidence; the hooks themselves are what counts
            status = (await self._client.get(self._target.instance_path)).get("status")
            return isinstance(status, dict) and status.get("fsFreezeStatus") == FROZEN
        return False


async def _result(running: "asyncio.Task[ExecResult]") -> ExecResult | str:
    """How a command ended, or why that is not known; raises NotExecuted."""
    if not running.done():
        running.cancel()
        await asyncio.wait({running})
        return ""
    try:
        return running.result()
    except KubeError as error:
        return str(error)
