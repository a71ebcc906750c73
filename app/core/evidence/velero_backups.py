"""Which Velero backups may run hooks in a namespace, now or soon."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

OVER: Final = frozenset(
    {
        "FailedValidation",
        "WaitingForPluginOperations",
        "WaitingForPluginOperationsPartiallyFailed",
        "Finalizing",
        "FinalizingPartiallyFailed",
        "Completed",
        "PartiallyFailed",
        "Failed",
        "Deleting",
    }
)
"""Phases after the last hook (velero v1.18.3, pkg/apis/velero/v1/backup_types.go): when plugins still move data, it
comes from snapshots, and the finalizing run has hooks switched off. All others count, one that is not known too."""

_WILDCARDS = "*?["


def may_run_hooks(backup: Mapping[str, Any], namespace: str) -> bool:
    """Whether a Backup object is one that runs hooks in `namespace`, or will; in doubt it is."""
    spec, status = (backup.get(part) for part in ("spec", "status"))
    phase = status.get("phase") if isinstance(status, dict) else None
    return phase not in OVER and can_include(spec if isinstance(spec, dict) else {}, namespace)


def can_include(spec: Mapping[str, Any], namespace: str) -> bool:
    """Whether the namespaces of a Backup's spec take in `namespace`; its resources and labels are not looked at.

    From 1.18 on Velero expands wildcards, before that `*` alone is one: a pattern counts where it includes, and not
    where it excludes.
    """
    included, excluded = (_names(spec.get(f"{way}Namespaces")) for way in ("included", "excluded"))
    if namespace in excluded:
        return False
    return not included or any(_matches(pattern, namespace) for pattern in included)


def _names(value: object) -> Sequence[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _matches(pattern: str, namespace: str) -> bool:
    has_wildcard = any(character in pattern for character in _WILDCARDS)
    return fnmatchcase(namespace, pattern) if has_wildcard else pattern == namespace
