"""Profiles: how an application in the guest is quiesced and resumed. Annotations pick one by name and write none."""

from dataclasses import dataclass
from enum import StrEnum


class Shell(StrEnum):
    """What runs the steps of a profile in the guest."""

    SH = "sh"
    POWERSHELL = "powershell"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a profile, run in the guest as root or LocalSystem."""

    name: str
    run: str
    timeout_seconds: int


@dataclass(frozen=True, slots=True)
class Profile:
    """The quiesce steps run in order before the freeze, the resume steps in order after the thaw."""

    shell: Shell = Shell.SH
    quiesce: tuple[Step, ...] = ()
    resume: tuple[Step, ...] = ()


NO_STEPS = Profile()
"""What a freeze that is verified needs in the guest: nothing."""


def seconds(steps: tuple[Step, ...]) -> int:
    """Return how long `steps` take at most, one after the other."""
    return sum(step.timeout_seconds for step in steps)
