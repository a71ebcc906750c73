"""Fixtures of a machine with guests; conftest.py takes them over."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.hypervisor import Hypervisor


@pytest.fixture(scope="session")
def hypervisor() -> Iterator[Hypervisor]:
    """One libvirtd for the session; guests end with it at the latest."""
    folder = Path(tempfile.mkdtemp(prefix="vm-consistency-"))  # short, for sockets lie in it
    with Hypervisor(folder) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)  # kept after Ctrl-C only
