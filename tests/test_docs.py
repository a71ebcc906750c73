"""The page for backup administrators: its sources are there, its numbers are the code's, its commands exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from app.cli.main import cli
from app.core.hooks.commands import keeper
from app.core.hooks.timeouts import hold_seconds, pre_budget, total
from app.core.policy import Hooks
from app.core.policy_v1alpha1.load import load_policy
from app.core.policy_v1alpha1.schema import built_in_profiles
from app.core.profiles import Profile, Step
from tests.cli.support import run, written
from tests.infra.factories import NAME, NAMESPACE, make_pod

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs"
PAGE = (FOLDER / "backup-administrators.md").read_text()
PARTS = ROOT / "tests" / "infra" / "controlplane" / "parts"
SCRIPTS = "\n".join(path.read_text() for path in (ROOT / "app" / "core" / "hooks" / "scripts").glob("*.sh"))

NOTES = dict(re.findall(r"^\[\^([\w-]+)\]: (.+)$", PAGE, re.MULTILINE))
BODY = re.sub(r"^\[\^[\w-]+\]: .+$", "", PAGE, flags=re.MULTILINE)
USED = set(re.findall(r"\[\^([\w-]+)\]", BODY))
SAID = "What the hooks say"
"""Begins the line above the table of messages, whose source stands there."""


def code_removed(text: str) -> str:
    return re.sub(r"^```(?:.|\n)*?^```$|^ {4}\S.*$", "", text, flags=re.MULTILINE)


def statements() -> Iterator[str]:
    """Paragraphs, list items and rows of tables, without those that only lead to what follows."""
    text = BODY[BODY.index("\n## ") :]
    messages = text[text.index(SAID) :].partition("\n## ")[0]
    for block in code_removed(text.replace(messages, "")).split("\n\n"):
        rows = [row for row in block.splitlines() if row.startswith("|")]
        parts = rows[2:] or re.split(r"\n(?=- |\d\. )", block.strip())
        for part in parts:
            if part and not part.startswith("#") and not part.endswith(":"):
                yield " ".join(part.split())


def test_every_paragraph_item_and_row_names_a_source() -> None:
    found = list(statements())
    assert len(found) > 50
    assert [statement for statement in found if "[^" not in statement] == []


def test_every_source_is_used_and_every_one_used_is_there() -> None:
    assert NOTES.keys() == USED


@pytest.mark.parametrize("note", NOTES)
def test_sources_in_this_repository_are_there(note: str) -> None:
    file = Path()
    for name in re.findall(r"`((?:tests/|app/|test_)[^`]*)`", NOTES[note]):
        if name.startswith("test_"):
            assert re.search(rf"^ *(?:async )?def {name}\(", file.read_text(), re.MULTILINE), f"{name} is not in {file}"
        else:
            file = ROOT / name
            assert file.is_file()


@pytest.mark.parametrize(
    ("part", "module", "project"),
    [("velero", "github.com/vmware-tanzu/velero", "velero"), ("kubevirt", "kubevirt.io/kubevirt", "kubevirt")],
)
def test_what_was_read_is_the_version_that_the_tests_run(part: str, module: str, project: str) -> None:
    pinned = re.search(rf"{re.escape(module)} (v\S+)", (PARTS / part / "go.mod").read_text())
    assert pinned
    notes = " ".join(NOTES.values())
    assert set(re.findall(rf"\b{project} (v[\d.]+\d)", notes)) == {pinned[1]}


def test_links_lead_somewhere() -> None:
    titles = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    links = re.findall(r"\]\(([^)]+)\)", BODY)
    assert links
    for link in links:
        file, _, anchor = link.partition("#")
        assert (FOLDER / file).is_file() if file else anchor in anchors, link


def test_commands_are_there_with_their_options() -> None:
    commands = getattr(get_command(cli), "commands")  # noqa: B009 - not in the stubs of click's base class
    named = re.findall(r"`vm-consistency ([a-z][^`]*)`", BODY)
    assert {line.split()[0] for line in named} >= {"render", "backup", "verify"}
    for line in named:
        words = line.split()
        options = {option for parameter in commands[words[0]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options, line


def test_what_the_hooks_say_is_what_they_say() -> None:
    table = BODY.partition(SAID)[2].partition("\n## ")[0]
    messages = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    assert len(messages) > 5
    for message in messages:
        for piece in re.split(r"…|: |, ", re.sub(r"^(pre|post) (hook failed)", r"\2", message)):
            assert piece.strip() in SCRIPTS, message


# The worked example.

MARIADB = built_in_profiles()["mariadb"]


def shown(text: str) -> bool:
    return " ".join(text.split()) in " ".join(BODY.split())


def test_the_timeouts_of_the_example_are_what_render_prints(tmp_path: Path) -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", BODY, re.DOTALL)
    load_policy(text)
    vm = {"kind": "VirtualMachine", "metadata": {"name": NAME, "namespace": NAMESPACE}}
    files = ("--pod", written(tmp_path / "pod.json", make_pod()), "--vm", written(tmp_path / "vm.json", vm))
    ran = run("render", *files, "--policy", written(tmp_path / "policy.yaml", text))
    assert "application (mariadb)" in ran.stdout
    lines = [line.strip() for line in ran.stdout.splitlines() if "timeout of the " in line]
    assert len(lines) == 2
    for line in lines:
        assert f"\n{line}\n" in BODY


def held(profile: Profile, hooks: Hooks) -> int:
    """The dead-man's seconds as they stand in the hook: what a step sees as $VM_CONSISTENCY_HOLD."""
    found = re.search(r"^h=(\d+)$", keeper(profile, hold_seconds(hooks)), re.MULTILINE)
    assert found
    return int(found[1])


@pytest.mark.parametrize("seconds", [300, 120])
def test_the_dead_man_of_the_example(seconds: int) -> None:
    hooks = Hooks(auto_thaw_seconds=None if seconds == 300 else seconds)
    assert held(MARIADB, hooks) == 60 + seconds + 60 + 15
    assert shown(f"60 + {seconds} + 60 + 15 = {held(MARIADB, hooks)} s")
    assert shown("freeze.timeout + autoThaw + thaw.timeout + 15 s")


def test_the_steps_of_the_example() -> None:
    [step] = MARIADB.quiesce
    budget = dict(pre_budget(MARIADB, Hooks()))
    more = budget["quiesce steps"] - step.timeout_seconds
    assert shown(f"{step.timeout_seconds} s, its own timeout; {more} s more are for starting it")

    longer = Profile(MARIADB.shell, (Step(step.name, step.run, 90),), MARIADB.resume)
    before, after = total(pre_budget(MARIADB, Hooks())), total(pre_budget(longer, Hooks()))
    assert shown(f"`timeout: 90s` instead of {step.timeout_seconds} s: pre hook {after} s instead of {before} s")
    assert held(longer, Hooks()) == held(MARIADB, Hooks())


def test_a_profile_without_resume_steps_holds_nothing() -> None:
    assert held(Profile(quiesce=MARIADB.quiesce), Hooks()) == 0
