"""The state of the policy, written where its admin looks: on its ConfigMap, and as Events about that."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from app.controllers.events.recorder import NORMAL, WARNING, EventRecorder, ObjectRef
from app.controllers.policy.active import PolicyKeeper, digest
from app.controllers.reconcile_loop import ObjectApi, Pace, Problem, ReconcileLoop, until_won, waking
from app.core.annotations import POLICY_ACCEPTED, POLICY_ERROR, POLICY_STATE, POLICY_TIME
from app.core.policy import PolicyState, Standing
from app.core.policy_v1alpha1.config_map import PolicyText
from app.core.text import one_line
from app.kube.client import ApiError, Json, KubeClient
from app.kube.resources import CONFIG_MAPS

_log = logging.getLogger("vm-consistency.policy")

POLICY_ACCEPTED_EVENT: Final = "PolicyAccepted"
POLICY_REJECTED_EVENT: Final = "PolicyRejected"

_SECONDS_BETWEEN_WRITES: Final = 2.0

Annotations = dict[str, str | None]
"""By key; None where there is to be none."""


class PolicyStatus:
    """Annotates the policy's ConfigMap with what `keeper` made of the text that stands there.

    For one replica at a time. Where the keeper has not read that text yet, nothing is written until it has.
    """

    def __init__(
        self,
        api: ObjectApi,
        keeper: PolicyKeeper,
        recorder: EventRecorder,
        *,
        namespace: str,
        name: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        pace: Pace | None = None,
    ) -> None:
        """`namespace` and `name` are the ConfigMap's. Whoever makes this has it woken when the keeper's state changes.

        Events that `recorder` suppresses are told about the ConfigMap, too.
        """
        self._api, self._keeper, self._recorder = api, keeper, recorder
        self._namespace, self._name = namespace, name
        self._now, self._pace = now, pace or Pace(_SECONDS_BETWEEN_WRITES)
        self._loop = ReconcileLoop(self.reconcile, _log)
        self.wake = self._loop.wake

    async def run(self, client: KubeClient) -> None:
        """Watch the ConfigMap through `client` and reconcile on every change, and periodically, until cancelled."""
        watch = waking(client, CONFIG_MAPS, self._name, self.wake, namespace=self._namespace)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch.run())
            tasks.create_task(self._loop.run())

    async def reconcile(self) -> float | None:
        """Read the ConfigMap and annotate it if need be; returns the seconds until that may be done.

        Raises KubeError, and Problem for what an administrator has to put right.
        """
        try:
            return await until_won(self._pass)
        except ApiError as error:
            if error.status == 404:
                return None  # there is no policy, and nothing to say it on
            where = f"ConfigMap {self._namespace}/{self._name}"
            raise Problem(f"{where}: the policy's state can't be written: {error}") from error

    async def _pass(self) -> float | None:
        path = CONFIG_MAPS.object(self._name, self._namespace)
        config_map = await self._api.get(path)
        metadata = config_map["metadata"]
        about = ObjectRef("v1", "ConfigMap", self._namespace, self._name, metadata["uid"])
        self._recorder.overflow_about = about
        state = self._keeper.current()
        if self._keeper.newest != digest(PolicyText.of(config_map).text or ""):
            return None  # the keeper will say when it has read this one
        held, wanted = metadata.get("annotations") or {}, _annotations(state)
        is_new = any(held.get(key) != value for key, value in wanted.items())
        if not is_new and POLICY_TIME in held:
            return None
        if delay := self._pace.delay():
            return delay
        annotations = {**wanted, POLICY_TIME: self._now().strftime("%Y-%m-%dT%H:%M:%SZ")}
        guarded: Json = {"resourceVersion": metadata["resourceVersion"], "annotations": annotations}
        await self._api.patch(path, {"metadata": guarded})
        self._pace.wrote()
        if is_new:
            self._tell(about, state)
        return None

    def _tell(self, about: ObjectRef, state: PolicyState) -> None:
        # Recurring: an admin who goes back to an earlier text wants to see that it was taken, again.
        if state.standing is Standing.VALID:
            message = f"policy {state.digest} is in force"
            self._recorder.record(about, NORMAL, POLICY_ACCEPTED_EVENT, message, recurring=True)
            return
        kept = f"{state.digest} stays in force" if state.digest else "no good one is known, every pod is left as it is"
        message = f"policy {self._keeper.newest} has errors, {kept}; the first: {state.error}"
        self._recorder.record(about, WARNING, POLICY_REJECTED_EVENT, message, recurring=True)


def _annotations(state: PolicyState) -> Annotations:
    return {
        POLICY_STATE: state.standing,
        POLICY_ACCEPTED: state.digest or None,
        POLICY_ERROR: one_line(state.error) if state.error else None,
    }
