from collections.abc import Iterator

import pytest

from tests.infra.controlplane import ControlPlane
from tests.manifests.overlay import DEFAULT, Overlay, kustomize


@pytest.fixture(scope="session")
def overlay(real_parts: None) -> Overlay:
    """The default overlay, as a user installs it."""
    return Overlay(kustomize(DEFAULT))


@pytest.fixture(scope="session")
def control_plane(real_parts: None) -> Iterator[ControlPlane]:
    """An API server into which the default overlay was installed as the documentation says; nothing serves it."""
    with ControlPlane() as started:
        started.kubectl("apply", "-k", DEFAULT)
        yield started
