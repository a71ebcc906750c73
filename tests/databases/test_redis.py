"""Profile redis with a real server."""

from dataclasses import replace
from pathlib import Path

from app.core.profiles import Profile
from tests.databases.conftest import Boot
from tests.infra.controlplane.waiting import wait_for
from tests.infra.guests.namespace_guest import DISK, NamespaceGuest

PROFILE = "redis"
DATA = f"{DISK}/data"


def install(guest: NamespaceGuest) -> None:
    guest.run("install", "-d", "-o", "redis", DATA)


def serve(guest: NamespaceGuest) -> None:
    """With neither points of time to save at, nor an append-only file: what is not saved by the step is lost."""
    guest.daemon("runuser", "-u", "redis", "--", "redis-server", "--dir", DATA, "--save", "", "--appendonly", "no")
    wait_for(lambda: redis(guest, "PING", ok=False) == "PONG", what="Redis")


def redis(guest: NamespaceGuest, *words: str, ok: bool = True) -> str:
    return guest.run("redis-cli", *words, ok=ok)


def slow_saves(guest: NamespaceGuest, keys: int, microseconds: int) -> None:
    """Have every save take so long for each of as many keys."""
    redis(guest, "EVAL", f"for i = 1, {keys} do redis.call('SET', 'slow' .. i, i) end", "0")
    redis(guest, "CONFIG", "SET", "rdb-key-save-delay", str(microseconds))


def test_keys_that_were_set_before_are_in_a_copy_made_in_the_window(
    guest: NamespaceGuest, profile: Profile, boot: Boot, tmp_path: Path
) -> None:
    redis(guest, "EVAL", "for i = 1, 10000 do redis.call('SET', 'key' .. i, i) end", "0")
    assert guest.quiesce(profile) == "held"
    copy = boot(guest.snapshot(tmp_path / "copy"))
    assert redis(copy, "DBSIZE") == "10000"
    assert redis(copy, "GET", "key9999") == "9999"


def test_keys_are_set_on_in_the_window(guest: NamespaceGuest, profile: Profile) -> None:
    assert guest.quiesce(profile) == "held"
    assert redis(guest, "SET", "late", "1") == "OK"


def test_a_save_that_runs_already_is_waited_for_and_another_one_made(
    guest: NamespaceGuest, profile: Profile, boot: Boot, tmp_path: Path
) -> None:
    slow_saves(guest, 20, 100_000)
    assert redis(guest, "BGSAVE") == "Background saving started"
    redis(guest, "SET", "late", "1")
    assert "rdb_bgsave_in_progress:1" in redis(guest, "INFO", "persistence")

    assert guest.quiesce(profile) == "held"

    assert "rdb_saves:2" in redis(guest, "INFO", "persistence")
    copy = boot(guest.snapshot(tmp_path / "copy"))
    assert redis(copy, "GET", "late") == "1"


def test_a_save_that_takes_too_long_fails_the_step_and_leaves_no_client(
    guest: NamespaceGuest, profile: Profile
) -> None:
    slow_saves(guest, 1000, 100_000)
    step = replace(profile.quiesce[0], timeout_seconds=1)
    assert guest.quiesce(replace(profile, quiesce=(step,))) == "over - step save ended with 124:"
    assert not guest.processes("redis-cli")


def test_a_save_that_fails_fails_the_step(guest: NamespaceGuest, profile: Profile) -> None:
    guest.run("chown", "root", DATA)
    status = guest.quiesce(profile)
    assert status == "over - step save ended with 1: the snapshot was not written; the log of Redis says why"
    assert "Permission denied" in guest.run("cat", "/run/daemon.log")


def test_a_server_that_is_down_fails_the_step(guest: NamespaceGuest, profile: Profile) -> None:
    redis(guest, "SHUTDOWN", "NOSAVE")
    status = guest.quiesce(profile)
    assert status.startswith("over - step save ended with 1: Could not connect to Redis at 127.0.0.1:6379"), status


def test_the_password_is_read_from_a_file_in_the_guest(guest: NamespaceGuest, profile: Profile) -> None:
    redis(guest, "CONFIG", "SET", "requirepass", "right")
    assert guest.quiesce(profile) == "over - step save ended with 1: NOAUTH Authentication required."
    guest.write("/etc/vm-consistency/redis.sh", "REDISCLI_AUTH=wrong\n")
    assert guest.quiesce(profile).startswith("over - step save ended with 1: AUTH failed: WRONGPASS invalid")
    guest.write("/etc/vm-consistency/redis.sh", "REDISCLI_AUTH=right\n")
    assert guest.quiesce(profile) == "held"


def test_the_file_can_name_a_user_and_a_port(guest: NamespaceGuest, profile: Profile) -> None:
    redis(guest, "ACL", "SETUSER", "backup", "on", ">right", "+bgsave", "+info")
    redis(guest, "ACL", "SETUSER", "default", "off")
    guest.write("/etc/vm-consistency/redis.sh", "REDISCLI_AUTH=right\nset -- --user backup -p 6379\n")
    assert guest.quiesce(profile) == "held"
    guest.write("/etc/vm-consistency/redis.sh", "REDISCLI_AUTH=right\nset -- --user backup -p 6380\n")
    assert "Could not connect to Redis at 127.0.0.1:6380" in guest.quiesce(profile)


def test_without_the_step_the_copy_has_no_keys(guest: NamespaceGuest, boot: Boot, tmp_path: Path) -> None:
    """What the step is for, and that the first test of this file can fail."""
    redis(guest, "SET", "key", "1")
    copy = boot(guest.snapshot(tmp_path / "copy"))
    assert redis(copy, "DBSIZE") == "0"


def test_the_saved_file_is_sound(guest: NamespaceGuest, profile: Profile, tmp_path: Path) -> None:
    redis(guest, "SET", "key", "1")
    assert guest.quiesce(profile) == "held"
    assert "RDB looks OK" in guest.run("redis-check-rdb", f"{DATA}/dump.rdb")
