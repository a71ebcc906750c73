"""Annotations as Velero reads them; each case is one of its rules (internal/hook/item_hook_handler.go, pkg/podexec)."""

import json

import pytest

from app.core.annotations import LEGACY, POST, PRE
from app.core.evidence.velero_hooks import Phase, VeleroHook, parse_command, read_hooks
from app.core.hooks.render import kubevirt_hooks, render_hooks
from app.core.kubevirt_names import UPSTREAM
from app.core.policy import Hooks, Level
from app.core.profiles import NO_STEPS

CONTAINERS = ("compute", "guest-console-log")


def pre(annotations: dict[str, str], containers: tuple[str, ...] = CONTAINERS) -> VeleroHook:
    hook = read_hooks(annotations, containers).pre
    assert hook is not None
    return hook


def keys(command: str = '["/bin/true"]', prefix: str = PRE, **fields: str) -> dict[str, str]:
    return {prefix + "command": command} | {prefix + field.replace("_", "-"): text for field, text in fields.items()}


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        pytest.param('["a", "b c"]', ("a", "b c"), id="array"),
        pytest.param('["a"] \n', ("a",), id="space-after-it"),
        pytest.param(' ["a"]', (' ["a"]',), id="space-before-it"),
        pytest.param("/bin/a b", ("/bin/a b",), id="never-split"),
        pytest.param('["a", 1]', ('["a", 1]',), id="number"),
        pytest.param('["a", null]', ("a", ""), id="null"),
        pytest.param('["a", ["b"]]', ('["a", ["b"]]',), id="nested"),
        pytest.param('["a"', ('["a"',), id="cut"),
        pytest.param('["a"] ["b"]', ('["a"] ["b"]',), id="two"),
        pytest.param('["a\tb"]', ('["a\tb"]',), id="raw-control-character"),
        pytest.param('["\\ud83d\\ude00\\ud83d"]', ("\N{GRINNING FACE}\ufffd",), id="half-of-a-surrogate-pair"),
        pytest.param("[NaN]", ("[NaN]",), id="only-python-reads-that"),
        pytest.param("[]", (), id="empty-array"),
        pytest.param("[" * 100_000, ("[" * 100_000,), id="deep"),
    ],
)
def test_command(text: str, argv: tuple[str, ...]) -> None:
    assert parse_command(text) == argv


@pytest.mark.parametrize(
    ("text", "seconds", "oddities"),
    [
        ("60s", 60.0, 0),
        ("1m30s", 90.0, 0),
        ("500ms", 0.5, 0),
        ("", 30.0, 0),
        ("0s", 30.0, 0),
        ("60", 30.0, 1),
        (" 60s", 30.0, 1),
        ("-1s", None, 1),
    ],
)
def test_timeout(text: str, seconds: float | None, oddities: int) -> None:
    hook = pre(keys(timeout=text, on_error="Fail"))

    assert hook.timeout == seconds
    assert len(hook.oddities) == oddities


@pytest.mark.parametrize(
    ("text", "fails_pod", "oddities"),
    [("Fail", True, 0), ("Continue", False, 0), ("fail", False, 1), ("FailBlock", False, 1), ("", False, 1)],
)
def test_on_error(text: str, fails_pod: bool, oddities: int) -> None:
    hook = pre(keys(on_error=text))

    assert (hook.fails_pod, len(hook.oddities)) == (fails_pod, oddities)


def test_an_absent_on_error_is_named() -> None:
    assert pre(keys()).oddities == (f"{PRE}on-error is absent: logged as Fail, it behaves as Continue",)


@pytest.mark.parametrize("command", ["/bin/sh -c true", ' ["/bin/true"]', '["/bin/true", 1]'])
def test_a_command_that_is_one_program_name_is_odd(command: str) -> None:
    [oddity] = pre(keys(command, on_error="Fail")).oddities

    assert "the name of one program" in oddity


@pytest.mark.parametrize(
    ("annotations", "containers", "container", "fault"),
    [
        pytest.param(keys(), CONTAINERS, "compute", None, id="default-is-the-first"),
        pytest.param(keys(container=""), CONTAINERS, "compute", None, id="empty-is-absent"),
        pytest.param(keys(container="guest-console-log"), CONTAINERS, "guest-console-log", None, id="named"),
        pytest.param(keys(container="init"), CONTAINERS, "init", "no container 'init'", id="not-there"),
        pytest.param(keys(), (), "", "no container ''", id="no-container-at-all"),
        pytest.param(keys("[]"), CONTAINERS, "compute", "empty list", id="empty-command"),
    ],
)
def test_what_velero_can_run(
    annotations: dict[str, str], containers: tuple[str, ...], container: str, fault: str | None
) -> None:
    hook = pre(annotations, containers)

    assert hook.container == container
    assert hook.fault is None if fault is None else fault in (hook.fault or "")


class TestWhichKeys:
    def test_no_keys(self) -> None:
        hooks = read_hooks({"other": "x"}, CONTAINERS)

        assert (hooks.pre, hooks.post) == (None, None)

    def test_an_empty_command_is_absent(self) -> None:
        assert read_hooks(keys("", timeout="60s"), CONTAINERS).pre is None

    def test_legacy_keys_are_those_of_the_pre_phase(self) -> None:
        hooks = read_hooks(keys('["legacy"]', LEGACY, timeout="7s"), CONTAINERS)

        assert hooks.post is None
        assert hooks.pre is not None
        assert (hooks.pre.phase, hooks.pre.command, hooks.pre.timeout) == (Phase.PRE, ("legacy",), 7.0)

    def test_legacy_keys_count_only_without_a_pre_command(self) -> None:
        both = {**keys('["legacy"]', LEGACY, timeout="7s"), **keys('["new"]')}

        assert (pre(both).command, pre(both).timeout) == (("new",), 30.0)
        assert pre({**both, PRE + "command": ""}).command == ("legacy",)

    def test_phases_are_apart(self) -> None:
        hooks = read_hooks(keys('["x"]', POST, on_error="Fail"), CONTAINERS)

        assert hooks.pre is None
        assert hooks.post is not None
        assert (hooks.post.phase, hooks.post.fails_pod) == (Phase.POST, True)


def test_our_own_hooks_have_nothing_odd_about_them() -> None:
    rendered = render_hooks(Level.FILESYSTEM, NO_STEPS, Hooks(), "shop", "db", UPSTREAM)

    hooks = read_hooks(rendered, CONTAINERS)

    for hook, prefix in ((hooks.pre, PRE), (hooks.post, POST)):
        assert hook is not None
        assert (list(hook.command), hook.fault, hook.oddities) == (json.loads(rendered[prefix + "command"]), None, ())


def test_kubevirt_s_own_hooks_lack_on_error() -> None:
    hooks = read_hooks(kubevirt_hooks("shop", "db", UPSTREAM), CONTAINERS)

    assert hooks.pre is not None
    assert hooks.post is not None
    assert (hooks.pre.timeout, hooks.post.timeout) == (60.0, 30.0)
    assert all("on-error is absent" in hook.oddities[0] for hook in (hooks.pre, hooks.post))
