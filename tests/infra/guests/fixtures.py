"""Fixtures of a machine with guests; conftest.py takes them over."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.controlplane.cluster import KEEP
from tests.infra.controlplane.progress import say
from tests.infra.guests.hypervisor import Hypervisor


@pytest.fixture(scope="session")
def hypervisor() -> Iterator[Hypervisor]:
    """One libvirtd for the session; guests end with it at the latest."""
    folder = Path(tempfile.mkdtemp(prefix="vm-consistency-"))  # short, for sockets lie in it
    with Hypervisor(folder) as running:
        yield running
    if os.environ.get(KEEP):
        say(f"disks and logs of guests are kept in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
