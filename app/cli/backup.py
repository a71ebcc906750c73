"""`backup`: what a Velero backup achieved for each VM."""

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from app.cli.output import FINDING, Output, misuse, print_json, read_settings
from app.core.evidence.backup_archive import MAX_OBJECT_BYTES, BackupContents, BackupView
from app.core.evidence.backup_report import BackupReport, report
from app.core.evidence.backup_vm import VmReport
from app.core.evidence.hook_log import HookLog, read_hook_log
from app.core.evidence.velero_backups import OVER
from app.core.kubevirt_names import KubeVirtNames
from app.kube.client import KubeClient, KubeError
from app.kube.connection import ConfigError
from app.velero.api import Velero
from app.velero.download import NotStoredError, StoreError, lines_of, members_of, opened, trust

_NAMESAKE = "already exists in object storage"
"""Why a backup failed whose name leads to another one's files (velero v1.18.3, pkg/controller/backup_controller.go)."""
_COLUMNS = ("NAMESPACE", "VM", "LEVEL", "ACHIEVED", "HOOKS", "FAILED", "HELD")


def run(
    name: str,
    output: Output,
    *,
    kubeconfig: Path | None,
    context: str | None,
    namespace: str,
    ca_file: Path | None,
    verify: bool,
) -> None:
    """Print the report; exit 1 if there is a finding."""
    names = read_settings().names
    try:
        backup, urls, authority = asyncio.run(_asked(name, namespace, kubeconfig, context))
        made = _report(backup, urls, trust(ca_file, authority, verify=verify), names)
    except (ConfigError, KubeError, StoreError) as error:
        misuse(str(error))
    if output is Output.JSON:
        print_json(as_json(made))
    else:
        print_report(made)
    if not made.is_fine:
        raise typer.Exit(FINDING)


async def _asked(
    name: str, namespace: str, kubeconfig: Path | None, context: str | None
) -> tuple[BackupView, tuple[str, str] | None, str]:
    """The backup, the URLs of its contents and its log where there may be any, and the CA of its object store."""
    client = await KubeClient.connect(kubeconfig, context)
    try:
        velero = Velero(client, namespace)
        raw = await velero.backup(name)
        backup = BackupView.from_object(raw)
        if backup.phase not in OVER:
            raise KubeError(f"backup {name} is in phase {backup.phase}: there is nothing to read before it has ended")
        if backup.phase == "Deleting":
            raise KubeError(f"backup {name} is being deleted")
        if backup.phase == "FailedValidation" or _NAMESAKE in backup.reason:
            return backup, None, ""
        urls = await velero.download_url("BackupContents", name), await velero.download_url("BackupLog", name)
        return backup, urls, await velero.authority((raw.get("spec") or {}).get("storageLocation") or "")
    finally:
        await client.close()


def _report(
    backup: BackupView, urls: tuple[str, str] | None, context: ssl.SSLContext, names: KubeVirtNames
) -> BackupReport:
    ended_badly = [f"phase {backup.phase}: {backup.reason or 'no reason is given'}"] if _is_failed(backup) else []
    if urls is None:
        return BackupReport(backup, findings=[*ended_badly, "nothing was backed up"])
    log = _log(urls[1], context)  # first: an archive may take longer than the URLs are good for
    contents, is_stored = _contents(urls[0], context, names)
    if not is_stored:
        if not _is_failed(backup):
            raise StoreError(f"the object store does not have the contents of backup {backup.name}")
        ended_badly.append("its contents were not stored, so that the VMs in it are not known but for their hooks")
    made = report(backup, contents, log)
    return replace(made, findings=[*ended_badly, *made.findings])


def _is_failed(backup: BackupView) -> bool:
    return backup.phase.startswith("Failed")


def _contents(url: str, context: ssl.SSLContext, names: KubeVirtNames) -> tuple[BackupContents, bool]:
    contents = BackupContents(names)
    try:
        with opened(url, context) as stream:
            for path, content in members_of(stream, contents.wants, MAX_OBJECT_BYTES):
                contents.take(path, content)
    except NotStoredError:
        return contents, False
    return contents, True


def _log(url: str, context: ssl.SSLContext) -> HookLog | None:
    try:
        with opened(url, context) as stream:
            return read_hook_log(lines_of(stream))
    except NotStoredError:
        return None


def as_json(made: BackupReport) -> dict[str, Any]:
    """The report for programs."""
    backup = made.backup
    return {
        "backup": {
            "namespace": backup.namespace,
            "name": backup.name,
            "phase": backup.phase,
            "hooksAttempted": backup.hooks_attempted,
            "hooksFailed": backup.hooks_failed,
        },
        "findings": list(made.findings),
        "notes": list(made.notes),
        "vms": [_entry(vm) for vm in made.vms],
    }


def _entry(vm: VmReport) -> dict[str, Any]:
    return {
        "namespace": vm.namespace,
        "vm": vm.name,
        "record": {"state": vm.record, "level": vm.level, "profile": vm.profile, "decidedBy": vm.decided_by},
        "pods": list(vm.pods),
        "completedPods": vm.completed_pods,
        "hooks": {"attempted": vm.attempted, "failed": vm.failed},
        "expectedFrozen": vm.expected,
        "achieved": vm.outcome.achieved,
        "verified": vm.outcome.verified,
        "secondsHeld": vm.outcome.seconds,
        "finding": vm.finding,
        "notes": list(vm.notes),
    }


def print_report(made: BackupReport) -> None:
    """Print the report for people."""
    backup = made.backup
    counts = "no hooks counted"
    if backup.hooks_attempted is not None:
        counts = f"Velero counts {backup.hooks_attempted} hooks attempted, {backup.hooks_failed} failed"
    typer.echo(f"{backup.namespace}/{backup.name}: {backup.phase}; {counts}")
    if made.vms:
        rows = [_COLUMNS, *map(_row, made.vms)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for vm, row in zip([None, *made.vms], rows, strict=True):
            typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
            for note in vm.notes if vm else ():
                typer.echo(f"    {'! ' if vm and vm.finding else ''}{note}")
    for finding in made.findings:
        typer.echo(f"! {finding}")
    for note in made.notes:
        typer.echo(note)
    found = len(made.findings) + sum(vm.finding for vm in made.vms)
    typer.echo(f"{len(made.vms)} VM(s), {found} finding(s)")


def _row(vm: VmReport) -> tuple[str, ...]:
    level = vm.level or "-"
    achieved, seconds = vm.outcome.achieved, vm.outcome.seconds
    return (
        vm.namespace,
        vm.name,
        f"{level} ({vm.profile})" if vm.profile else level,
        f"{achieved}, verified" if vm.outcome.verified else achieved,
        "?" if vm.attempted is None else str(vm.attempted),
        "?" if vm.failed is None else str(vm.failed),
        "-" if seconds is None else f"{seconds:.0f} s",
    )
