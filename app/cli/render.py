"""`render`: the webhook's decision, offline."""

from pathlib import Path
from typing import Any

import jsonpatch
import orjson
import typer

from app.cli.output import FINDING, Output, misuse, print_json, read_settings, read_text
from app.cli.policy import load
from app.core.decision import Decision, decide, ignored
from app.core.hooks.render import is_script
from app.core.hooks.timeouts import Budget, post_budget, pre_budget, total
from app.core.launcher import NotLauncher, PodView, recognise
from app.core.level_source import select_level
from app.core.manifests import ManifestError, read_manifests
from app.core.objects import (
    SILENT,
    Facts,
    NamespaceView,
    OwnerReference,
    VirtualMachineInstanceView,
    VirtualMachineView,
)
from app.core.policy import BUILT_IN, PolicyState, Standing
from app.core.policy_v1alpha1.load import PolicyError

Object = dict[str, Any]
_Budgets = dict[str, Budget]
"""By phase; empty where the hooks are no scripts, and their timeouts those of the policy."""
Owner = VirtualMachineView | VirtualMachineInstanceView


def run(*, pod: Path, vm: Path | None, namespace: Path | None, policy: Path | None, output: Output) -> None:
    """Print decision, annotations and JSONPatch of every pod in the file."""
    if [str(path) for path in (pod, vm, namespace, policy)].count("-") > 1:
        misuse("only one file can be standard input")
    rendering = _Rendering(_state(policy), vm, namespace)
    pods, is_list = _read(pod, "Pod")
    results = [rendering.of(item, pod) for item in pods]
    rendering.check_that_all_were_used(pod)
    if output is Output.JSON:
        rendered = [_as_json(*result) for result in results]
        print_json(rendered if is_list else rendered[0])
        return
    for result in results:
        _print(*result)


class _Rendering:
    """The cluster, as far as files tell of it."""

    def __init__(self, state: PolicyState, vm: Path | None, namespace: Path | None) -> None:
        self._names = read_settings().names
        self._state = state
        self._owners = [self._owner(item) for item in _maybe(vm, self._names.machine_kind, self._names.instance_kind)]
        spaces = [NamespaceView.from_metadata(item["metadata"]) for item in _maybe(namespace, "Namespace")]
        self._namespaces = {view.name: view for view in spaces}
        self._unused = {id(view): f"{vm}: {self._kind(view)} {view.name}" for view in self._owners}
        self._unused |= {id(view): f"{namespace}: Namespace {view.name}" for view in self._namespaces.values()}

    def _owner(self, item: Object) -> Owner:
        is_instance = item.get("kind") == self._names.instance_kind
        view = VirtualMachineInstanceView if is_instance else VirtualMachineView
        return view.from_metadata(item["metadata"], self._names)

    def _kind(self, view: Owner) -> str:
        return self._names.machine_kind if isinstance(view, VirtualMachineView) else self._names.instance_kind

    def of(self, item: Object, source: Path) -> tuple[PodView, Decision, _Budgets]:
        """Return the pod, the decision on it, and what its hooks' timeouts are made of."""
        fallback = next(iter(self._namespaces)) if len(self._namespaces) == 1 else "default"
        namespace = item["metadata"].get("namespace") or fallback
        if not isinstance(namespace, str):
            misuse(f"{source}: metadata.namespace must be a string")
        try:
            pod = PodView.from_object(item, namespace)
        except ValueError as error:
            misuse(f"{source}: {error}")
        owner = recognise(pod, self._names)
        if isinstance(owner, NotLauncher):
            return pod, ignored(owner), {}
        facts = self._facts(pod, owner)
        return pod, decide(pod, owner, facts, self._state, self._names), self._budgets(pod, facts)

    def _budgets(self, pod: PodView, facts: Facts) -> _Budgets:
        policy = self._state.policy or BUILT_IN
        selection = select_level(policy, facts, pod, self._names)
        if selection.level is None or not is_script(selection.level, selection.hooks):
            return {}
        steps = policy.steps(selection.profile)
        return {"pre": pre_budget(steps, selection.hooks), "post": post_budget(steps, selection.hooks)}

    def _facts(self, pod: PodView, owner: OwnerReference) -> Facts:
        namespace = self._namespaces.get(pod.namespace)
        here = [view for view in self._owners if view.name == owner.name and view.namespace in ("", pod.namespace)]
        vm = next((view for view in here if isinstance(view, VirtualMachineView)), None)
        vmi = next((view for view in here if isinstance(view, VirtualMachineInstanceView)), None)
        for used in (namespace, vm, vmi):
            self._unused.pop(id(used), None)
        if vm is not None:  # the instance that this VM would control
            machine = OwnerReference(owner.api_version, self._names.machine_kind, vm.name, vm.uid)
            vmi = VirtualMachineInstanceView(pod.namespace, owner.name, owner.uid, machine, SILENT)
        return Facts(namespace or NamespaceView(pod.namespace, {}, SILENT), vmi, vm)

    def check_that_all_were_used(self, source: Path) -> None:
        """A file that fits no pod would change nothing, silently."""
        if self._unused:
            misuse(f"{', '.join(sorted(self._unused.values()))} fits no launcher pod of {source}")


def _state(policy: Path | None) -> PolicyState:
    if policy is None:
        return PolicyState(Standing.ABSENT, BUILT_IN)
    try:
        return PolicyState(Standing.VALID, load(policy).policy)
    except PolicyError as error:
        for finding in error.findings:
            typer.echo(f"error: {policy}: {finding}", err=True)
        raise typer.Exit(FINDING) from None


def _maybe(path: Path | None, *kinds: str) -> list[Object]:
    return [] if path is None else _read(path, *kinds)[0]


def _read(path: Path, *kinds: str) -> tuple[list[Object], bool]:
    """Return the objects of a file, and whether it was a List or had several documents."""
    try:
        read = read_manifests(read_text(path))
    except ManifestError as error:
        misuse(f"{path}: {error}")
    for item in read.objects:
        metadata = item.get("metadata") if isinstance(item, dict) else None
        if not isinstance(metadata, dict) or item.get("kind", kinds[0]) not in kinds:
            misuse(f"{path}: expected {kinds[0]} objects, or a List of them")
    if not read.objects and not read.is_list:
        misuse(f"{path}: there is no {kinds[0]} in it")
    return read.objects, read.is_list


def _as_json(pod: PodView, decision: Decision, budgets: _Budgets) -> Object:
    timeouts = {phase: {"seconds": total(budget), "parts": dict(budget)} for phase, budget in budgets.items()}
    return {
        "decision": {
            "action": decision.action,
            "level": decision.level,
            "profile": decision.profile,
            "decidedBy": decision.decided_by,
            "reason": decision.reason,
            "warnings": decision.warnings,
        },
        "annotations": _annotations(pod, decision),
        "patch": decision.patch,
        **({"timeouts": timeouts} if timeouts else {}),
    }


def _annotations(pod: PodView, decision: Decision) -> Object:
    """Apply the patch as the API server would; showing what the decision meant to do would hide a wrong patch."""
    metadata = {} if pod.annotations is None else {"annotations": dict(pod.annotations)}
    annotations = jsonpatch.apply_patch({"metadata": metadata}, decision.patch)["metadata"].get("annotations", {})
    return dict(annotations)


def _print(pod: PodView, decision: Decision, budgets: _Budgets) -> None:
    typer.echo(f"Pod {pod.namespace}/{pod.name or '(unnamed)'}")
    level = f"{decision.level}{f' ({decision.profile})' if decision.profile else ''}" if decision.level else "-"
    typer.echo(f"  action: {decision.action} ({decision.reason})")
    typer.echo(f"  level: {level}, decided by: {decision.decided_by or '-'}")
    for warning in decision.warnings:
        typer.echo(f"  warning: {warning}")
    for phase, budget in budgets.items():
        parts = " + ".join(f"{name} {seconds}s" for name, seconds in budget)
        typer.echo(f"  timeout of the {phase} hook: {total(budget)}s = {parts}")
    typer.echo("  annotations:")
    for key, value in sorted(_annotations(pod, decision).items()):
        typer.echo(f"    {key}: {value}")
    typer.echo(f"  patch: {len(decision.patch)} operation(s)")
    for operation in decision.patch:
        typer.echo(f"    {orjson.dumps(operation).decode()}")
