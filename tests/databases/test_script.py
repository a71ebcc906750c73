"""Profile script with hooks as the admin of a guest might install them."""

import pytest

from app.core.profiles import Profile
from tests.infra.guests.namespace_guest import NamespaceGuest

PROFILE = "script"
HOOK = "/etc/vm-consistency/hook"
NOTES = '#!/bin/sh\necho "$1" >>/run/notes\n'


def install(_: NamespaceGuest) -> None:
    """The hook is the only application here."""


serve = install


def test_the_hook_is_called_with_quiesce_and_resume(guest: NamespaceGuest, profile: Profile) -> None:
    guest.write(HOOK, NOTES, "755")
    assert guest.quiesce(profile) == "held"
    assert guest.run("cat", "/run/notes") == "quiesce"
    assert guest.resume() == "over - ended"
    assert guest.run("cat", "/run/notes") == "quiesce\nresume"


def test_a_hook_that_fails_fails_the_step_with_what_it_says_and_is_called_with_resume(
    guest: NamespaceGuest, profile: Profile
) -> None:
    guest.write(HOOK, NOTES + '[ "$1" = resume ] || { echo "the queue is not empty"; exit 3; }\n', "700")
    assert guest.quiesce(profile) == "over - step hook ended with 3: the queue is not empty"
    assert guest.run("cat", "/run/notes") == "quiesce\nresume"


def test_the_dead_man_calls_the_hook_with_resume(guest: NamespaceGuest, profile: Profile) -> None:
    guest.write(HOOK, NOTES, "755")
    assert guest.quiesce(profile, hold=1) == "held"
    assert guest.over() == "over - its time is up"
    assert guest.run("cat", "/run/notes") == "quiesce\nresume"


def test_without_a_hook_the_step_fails(guest: NamespaceGuest, profile: Profile) -> None:
    complaint = "must be there, owned by root and writable by nobody else"
    assert guest.quiesce(profile) == f"over hook:1 step hook ended with 1: /etc/vm-consistency {complaint}"
    guest.run("mkdir", "/etc/vm-consistency")
    assert guest.quiesce(profile) == f"over hook:1 step hook ended with 1: {HOOK} {complaint}"


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(("chmod", "757", HOOK), id="world-writable"),
        pytest.param(("chmod", "775", HOOK), id="group-writable"),
        pytest.param(("chmod", "4722", HOOK), id="writable-and-setuid"),
        pytest.param(("chown", "daemon", HOOK), id="owned-by-another"),
        pytest.param(("chmod", "777", "/etc/vm-consistency"), id="folder-world-writable"),
        pytest.param(("chmod", "1777", "/etc/vm-consistency"), id="folder-world-writable-and-sticky"),
        pytest.param(("chown", "daemon", "/etc/vm-consistency"), id="folder-owned-by-another"),
        pytest.param(("ln", "-sf", "/run/others", HOOK), id="link-to-what-others-can-write"),
    ],
)
def test_a_hook_that_others_can_change_is_not_run(
    guest: NamespaceGuest, profile: Profile, spoil: tuple[str, ...]
) -> None:
    guest.write(HOOK, NOTES, "755")
    guest.write("/run/others", NOTES, "777")
    guest.run(*spoil)
    assert "owned by root and writable by nobody else" in guest.quiesce(profile)
    assert "No such file" in guest.run("cat", "/run/notes", ok=False)


def test_a_hook_that_only_root_can_change_is_run(guest: NamespaceGuest, profile: Profile) -> None:
    for mode in ("500", "555", "700", "711", "755", "4755"):
        guest.write(HOOK, NOTES, mode)
        assert guest.quiesce(profile) == "held"
        assert guest.resume() == "over - ended"


def test_a_hook_may_leave_a_process_behind_that_has_closed_its_output(guest: NamespaceGuest, profile: Profile) -> None:
    guest.write(HOOK, "#!/bin/sh\n[ $1 = resume ] || sleep 1000 >/dev/null 2>&1 &\n", "755")
    assert guest.quiesce(profile) == "held"
    assert any("sleep 1000" in process for process in guest.processes("sleep"))
