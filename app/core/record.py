"""The record on the pod: which level it got, who decided, and a digest that shows whether that still holds."""

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum

from app.core.annotations import (
    DECIDED_BY,
    EFFECTIVE_LEVEL,
    EFFECTIVE_PROFILE,
    HOOK_KEYS,
    HOOKS_DIGEST,
    RECORD_KEYS,
)
from app.core.policy import Level

_DIGESTED = tuple(sorted((*HOOK_KEYS, *(key for key in RECORD_KEYS if key != HOOKS_DIGEST))))


def digest(annotations: Mapping[str, str]) -> str:
    """Return `sha256:` and the hex digest over the twelve hook keys and the record, as far as they are there.

    The text that is digested is a JSON object with sorted keys, no blanks, non-ASCII escaped. It detects a foreign
    writer; it is no signature, anyone who can write annotations can compute it.
    """
    present = {key: annotations[key] for key in _DIGESTED if key in annotations}
    text = json.dumps(present, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def with_record(hooks: Mapping[str, str], level: Level, profile: str | None, decided_by: str) -> dict[str, str]:
    """Return `hooks` together with the record that belongs to them."""
    own = {**hooks, EFFECTIVE_LEVEL: level.value, DECIDED_BY: decided_by}
    if profile is not None:
        own[EFFECTIVE_PROFILE] = profile
    own[HOOKS_DIGEST] = digest(own)
    return own


def is_intact(annotations: Mapping[str, str]) -> bool:
    """Whether the record is there and its digest fits the hooks and the record."""
    written = annotations.get(HOOKS_DIGEST)
    return written is not None and EFFECTIVE_LEVEL in annotations and written == digest(annotations)


def has_record(annotations: Mapping[str, str]) -> bool:
    """Whether there is a record or what is left of one, intact or not."""
    return EFFECTIVE_LEVEL in annotations or HOOKS_DIGEST in annotations


class RecordState(StrEnum):
    """What the record on a pod is worth."""

    INTACT = "intact"
    FOREIGN = "foreign"
    """Somebody else wrote hooks or record since."""
    NONE = "none"


def record_state(annotations: Mapping[str, str]) -> RecordState:
    """Return what the record is worth, or that there is nothing of one."""
    if is_intact(annotations):
        return RecordState.INTACT
    return RecordState.FOREIGN if any(key in annotations for key in RECORD_KEYS) else RecordState.NONE
