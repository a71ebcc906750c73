"""Brings running launcher pods in line with what the webhook would write on new ones."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final, Protocol

from app.cluster.pods import InstanceIndex, PodIndex, RunningPod, running_pod
from app.cluster.stores import ClusterStores
from app.controllers.pods.expectations import OwnWrites
from app.controllers.pods.progress import Progress
from app.controllers.pods.rate_limits import Gate, Rate, Restraint
from app.controllers.pods.reports import PodReports
from app.controllers.pods.work_queue import WorkQueue
from app.controllers.reconcile_loop import ATTEMPTS, PERIOD
from app.core.decision import Decision, decide_running
from app.core.kubevirt_names import KubeVirtNames
from app.core.launcher import NotLauncher, recognise_running
from app.core.objects import Facts, OwnerReference
from app.core.policy import PolicyState
from app.core.record import has_record, is_intact
from app.kube.client import ApiError, KubeClient, KubeError
from app.kube.resources import PODS
from app.kube.store import Key, ObjectStore

_log = logging.getLogger("vm-consistency.reconciler")

_TICK_SECONDS: Final = 1.0
_ORPHAN_SECONDS: Final = 60.0
"""For so long, an instance whose VirtualMachine is missing is taken for one that goes."""
_LONGEST_PAUSE_SECONDS: Final = 600.0
_OF_ONE_VM: Final = 2
"""Pods that an instance has while it migrates."""
_AT_A_STRETCH_SECONDS: Final = 0.001
"""For so long, pods are looked at by all workers together before reviews get their turn."""

_TAKEN_BACK: Final = (
    "the API server took the write and stored nothing: another admission webhook puts the pod back, or our own, whose "
    "condition not-our-own-write must name this process's user"
)

_RACE_LOST: Final = (409, 422)
"""A `test` of a JSON patch that fails is answered 422, like an object that isn't valid."""


class KnownFacts(Protocol):
    """Gives the facts about a launcher pod's owner that are known without asking; StoreFacts is one."""

    def known(self, namespace: str, vmi: OwnerReference, *, is_orphan: bool = False) -> Facts | None:
        """Return them, or None where the owner is not, or not any more, among what is known.

        `is_orphan`: do without the VirtualMachine that the instance names.
        """
        ...


class RunningPolicies(Protocol):
    """Gives the policy for new pods and the one for pods that run already; PolicyKeeper is one."""

    def current(self) -> PolicyState:
        """Return the policy in force."""
        ...

    def running(self) -> PolicyState:
        """Return the policy for pods that run already; the same object as long as nothing changes."""
        ...

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after every change; returns what ends this."""
        ...


class PodReconciler:
    """Looks at a pod when it, its owner, its Namespace or the policy changes, and writes where it differs.

    The outcome is a function of the cluster's state: whatever was missed, an outage of the webhook, a write that
    admission doesn't see, somebody's edit, is found by the same comparison. Every write names the resourceVersion that
    was decided on, so nothing that came in between is lost and two writers don't both write.
    """

    def __init__(
        self,
        client: KubeClient,
        pods: ObjectStore[RunningPod],
        index: PodIndex,
        stores: ClusterStores,
        facts: KnownFacts,
        policies: RunningPolicies,
        reports: PodReports,
        in_touch: Callable[[], bool],
        *,
        per_second: float,
        concurrency: int,
    ) -> None:
        """`pods` holds what runs, with its `index`; `in_touch` tells whether that and `stores` are up to date."""
        self._client, self._pods, self._index, self._stores, self._facts = client, pods, index, stores, facts
        self._policies, self._reports, self._concurrency = policies, reports, concurrency
        self._names: KubeVirtNames = stores.names
        self._instances: InstanceIndex  # while it runs
        self._queue: WorkQueue[Key] = WorkQueue()
        self._rate, self._gate = Rate(per_second), Gate(in_touch)
        self._restraint: Restraint[Key] = Restraint(at_once=5)
        self._haste: Restraint[Key] = Restraint(at_once=60)
        self._written = OwnWrites(pods)
        self._failures: dict[Key, int] = {}
        self._orphans: dict[Key, float] = {}
        self._progress = Progress()
        self._breath = 0.0
        self._policy = policies.running()
        self.writes = 0

    @property
    def backlog(self) -> int:
        """How many pods wait to be looked at."""
        return len(self._queue)

    async def run(self) -> None:
        """Bring every pod in line, now and after every change, until cancelled."""
        with self._subscribed():
            self._look_at_all("start")
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._concurrency):
                    tasks.create_task(self._work())
                tasks.create_task(self._keep_time())

    @contextmanager
    def _subscribed(self) -> Iterator[None]:
        index, stores = self._index, self._stores
        self._instances = InstanceIndex(stores.instances)

        def of_machine(key: Key) -> Collection[Key]:
            instance = stores.instances.get(*key)  # which has the name of its VirtualMachine
            return index.of_owner(instance.uid) if instance else ()

        with ExitStack() as ends:
            ends.callback(self._instances.close)
            ends.callback(self._queue.close)
            ends.callback(self._pods.subscribe(self._pod_changed))
            for store, pods_of in (
                (stores.machines, lambda key, _: of_machine(key)),
                (stores.instances, lambda _, new: index.of_owner(new.uid) if new else ()),
                (stores.namespaces, lambda key, _: index.of_namespace(key[1])),
            ):
                ends.callback(store.subscribe(partial(self._owner_changed, store, pods_of)))
            ends.callback(stores.kubevirts.subscribe(lambda *_: self._look_at_all("KubeVirt object changed")))
            ends.callback(self._policies.listen(self._policy_changed))
            yield

    def _owner_changed(
        self, store: ObjectStore[Any], pods_of: Callable[[Key, Any], Collection[Key]], key: Key, _: object, new: object
    ) -> None:
        keys = pods_of(key, new)
        for pod in keys:
            self._queue.add(pod, urgent=len(keys) <= _OF_ONE_VM and not store.replacing)

    def _pod_changed(self, key: Key, old: RunningPod | None, new: RunningPod | None) -> None:
        if new is not None and not self._written.is_echo(key, old, new):
            self._queue.add(key, urgent=not self._pods.replacing)
        if new is None or (old is not None and old.uid != new.uid):
            self._forget(key)

    def _forget(self, key: Key) -> None:
        self._written.forget(key)
        self._failures.pop(key, None)
        self._orphans.pop(key, None)
        self._restraint.forget(key)
        self._haste.forget(key)
        self._queue.forget(key)
        self._reports.forget(key)

    def _policy_changed(self) -> None:
        self._policy = self._policies.running()
        self._look_at_all("policy changed")

    def _look_at_all(self, why: str) -> None:
        self._progress.begin(why, len(self._pods), self.writes)
        for key in self._pods:
            self._queue.add(key)

    async def _work(self) -> None:
        while True:
            key = await self._queue.take()
            try:
                await self._gate.passed()
                await self._look_at(key)
            finally:
                self._queue.done(key)
            while time.monotonic() >= self._breath:
                before = self._breath
                await asyncio.sleep(0)
                if self._breath == before:  # the first worker of this round of the loop
                    self._breath = time.monotonic() + _AT_A_STRETCH_SECONDS

    async def _look_at(self, key: Key) -> None:
        try:
            again = await self._bring_in_line(key)
        except KubeError as error:
            again = self._failed(key, error)
        except Exception:  # an object that nobody foresaw must not end the work on all the others
            _log.exception("unexpected failure", extra={"pod": "/".join(key)})
            again = _LONGEST_PAUSE_SECONDS
        if self._pods.get(*key) is None:
            self._forget(key)  # it went while a request was under way
        elif again:
            self._queue.add_later(key, again)

    async def _bring_in_line(self, key: Key) -> float | None:
        """Look at one pod, and write where it differs; returns the seconds until it may be looked at again."""
        pod = self._pods.get(*key)
        due = self._due(key, pod)
        if due and (pause := max(self._restraint.delay(key), self._haste.delay(key))):
            return pause
        if due and await self._rate.take():  # meanwhile the policy, the owner or the pod may have changed
            await self._gate.passed()
            pod = self._pods.get(*key)
            due = self._due(key, pod)
        for _ in range(ATTEMPTS):
            if pod is None or due is None:
                self._failures.pop(key, None)
                return None
            vmi, decision = due
            refusal = await self._write(key, pod, decision)
            if refusal is None:
                self._reports.wrote(pod, vmi, decision)
                return None
            newer = await self._read(key)
            if newer and newer.resource_version == pod.resource_version:
                return self._refused(key, vmi, refusal)
            pod = newer
            due = self._due(key, pod)
        return 1.0  # the pod changes all the time

    def _due(self, key: Key, pod: RunningPod | None) -> tuple[OwnerReference, Decision] | None:
        """Decide about a pod; None where nothing is to be written."""
        if pod is None:
            return None
        is_pending = self._written.is_pending(key, pod)
        vmi = recognise_running(pod.view, self._instances.get(pod.owner_uid), self._names)
        facts = None if isinstance(vmi, NotLauncher) else self._known(key, pod, vmi)
        if isinstance(vmi, NotLauncher) or facts is None:
            return None  # if it is because the owner is not known, that one's watch wakes us as soon as it is
        decision = self._decide(pod, vmi, facts)
        self._reports.decided(key, vmi, decision)
        if is_pending or not decision.patch:
            return None
        return vmi, decision

    def _known(self, key: Key, pod: RunningPod, vmi: OwnerReference) -> Facts | None:
        """What is known of the owner.

        Where its VirtualMachine is missing, most likely all of it is about to go, and nothing is known for a while;
        but whoever can write instances can have one name a VirtualMachine that never was.
        """
        facts = self._facts.known(pod.view.namespace, vmi)
        if facts is not None:
            self._orphans.pop(key, None)
            return facts
        now = time.monotonic()
        left = self._orphans.setdefault(key, now) + _ORPHAN_SECONDS - now
        if left <= 0:
            return self._facts.known(pod.view.namespace, vmi, is_orphan=True)
        self._queue.add_later(key, left)
        return None

    def _decide(self, pod: RunningPod, vmi: OwnerReference, facts: Facts) -> Decision:
        running, current = self._policies.running(), self._policies.current()
        decision = decide_running(pod.view, vmi, facts, current, self._names)
        # What carries no record of ours is new to us, and new pods wait for no grace; nor are they, once they are
        # decided, taken back to a policy that was deleted before they came.
        if running is current or not decision.patch or not has_record(pod.view.annotations or {}):
            return decision
        return decide_running(pod.view, vmi, facts, running, self._names)

    async def _write(self, key: Key, pod: RunningPod, decision: Decision) -> KubeError | None:
        """Patch the pod; returns why not if it may not be what was decided on any more, or is stored as it was."""
        guard = {"op": "test", "path": "/metadata/resourceVersion", "value": pod.resource_version}
        held = self._pods.get(*key) or pod
        try:
            path = PODS.object(key[1], key[0])
            answer = await self._client.patch_unread(path, [guard, *decision.patch])
        except ApiError as error:
            if error.status not in _RACE_LOST:
                raise
            return error
        self._gate.succeeded()
        # Quotes within strings are escaped, so that no annotation can look like this.
        if f'"resourceVersion":"{pod.resource_version}"'.encode() in answer:
            return KubeError(_TAKEN_BACK)
        self._failures.pop(key, None)
        self._written.add(key, pod, held, decision.annotations)
        self._haste.wrote(key)
        if not is_intact(pod.view.annotations or {}):
            self._restraint.wrote(key)  # somebody else wrote since
        self.writes += 1
        return None

    async def _read(self, key: Key) -> RunningPod | None:
        return running_pod(await self._client.get(PODS.object(key[1], key[0]), metadata_only=True), self._names)

    def _failed(self, key: Key, error: KubeError) -> float | None:
        """Take note of a request that failed; returns the seconds until the next try."""
        status = error.status if isinstance(error, ApiError) else 0
        if status == 404:
            return None
        if _is_about_the_pod(error):
            return self._refused(key, self._owner(key), error)
        self._gate.close(error)
        # 500 may yet be about this pod; of the others the gate takes care, and no pod pays for the length of an outage.
        return self._pause(key) if status == 500 else _TICK_SECONDS

    def _refused(self, key: Key, vmi: OwnerReference | None, error: KubeError) -> float:
        if key in self._failures:  # an API server that has just started refuses until it has read its RBAC objects
            self._reports.not_written(key, vmi, str(error))
        return self._pause(key)

    def _owner(self, key: Key) -> OwnerReference | None:
        pod = self._pods.get(*key)
        vmi = recognise_running(pod.view, self._instances.get(pod.owner_uid), self._names) if pod else None
        return vmi if isinstance(vmi, OwnerReference) else None  # not as the pod has it, where a tenant can write it

    def _pause(self, key: Key) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        return min(_LONGEST_PAUSE_SECONDS, 2.0 ** min(failures, 12) / 2) * random.uniform(0.75, 1.25)  # noqa: S311

    async def _keep_time(self) -> None:
        looked = time.monotonic()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._restraint.prune()
            self._haste.prune()
            for key in self._written.unheard():
                self._queue.add(key)
            self._progress.tell(self.backlog, self.writes, len(self._failures))
            if self._policies.running() is not self._policy:  # changes are heard of; the end of the grace is not
                self._policy_changed()
            elif time.monotonic() - looked > PERIOD:
                looked = time.monotonic()
                self._look_at_all("time")


def _is_about_the_pod(error: KubeError) -> bool:
    """Whether another pod may fare better with the same API server."""
    if not isinstance(error, ApiError) or error.status in (401, 429):
        return False
    # A webhook that can't be reached under failurePolicy Fail (k8s.io/apiserver, admission/plugin/webhook/mutating and
    # validating, dispatcher.go, v0.36) is often one for a few Namespaces only.
    return error.status < 500 or "failed calling webhook" in error.message
