"""What the README names exists, and what exists is in it."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from app.cli.main import cli
from app.core.annotations import RECORD_KEYS
from app.core.policy_v1alpha1.load import load_policy
from app.kube.store import ObjectStore
from app.server.metrics import Metrics
from app.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
PREFIX = "VM_CONSISTENCY_"


def test_every_metric_is_in_the_table_with_its_labels() -> None:
    metrics = Metrics()
    metrics.show_stores({"pods": ObjectStore()})
    described = {
        (name.removesuffix("_total"), labels)
        for name, labels in re.findall(r"^\| `(vm_consistency_\w+)` \|([^|]*)\|", README, re.MULTILINE)
    }
    own = {
        (getattr(metric, "_name"), tuple(getattr(metric, "_labelnames")))  # noqa: B009 - private, and not in the stubs
        for metric in metrics.registry._collector_to_names
        if hasattr(metric, "_labelnames")
    }
    assert {(name, tuple(re.findall(r"\w+", labels))) for name, labels in described} == own


def test_every_event_is_in_the_table() -> None:
    _, _, table = README.partition("| reason | about | when |")
    rows = re.findall(r"^\| (`[A-Z][^|]*)\|", table.partition("\n\n")[0], re.MULTILINE)
    written = {reason for row in rows for reason in re.findall(r"`(\w+)`", row)}
    reasons = re.compile(r'^[A-Z_]+(?:: Final)? = "([A-Z][a-z]+[A-Z]\w+)"$', re.MULTILINE)
    sources = (ROOT / "app" / "controllers").rglob("*.py")
    assert written == {reason for source in sources for reason in reasons.findall(source.read_text())}


def test_every_setting_is_in_the_table_with_its_default() -> None:
    rows = re.findall(r"^\| (`VM_CONSISTENCY_[^|]*)\| ([^|]*?) ?\|", README, re.MULTILINE)
    written: dict[str, str] = {}
    for names, defaults in rows:
        variables = re.findall(r"`(\w+)`", names)
        stem = variables[0]
        full = [stem if name.startswith(PREFIX) else _sibling(stem, name) for name in variables]
        values = defaults.split(", ") if len(defaults.split(", ")) == len(full) else [defaults] * len(full)
        written.update(zip(full, values, strict=True))
    fields = Settings.model_fields
    assert written.keys() == {PREFIX + name.upper() for name in fields}
    for name, field in fields.items():
        if name.startswith("kubevirt_"):
            continue
        shown = "" if field.default is None else str(field.default)
        assert written[PREFIX + name.upper()] == shown, name


def _sibling(stem: str, suffix: str) -> str:
    """`_PORT` beside `VM_CONSISTENCY_HOST`, `_CONTAINER` beside `VM_CONSISTENCY_KUBEVIRT_API_GROUP`."""
    scope = f"{PREFIX}KUBEVIRT" if stem.startswith(f"{PREFIX}KUBEVIRT_") else PREFIX.rstrip("_")
    return scope + suffix


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", README + CONTRIBUTING, re.MULTILINE)))
)
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


def test_every_command_is_named_with_options_that_exist() -> None:
    command = get_command(cli)
    named = re.findall(r"^vm-consistency ([^\n#]*)", README, re.MULTILINE)
    assert named
    for line in named:
        words = line.split()
        chosen = command
        while words and hasattr(chosen, "commands") and words[0] in chosen.commands:
            chosen = chosen.commands[words.pop(0)]
        options = {option for parameter in chosen.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options, line


def test_the_sample_policy_is_good() -> None:
    policies = [text for text in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "ConsistencyPolicy" in text]
    assert policies
    for text in policies:
        load_policy(text)


def test_the_record_is_described() -> None:
    for key in RECORD_KEYS:
        short = key.removeprefix("vm-consistency.io/")
        assert short in README or short == "effective-profile", key  # profiles come with level application
