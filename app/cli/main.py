"""The command line; every command does its imports when it runs, so that a short one starts fast."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app import __version__
from app.cli.output import Output, OutputOption, misuse

cli = typer.Typer(
    name="vm-consistency",
    help="Velero backup hooks for KubeVirt virtual machines, chosen by policy and kept in place.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
policy_cli = typer.Typer(help="Work with policies.", no_args_is_help=True)
cli.add_typer(policy_cli, name="policy")

FileOption = Annotated[Path | None, typer.Option(metavar="FILE", help="YAML or JSON; - is standard input.")]


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"vm-consistency {__version__}")
        raise typer.Exit


@cli.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    pass


@cli.command()
def serve(
    kubeconfig: Annotated[Path | None, typer.Option(help="Default: the pod's own ServiceAccount.")] = None,
    context: Annotated[str | None, typer.Option(help="Of the kubeconfig.")] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Serve without a cluster, with the policy of this file; it is reloaded.")
    ] = None,
    certs: Annotated[
        Path | None, typer.Option(help="With --policy: the folder with tls.crt and tls.key; reloaded too.")
    ] = None,
    objects: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="With --policy: a folder with Namespaces, VirtualMachines and VirtualMachineInstances as `kubectl get "
            "-o yaml` prints them (.yaml, .yml or .json); they are known as if they were in a cluster, and reloaded.",
        ),
    ] = None,
) -> None:
    """Run the webhook and its controllers; settings are read from VM_CONSISTENCY_* variables."""
    from app.cli.serve import run

    run(kubeconfig=kubeconfig, context=context, policy=policy, certs=certs, objects=objects)


@cli.command()
def render(
    pod: Annotated[Path, typer.Option(metavar="FILE", help="A launcher pod, or a List; - is standard input.")],
    vm: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its VirtualMachine, or its instance where no VM controls it.")
    ] = None,
    namespace: FileOption = None,
    policy: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: the built-in policy.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show offline what the webhook would decide for a pod, and the patch it would send."""
    from app.cli.render import run

    run(pod=pod, vm=vm, namespace=namespace, policy=policy, output=output)


@policy_cli.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="policy.yaml or its ConfigMap; - is standard input.")],
    live: Annotated[
        bool, typer.Option("--live", help="Also list the VMs of the cluster whose hooks it would change.")
    ] = False,
    kubeconfig: Annotated[Path | None, typer.Option(help="With --live; default: as kubectl finds it.")] = None,
    context: Annotated[str | None, typer.Option(help="With --live: of the kubeconfig.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Name every error of a policy, with path and line; with --live, what it would change.

    Exits with 0 for a valid policy, whatever it would change, 1 for one with errors, of which no cluster is asked,
    and 2 where the file or the cluster can't be read. The cluster is read with your own credentials, and not written.
    """
    from app.cli.policy import run

    if not live and (kubeconfig or context):
        misuse("--kubeconfig and --context belong to --live")
    run(file, output, live=live, kubeconfig=kubeconfig, context=context)


@cli.command()
def backup(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of a Velero Backup that has ended.")],
    kubeconfig: Annotated[Path | None, typer.Option(help="Default: as kubectl finds it.")] = None,
    context: Annotated[str | None, typer.Option(help="Of the kubeconfig.")] = None,
    velero_namespace: Annotated[str, typer.Option(metavar="NAMESPACE", help="Where Velero runs.")] = "velero",
    cacert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The authorities of the object store's certificate.")
    ] = None,
    insecure_skip_tls_verify: Annotated[
        bool, typer.Option("--insecure-skip-tls-verify", help="Take any certificate for the object store's.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Tell for each VM of a Velero backup its level, its hooks, and whether it was frozen while its disks were copied.

    Read from the record on the pods in the backup and from the log of its hooks, which Velero hands out as it does to
    its own command line: with your own credentials, DownloadRequests in its namespace. Exits with 0, with 1 if a VM
    that should have been frozen is not known to have been, a hook failed or does not fit the record, and with 2 where
    the backup can't be read.
    """
    from app.cli.backup import run

    run(
        name,
        output,
        kubeconfig=kubeconfig,
        context=context,
        namespace=velero_namespace,
        ca_file=cacert,
        verify=not insecure_skip_tls_verify,
    )


@cli.command()
def verify(
    vm: Annotated[str, typer.Argument(metavar="VM", help="A VM that runs.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Of the VM.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Don't ask; not even where it can't be seen whether a backup is in progress.")
    ] = False,
    kubeconfig: Annotated[Path | None, typer.Option(help="Default: as kubectl finds it.")] = None,
    context: Annotated[str | None, typer.Option(help="Of the kubeconfig.")] = None,
    velero_namespace: Annotated[str, typer.Option(metavar="NAMESPACE", help="Where Velero runs.")] = "velero",
    output: OutputOption = Output.TEXT,
) -> None:
    """Run the hooks of a VM's pod once, outside a backup, and tell what each step did and how long it froze the guest.

    The guest is always left thawed, after Ctrl-C too. Refuses while the guest is frozen, the VM migrates, or a Velero
    backup that can include it is in progress. Runs with your own credentials. Exits with 0 if all is as it should be,
    1 with a finding (a hook failed, took longer than Velero waits, or did not freeze the guest), and 2 where nothing
    was run because of a refusal, or because the cluster can't be read.
    """
    from app.cli.verify import run

    run(
        vm,
        namespace,
        output,
        yes=yes,
        kubeconfig=kubeconfig,
        context=context,
        velero_namespace=velero_namespace,
    )


def main(*args: Any) -> None:
    """Run the command of the process's arguments, or of `args`; exits 0 fine, 1 a finding, 2 misuse."""
    cli(list(args) or None)
