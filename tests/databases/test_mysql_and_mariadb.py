"""Profiles mysql and mariadb with a real MariaDB server, whose clients have both names; no MySQL server was there."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from app.core.policy_v1alpha1.schema import built_in_profiles
from app.core.profiles import Profile
from tests.databases.conftest import Boot
from tests.infra.controlplane.waiting import wait_for
from tests.infra.guests.namespace_guest import DISK, NamespaceGuest

pytestmark = pytest.mark.long

DATA = f"{DISK}/data"
WAITS = "SELECT id FROM information_schema.processlist WHERE state LIKE 'Waiting for%lock'"


@pytest.fixture(params=["mysql", "mariadb"])
def name(request: pytest.FixtureRequest) -> str:
    """Of the profile, and of the client that it uses."""
    return str(request.param)


@pytest.fixture
def profile(name: str) -> Profile:
    return built_in_profiles()[name]


def install(guest: NamespaceGuest) -> None:
    guest.run("install", "-d", "-o", "mysql", DATA)
    guest.run("mariadb-install-db", "--user=mysql", f"--datadir={DATA}", "--skip-test-db", "--innodb-log-file-size=8M")
    with serving(guest):
        sql(guest, "CREATE DATABASE shop")
        sql(guest, "CREATE TABLE shop.journaled (n INT) ENGINE=InnoDB; CREATE TABLE shop.plain (n INT) ENGINE=MyISAM")


def serve(guest: NamespaceGuest) -> None:
    guest.run("install", "-d", "-o", "mysql", "/run/mysqld")
    guest.daemon("mariadbd", "--user=mysql", f"--datadir={DATA}", "--innodb-log-file-size=8M")
    wait_for(lambda: "is alive" in guest.run("mariadb-admin", "ping", ok=False), what="MariaDB")


@contextmanager
def serving(guest: NamespaceGuest) -> Iterator[None]:
    serve(guest)
    yield
    guest.run("mariadb-admin", "shutdown")
    wait_for(lambda: not guest.processes("mariadbd"), what="the end of MariaDB")


def sql(guest: NamespaceGuest, text: str) -> str:
    return guest.run("mariadb", "--no-defaults", "-N", "-e", text)


def insert(guest: NamespaceGuest, table: str, number: int) -> None:
    sql(guest, f"INSERT INTO shop.{table} VALUES ({number})")


def assert_nothing_is_held(guest: NamespaceGuest) -> None:
    """No client is left, and writes go on."""
    wait_for(lambda: not guest.processes("mysql", "mariadb", "cat"), what="the end of all clients")
    for table in ("journaled", "plain"):
        insert(guest, table, 0)


def holder(guest: NamespaceGuest) -> str:
    """The server's number of the session that holds the lock."""
    return sql(guest, "SELECT id FROM information_schema.processlist WHERE user = 'root' AND command = 'Sleep'")


def test_writes_wait_in_the_window_and_go_on_after_it(guest: NamespaceGuest, profile: Profile) -> None:
    assert guest.quiesce(profile) == "held"
    writers = [guest.start("mariadb", "-e", f"INSERT INTO shop.{table} VALUES (1)") for table in ("journaled", "plain")]
    wait_for(lambda: len(sql(guest, WAITS).split()) == 2, what="both writers to wait")
    assert sql(guest, "SELECT count(*) FROM shop.plain") == "0"

    assert guest.resume() == "over - ended"

    assert [writer.wait(timeout=20) for writer in writers] == [0, 0]
    assert sql(guest, "SELECT (SELECT count(*) FROM shop.journaled), (SELECT count(*) FROM shop.plain)") == "1\t1"
    assert_nothing_is_held(guest)


def test_a_copy_made_in_the_window_has_every_committed_row_and_whole_tables(
    guest: NamespaceGuest, profile: Profile, boot: Boot, tmp_path: Path
) -> None:
    sql(guest, "SET GLOBAL innodb_flush_log_at_trx_commit = 1")
    for table in ("journaled", "plain"):
        sql(guest, f"INSERT INTO shop.{table} SELECT seq FROM mysql.seq_1_to_5000")
    open_table = guest.start("mariadb", "-e", "BEGIN; INSERT INTO shop.journaled VALUES (-1); SELECT SLEEP(60)")
    wait_for(lambda: "SLEEP" in sql(guest, "SHOW PROCESSLIST"), what="a transaction that stays open")

    assert guest.quiesce(profile) == "held"
    copy = boot(guest.snapshot(tmp_path / "copy"))
    assert guest.resume() == "over - ended"

    assert open_table.poll() is None
    for table in ("journaled", "plain"):
        assert sql(copy, f"SELECT count(*), min(n), max(n) FROM shop.{table}") == "5000\t1\t5000"
    assert sql(copy, "CHECK TABLE shop.journaled EXTENDED").endswith("\tstatus\tOK")
    log = copy.run("cat", "/run/daemon.log")
    assert "Starting crash recovery" in log
    assert "shop/plain" not in log


def test_without_the_lock_a_copy_has_a_table_that_was_not_closed(
    guest: NamespaceGuest, boot: Boot, tmp_path: Path
) -> None:
    """What the lock is for, and that the test before can fail."""
    insert(guest, "plain", 1)
    copy = boot(guest.snapshot(tmp_path / "copy"))
    sql(copy, "SELECT * FROM shop.plain")
    log = copy.run("cat", "/run/daemon.log")
    assert "'./shop/plain' is marked as crashed" in log


def test_the_dead_man_ends_the_lock_when_nobody_says_end(guest: NamespaceGuest, profile: Profile) -> None:
    assert guest.quiesce(profile, hold=2) == "held"
    writer = guest.start("mariadb", "-e", "INSERT INTO shop.journaled VALUES (1)")
    wait_for(lambda: sql(guest, WAITS), what="the writer to wait")
    assert guest.over() == "over - its time is up"
    assert writer.wait(timeout=20) == 0
    assert_nothing_is_held(guest)


def test_the_lock_ends_in_time_even_without_its_keeper(guest: NamespaceGuest, profile: Profile) -> None:
    short = replace(profile, quiesce=(replace(profile.quiesce[0], timeout_seconds=3),))
    assert guest.quiesce(short, hold=1) == "held"
    guest.run("pkill", "-KILL", "-x", "sh")
    assert guest.processes("mysql", "mariadb")
    assert_nothing_is_held(guest)


def test_a_wrong_password_fails_the_step_and_leaves_nothing(guest: NamespaceGuest, profile: Profile) -> None:
    sql(guest, "CREATE USER backup IDENTIFIED BY 'right'; GRANT RELOAD ON *.* TO backup")
    guest.write("/root/.my.cnf", "[client]\nuser=backup\npassword=wrong\n")
    status = guest.quiesce(profile)
    assert status.startswith("over - step lock ended with 1: ERROR 1045 (28000): Access denied for user 'backup'@")
    guest.run("rm", "/root/.my.cnf")
    assert_nothing_is_held(guest)


def test_the_password_is_read_from_root_s_my_cnf_though_the_agent_has_no_home(
    guest: NamespaceGuest, profile: Profile
) -> None:
    sql(guest, "CREATE USER backup IDENTIFIED BY 'right'; GRANT RELOAD ON *.* TO backup")
    guest.write("/root/.my.cnf", "[client]\nuser=backup\npassword=right\n")
    assert guest.quiesce(profile) == "held"
    assert sql(guest, "SELECT user FROM information_schema.processlist WHERE command = 'Sleep'") == "backup"
    assert guest.resume() == "over - ended"


def test_a_user_without_the_right_fails_the_step_and_leaves_nothing(guest: NamespaceGuest, profile: Profile) -> None:
    sql(guest, "CREATE USER backup IDENTIFIED BY 'right'")
    guest.write("/root/.my.cnf", "[client]\nuser=backup\npassword=right\n")
    status = guest.quiesce(profile)
    assert re.fullmatch(r"over - step lock ended with 1: ERROR 1227 .* you need .*RELOAD privilege.*", status), status
    guest.run("rm", "/root/.my.cnf")
    assert_nothing_is_held(guest)


def test_a_long_statement_fails_the_step_in_time_and_leaves_nothing(guest: NamespaceGuest, profile: Profile) -> None:
    long = guest.start("mariadb", "-e", "INSERT INTO shop.plain SELECT SLEEP(60)")
    wait_for(lambda: "SLEEP" in sql(guest, "SHOW PROCESSLIST"), what="the long statement")
    status = guest.quiesce(profile)
    assert status.startswith("over - step lock ended with 1: ERROR 1205 (HY000) at line 2: Lock wait timeout exceeded")
    assert long.poll() is None
    insert(guest, "journaled", 1)
    assert not guest.processes("mysql", "cat")


def test_a_server_that_hangs_fails_the_step_in_time_and_leaves_nothing(guest: NamespaceGuest, profile: Profile) -> None:
    guest.run("pkill", "-STOP", "-x", "mariadbd")
    short = replace(profile, quiesce=(replace(profile.quiesce[0], timeout_seconds=2),))
    assert guest.quiesce(short) == "over unlock:1 step lock ended with 124:"
    guest.run("pkill", "-CONT", "-x", "mariadbd")
    assert_nothing_is_held(guest)


def test_a_client_that_was_killed_in_the_window_makes_resume_say_that_the_lock_was_lost(
    guest: NamespaceGuest, profile: Profile, name: str
) -> None:
    assert guest.quiesce(profile) == "held"
    guest.run("pkill", "-KILL", "-x", name)
    assert guest.resume() == "over unlock:1 ended"
    assert guest.run("cat", "/run/vm-consistency/out") == "the lock was lost"
    assert_nothing_is_held(guest)


def test_a_session_that_was_ended_in_the_window_makes_resume_say_that_the_lock_was_lost(
    guest: NamespaceGuest, profile: Profile
) -> None:
    assert guest.quiesce(profile) == "held"
    sql(guest, f"KILL {holder(guest)}")
    assert guest.resume() == "over unlock:1 ended"
    assert_nothing_is_held(guest)


def test_a_server_that_was_started_again_in_the_window_makes_resume_say_that_the_lock_was_lost(
    guest: NamespaceGuest, profile: Profile
) -> None:
    assert guest.quiesce(profile) == "held"
    guest.run("pkill", "-KILL", "-x", "mariadbd")
    serve(guest)
    assert guest.resume() == "over unlock:1 ended"
    assert_nothing_is_held(guest)


def test_resume_can_be_repeated_and_the_next_window_is_as_the_first(guest: NamespaceGuest, profile: Profile) -> None:
    assert guest.quiesce(profile) == "held"
    assert guest.resume() == "over - ended"
    again = replace(profile, quiesce=())
    assert guest.quiesce(again) == "held"
    assert guest.resume() == "over - ended"

    assert guest.quiesce(profile) == "held"
    assert holder(guest)
    assert guest.resume() == "over - ended"
    assert_nothing_is_held(guest)


def test_the_session_outlives_the_server_s_wait_timeout(guest: NamespaceGuest, profile: Profile) -> None:
    sql(guest, "SET GLOBAL wait_timeout = 1")
    assert guest.quiesce(profile) == "held"
    wait_for(lambda: int(sql(guest, "SELECT max(time) FROM information_schema.processlist") or 0) > 2, what="3 s")
    assert guest.resume() == "over - ended"


@pytest.mark.parametrize("shell", ["bash", "busybox"])
def test_other_shells_under_the_name_sh_hold_the_lock_too(guest: NamespaceGuest, shell: str) -> None:
    """RHEL's sh is bash, Alpine's is BusyBox; all other tests have Debian's, dash."""
    guest.run("mount", "--bind", guest.run("which", shell), guest.run("readlink", "-f", "/bin/sh"))
    profile = built_in_profiles()["mariadb"]
    assert guest.quiesce(profile) == "held"
    writer = guest.start("mariadb", "-e", "INSERT INTO shop.journaled VALUES (1)")
    wait_for(lambda: sql(guest, WAITS), what="the writer to wait")
    assert guest.resume() == "over - ended"
    assert writer.wait(timeout=20) == 0
    assert guest.quiesce(profile) == "held"
    sql(guest, f"KILL {holder(guest)}")
    assert guest.resume() == "over unlock:1 ended"
    assert_nothing_is_held(guest)
