"""What the tests of this folder share."""

from typing import Any

from app.core.annotations import LEVEL, PRE
from tests.infra.factories import make_policy

CRASH: dict[str, Any] = {"default": {"level": "crash"}}
FILESYSTEM: dict[str, Any] = {"default": {"level": "filesystem"}}
ON_CRASH, ON_FILESYSTEM = make_policy(**CRASH), make_policy(**FILESYSTEM)

ASKS_FOR_CRASH = {LEVEL: "crash"}
ASKS_FOR_NONSENSE = {LEVEL: "nonsense"}
TAMPERED = {PRE + "timeout": "1s"}
"""A hook annotation as none of these policies has it."""
