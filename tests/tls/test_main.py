"""`python -m app.tls DIR`, and that what it writes can be served."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from app.tls.__main__ import DEFAULT_NAMES, main
from app.tls.serving import ServingContext
from app.tls.source import FileSource
from tests.tls.https import Connection, server, trusting


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_it_writes_is_served_and_trusted(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "certs"
    done = subprocess.run([sys.executable, "-m", "app.tls", str(directory)], capture_output=True, text=True, check=True)
    assert done.stdout == f"ca.crt, tls.crt and tls.key written to {directory}\n"
    assert sorted(path.name for path in directory.iterdir()) == ["ca.crt", "tls.crt", "tls.key"]
    serving = ServingContext(DEFAULT_NAMES)
    FileSource(serving, directory).load()
    with server(serving) as port:
        for name in ("localhost", "127.0.0.1", "vm-consistency.vm-consistency.svc"):
            connection = Connection(port, trusting((directory / "ca.crt").read_bytes()), name)
            assert connection.status() == 200
            connection.close()


def test_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "tls.key").write_text("older, and readable by all")
    (tmp_path / "tls.key").chmod(0o644)
    assert main([str(tmp_path)]) == 0
    assert [mode(tmp_path / name) for name in ("tls.key", "tls.crt", "ca.crt")] == [0o600, 0o644, 0o644]


def test_names_of_ones_own(tmp_path: Path) -> None:
    main([str(tmp_path), "--name", "hook.example", "--name", "192.0.2.7"])
    FileSource(ServingContext(["hook.example", "192.0.2.7"]), tmp_path).load()


def test_misuse_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([str(tmp_path), "--name", "not a name"])
    assert left.value.code == 2
    assert "'not a name' is neither a DNS name nor an IP address" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_can_not_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as left:
        main([str(tmp_path / "file")])
    assert left.value.code == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
