"""`policy check --live`: the VMs of a cluster whose hooks a policy would change."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import typer

from app.cli.output import misuse, read_settings
from app.cluster.facts import StoreFacts
from app.cluster.pods import NOT_ENDED, InstanceIndex, RunningPod, running_pod
from app.cluster.stores import ClusterStores
from app.core.annotations import EFFECTIVE_LEVEL, EFFECTIVE_PROFILE, HOOK_KEYS
from app.core.decision import Action, Decision, Reason, decide_running
from app.core.kubevirt_names import KubeVirtNames
from app.core.launcher import PodView, recognise_running
from app.core.objects import OwnerReference
from app.core.policy import Mode, Policy, PolicyState, Standing
from app.core.record import RecordState, record_state
from app.core.text import one_line
from app.kube.client import ApiError, Json, KubeClient, KubeError, UnreadableAnswer
from app.kube.connection import ConfigError
from app.kube.resources import NAMESPACES, PODS, Resource, kubevirts, virtual_machine_instances, virtual_machines
from app.kube.store import Key, ObjectStore

T = TypeVar("T")

_TRIES = 3
_MAX_SHOWN = 100
_COLUMNS = ("NAMESPACE", "VM", "POD", "NOW", "THEN", "DECIDED-BY")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the policy makes of one pod."""

    vm: str
    pod: PodView
    decision: Decision

    @property
    def changes(self) -> bool:
        """Whether the hooks would be others; a record changes alone where another source decides the same."""
        after = self.decision.annotations
        return after is not None and _hooks(self.pod.annotations or {}) != _hooks(after)

    @property
    def stuck(self) -> bool:
        """Whether the pod would be left as it is although the policy may want something else."""
        return self.decision.trouble is not None

    @property
    def record(self) -> RecordState:
        """What the pod's record is worth."""
        return record_state(self.pod.annotations or {})

    @property
    def now(self) -> tuple[str, str | None] | None:
        """Level and profile of an intact record."""
        if self.record is not RecordState.INTACT:
            return None
        # Anyone who may write pods can write a record that is intact, with anything in it.
        written = [(self.pod.annotations or {}).get(key) for key in (EFFECTIVE_LEVEL, EFFECTIVE_PROFILE)]
        level, profile = (None if text is None else one_line(text[:_MAX_SHOWN]) for text in written)
        return level or "", profile

    @property
    def result(self) -> str:
        """The level that the policy gives, `unmanaged`, or `untouched`."""
        if self.decision.action is Action.UNMANAGED:
            return "unmanaged"
        return "untouched" if self.stuck or self.decision.level is None else self.decision.level


def _hooks(annotations: Mapping[str, str]) -> dict[str, str]:
    return {key: annotations[key] for key in HOOK_KEYS if key in annotations}


@dataclass(frozen=True, slots=True)
class Report:
    """What a policy would do to a cluster if it enforced. VMs are counted; one that migrates has two pods."""

    mode: Mode
    outcomes: Sequence[Outcome]

    @property
    def told(self) -> list[Outcome]:
        """The pods to tell of one by one."""
        return [outcome for outcome in self.outcomes if outcome.changes or outcome.stuck]

    @property
    def total(self) -> int:
        """VMs with a launcher pod that runs."""
        return self._vms(lambda _: True)

    @property
    def changed(self) -> int:
        """VMs that would get other hooks."""
        return self._vms(lambda outcome: outcome.changes)

    @property
    def record_only(self) -> int:
        """VMs that would keep their hooks and get another record."""
        return self._vms(lambda outcome: bool(outcome.decision.patch)) - self.changed

    @property
    def refused(self) -> int:
        """VMs that ask for something that the policy does not grant."""
        return self._vms(lambda outcome: bool(outcome.decision.refusals))

    @property
    def levels(self) -> dict[str, int]:
        """VMs by what they would have after, the most frequent first."""
        results = {(outcome.pod.namespace, outcome.vm): outcome.result for outcome in self.outcomes}
        return dict(Counter(results.values()).most_common())

    def _vms(self, which: Callable[[Outcome], bool]) -> int:
        return len({(outcome.pod.namespace, outcome.vm) for outcome in self.outcomes if which(outcome)})


def examine(policy: Policy, kubeconfig: Path | None, context: str | None) -> Report:
    """Read the caller's cluster and decide on each VM; ends the command where that can't be done."""
    try:
        return Report(policy.mode, asyncio.run(_outcomes(policy, kubeconfig, context)))
    except (ConfigError, KubeError) as error:
        misuse(str(error))


async def _outcomes(policy: Policy, kubeconfig: Path | None, context: str | None) -> list[Outcome]:
    # A policy in audit mode writes nothing; what it would write is what its admin is about to find out.
    state = PolicyState(Standing.VALID, replace(policy, mode=Mode.ENFORCE))
    settings = read_settings()
    client = await KubeClient.connect(kubeconfig, context)
    try:
        return await _Reading(client, settings.names, settings.spared_namespaces).outcomes(state)
    finally:
        await client.close()


class _Reading:
    """Reads a cluster once, by paged lists of metadata."""

    def __init__(self, client: KubeClient, names: KubeVirtNames, spared: frozenset[str]) -> None:
        self._client, self._names, self._spared = client, names, spared
        self._stores = ClusterStores(names)
        self._forbidden: list[str] = []

    async def outcomes(self, state: PolicyState) -> list[Outcome]:
        """What becomes of each launcher pod that runs, in order; raises KubeError."""
        pods = await self._launchers()  # before their owners: one that is not in the later list is gone
        await self._fill_stores()
        if self._forbidden:
            resources = ", ".join(sorted(self._forbidden))
            raise KubeError(f"{self._client.server}: you need permission to list, in all namespaces: {resources}")
        facts = StoreFacts(self._client, self._stores, deadline=0)  # nothing is looked up
        instances = InstanceIndex(self._stores.instances)
        outcomes = [
            Outcome(vmi.name, pod.view, self._decided(pod.view, vmi, facts, state))
            for pod in pods
            if isinstance(vmi := recognise_running(pod.view, instances.get(pod.owner_uid), self._names), OwnerReference)
        ]
        return sorted(outcomes, key=lambda outcome: (outcome.pod.namespace, outcome.vm, outcome.pod.name))

    def _decided(self, pod: PodView, vmi: OwnerReference, facts: StoreFacts, state: PolicyState) -> Decision:
        known = facts.known(pod.namespace, vmi)
        if known is None:
            return Decision(Action.NONE, Reason.OWNER_GONE)
        return decide_running(pod, vmi, known, state, self._names)

    async def _launchers(self) -> list[RunningPod]:
        selectors = {"labelSelector": self._names.launcher_label, "fieldSelector": NOT_ENDED}
        found = await self._listed(PODS, lambda item: running_pod(item, self._names, self._spared), selectors)
        return [pod for pod in found.values() if pod is not None]

    async def _fill_stores(self) -> None:
        stores, names = self._stores, self._names

        async def fill(resource: Resource, store: ObjectStore[T], decode: Callable[[Json], T]) -> None:
            store.replace(await self._listed(resource, decode))

        instances = virtual_machine_instances(names)
        await fill(instances, stores.instances, stores.instance)
        await fill(virtual_machines(names), stores.machines, stores.machine)
        await fill(kubevirts(names), stores.kubevirts, stores.kubevirt)
        await fill(NAMESPACES, stores.namespaces, stores.namespace)

    async def _listed(
        self, resource: Resource, decode: Callable[[Json], T], selectors: Mapping[str, str] | None = None
    ) -> dict[Key, T]:
        for tries_left in reversed(range(_TRIES)):
            try:
                return {_key(item): decode(item) for item in await self._items(resource, selectors or {})}
            except ApiError as error:
                if error.status == 403:
                    self._forbidden.append(str(resource))
                    return {}
                if error.status == 404 and resource.group:
                    served = f"{resource} is not served: KubeVirt is not installed there"
                    raise KubeError(f"{self._client.server}: {served}, or runs under other names") from error
                if error.status != 410 or not tries_left:  # 410: the pages outlived the version that they are of
                    raise KubeError(f"{self._client.server}: listing {resource}: {error}") from error
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise UnreadableAnswer(f"{self._client.server}: the list of {resource} can't be read") from error
        raise AssertionError("the last try returns or raises")

    async def _items(self, resource: Resource, selectors: Mapping[str, str]) -> list[Json]:
        return await self._client.list_all(resource.collection(), selectors=selectors, metadata_only=True)


def _key(item: Json) -> Key:
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs."""
    return {
        "mode": report.mode,
        "total": report.total,
        "changed": report.changed,
        "recordOnly": report.record_only,
        "refused": report.refused,
        "levels": report.levels,
        "vms": [_entry(outcome) for outcome in report.told],
    }


def _entry(outcome: Outcome) -> dict[str, Any]:
    level, profile = outcome.now or (None, None)
    decision = outcome.decision
    return {
        "namespace": outcome.pod.namespace,
        "vm": outcome.vm,
        "pod": outcome.pod.name,
        "now": {"record": outcome.record, "level": level, "profile": profile},
        "then": {"result": outcome.result, "profile": decision.profile, "decidedBy": decision.decided_by},
        "warnings": decision.warnings,
    }


def print_report(report: Report) -> None:
    """Print the report for people."""
    told = report.told
    if told:
        rows = [_COLUMNS, *map(_row, told)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for outcome, row in zip([None, *told], rows, strict=True):
            typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
            for warning in outcome.decision.warnings if outcome else ():
                typer.echo(f"    {warning}")
    for line in _summary(report):
        typer.echo(line)


def _row(outcome: Outcome) -> tuple[str, ...]:
    decision = outcome.decision
    now = _level(*outcome.now) if outcome.now else outcome.record
    then = _level(outcome.result, decision.profile)
    then = f"{then}, other hooks" if then == now else then
    return outcome.pod.namespace, outcome.vm, outcome.pod.name, now, then, decision.decided_by or "-"


def _level(level: str, profile: str | None) -> str:
    return f"{level} ({profile})" if profile else level


def _summary(report: Report) -> Iterator[str]:
    after = ", ".join(f"{count} {level}" for level, count in report.levels.items())
    yield f"{report.changed} of {report.total} VMs would change" + (f"; after that: {after}" if after else "")
    if report.record_only:
        yield f"new record only, with the same hooks: {report.record_only}"
    if report.refused:
        yield f"asking for what this policy does not grant: {report.refused}"
    if report.mode is Mode.AUDIT:
        yield "mode is audit: nothing is written; this is what enforce would write"
