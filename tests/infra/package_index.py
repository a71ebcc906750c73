"""A package index in a folder: wheels without code, with the metadata that makes a resolver do what it does."""

import base64
import hashlib
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import Distribution
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

NEWER = "9999"
"""A version above all that anything pins or excludes; nothing here has an upper bound, since packages rarely do."""


@dataclass(frozen=True)
class Package:
    """What a resolver reads of one version of a package."""

    name: str
    version: str
    requires: Sequence[str] = ()
    extras: Sequence[str] = field(default=())

    @classmethod
    def installed(cls, distribution: Distribution) -> "Package":
        """The same requirements and extras as of an installed package."""
        metadata = distribution.metadata
        extras = metadata.get_all("Provides-Extra") or []
        return cls(metadata["Name"], distribution.version, tuple(distribution.requires or ()), tuple(extras))

    def newer(self) -> "Package":
        """A newer version that needs the same."""
        return Package(self.name, NEWER, self.requires, self.extras)

    def write(self, folder: Path) -> Path:
        """Write its wheel into `folder`."""
        stem = f"{re.sub(r'[-_.]+', '_', self.name)}-{self.version}"
        metadata = ["Metadata-Version: 2.1", f"Name: {self.name}", f"Version: {self.version}"]
        metadata += [f"Requires-Dist: {one}" for one in self.requires]
        metadata += [f"Provides-Extra: {one}" for one in self.extras]
        wheel = ["Wheel-Version: 1.0", "Generator: tests", "Root-Is-Purelib: true", "Tag: py3-none-any"]
        files = {f"{stem}.dist-info/{name}": lines for name, lines in (("METADATA", metadata), ("WHEEL", wheel))}
        path = folder / f"{stem}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            record = [_add(archive, name, "\n".join([*lines, ""])) for name, lines in files.items()]
            archive.writestr(f"{stem}.dist-info/RECORD", "\n".join([*record, f"{stem}.dist-info/RECORD,,", ""]))
        return path


def _add(archive: zipfile.ZipFile, name: str, text: str) -> str:
    """Add a file; returns its line of RECORD."""
    archive.writestr(name, text)
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(text)}"


def canonical(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(lock: str) -> list[Requirement]:
    """The requirements of a lock that apply to this interpreter, each pinned to one version."""
    lines = re.findall(r"^[A-Za-z0-9][^\\\n]*", lock, re.MULTILINE)
    environment = {**default_environment(), "extra": ""}
    found = [Requirement(line) for line in lines]
    return [one for one in found if one.marker is None or one.marker.evaluate(environment)]  # type: ignore[arg-type]


def pinned(requirement: Requirement) -> str:
    """The only version that a requirement of a lock permits."""
    [specifier] = requirement.specifier
    assert specifier.operator == "=="
    return specifier.version


def versions(lock: str) -> dict[str, str]:
    """What a lock names for this interpreter, by canonical name."""
    return {canonical(one.name): pinned(one) for one in locked(lock)}


def index_for(requirements: Iterable[Requirement], known: Mapping[str, Distribution], folder: Path) -> str:
    """Write each pinned package, and a newer version of it, into `folder`; returns a lock with the wheels' hashes.

    `known` are installed packages by canonical name. Raises KeyError for a package that is not among them.
    """
    lines = []
    for requirement in requirements:
        package = Package.installed(known[canonical(requirement.name)])
        assert package.version == pinned(requirement), f"{requirement} is locked, {package.version} is installed"
        package.newer().write(folder)
        lines.append(_hashed(str(requirement).partition(";")[0].strip(), package.write(folder)))
    return "".join(lines)


def _hashed(requirement: str, wheel: Path) -> str:
    return f"{requirement} \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
