"""Guests and disks for the tests of profiles."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.core.policy_v1alpha1.schema import built_in_profiles
from app.core.profiles import Profile
from tests.infra.guests.fixtures import prerequisites
from tests.infra.guests.namespace_guest import NamespaceGuest

__all__ = ["prerequisites"]


@pytest.fixture
def profile(request: pytest.FixtureRequest) -> Profile:
    """The built-in profile that the test module names in PROFILE."""
    return built_in_profiles()[request.module.PROFILE]


@pytest.fixture(scope="module")
def disk_with_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk on which the test module's `install(guest)` has been run, for tests to copy."""
    image = tmp_path_factory.mktemp("disk") / "image"
    with image.open("wb") as file:
        file.truncate(384 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=1", "-J", "size=4", image], check=True)
    guest = NamespaceGuest(image)
    try:
        request.module.install(guest)
        guest.run("umount", "/srv")
    finally:
        guest.stop()
    return image


Boot = Callable[[Path], NamespaceGuest]


@pytest.fixture
def boot(request: pytest.FixtureRequest) -> Iterator[Boot]:
    """Boots another guest from a disk, and in it what the test module's `serve(guest)` starts."""
    guests: list[NamespaceGuest] = []

    def boot(disk: Path) -> NamespaceGuest:
        guests.append(NamespaceGuest(disk))
        request.module.serve(guests[-1])
        return guests[-1]

    yield boot
    for guest in guests:
        guest.stop()


@pytest.fixture
def guest(boot: Boot, disk_with_server: Path, tmp_path: Path) -> NamespaceGuest:
    """A guest with a server that runs."""
    disk = tmp_path / "image"
    subprocess.run(["cp", "--sparse=always", disk_with_server, disk], check=True)
    return boot(disk)


@pytest.fixture(autouse=True)
def _no_rubbish(tmp_path: Path) -> Iterator[None]:
    """Disks are large, and pytest would keep those of the last runs."""
    yield
    shutil.rmtree(tmp_path, ignore_errors=True)
