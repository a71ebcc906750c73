"""How long the creation of a launcher pod takes through the API server and the product's webhook."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.core.annotations import EFFECTIVE_LEVEL
from tests.bench.recording import NAMESPACE
from tests.bench.scale.sender import Request, Sent
from tests.bench.scale.stage import ScaleStage

RATE = 20.0
"""Pods per second: of a large cluster whose nodes are drained."""


@contextmanager
def creations(stage: ScaleStage) -> Iterator[Sent]:
    """Create the recorded pod with dryRun=All at RATE until the block ends; each answer must carry the record."""
    pod = Request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All", stage.recording.created)
    with stage.admin.trickle(pod, rate=RATE, expect=EFFECTIVE_LEVEL) as sent:
        yield sent
