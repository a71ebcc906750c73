"""kube-apiserver's audit log: who did what to the objects that tests care about."""

import json
from collections.abc import Mapping
from pathlib import Path

from tests.infra.controlplane.client import Json

_GROUPS = (
    ("", ["pods", "pods/*", "namespaces", "configmaps", "secrets"]),
    ("admissionregistration.k8s.io", ["*"]),
    ("kubevirt.io", ["*"]),
    ("pool.kubevirt.io", ["*"]),
)


def policy(level: str) -> Json:
    """An audit policy that logs, at `level`, requests to the objects of interest, and all that ServiceAccounts send."""
    resources = [{"group": group, "resources": names} for group, names in _GROUPS]
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "omitManagedFields": True,
        "rules": [
            {"level": level, "resources": resources},
            {"level": level, "userGroups": ["system:serviceaccounts"]},
            {"level": "None"},
        ],
    }


def position(log: Path) -> int:
    """The size of the log in bytes, 0 while there is none."""
    return log.stat().st_size if log.exists() else 0


def events(log: Path, since: int, wanted: Mapping[str, str]) -> list[Json]:
    """The events from byte `since` on that have all of `wanted`, oldest first."""
    if not log.exists():
        return []
    with log.open("rb") as lines:
        lines.seek(since)
        complete = (line for line in lines if line.endswith(b"\n"))  # the last one may be half written
        found = [json.loads(line) for line in complete]
    return [event for event in found if _facts(event).items() >= wanted.items()]


def _facts(event: Json) -> dict[str, str]:
    return {"verb": event["verb"], "user": event["user"]["username"], **event.get("objectRef", {})}
