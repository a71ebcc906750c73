import json
from typing import Any

import pytest

from app.core.annotations import HOOK_KEYS, KUBEVIRT_HOOK_KEYS, OWN_KEYS, POST, PRE, RECORD_KEYS
from app.core.duration import SECOND, parse_go_duration
from app.core.hooks.render import kubevirt_hooks, render_hooks
from app.core.kubevirt_names import UPSTREAM, KubeVirtNames
from app.core.policy import Hooks, Level
from app.core.profiles import NO_STEPS, Profile, Shell, Step
from tests.infra.factories import RECORDED, make_policy

NAME, NAMESPACE = "db.example", "shop"
EIGHT = {phase + field for phase in (PRE, POST) for field in ("command", "container", "on-error", "timeout")}


def render(
    level: Level = Level.FILESYSTEM,
    names: KubeVirtNames = UPSTREAM,
    profile: Profile = NO_STEPS,
    **hooks: Any,
) -> dict[str, str]:
    return render_hooks(level, profile, make_policy(hooks=hooks).default.hooks, NAMESPACE, NAME, names)


def test_keys() -> None:
    legacy = {f"hook.backup.velero.io/{field}" for field in ("command", "container", "on-error", "timeout")}
    assert sorted(HOOK_KEYS) == sorted(EIGHT | legacy)
    assert len(set(OWN_KEYS)) == len(OWN_KEYS) == 16
    assert all(key.startswith("vm-consistency.io/") for key in RECORD_KEYS)


@pytest.mark.parametrize("name", RECORDED)
def test_kubevirts_five_keys_equal_its_own_byte_for_byte(name: str) -> None:
    metadata = RECORDED[name]["metadata"]
    own = {key: metadata["annotations"].get(key) for key in HOOK_KEYS if key in metadata["annotations"]}
    rendered = render_hooks(Level.FILESYSTEM, NO_STEPS, Hooks(), metadata["namespace"], name, UPSTREAM)
    assert sorted(own) == sorted(KUBEVIRT_HOOK_KEYS)
    assert {key: rendered[key] for key in own} == own
    assert kubevirt_hooks(metadata["namespace"], name, UPSTREAM) == own


@pytest.mark.parametrize(
    "hooks",
    [
        pytest.param({}, id="defaults"),
        pytest.param({"freeze": {"timeout": "60s"}, "thaw": {"timeout": "60s"}}, id="defaults-written-out"),
        pytest.param({"freeze": {"onError": "Fail"}, "thaw": {"timeout": "2m", "onError": "Fail"}}, id="other-keys"),
    ],
)
def test_what_kubevirt_does_not_manage_leaves_its_five_alone(hooks: dict[str, Any]) -> None:
    assert kubevirt_hooks(NAMESPACE, NAME, UPSTREAM).items() <= render(**hooks).items()


def test_filesystem() -> None:
    freezer = ["/usr/bin/virt-freezer", "--freeze", "--name", NAME, "--namespace", NAMESPACE]
    rendered = render()
    commands = {key: json.loads(rendered.pop(key)) for key in (PRE + "command", POST + "command")}
    assert commands == {
        PRE + "command": freezer,
        POST + "command": ["--unfreeze" if a == "--freeze" else a for a in freezer],
    }
    assert rendered == {
        **{phase + "container": "compute" for phase in (PRE, POST)},
        **{phase + "on-error": "Continue" for phase in (PRE, POST)},
        **{phase + "timeout": "60s" for phase in (PRE, POST)},
    }


@pytest.mark.parametrize(
    ("level", "hooks"),
    [
        pytest.param(Level.FILESYSTEM, {}, id="filesystem"),
        pytest.param(Level.FILESYSTEM, {"autoThaw": "5m"}, id="filesystem-autoThaw"),
        pytest.param(Level.CRASH, {"crash": "noop"}, id="noop"),
    ],
)
def test_all_eight_keys_stand_and_none_of_the_legacy_ones(level: Level, hooks: dict[str, Any]) -> None:
    assert set(render(level, **hooks)) == EIGHT


def test_timeouts_and_on_error_stand_as_the_policy_spells_them() -> None:
    rendered = render(freeze={"timeout": "1m30s", "onError": "Fail"}, thaw={"timeout": "0.5m"}, autoThaw="5m")
    assert (rendered[PRE + "timeout"], rendered[PRE + "on-error"]) == ("1m30s", "Fail")
    assert (rendered[POST + "timeout"], rendered[POST + "on-error"]) == ("0.5m", "Continue")


@pytest.mark.parametrize(("text", "seconds"), [("90s", "90"), ("5m", "300"), ("1h", "3600"), ("1.5m", "90")])
def test_auto_thaw_belongs_to_the_freeze_alone(text: str, seconds: str) -> None:
    rendered, plain = render(autoThaw=text), render()
    assert json.loads(rendered.pop(PRE + "command")) == [
        *json.loads(plain.pop(PRE + "command")),
        "--unfreezeTimeoutSeconds",
        seconds,
    ]
    assert rendered == plain


def test_crash_has_no_hooks() -> None:
    assert render(Level.CRASH) == {}
    assert render(Level.CRASH, crash="remove") == {}


def test_crash_can_shut_out_the_hooks_of_the_backup() -> None:
    rendered = render(Level.CRASH, crash="noop")
    assert [json.loads(rendered[phase + "command"]) for phase in (PRE, POST)] == [["/bin/true"], ["/bin/true"]]
    assert {rendered[phase + "container"] for phase in (PRE, POST)} == {"compute"}


def test_noop_is_for_crash_alone() -> None:
    assert render(crash="noop") == render()


def test_names_of_a_fork() -> None:
    rendered = render(names=KubeVirtNames(container="d8v-compute", freezer="/bin/freezer"))
    assert {rendered[phase + "container"] for phase in (PRE, POST)} == {"d8v-compute"}
    assert {json.loads(rendered[phase + "command"])[0] for phase in (PRE, POST)} == {"/bin/freezer"}


LOCK = Profile(quiesce=(Step("one", "a", 30), Step("two", "b", 5)), resume=(Step("undo", "c", 7),))


def test_a_script_gets_what_varies_as_arguments() -> None:
    rendered = render(Level.APPLICATION, profile=LOCK, freeze={"timeout": "1m30s"}, autoThaw="10m")
    pre, post = (json.loads(rendered[phase + "command"]) for phase in (PRE, POST))
    target = ["vm-consistency", NAMESPACE, NAME, "/usr/bin/virt-freezer"]
    assert pre[:2] == post[:2] == ["/bin/bash", "-c"]
    assert pre[3:-1] == [*target, "-", "90", "600", "40", "35", "7"]
    assert post[3:] == [*target, "-", "60", "7"]
    assert NAME not in pre[2] + post[2]


def test_the_timeouts_of_a_script_are_the_sum_of_its_parts() -> None:
    rendered = render(Level.APPLICATION, profile=LOCK, freeze={"timeout": "1500ms"})
    assert rendered[PRE + "timeout"] == f"{30 + 5 + 31 + 2 + 20 + 60 + 7 + 45 + 10}s"
    assert rendered[POST + "timeout"] == f"{30 + 60 + 7 + 45 + 10}s"
    windows = Profile(Shell.POWERSHELL, (Step("writers", "x", 20),), ())
    assert render(Level.APPLICATION, profile=windows)[PRE + "timeout"] == f"{20 + 7 + 60 + 20 + 60 + 10}s"


def test_a_computed_timeout_is_one_that_velero_can_read() -> None:
    rendered = render(requireFrozen=True, freeze={"timeout": "2562047h47m"})
    assert parse_go_duration(rendered[PRE + "timeout"]) == (24 * 3600 + 20 + 60 + 10) * SECOND


def test_require_frozen_makes_a_script_of_a_freeze_and_of_nothing_else() -> None:
    strict = render(requireFrozen=True)
    pre = json.loads(strict[PRE + "command"])
    assert pre[6:] == ["/usr/bin/virt-freezer", "require", "60", "300", "40", "0", "0"]
    assert strict[PRE + "timeout"] == f"{60 + 20 + 60 + 10}s"
    assert render(Level.CRASH, requireFrozen=True) == {}
    assert strict == render(requireFrozen=True, profile=LOCK), "level filesystem runs no steps"


def test_a_script_honours_on_error_and_the_names_of_a_fork() -> None:
    names = KubeVirtNames(container="d8v-compute", freezer="/bin/freezer")
    rendered = render(Level.APPLICATION, names, LOCK, freeze={"onError": "Fail"})
    assert (rendered[PRE + "on-error"], rendered[POST + "on-error"]) == ("Fail", "Continue")
    assert rendered[PRE + "container"] == "d8v-compute"
    assert json.loads(rendered[PRE + "command"])[6] == "/bin/freezer"


def test_defaults_are_timeouts_that_velero_can_read() -> None:
    hooks = Hooks()
    assert [parse_go_duration(text) for text in (hooks.freeze_timeout, hooks.thaw_timeout)] == [60 * SECOND] * 2
