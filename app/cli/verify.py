"""`verify`: run the hooks of one VM's pod once, and tell what they do and what they prove."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import typer

from app.cli.output import FINDING, Output, misuse, print_json, read_settings
from app.cli.verify_run import Pace, Run
from app.cli.verify_target import Reading, Refused, Target
from app.core.evidence.hook_output import Known, printable_lines
from app.core.evidence.hook_trial import Step, Subject, Trial, findings
from app.core.kubevirt_names import KubeVirtNames
from app.kube.client import KubeClient, KubeError
from app.kube.connection import ConfigError
from app.kube.exec import NotExecuted

T = TypeVar("T")

PACE = Pace()
_LAST_LINES = 20


def run(
    vm: str,
    namespace: str,
    output: Output,
    *,
    yes: bool,
    kubeconfig: Path | None,
    context: str | None,
    velero_namespace: str,
) -> None:
    """Run the hooks and print what came of it."""
    if not (yes or has_terminal()):
        misuse("verify asks before it pauses a guest's writes, and here is no terminal to ask on: give --yes")
    names = read_settings().names
    cluster = _Cluster(kubeconfig, context, names, velero_namespace)
    subject = cluster.ask(lambda client, reading: reading.subject(namespace, vm))
    if subject.idle or subject.obstacles:
        _finish(subject, None, (), names, output)
    if not yes:
        _confirm(cluster.ask(lambda client, reading: reading.target(namespace, vm)))
    target, trial = cluster.ask(lambda client, reading: _tried(client, reading, subject, names))
    notes = (*target.notes, *([f"not known whether a backup is in progress: {target.unseen}"] * bool(target.unseen)))
    _finish(subject, trial, notes, names, output)


def has_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty()


class _Cluster:
    """The caller's cluster; asked anew for each question, because a person may take his time between two of them."""

    def __init__(self, kubeconfig: Path | None, context: str | None, names: KubeVirtNames, velero: str) -> None:
        self._kubeconfig, self._context, self._names, self._velero = kubeconfig, context, names, velero

    def ask(self, question: Callable[[KubeClient, Reading], Awaitable[T]]) -> T:
        """Return the answer, or end the command with what is in its way."""

        async def asked() -> T:
            client = await KubeClient.connect(self._kubeconfig, self._context)
            try:
                return await question(client, Reading(client, self._names, self._velero))
            finally:
                await client.close()

        try:
            return asyncio.run(asked())
        except Refused as refusal:
            misuse(f"nothing was run: {refusal}")
        except (ConfigError, KubeError, NotExecuted) as error:
            misuse(str(error))


async def _tried(client: KubeClient, reading: Reading, seen: Subject, names: KubeVirtNames) -> tuple[Target, Trial]:
    target = await reading.target(seen.namespace, seen.vm)
    if target.subject != seen:
        raise Refused("the pod or its hooks have changed since you were asked; start again")
    trial = await Run(client, target, names, _tell, PACE, reading).trial()
    return target, trial


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _confirm(target: Target) -> None:
    subject = target.subject
    _tell(f"The hooks of VM {subject.namespace}/{subject.vm} (pod {subject.pod}) are run once, as in a backup:")
    level = f"level {subject.level}" if subject.level else f"record: {subject.record}"
    _tell(f"{level}. Its guest stops writing, with all that waits for that, until the post hook has run.")
    if target.unseen:
        _tell(f"WARNING: {target.unseen}. If a backup of this VM is in progress, this run would spoil it.")
    typer.echo("Go on? [y/N] ", nl=False, err=True)  # typer.confirm leaves a blank on stdout, where JSON is expected
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        misuse("nothing was run")


def _finish(
    subject: Subject, trial: Trial | None, notes: tuple[str, ...], names: KubeVirtNames, output: Output
) -> None:
    found = findings(subject, trial, names)
    notes = (*subject.notes, *notes)
    if output is Output.JSON:
        print_json(_as_json(subject, trial, found, notes))
    else:
        _print(subject, trial, found, notes)
    raise typer.Exit(FINDING if found else 0)


def _as_json(subject: Subject, trial: Trial | None, found: list[str], notes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "namespace": subject.namespace,
        "vm": subject.vm,
        "pod": subject.pod,
        "record": subject.record,
        "level": subject.level,
        "profile": subject.profile,
        "decidedBy": subject.decided_by,
        "ran": trial is not None,
        **(_trial_as_json(trial) if trial else {"reason": subject.idle or "; ".join(subject.obstacles)}),
        "findings": found,
        "notes": list(notes),
    }


def _trial_as_json(trial: Trial) -> dict[str, Any]:
    return {
        "steps": [_step_as_json(step) for step in (trial.pre, trial.post, *trial.thaws)],
        "frozen": {"answer": trial.freeze.frozen, "verified": trial.freeze.verified, "evidence": trial.freeze.why},
        "held": {"answer": trial.thaw.held, "evidence": trial.thaw.why},
        "thawed": trial.thawed,
        "seenFrozenByKubeVirt": trial.seen_frozen,
        "windowSeconds": round(trial.window, 3),
        "frozenAtMostSeconds": _frozen_at_most(trial),
        "interruptedBy": trial.interrupted,
    }


def _frozen_at_most(trial: Trial) -> float:
    return 0.0 if trial.froze_nothing else round(trial.frozen_at_most, 3)


def _step_as_json(step: Step) -> dict[str, Any]:
    return {
        "step": step.name,
        "seconds": round(step.seconds, 3),
        "timeoutSeconds": step.timeout,
        "exitCode": step.exit_code,
        "error": step.error or None,
        "stdout": printable_lines(step.stdout),
        "stderr": printable_lines(step.stderr),
    }


def _print(subject: Subject, trial: Trial | None, found: list[str], notes: tuple[str, ...]) -> None:
    typer.echo(f"VM {subject.namespace}/{subject.vm}, pod {subject.pod}")
    if subject.level:
        profile = f" ({subject.profile})" if subject.profile else ""
        typer.echo(f"  level: {subject.level}{profile}, decided by: {subject.decided_by or '-'}")
    if trial:
        _print_trial(trial)
    elif subject.idle:
        typer.echo(f"  {subject.idle}")
    for note in notes:
        typer.echo(f"  note: {note}")
    for finding in found:
        typer.echo(f"  finding: {finding}")


def _print_trial(trial: Trial) -> None:
    for step in (trial.pre, trial.post, *trial.thaws):
        ending = f"exit code {step.exit_code}" if step.exit_code is not None else step.error
        limit = "" if step.timeout is None else f", Velero waits {step.timeout:g} s"
        typer.echo(f"  {step.name}: {step.seconds:.1f} s{limit}, {ending}")
        for line in [*printable_lines(step.stdout), *printable_lines(step.stderr)][-_LAST_LINES:]:
            typer.echo(f"    | {line}")
    freeze, thaw = trial.freeze, trial.thaw
    verified = " and verified" if freeze.verified else ""
    typer.echo(f"  frozen: {freeze.frozen}{verified} ({freeze.why})")
    if thaw.held is not Known.UNKNOWN:
        typer.echo(f"  still frozen when the post hook came: {thaw.held}")
    if trial.seen_frozen:
        typer.echo("  KubeVirt reported the guest as frozen meanwhile")
    typer.echo(f"  thawed: {trial.thawed}")
    if not trial.froze_nothing:
        typer.echo(
            f"  window for snapshots: {trial.window:.1f} s here; frozen for at most {trial.frozen_at_most:.1f} s"
        )
