"""`make demo`: its table shows what the pods have, and nothing is left running."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from app.core.annotations import DECIDED_BY, EFFECTIVE_LEVEL, HOOK_KEYS, POST, PRE
from tests.demo.scenes import POLICY
from tests.demo.table import Row, Table
from tests.demo.webhook import WebhookError, patched, running

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OBJECTS = HERE / "objects"
ROW = re.compile(r"^([a-z-]+/\S+) +(\S+) +(\S+) +(\d+ -> \d+(?:, \d \w+)*)(?: +\[(\d)\])?$", re.MULTILINE)


def demo(*words: str, **env: str) -> str:
    """What the demo prints."""
    command = [sys.executable, "-m", "tests.demo", *words]
    ran = subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def recorded(name: str) -> Any:
    return json.loads((HERE / "reviews" / f"{name}.json").read_text())


def test_the_table_shows_every_level_and_source(tmp_path: Path) -> None:
    printed = demo(TMPDIR=str(tmp_path))
    rows = [found.groups() for found in ROW.finditer(printed)]

    assert rows == [
        ("shop/web", "filesystem", "rule/production", "5 -> 8, 3 added, 2 changed", None),
        ("shop/db", "application", "vm", "5 -> 8, 3 added, 3 changed", None),
        ("dev-anna/test", "crash", "rule/scratch", "5 -> 0, 5 removed", None),
        ("dev-anna/notes", "filesystem", "template", "5 -> 8, 3 added", None),
        ("archive/mail.v1", "crash", "namespace", "5 -> 0, 5 removed", None),
        ("lab/plain", "filesystem", "default", "5 -> 8, 3 added", None),
        ("dev-anna/greedy", "crash", "rule/scratch", "5 -> 0, 5 removed", "1"),
        ("shop/cart", "filesystem", "rule/production", "5 -> 8, 3 added, 2 changed", "2"),
        ("lab/howto", "filesystem", "default", "7 -> 8, 1 added, 2 changed", None),
        ("lab/howto-only", "crash", "skip-backup-hooks", "7 -> 0, 7 removed", None),
        ("restored/web", "filesystem", "rule/production", "5 -> 8, 3 added, 2 changed", None),
        ("shop/db", "application", "vm", "8 -> 8, 3 changed", None),
        ("archive/mail.v1", "crash", "namespace", "5 -> 0, 5 removed", None),
        ("shop/web", "crash", "default", "5 -> 0, 5 removed", None),
        ("shop/db", "application", "vm", "5 -> 8, 3 added, 3 changed", None),
        ("lab/plain", "crash", "default", "5 -> 0, 5 removed", None),
    ]
    text = " ".join(printed.split())
    assert "[1] Warning: vm-consistency: VirtualMachine greedy: level application is not allowed" in text
    assert "[2] Warning: vm-consistency: VirtualMachine cart: level crash is not allowed" in text
    assert "recorded ones" in text
    assert printed.rstrip().endswith("make demo-cluster")
    assert "\x1b" not in printed
    assert max(map(len, printed.splitlines())) <= 100
    assert list(tmp_path.iterdir()) == []


def test_verbose_prints_the_annotations_of_every_pod() -> None:
    printed = demo("-v")

    assert (
        f'    {PRE}command: ["/usr/bin/virt-freezer", "--freeze", "--name", "plain", "--namespace", "lab"]' in printed
    )
    assert printed.count(f"    {POST}on-error: Continue\n") == 9, "the pods with hooks"


def test_only_what_the_product_needs_is_imported() -> None:
    program = "import json, sys, tests.demo.__main__; print(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {module.partition(".")[0] for module in json.loads(ran.stdout)}
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    distributions = packages_distributions()

    needed = {distributions[module][0].lower().replace("_", "-") for module in imported & distributions.keys()}
    assert needed - {"vm-consistency", "setuptools"} <= {name.lower().replace("_", "-") for name in locked}


def test_the_resync_gets_back_what_was_on_the_pod() -> None:
    with running(POLICY, OBJECTS) as webhook:
        for name in ("update-shop-db", "update-archive-mail.v1"):
            review = recorded(name)
            after = patched(review["request"]["object"], webhook.send(review))
            before = review["request"]["oldObject"]
            assert after["metadata"]["annotations"] == before["metadata"]["annotations"], name


def test_the_malformed_command_of_a_template_is_gone_from_the_pod() -> None:
    review = recorded("create-lab-howto-only")
    with pytest.raises(json.JSONDecodeError):
        json.loads(review["request"]["object"]["metadata"]["annotations"][PRE + "command"])

    with running(POLICY, OBJECTS) as webhook:
        after = patched(review["request"]["object"], webhook.send(review))["metadata"]["annotations"]
    assert not set(HOOK_KEYS) & after.keys()
    assert (after[EFFECTIVE_LEVEL], after[DECIDED_BY]) == ("crash", "skip-backup-hooks")


def test_a_webhook_that_ends_is_reported_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(WebhookError) as raised, running(POLICY, tmp_path / "none"):
        pass
    assert "it ended with exit code 2" in str(raised.value)
    assert "no such folder" in str(raised.value)


def test_a_webhook_that_ends_meanwhile_is_reported_with_its_log() -> None:
    with running(POLICY, OBJECTS) as webhook:
        webhook.stop()
        with pytest.raises(WebhookError, match=r'(?s)did not answer.*Its log:.*"draining"'):
            webhook.send(recorded("create-shop-web"))


def send_to_myself(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)  # a handler that raises ends it
    pytest.fail(f"{number.name} had no effect")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt; what runs in the background of a shell ignores it otherwise."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_webhook_and_removes_its_folder(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handler = signal.getsignal(signal.SIGTERM)
    ports: list[int] = []

    def interrupted() -> None:
        with running(POLICY, OBJECTS) as webhook:
            ports.append(webhook.port)
            assert len(list(tmp_path.iterdir())) == 1
            send_to_myself(number)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]), timeout=5)
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_row_counts_what_became_of_the_hooks() -> None:
    before = {PRE + "command": "a", PRE + "timeout": "1s", POST + "command": "b", "other": "x"}
    after = {PRE + "command": "a", PRE + "timeout": "2s", PRE + "on-error": "Fail", "new": "y"}

    assert Row("shop/db", before, after).change == "3 -> 3, 1 added, 1 changed, 1 removed"
    assert Row("shop/db", {}, {}).change == "0 -> 0"
    assert (Row("shop/db", {}, {}).level, Row("shop/db", {}, {}).decided_by) == ("-", "-")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("out", "no_color", "bold"),
    [(_Terminal(), "", True), (_Terminal(), "1", False), (io.StringIO(), "", False)],
    ids=["terminal", "no-color", "piped"],
)
def test_only_a_terminal_that_wants_it_gets_escape_codes(
    out: io.StringIO, no_color: str, bold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    Table(out).section("CREATE", [Row("shop/db", {}, {}, ["a" * 200])])

    assert ("\x1b[1mCREATE\x1b[0m" in out.getvalue()) is bold
    assert ("\x1b" in out.getvalue()) is bold
    assert "a" * 200 in out.getvalue(), "no word is cut"
