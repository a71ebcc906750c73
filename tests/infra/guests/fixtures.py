"""Fixtures of a machine with guests; conftest.py takes them over."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.controlplane.cluster import KEEP
from tests.infra.controlplane.fixtures import visible
from tests.infra.controlplane.progress import BuildError, say
from tests.infra.guests.domain import DISKS
from tests.infra.guests.hypervisor import Hypervisor
from tests.infra.guests.prerequisites import require_machine


@pytest.fixture(scope="session", autouse=True)
def prerequisites() -> None:
    """Fail at once with what is missing, not in the middle with what that leads to."""
    try:
        require_machine()
    except BuildError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def hypervisor(request: pytest.FixtureRequest, prerequisites: None, real_parts: None) -> Iterator[Hypervisor]:
    """One libvirtd for the session; guests end with it at the latest.

    Where a test of the session failed, the logs stay: guests' consoles, what reached their agents, libvirtd's own.
    """
    folder = Path(tempfile.mkdtemp(prefix="vm-consistency-"))  # short, for sockets lie in it
    with Hypervisor(folder) as running:
        yield running
    kept = bool(os.environ.get(KEEP))
    if not kept and not request.session.testsfailed:
        shutil.rmtree(folder, ignore_errors=True)
        return
    if not kept:
        for disk in (disk for pattern in DISKS for disk in folder.rglob(pattern) if disk.is_file()):
            disk.unlink()
    with visible(request):
        say(f"{'disks and ' if kept else ''}logs of guests are kept in {folder}")
