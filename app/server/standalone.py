"""The parts of a process without a cluster: the policy, the certificate and the objects are files."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from app.admission.mutate_pods import PodMutator
from app.controllers.object_files import ObjectFiles
from app.controllers.policy.active import PolicyKeeper
from app.controllers.policy.file import PolicyFile
from app.server.health import Check
from app.server.metrics import Metrics
from app.server.run import Parts, Worker
from app.server.validators import validators
from app.settings import Settings
from app.tls.serving import ServingContext
from app.tls.source import FileSource

_log = logging.getLogger("vm-consistency")


@asynccontextmanager
async def assemble(settings: Settings, policy: Path, certs: Path, objects: Path | None = None) -> AsyncIterator[Parts]:
    """Assemble a webhook that knows of a cluster what the files in `objects` tell, or nothing.

    Raises CertificateError where `certs` holds no good pair.
    """
    metrics = Metrics()
    keeper = PolicyKeeper(metrics.policy_changed)
    serving = ServingContext()
    source = FileSource(serving, certs)
    source.load()
    known = ObjectFiles(objects, settings.names)
    workers: dict[str, Worker] = {"policy-file": PolicyFile(policy, keeper).run, "certificate-files": source.run}
    checks: dict[str, Check] = {"policy": keeper.problem, "certificate": source.problem}
    if objects:
        workers["object-files"], checks["objects"] = known.run, known.problem
    _log.info("serving without a cluster", extra={"port": settings.port, "policy": str(policy)})
    yield Parts(
        PodMutator(keeper, known, settings.names),
        serving,
        metrics,
        workers,
        checks,
        {"policy": keeper.note, "objects": known.note},
        validators(keeper, known, settings),
    )
