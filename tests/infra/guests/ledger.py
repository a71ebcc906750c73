"""An application that must be held: writers of one PostgreSQL table, kept out by a lock while a backup runs."""

from textwrap import indent

from tests.infra.controlplane.waiting import wait_for
from tests.infra.guests.guest import AS_POSTGRES, Guest, GuestError

STORY = "/run/guest-test/story"
"""In the guest: what steps and the agent's freeze hook did, a word a line."""

_PSQL = f"{AS_POSTGRES} psql -XAtq"

_LOCK = f"""
echo lock >>{STORY}
cd / && f=$VM_CONSISTENCY_DIR/ledger
rm -f "$f" && mkfifo "$f" && : >"$f.out"
{{
  echo "BEGIN; LOCK TABLE ledger IN EXCLUSIVE MODE; SELECT 'held';"
  timeout "$VM_CONSISTENCY_HOLD" cat "$f"
}} 2>/dev/null | {{ PGAPPNAME=ledger-lock {_PSQL}; echo gone; }} >"$f.out" 2>&1 &
until grep -qx held "$f.out"; do sleep 0.2; done
"""

_UNLOCK = f"""
echo unlock >>{STORY}
f=$VM_CONSISTENCY_DIR/ledger
[ -p "$f" ] || exit 0
: 1<>"$f"
rm "$f"
timeout 10 sh -c 'until grep -qx gone "$0"; do sleep 0.2; done' "$f.out"
"""


def policy(*, trouble: str = "", trouble_seconds: int = 15, step_seconds: int = 40, **hooks: str) -> str:
    """A policy with the profiles `ledger` and, with `trouble` as its second quiesce step, `troubled`.

    `trouble_seconds` is the timeout of that step, `step_seconds` that of every other. `hooks` are lines of the policy's
    section of that name, by key: `freeze="{timeout: 2s}"`.
    """
    chosen = {"freeze": "{timeout: 8s}", "thaw": "{timeout: 8s}", "autoThaw": "12s", "requireFrozen": "true"} | hooks
    return f"""
apiVersion: vm-consistency.io/v1alpha1
kind: ConsistencyPolicy
hooks:
{indent("".join(f"{key}: {value}" + chr(10) for key, value in chosen.items()), "  ")}
profiles:
  ledger:
    quiesce:
{_step("lock", _LOCK, step_seconds)}
{_step("checkpoint", f"echo checkpoint >>{STORY}; cd / && {_PSQL} -c CHECKPOINT", step_seconds)}
    resume:
{_step("unlock", _UNLOCK, step_seconds)}
{_step("announce", f"echo announce >>{STORY}", step_seconds)}
  troubled:
    quiesce:
{_step("lock", _LOCK, step_seconds)}
{_step("trouble", trouble or "exit 0", trouble_seconds)}
    resume:
{_step("unlock", _UNLOCK, step_seconds)}
"""


def _step(name: str, run: str, seconds: int) -> str:
    return f"    - name: {name}\n      timeout: {seconds}s\n      run: |\n{indent(run.strip(), ' ' * 8)}"


def install(guest: Guest) -> None:
    """Make the table, and have the agent's freeze hook tell the story too."""
    guest.psql("CREATE TABLE ledger (entry text)")
    guest.must_run(f": >{STORY}; echo 'echo thaw >>{STORY}' >/run/guest-test/thaw")
    heal(guest)


def heal(guest: Guest) -> None:
    """End what a test did to the freeze, and begin a new story."""
    guest.on_freeze(f"echo freeze >>{STORY}")
    guest.must_run(f": >{STORY}")


def trouble_freeze(guest: Guest, script: str) -> None:
    """Have each freeze run `script` first; its failure makes the agent refuse."""
    guest.on_freeze(f"echo freeze >>{STORY}; {script}")


def told(guest: Guest) -> list[str]:
    """The story so far."""
    return guest.must_run(f"cat {STORY}").split()


def held(guest: Guest) -> bool:
    """Whether writers have to wait. Raises GuestError while the guest is frozen."""
    return guest.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ledger-lock'") != "0"


def assert_free(guest: Guest) -> None:
    """The guest is thawed, an entry can be written at once, and nothing of a hook is left running in the guest."""
    assert not guest.frozen()
    assert not held(guest)
    guest.psql("SET lock_timeout = '5s'; INSERT INTO ledger VALUES ('free')")
    guest.must_run("[ ! -e /run/vm-consistency/lock ] || flock -n /run/vm-consistency/lock true")


def wait_until_free(guest: Guest, seconds: float) -> None:
    """Return when `assert_free` holds; for what the guest and its launcher do by themselves."""

    def free() -> bool:
        try:
            assert_free(guest)
        except (AssertionError, GuestError):
            return False
        return True

    wait_for(free, seconds, what=f"{guest.domain} to thaw and go on", interval=0.5)
