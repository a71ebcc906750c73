"""Starting up: short commands stay short, and `serve` says what is wrong with how it is called."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import __version__
from tests.cli.support import run, written
from tests.infra.factories import make_pod, policy_text

HEAVY = {"kubernetes", "aiohttp", "fastapi", "starlette", "uvicorn", "cryptography", "prometheus_client"}
PROGRAM = """
import json, sys
from app.cli.main import main
try:
    main(*sys.argv[1:])
finally:
    print(json.dumps(sorted({module.partition(".")[0] for module in sys.modules})), file=sys.stderr)
"""


def imported(*words: str | Path) -> set[str]:
    """The top-level packages that a command had imported at its end."""
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return set(json.loads(ran.stderr.splitlines()[-1]))


def test_the_version() -> None:
    ran = subprocess.run([sys.executable, "-m", "app", "--version"], capture_output=True, text=True, check=True)

    assert ran.stdout == f"vm-consistency {__version__}\n"


def test_version_and_help_import_next_to_nothing() -> None:
    for words in (["--version"], ["--help"], ["serve", "--help"], ["policy", "--help"]):
        assert not imported(*words) & (HEAVY | {"pydantic_settings", "yaml", "orjson", "jsonpatch"}), words


def test_commands_about_files_import_neither_server_nor_cluster(tmp_path: Path) -> None:
    policy = written(tmp_path / "policy.yaml", policy_text(default={"level": "crash"}))
    pod = written(tmp_path / "pod.json", make_pod())

    assert not imported("policy", "check", policy) & HEAVY
    assert not imported("render", "--pod", pod, "--policy", policy) & HEAVY


def test_without_a_command_the_help_is_shown_as_misuse() -> None:
    ran = run()

    assert ran.exit_code == 2
    assert "serve" in ran.stdout + ran.stderr


@pytest.mark.parametrize("words", [["nothing"], ["serve", "--nothing"], ["render"], ["policy"]], ids=str)
def test_a_wrong_command_line_is_misuse(words: list[str]) -> None:
    assert run(*words).exit_code == 2


SERVE_MISUSE = [
    pytest.param([], {"PORT": "many"}, "VM_CONSISTENCY_PORT", id="port"),
    pytest.param([], {"PORT": "70000", "DEADLINE": "0"}, "VM_CONSISTENCY_DEADLINE", id="two-at-once"),
    pytest.param([], {"LOG_LEVEL": "loud"}, "VM_CONSISTENCY_LOG_LEVEL", id="log-level"),
    pytest.param(["--kubeconfig", "{kubeconfig}"], {"EXTRA_SANS": "no name"}, "EXTRA_SANS: 'no name'", id="name"),
    pytest.param(["--kubeconfig", "{folder}/none"], {}, "no such kubeconfig", id="no-kubeconfig"),
    pytest.param(["--kubeconfig", "{kubeconfig}", "--context", "other"], {}, "other", id="no-context"),
    pytest.param(["--policy", "policy.yaml"], {}, "--policy and --certs belong together", id="policy-alone"),
    pytest.param(["--certs", "certs"], {}, "--policy and --certs belong together", id="certs-alone"),
    pytest.param(["--objects", "{folder}"], {}, "--objects to both", id="objects-alone"),
    pytest.param(
        ["--policy", "{kubeconfig}", "--certs", "{folder}", "--objects", "o"], {}, "o: no such folder", id="no-objects"
    ),
    pytest.param(["--policy", "{kubeconfig}", "--certs", "{folder}"], {}, "make certs", id="no-certificates"),
    pytest.param(["--policy", "p", "--certs", "{folder}"], {}, "p: no such file", id="no-policy"),
]
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "only", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "only", "user": {"token": "t"}}],
    "contexts": [{"name": "only", "context": {"cluster": "only", "user": "only"}}],
    "current-context": "only",
}


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """`serve` sends the log of the whole process to its standard error."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)


@pytest.mark.usefixtures("logging_as_before")
@pytest.mark.parametrize(("words", "settings", "says"), SERVE_MISUSE)
def test_serve_says_in_one_line_what_is_wrong(
    tmp_path: Path, words: list[str], settings: dict[str, str], says: str
) -> None:
    kubeconfig = written(tmp_path / "kubeconfig", KUBECONFIG)
    words = [word.format(folder=tmp_path, kubeconfig=kubeconfig) for word in words]
    env = {f"VM_CONSISTENCY_{name}": value for name, value in settings.items()}

    ran = run("serve", *words, env=env)

    assert ran.exit_code == 2
    [line] = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert says in line
    assert all(f"VM_CONSISTENCY_{name}" in line or len(settings) == 1 for name in settings)
    assert "Traceback" not in ran.stderr
