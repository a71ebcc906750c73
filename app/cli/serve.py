"""`serve`."""

from functools import partial
from pathlib import Path

from pydantic import ValidationError

from app.cli.output import misuse
from app.server import log
from app.server.run import run as run_process
from app.settings import Settings
from app.tls.x509 import CertificateError


def run(*, kubeconfig: Path | None, context: str | None, policy: Path | None, certs: Path | None) -> None:
    """Serve with a cluster, or with `policy` and `certs` without one."""
    settings = _settings(kubeconfig, context)
    log.configure(settings.log_level)
    if policy is None and certs is None:
        from app.server import cluster

        try:
            run_process(settings, cluster.assemble)
        except cluster.ConfigError as error:
            misuse(str(error))
    elif policy is None or certs is None:
        misuse("--policy and --certs belong together: both serve without a cluster")
    else:
        from app.server import standalone

        try:
            run_process(settings, partial(standalone.assemble, policy=policy, certs=certs))
        except CertificateError as error:
            misuse(f"{certs}: {error}; `make certs` writes a pair for this machine")


def _settings(kubeconfig: Path | None, context: str | None) -> Settings:
    chosen = {key: value for key, value in {"kubeconfig": kubeconfig, "context": context}.items() if value is not None}
    try:
        return Settings(**chosen)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = (f"VM_CONSISTENCY_{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors())
        misuse("; ".join(problems))
