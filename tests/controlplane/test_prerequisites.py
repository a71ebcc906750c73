"""What tests with guests and databases say on a machine that cannot run them."""

from pathlib import Path

import pytest

from tests.infra.controlplane.progress import BuildError
from tests.infra.guests.prerequisites import require_machine

PACKAGES = (Path(__file__).parents[2] / ".ci" / "packages").read_text().split()


def test_missing_programs_are_told_with_the_command_that_installs_all(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as raised:
        require_machine(tmp_path, user=0)

    missing, _, command = str(raised.value).partition(" not found. Run: ")
    assert {"qemu-system-x86_64", "libvirtd", "mariadbd", "initdb"} <= set(missing.split(", "))
    assert command.split() == ["apt-get", "install", "--no-install-recommends", *PACKAGES]


def test_a_program_counts_wherever_debian_puts_it(tmp_path: Path) -> None:
    for program in ("usr/sbin/mariadbd", "usr/lib/postgresql/15/bin/initdb"):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).touch()

    with pytest.raises(BuildError) as raised:
        require_machine(tmp_path, user=0)

    missing = set(str(raised.value).partition(" not found")[0].split(", "))
    assert "redis-server" in missing
    assert not {"mariadbd", "initdb"} & missing


def test_who_is_not_root_is_told_to_be(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="run them as root"):
        require_machine(tmp_path, user=1000)
