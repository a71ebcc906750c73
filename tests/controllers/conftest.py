"""One control plane for the live tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.infra.controlplane import ControlPlane
from tests.infra.installation import Installation


@pytest.fixture(scope="package")
def control_plane(real_parts: None) -> Iterator[ControlPlane]:
    """With KubeVirt's kinds and the manifests; no replica runs. A module makes sure of the state it begins with."""
    with ControlPlane() as started:
        started.install_kubevirt()
        Installation(started).apply()
        yield started
