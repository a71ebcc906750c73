import hashlib
import json

import pytest

from app.core.annotations import DECIDED_BY, EFFECTIVE_LEVEL, EFFECTIVE_PROFILE, HOOK_KEYS, HOOKS_DIGEST, OWN_KEYS
from app.core.hooks.render import render_hooks
from app.core.kubevirt_names import UPSTREAM
from app.core.policy import Hooks, Level
from app.core.profiles import NO_STEPS
from app.core.record import digest, is_intact, with_record
from tests.infra.factories import NAME, NAMESPACE

HOOKS = render_hooks(Level.FILESYSTEM, NO_STEPS, Hooks(), NAMESPACE, NAME, UPSTREAM)
FULL = with_record({key: f"value of {key}" for key in HOOK_KEYS}, Level.APPLICATION, "postgresql", "rule/r")
PLAIN = with_record(HOOKS, Level.FILESYSTEM, None, "default")


def by_hand(annotations: dict[str, str]) -> str:
    """The digest as it is documented, computed without the product's code."""
    covered = [
        *(
            f"{phase}hook.backup.velero.io/{f}"
            for phase in ("pre.", "post.", "")
            for f in ["command", "container", "on-error", "timeout"]
        ),
        *(f"vm-consistency.io/{name}" for name in ("decided-by", "effective-level", "effective-profile")),
    ]
    parts = [f"{json.dumps(key)}:{json.dumps(annotations[key])}" for key in sorted(covered) if key in annotations]
    return "sha256:" + hashlib.sha256(f"{{{','.join(parts)}}}".encode("ascii")).hexdigest()


@pytest.mark.parametrize("annotations", [FULL, PLAIN, with_record({}, Level.CRASH, None, "vm")])
def test_digest_is_the_documented_one(annotations: dict[str, str]) -> None:
    assert annotations[HOOKS_DIGEST] == by_hand(annotations) == digest(annotations)
    assert is_intact(annotations)


def test_digest_of_a_known_text_never_changes() -> None:
    # Records outlive versions of the product: they are on pods, and in backups.
    record = with_record({"pre.hook.backup.velero.io/command": '["é"]'}, Level.FILESYSTEM, None, "default")
    text = (
        r'{"pre.hook.backup.velero.io/command":"[\"\u00e9\"]",'
        '"vm-consistency.io/decided-by":"default","vm-consistency.io/effective-level":"filesystem"}'
    )
    assert record[HOOKS_DIGEST] == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def test_record() -> None:
    assert {key: PLAIN[key] for key in PLAIN if key not in HOOKS} == {
        EFFECTIVE_LEVEL: "filesystem",
        DECIDED_BY: "default",
        HOOKS_DIGEST: PLAIN[HOOKS_DIGEST],
    }
    assert HOOKS.items() <= PLAIN.items()
    assert FULL[EFFECTIVE_PROFILE] == "postgresql"


@pytest.mark.parametrize("key", OWN_KEYS)
def test_any_change_of_any_key_breaks_it(key: str) -> None:
    assert set(FULL) == set(OWN_KEYS)
    assert not is_intact({**FULL, key: FULL[key] + " "})
    assert not is_intact({**FULL, key: ""})
    assert not is_intact({name: value for name, value in FULL.items() if name != key})


@pytest.mark.parametrize("key", sorted(set(OWN_KEYS) - set(PLAIN)))
def test_any_addition_breaks_it(key: str) -> None:
    assert not is_intact({**PLAIN, key: ""})


def test_exchanged_values_break_it() -> None:
    first, second = HOOK_KEYS[:2]
    assert not is_intact({**FULL, first: FULL[second], second: FULL[first]})


def test_order_and_foreign_keys_do_not_matter() -> None:
    assert is_intact({"a": "b", **dict(reversed(FULL.items())), "vm-consistency.io/level": "crash"})


def test_digest_without_a_record_is_none() -> None:
    assert not is_intact({HOOKS_DIGEST: digest({})})
    assert not is_intact({})
