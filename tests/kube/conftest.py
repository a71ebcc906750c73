"""A control plane for this folder alone: its API server is stopped and started, and filled with namespaces."""

from collections.abc import Iterator

import pytest

from tests.infra.controlplane import ControlPlane


@pytest.fixture(scope="package")
def api(real_parts: None) -> Iterator[ControlPlane]:
    with ControlPlane() as control_plane:
        control_plane.install_kubevirt()
        yield control_plane
