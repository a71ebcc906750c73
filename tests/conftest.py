"""Fixtures for all tests, and the suites they belong to."""

import pytest

from tests.infra import suites
from tests.infra.controlplane.fixtures import alone, client, control_plane, real_parts

__all__ = ["alone", "client", "control_plane", "real_parts"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before `-m` selects by the markers that this sets."""
    suites.assign(items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture of the test is made."""
    suites.permit_parts(item)
