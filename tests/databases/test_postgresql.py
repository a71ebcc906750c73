"""Profile postgresql with a real server."""

from dataclasses import replace
from pathlib import Path

from app.core.profiles import Profile
from tests.databases.conftest import Boot
from tests.infra.controlplane.waiting import wait_for
from tests.infra.guests.namespace_guest import DISK, NamespaceGuest

PROFILE = "postgresql"
DATA = f"{DISK}/data"
NOTHING = {"checkpoint_timeout": "1h", "bgwriter_delay": "10s", "wal_writer_delay": "10s", "autovacuum": "off"}
"""So that nothing but the step brings data to the disk."""


def _as_postgres(guest: NamespaceGuest, program: str, *args: str, ok: bool = True) -> str:
    server = next(Path("/usr/lib/postgresql").glob("*/bin"))
    return guest.run("runuser", "-u", "postgres", "--", str(server / program), *args, ok=ok)


def install(guest: NamespaceGuest) -> None:
    guest.run("install", "-d", "-o", "postgres", DATA)
    _as_postgres(guest, "initdb", "--no-sync", "--auth=peer", DATA)


def serve(guest: NamespaceGuest) -> None:
    guest.run("install", "-d", "-o", "postgres", "/run/postgresql")
    guest.run("rm", "-f", f"{DATA}/postmaster.pid")  # in a guest of so few processes its number may be another's
    options = " ".join(f"-c {name}={value}" for name, value in NOTHING.items())
    _as_postgres(guest, "pg_ctl", "--wait", "--silent", "-D", DATA, "-l", "/run/postgresql/log", "-o", options, "start")
    wait_for(lambda: "accepting" in guest.run("pg_isready", ok=False), what="PostgreSQL")


def sql(guest: NamespaceGuest, text: str) -> str:
    return guest.run("runuser", "-u", "postgres", "--", "psql", "-XAtqd", "postgres", "-c", text)


def commit_rows(guest: NamespaceGuest, number: int) -> None:
    """Commit rows of which PostgreSQL itself has promised nothing: a crash may take them."""
    sql(guest, f"SET synchronous_commit = off; CREATE TABLE t AS SELECT generate_series(1, {number}) AS n")


def test_rows_that_were_committed_before_are_in_a_copy_made_in_the_window(
    guest: NamespaceGuest, profile: Profile, boot: Boot, tmp_path: Path
) -> None:
    commit_rows(guest, 1000)
    before = sql(guest, "SELECT pg_current_wal_insert_lsn()")

    assert guest.quiesce(profile) == "held"
    copy = boot(guest.snapshot(tmp_path / "copy"))

    assert sql(copy, "SELECT count(*), sum(n) FROM t") == "1000|500500"
    assert sql(guest, f"SELECT redo_lsn >= '{before}' FROM pg_control_checkpoint()") == "t"
    assert "was not properly shut down" in copy.run("cat", "/run/postgresql/log")


def test_rows_are_written_on_in_the_window(guest: NamespaceGuest, profile: Profile) -> None:
    commit_rows(guest, 1)
    assert guest.quiesce(profile) == "held"
    sql(guest, "INSERT INTO t VALUES (2)")
    assert sql(guest, "SELECT count(*) FROM t") == "2"


def test_a_transaction_that_stays_open_is_no_obstacle(guest: NamespaceGuest, profile: Profile) -> None:
    commit_rows(guest, 1)
    other = guest.start("runuser", "-u", "postgres", "--", "psql", "-c", "BEGIN; LOCK t; SELECT pg_sleep(60)")
    wait_for(lambda: sql(guest, "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock'"), what="the lock")
    assert guest.quiesce(profile) == "held"
    assert other.poll() is None


def test_no_keeper_stays(guest: NamespaceGuest, profile: Profile) -> None:
    assert guest.quiesce(profile) == "held"
    wait_for(lambda: not guest.processes("sh", "psql"), what="the end of the keeper")


def test_a_server_that_is_down_fails_the_step_with_what_psql_says(guest: NamespaceGuest, profile: Profile) -> None:
    _as_postgres(guest, "pg_ctl", "--wait", "--silent", "-D", DATA, "stop")
    status = guest.quiesce(profile)
    assert status.startswith("over - step checkpoint ended with 1: psql: error: connection to server on socket")


def test_a_server_that_wants_a_password_fails_the_step(guest: NamespaceGuest, profile: Profile) -> None:
    guest.run("sed", "-i", "s/peer/scram-sha-256/", f"{DATA}/pg_hba.conf")
    _as_postgres(guest, "pg_ctl", "-D", DATA, "reload")
    wait_for(lambda: "fe_sendauth: no password supplied" in guest.quiesce(profile), what="the new rules")


def test_a_server_that_hangs_fails_the_step_in_time_and_leaves_no_client(
    guest: NamespaceGuest, profile: Profile
) -> None:
    guest.run("pkill", "-STOP", "-x", "postgres")
    step = replace(profile.quiesce[0], timeout_seconds=1)
    assert guest.quiesce(replace(profile, quiesce=(step,))) == "over - step checkpoint ended with 124:"
    assert not guest.processes("psql")
