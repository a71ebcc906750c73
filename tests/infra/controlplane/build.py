"""Builds the real parts of the control plane from Go modules, once, into a cache outside the checkout.

`python -m tests.infra.prepare` builds them ahead of time.

Environment: VM_CONSISTENCY_CACHE is the cache folder (default `$XDG_CACHE_HOME/vm-consistency`, else
`~/.cache/vm-consistency`). With KUBEBUILDER_ASSETS set, etcd, kube-apiserver and kubectl come from that folder, as
they do for controller-runtime's envtest, and are not built.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.infra.controlplane.progress import BuildError, cache_folder, exclusive, run_visibly
from tests.infra.controlplane.toolchain import GoToolchain, find_toolchain

_MODULES = Path(__file__).parent / "parts"
_TESTS = Path(__file__).parents[2]
_STAMP = "-X k8s.io/component-base/version."
_KUBERNETES_VERSION = f"{_STAMP}gitVersion=v1.36.3 {_STAMP}gitMajor=1 {_STAMP}gitMinor=36"


@dataclass(frozen=True)
class Part:
    """One Go module and what is built from it.

    `binaries` maps a file name to the Go package it is built from; `printed` maps a file name to a package whose
    program prints that file. Linker flags `-s -w` are always given. `suite`: whose tests need it first, a suite of
    tests/infra/suites.py. `cgo`: it links against a C library of this machine, so it is built with a C compiler.
    """

    name: str
    module: Path
    binaries: Mapping[str, str]
    printed: Mapping[str, str] = field(default_factory=dict)
    ldflags: str = ""
    suite: str = "cluster"
    cgo: bool = False

    @property
    def files(self) -> frozenset[str]:
        """The names of everything the part gives."""
        return frozenset(self.binaries) | frozenset(self.printed)


PARTS: Mapping[str, Part] = {
    part.name: part
    for part in (
        Part("etcd", _MODULES / "etcd", {"etcd": "go.etcd.io/etcd/server/v3"}),
        Part(
            "kubernetes",
            _MODULES / "kubernetes",
            {"kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver", "kubectl": "k8s.io/kubernetes/cmd/kubectl"},
            ldflags=_KUBERNETES_VERSION,  # unstamped, clients see v0.0.0
        ),
        Part(
            "kubevirt",
            _MODULES / "kubevirt",
            {"virt-controller": "kubevirt.io/kubevirt/cmd/virt-controller"},
            printed={"kubevirt-crds.json": "./crds"},
        ),
        Part(
            "kubevirt-tools",  # what a hook calls in the container `compute`
            _MODULES / "kubevirt",
            {
                "virt-freezer": "kubevirt.io/kubevirt/cmd/virt-freezer",
                "virt-probe": "kubevirt.io/kubevirt/cmd/virt-probe",
            },
            suite="e2e",
        ),
        Part(
            "kubevirt-1.7.0",  # the last minor version that does not put a pod's hooks back
            _MODULES / "kubevirt-1.7.0",
            {"virt-controller": "kubevirt.io/kubevirt/cmd/virt-controller"},
            suite="e2e",
        ),
        Part("kwok", _MODULES / "kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}, suite="e2e"),
        Part(
            "velero",
            _MODULES / "velero",
            {"velero": "github.com/vmware-tanzu/velero/cmd/velero"},
            # Else every server listens on port 8080 of all addresses as well, and no flag says otherwise.
            ldflags="-X sigs.k8s.io/controller-runtime/pkg/metrics/server.DefaultBindAddress=0",
            suite="e2e",
        ),
        Part(
            "velero-plugin-aws",
            _MODULES / "velero-plugin-aws",
            {"velero-plugin-for-aws": "github.com/vmware-tanzu/velero-plugin-for-aws/velero-plugin-for-aws"},
            suite="e2e",
        ),
        Part("snapshotter", _MODULES / "snapshotter", {"velero-plugin-disk-images": "."}, suite="e2e"),
        Part(
            "rivals",
            _TESTS / "bench" / "rivals",
            {
                "controllerruntime": "./controllerruntime",
                "sameanswer": "./sameanswer",
                "load": "./load",
                "send": "./send",
            },
        ),
        Part("oldest", _MODULES / "oldest", {"oldest": "."}),  # CEL as the oldest supported kube-apiserver compiles it
        Part("bridge", _MODULES / "bridge", {"launcher-bridge": "./launcher-bridge"}, suite="e2e", cgo=True),
    )
}

_FLAGS = ("-v", "-trimpath", "-buildvcs=false")

refusal: str | None = None
"""Why no part may be used just now; tests/infra/suites.py sets it for tests that are to need none."""

_ASSETS = frozenset({"etcd", "kube-apiserver", "kubectl"})


def ensure(part: Part) -> dict[str, Path]:
    """Return the part's files by name, building them if they are missing.

    Raises BuildError when they cannot be built, when KUBEBUILDER_ASSETS is set and lacks one, and while `refusal` is
    set.
    """
    if refusal:
        raise BuildError(refusal)
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and part.files <= _ASSETS:
        return {name: _asset(Path(assets), name) for name in part.files}
    toolchain = _toolchain()
    home = cache_folder() / "parts" / f"{part.name}-{_key(part, toolchain)}"
    if not home.exists():
        with exclusive(home):
            if not home.exists():  # another process may have built it while this one waited
                _build(part, toolchain, home)
    return {name: home / name for name in part.files}


def ensure_all(*names: str) -> dict[str, Path]:
    """Like `ensure` for several parts by name."""
    return {name: path for part in names for name, path in ensure(PARTS[part]).items()}


@cache
def _toolchain() -> GoToolchain:
    return find_toolchain()


def _asset(folder: Path, name: str) -> Path:
    path = folder / name
    if not os.access(path, os.X_OK):
        raise BuildError(
            f"KUBEBUILDER_ASSETS is {folder}, but {path} is not an executable file. "
            "Put it there (setup-envtest does), or unset KUBEBUILDER_ASSETS to have the parts built from source."
        )
    return path


def _key(part: Part, toolchain: GoToolchain) -> str:
    digest = hashlib.sha256(repr((toolchain.version, _FLAGS, part.ldflags, sorted(part.binaries.items()))).encode())
    sources = [part.module / "go.mod", part.module / "go.sum", *sorted(part.module.rglob("*.go"))]
    for source in sources:
        digest.update(f"\0{source.relative_to(part.module)}\0".encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def _build(part: Part, toolchain: GoToolchain, home: Path) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f".{part.name}-", dir=home.parent))
    try:
        for name, package in {**part.binaries, **part.printed}.items():
            _go_build(part, toolchain, package, scratch / name)
        for name in part.printed:
            printed = subprocess.run([scratch / name], check=True, stdout=subprocess.PIPE).stdout
            (scratch / name).unlink()
            (scratch / name).write_bytes(printed)
        scratch.rename(home)  # complete or absent, never half
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _go_build(part: Part, toolchain: GoToolchain, package: str, output: Path) -> None:
    ldflags = f"-s -w {part.ldflags}".strip()
    run_visibly(
        f"build {output.name} ({toolchain.version}, minutes the first time)",
        [str(toolchain.go), "build", *_FLAGS, f"-ldflags={ldflags}", "-o", str(output), package],
        cwd=part.module,
        env={**toolchain.environment(), **({"CGO_ENABLED": "1"} if part.cgo else {})},
    )
