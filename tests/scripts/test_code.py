"""The scripts as code: what shellcheck says, how large they get, and which tools they use."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote_plus

import pytest

from app.core.annotations import COMMAND, POST, PRE
from app.core.hooks.commands import MAX_COMMAND_BYTES, MAX_URL_BYTES, command_sizes, commands, keeper
from app.core.hooks.render import render_hooks
from app.core.kubevirt_names import UPSTREAM
from app.core.policy import Hooks, Level
from app.core.policy_v1alpha1.schema import built_in_profiles
from app.core.profiles import NO_STEPS, Profile, Shell, Step

SHELLCHECK = Path(sys.executable).parent / "shellcheck"
LONGEST = ("n" * 63, "v" * 253)
STEPS = {shell: Profile(shell, (Step("a", "true", 9),), (Step("b", "true", 9),)) for shell in Shell}
PROFILES: dict[str, Profile] = {
    "none": NO_STEPS,
    "sh": STEPS[Shell.SH],
    "powershell": STEPS[Shell.POWERSHELL],
    "no-resume": Profile(Shell.SH, (Step("a", "true", 9),)),
}


def checked(code: str, dialect: str) -> str:
    """What shellcheck has to say.

    Functions and variables that one shape of a hook leaves unused are no fault, nor are files that only a guest has.
    """
    command: list[str | Path] = [SHELLCHECK, f"--shell={dialect}", "--exclude=SC1091,SC2034,SC2317,SC2329", "-"]
    return subprocess.run(command, input=code, text=True, stdout=subprocess.PIPE, check=False).stdout


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize("phase", ["pre", "post"])
def test_shellcheck_finds_nothing_in_a_hook(profile: Profile, phase: str) -> None:
    argv = getattr(commands(profile, Hooks(), UPSTREAM.freezer), phase)
    assert checked(argv[2], "bash") == ""


def test_shellcheck_finds_nothing_in_the_keeper() -> None:
    assert checked("i=1\n" + keeper(STEPS[Shell.SH], 60), "sh") == ""


@pytest.mark.parametrize("name", built_in_profiles())
def test_shellcheck_finds_nothing_in_a_built_in_profile(name: str) -> None:
    profile = built_in_profiles()[name]
    if profile.shell is Shell.SH:
        for step in (*profile.quiesce, *profile.resume):
            assert checked(step.run, "sh") == "", step.name


def test_shellcheck_would_find_something() -> None:
    assert "SC2086" in checked("x=$1; rm $x", "sh")


@pytest.mark.parametrize("name", built_in_profiles())
def test_a_built_in_profile_fits_with_room_to_spare(name: str) -> None:
    profile = built_in_profiles()[name]
    size, in_url = command_sizes(profile)
    assert (size <= MAX_COMMAND_BYTES, in_url <= MAX_URL_BYTES) == (True, True)
    hooks = render_hooks(Level.APPLICATION, profile, Hooks(require_frozen=True), *LONGEST, UPSTREAM)
    for phase in (PRE, POST):
        argv = json.loads(hooks[phase + COMMAND])
        assert len(hooks[phase + COMMAND].encode()) <= size
        assert len("".join(f"&command={quote_plus(part)}" for part in argv)) <= in_url


def test_what_varies_is_never_code() -> None:
    shapes = [Hooks(), Hooks(freeze_timeout="77s", thaw_timeout="78s", auto_thaw_seconds=99, require_frozen=True)]
    for profile in PROFILES.values():
        for phase in ("pre", "post"):
            one, other = (getattr(commands(profile, hooks, UPSTREAM.freezer), phase) for hooks in shapes)
            assert one == other
