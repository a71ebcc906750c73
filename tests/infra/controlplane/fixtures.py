"""pytest fixtures; tests/conftest.py imports them. What is missing is built, and what cannot be built is a failure."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext

import pytest

from tests.infra.controlplane.client import Client
from tests.infra.controlplane.cluster import ControlPlane
from tests.infra.controlplane.progress import using_the_machine
from tests.infra.controlplane.stand_ins import stand_in_cdi

ENDLESS_MIGRATIONS = {"parallelMigrationsPerCluster": 100, "parallelOutboundMigrationsPerNode": 100}
"""No guest ever moves here: tests leave their migrations running, and KubeVirt's limits are five and two."""


@pytest.fixture(scope="session")
def real_parts() -> None:
    """What a test or fixture asks for that uses parts built from source (tests/infra/suites.py)."""


@pytest.fixture
def alone(real_parts: None) -> Iterator[None]:
    """What a test asks for that measures: nothing is built meanwhile, and the marker `exclusive` keeps tests away."""
    with using_the_machine(alone=True):
        yield


@pytest.fixture(scope="session")
def control_plane(real_parts: None, request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """One control plane with KubeVirt, CDI's kinds and virt-controller for the whole session.

    Its folder with the logs stays when a test of the session failed. A test that changes cluster-wide objects or
    kills a part puts things right again, or starts a `ControlPlane` of its own.
    """
    yield from kubevirt_cluster(request)


def kubevirt_cluster(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """The same for a fixture of another scope: for tests that other tests' migrations or forgeries would disturb."""
    with ExitStack() as stack:
        with visible(request):  # the first build takes minutes
            control_plane = stack.enter_context(ControlPlane())
            control_plane.install_kubevirt({"configuration": {"migrations": ENDLESS_MIGRATIONS}})
            stand_in_cdi(control_plane.client)
            control_plane.start_virt_controller()
        yield control_plane
        control_plane.keep |= request.session.testsfailed > 0
        with visible(request):
            stack.close()


@pytest.fixture(scope="session")
def client(control_plane: ControlPlane) -> Client:
    """The session's control plane as its administrator."""
    return control_plane.client


def visible(request: pytest.FixtureRequest) -> AbstractContextManager[None]:
    """Show what is said meanwhile at once; pytest would keep it for the report of a failure."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    return capture.global_and_fixture_disabled() if capture else nullcontext()
