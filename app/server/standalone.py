"""The parts of a process without a cluster: the policy and the certificate are files."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from app.admission.mutate import PodMutator
from app.admission.validate import validators
from app.controllers.policy_file import PolicyFile
from app.controllers.policy_keeper import PolicyKeeper
from app.core.objects import SILENT, Facts, NamespaceView, OwnerReference
from app.server.metrics import Metrics
from app.server.run import Parts
from app.settings import Settings
from app.tls.serving import ServingContext
from app.tls.source import FileSource

_log = logging.getLogger("vm-consistency")


@asynccontextmanager
async def assemble(settings: Settings, policy: Path, certs: Path) -> AsyncIterator[Parts]:
    """Assemble a webhook that knows of no cluster.

    Raises CertificateError where `certs` holds no good pair.
    """
    metrics = Metrics()
    keeper = PolicyKeeper(metrics.policy_changed)
    serving = ServingContext()
    source = FileSource(serving, certs)
    source.load()
    cluster = _NoCluster()
    _log.info("serving without a cluster", extra={"port": settings.port, "policy": str(policy)})
    yield Parts(
        PodMutator(keeper, cluster, settings.names),
        serving,
        metrics,
        {"policy-file": PolicyFile(policy, keeper).run, "certificate-files": source.run},
        {"policy": keeper.problem, "certificate": source.problem},
        {"policy": keeper.note},
        validators(keeper, cluster, settings),
    )


class _NoCluster:
    """Knows of no Namespace's labels and of no VM: the pod and the policy decide."""

    async def facts(self, namespace: str, vmi: OwnerReference) -> Facts:
        return Facts(await self.namespace(namespace))

    async def namespace(self, name: str) -> NamespaceView:
        return NamespaceView(name, {}, SILENT)
