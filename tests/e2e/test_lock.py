"""The lock of the object store, as tests/packaging/test_locks.py has it for the product's own."""

from importlib.metadata import distributions
from pathlib import Path

from tests.infra.guests.s3 import REQUIREMENTS, ensure_moto
from tests.infra.old_pip import old_pip
from tests.infra.package_index import canonical, index_for, locked, versions
from tests.infra.virtualenv import PIP_INSTALL


def test_it_installs_whatever_is_published_meanwhile(tmp_path: Path) -> None:
    index = tmp_path / "index"
    index.mkdir()
    pip = old_pip(tmp_path / "venv", index)
    [packages] = ensure_moto().parents[1].glob("lib/python*/site-packages")
    known = {canonical(one.metadata["Name"]): one for one in distributions(path=[str(packages)])}
    lock = REQUIREMENTS.read_text()

    ran = pip.install(PIP_INSTALL, index_for(locked(lock), known, index))

    assert ran.returncode == 0, ran.stderr
    assert pip.run("check").returncode == 0
    assert versions(lock).items() <= pip.installed().items()
