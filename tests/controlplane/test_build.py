"""Parts are built once, and when they cannot be, the reason is shown."""

import subprocess
from pathlib import Path

import pytest

from tests.infra.controlplane.build import PARTS, Part, ensure
from tests.infra.controlplane.progress import BuildError


@pytest.fixture
def part(real_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Part:
    ensure(PARTS["etcd"])  # settles which Go is used before the cache moves
    monkeypatch.setenv("VM_CONSISTENCY_CACHE", str(tmp_path / "cache"))
    module = tmp_path / "module"
    module.mkdir()
    (module / "go.mod").write_text("module example.com/part\n\ngo 1.26.0\n")
    (module / "go.sum").touch()
    (module / "main.go").write_text('package main\n\nfunc main() { print("first") }\n')
    return Part("small", module, {"small": "."})


def test_a_part_is_built_once_for_the_same_source_and_anew_for_another(part: Part) -> None:
    first = ensure(part)["small"]
    built = first.stat().st_mtime_ns

    assert ensure(part)["small"] == first
    assert first.stat().st_mtime_ns == built

    source = part.module / "main.go"
    source.write_text(source.read_text().replace("first", "second"))
    second = ensure(part)["small"]

    assert subprocess.run([second], check=True, capture_output=True).stderr == b"second"
    assert subprocess.run([first], check=True, capture_output=True).stderr == b"first"


def test_a_build_that_fails_shows_what_the_compiler_said_and_leaves_nothing(part: Part, tmp_path: Path) -> None:
    (part.module / "main.go").write_text("package main\n\nfunc main() { missing() }\n")

    with pytest.raises(BuildError, match="undefined: missing"):
        ensure(part)

    assert [path.suffix for path in (tmp_path / "cache" / "parts").iterdir()] == [".lock"]


def test_binaries_of_envtest_are_used_and_a_missing_one_is_named(
    real_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    etcd = tmp_path / "etcd"
    etcd.write_text("#!/bin/sh\n")
    etcd.chmod(0o755)

    assert ensure(PARTS["etcd"]) == {"etcd": etcd}
    with pytest.raises(BuildError, match=r"kube\S+ is not an executable file"):
        ensure(PARTS["kubernetes"])
