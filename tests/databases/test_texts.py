"""What all built-in profiles have in common; mongodb and sqlserver are not run, for want of a server."""

import subprocess

import pytest

from app.core.hook_scripts import MAX_COMMAND_BYTES, command_size
from app.core.policy_schema import built_in_profiles
from app.core.profiles import Profile, Shell, Step

PROFILES = built_in_profiles()
STEPS = {
    f"{name}-{phase}-{step.name}": step
    for name, profile in PROFILES.items()
    if profile.shell is Shell.SH
    for phase, steps in (("quiesce", profile.quiesce), ("resume", profile.resume))
    for step in steps
}


def test_the_profiles_of_the_contract_are_there() -> None:
    assert set(PROFILES) == {"postgresql", "mysql", "mariadb", "mongodb", "redis", "sqlserver", "script"}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_profile_fits_into_a_hook(profile: Profile) -> None:
    assert profile.quiesce
    assert command_size(profile) <= MAX_COMMAND_BYTES


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_shellcheck_has_nothing_to_say(step: Step) -> None:
    """SC1091: the file with Redis's password is in the guest only."""
    command = ["shellcheck", "--shell=sh", "--exclude=SC1091", "--norc", "-"]
    checked = subprocess.run(command, check=False, input=step.run, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, "")
