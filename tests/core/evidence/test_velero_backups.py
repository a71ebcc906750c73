from typing import Any

import pytest

from app.core.evidence.velero_backups import OVER, can_include, may_run_hooks


@pytest.mark.parametrize(
    ("spec", "included"),
    [
        ({}, True),
        ({"includedNamespaces": None, "excludedNamespaces": None}, True),
        ({"includedNamespaces": []}, True),
        ({"includedNamespaces": ["*"]}, True),
        ({"includedNamespaces": ["shop"]}, True),
        ({"includedNamespaces": ["sho"]}, False),
        ({"includedNamespaces": ["a", "sh*"]}, True),
        ({"includedNamespaces": ["sh?p", "x"]}, True),
        ({"includedNamespaces": ["[rs]hop"]}, True),
        ({"includedNamespaces": ["s*t"]}, False),
        ({"excludedNamespaces": ["shop"]}, False),
        ({"includedNamespaces": ["shop"], "excludedNamespaces": ["shop"]}, False),
        ({"excludedNamespaces": ["sh*"]}, True),
        ({"includedNamespaces": "other"}, True),
        ({"labelSelector": {"matchLabels": {"app": "x"}}}, True),
    ],
)
def test_namespaces(spec: dict[str, Any], included: bool) -> None:
    assert can_include(spec, "shop") is included


@pytest.mark.parametrize("phase", ["", "New", "Queued", "ReadyToStart", "InProgress", "Whatever"])
def test_a_backup_that_has_hooks_before_it(phase: str) -> None:
    assert may_run_hooks({"spec": {}, "status": {"phase": phase}}, "shop")
    assert not may_run_hooks({"spec": {"includedNamespaces": ["x"]}, "status": {"phase": phase}}, "shop")


@pytest.mark.parametrize("phase", sorted(OVER))
def test_a_backup_that_is_past_its_hooks(phase: str) -> None:
    assert not may_run_hooks({"spec": {}, "status": {"phase": phase}}, "shop")


@pytest.mark.parametrize("backup", [{}, {"spec": {}}, {"spec": None, "status": None}, {"spec": [], "status": "x"}])
def test_a_new_backup_has_no_status_yet(backup: dict[str, Any]) -> None:
    assert may_run_hooks(backup, "shop")
