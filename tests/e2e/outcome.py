"""What a Backup or Restore says of itself once it has ended."""

from tests.infra.controlplane import Json


def phase(done: Json) -> str:
    """Such as Completed or PartiallyFailed."""
    found: str = done["status"]["phase"]
    return found


def hooks(backup: Json) -> tuple[int, int]:
    """How many were attempted, and how many of them failed."""
    status = backup["status"].get("hookStatus", {})
    return status.get("hooksAttempted", 0), status.get("hooksFailed", 0)
