"""`serve`."""

from functools import partial
from pathlib import Path

from app.cli.output import misuse, read_settings
from app.server import log
from app.server.run import run as run_process
from app.tls.x509 import CertificateError


def run(
    *, kubeconfig: Path | None, context: str | None, policy: Path | None, certs: Path | None, objects: Path | None
) -> None:
    """Serve with a cluster, or with `policy`, `certs` and perhaps `objects` without one."""
    settings = read_settings(kubeconfig=kubeconfig, context=context)
    log.configure(settings.log_level)
    if policy is None and certs is None and objects is None:
        from app.server import in_cluster

        try:
            run_process(settings, in_cluster.assemble)
        except in_cluster.ConfigError as error:
            misuse(str(error))
        except CertificateError as error:
            misuse(f"the certificate's names come from VM_CONSISTENCY_SERVICE, _NAMESPACE and _EXTRA_SANS: {error}")
    elif policy is None or certs is None:
        misuse("--policy and --certs belong together, and --objects to both: they serve without a cluster")
    else:
        from app.server import standalone

        if not policy.is_file():
            misuse(f"{policy}: no such file")
        if objects is not None and not objects.is_dir():
            misuse(f"{objects}: no such folder")
        try:
            run_process(settings, partial(standalone.assemble, policy=policy, certs=certs, objects=objects))
        except CertificateError as error:
            misuse(f"{certs}: {error}; `make certs` writes a pair for this machine")
