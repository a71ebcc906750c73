"""Which command runs a test.

| suite | command | a test belongs to it that |
|---|---|---|
| unit | `make test` | is in none of the others |
| cluster | `make test-cluster` | needs the fixture `real_parts`, directly or through another fixture |
| e2e | `make e2e` | needs the fixture `prerequisites` of the tests with real guests and databases |

A test that builds or starts a real part without belonging to a suite that may do so fails, and is told why. A test that
needs the fixture `alone` gets the marker `exclusive`: it runs while nothing else runs.
"""

from collections.abc import Sequence

import pytest

from tests.infra.controlplane import build

CLUSTER, E2E, EXCLUSIVE = "cluster", "e2e", "exclusive"
_BY_FIXTURE = {"prerequisites": E2E, "real_parts": CLUSTER}


def assign(items: list[pytest.Item]) -> None:
    """Give each test the marker of its suite, and have long modules start first, so that no worker ends alone.

    Long are those that are marked so, and then those that need real parts.
    """
    for item in items:
        suite = _suite(item)
        if suite:
            item.add_marker(suite)
        if "alone" in _fixtures(item):
            item.add_marker(EXCLUSIVE)
    items.sort(key=lambda item: (item.get_closest_marker("long") is None, "real_parts" not in _fixtures(item)))


def _suite(item: pytest.Item) -> str | None:
    return next((suite for fixture, suite in _BY_FIXTURE.items() if fixture in _fixtures(item)), None)


def _fixtures(item: pytest.Item) -> Sequence[str]:
    names: Sequence[str] = getattr(item, "fixturenames", ())
    return names


def permit_parts(item: pytest.Item) -> None:
    """Let `item` build and start real parts if its suite may."""
    permitted = any(item.get_closest_marker(suite) for suite in (CLUSTER, E2E))
    build.refusal = None if permitted else f"{item.nodeid} needs the fixture real_parts: see tests/infra/suites.py"
