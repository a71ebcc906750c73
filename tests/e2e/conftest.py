"""One cluster with the product, Velero, an object store and a storage array, for all tests of this folder.

What is missing on this machine is a failure that names the command to run.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controlplane import ControlPlane
from tests.controlplane.fixtures import kubevirt_cluster
from tests.e2e.s3 import S3
from tests.e2e.snapshotter import DiskArray
from tests.e2e.velero import Velero
from tests.installation import Installation

_PACKAGES = Path(__file__).parents[2] / ".ci" / "packages"
_PROGRAMS = ("qemu-system-x86_64", "libvirtd", "virsh", "debootstrap", "mke2fs", "pkg-config", "unshare")


@pytest.fixture(scope="session", autouse=True)
def prerequisites() -> None:
    """Fail at once with what is missing, not in the middle with what that leads to."""
    if os.geteuid() != 0:
        pytest.fail("These tests mount file systems and start guests: run them as root, e.g. `sudo make e2e`.")
    missing = [name for name in _PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
    if missing:
        packages = " ".join(_PACKAGES.read_text().split())
        pytest.fail(f"{', '.join(missing)} not found. Run: apt-get install --no-install-recommends {packages}")


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, prerequisites: None) -> Iterator[ControlPlane]:
    """etcd, kube-apiserver and virt-controller."""
    yield from kubevirt_cluster(request)


@pytest.fixture(scope="session")
def installation(cluster: ControlPlane) -> Iterator[Installation]:
    """The product as shipped, with one replica; every level is chosen by annotation of VMs, the default is crash."""
    installed = Installation(cluster)
    installed.apply()
    installed.start()
    installed.change_policy({"default": {"level": "crash"}})
    yield installed
    installed.remove()


@pytest.fixture(scope="session")
def velero(cluster: ControlPlane) -> Velero:
    """Velero's server; ends with the cluster."""
    velero = Velero(cluster, S3(cluster).start())
    velero.install()
    return velero.start()


@pytest.fixture(scope="session")
def array(cluster: ControlPlane) -> DiskArray:
    """Where disk images are volumes."""
    return DiskArray(cluster)
