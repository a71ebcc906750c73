"""What commands say about a cluster without KubeVirt, and about an API server that refuses or does not answer."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.support import run, written
from tests.infra.controlplane import ControlPlane
from tests.infra.installation import policy_text

WITHOUT_KUBEVIRT = {"verify": "KubeVirt is not installed there", "policy check": "is not served"}
"""What each command says where KubeVirt is missing."""

Says = Callable[[Path], str]
"""Runs a command with a kubeconfig, and returns the one line that it fails with."""


@pytest.fixture(scope="module")
def bare(real_parts: None) -> Iterator[ControlPlane]:
    """Nothing but Kubernetes."""
    with ControlPlane() as cp:
        yield cp


@pytest.fixture(params=WITHOUT_KUBEVIRT)
def command(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def says(command: str, tmp_path: Path) -> Says:
    policy = written(tmp_path / "policy.yaml", policy_text({}))
    words: dict[str, tuple[str | Path, ...]] = {
        "verify": ("verify", "db", "-n", "default", "--yes"),
        "policy check": ("policy", "check", policy, "--live"),
    }

    def line(kubeconfig: Path) -> str:
        ran = run(*words[command], "--kubeconfig", kubeconfig)
        assert ran.exit_code == 2
        assert ran.stdout in ("", f"{policy}: the policy is valid\n"), "nothing about the cluster"
        [said] = ran.stderr.splitlines()
        assert said.startswith("error: ")
        return said

    return line


def test_without_kubevirt(bare: ControlPlane, command: str, says: Says) -> None:
    assert WITHOUT_KUBEVIRT[command] in says(bare.kubeconfig)


def test_with_a_token_that_is_not_valid(bare: ControlPlane, says: Says, tmp_path: Path) -> None:
    assert "401 Unauthorized" in says(bare.write_kubeconfig(tmp_path / "stale.kubeconfig", "no-token"))


def test_where_nothing_listens(bare: ControlPlane, says: Says, tmp_path: Path) -> None:
    port, content = bare.port(), json.loads(bare.kubeconfig.read_text())
    content["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
    nowhere = written(tmp_path / "nowhere.kubeconfig", json.dumps(content))
    assert f"127.0.0.1:{port}" in says(nowhere)
