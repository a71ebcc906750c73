"""Namespaces, VirtualMachines and VirtualMachineInstances from files, for a webhook without a cluster."""

import asyncio
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from app.admission.ports import LookupFailed
from app.core.known_objects import KnownObjects, UnusableObject
from app.core.kubevirt_names import KubeVirtNames
from app.core.manifests import ManifestError, read_manifests
from app.core.objects import Facts, NamespaceView, OwnerReference
from app.core.text import one_line

_log = logging.getLogger("vm-consistency.objects")

_SUFFIXES = frozenset({".yaml", ".yml", ".json"})
"""Those that `kubectl apply -f FOLDER` reads."""

_Stamp = tuple[Path, int, int, int]
"""What differs once a file was written, or replaced through a symbolic link as in a mounted ConfigMap."""


class ObjectFilesError(ValueError):
    """The folder can't be used; the message is one line that names the file, and the object where it is about one."""


class ObjectFiles:
    """A `FactsSource` and a `NamespaceSource`: the objects in a folder, which is read again when a file changes.

    A folder with an error in it never replaces what was read before. Without a folder no object is known.
    """

    def __init__(self, folder: Path | None, names: KubeVirtNames, period: float = 1.0) -> None:
        """`period` is in seconds."""
        self._folder, self._names, self._period = folder, names, period
        self._known = None if folder else KnownObjects(names=names)
        self._seen: list[_Stamp] | None = None
        self._error: str | None = None

    async def facts(self, namespace: str, vmi: OwnerReference) -> Facts:
        """What the files tell of `vmi`; raises LookupFailed while nothing good has been read."""
        return self._good().facts(namespace, vmi)

    async def namespace(self, name: str) -> NamespaceView:
        """A `NamespaceSource`; raises LookupFailed while nothing good has been read."""
        return self._good().namespace(name)

    def problem(self) -> str | None:
        """Why no decision can be made; None once the files were read."""
        if self._known is not None:
            return None
        reason = self._error or "they have not been read yet"
        return f"the objects can't be used, and every pod is left as it is: {reason}"

    def note(self) -> str | None:
        """What is wrong with the files although the webhook works."""
        return f"the objects that were read before hold: {self._error}" if self._error and self._known else None

    async def run(self) -> None:
        """Check for ever."""
        while True:
            await self.check()
            await asyncio.sleep(self._period)

    async def check(self) -> None:
        """Read the folder if a file changed; an error is logged once and leaves things as they are."""
        assert self._folder is not None
        before, self._seen = self._seen, None  # what fails in a way that nobody foresaw is tried again
        stamps: list[_Stamp] | None = None
        try:
            stamps = await asyncio.to_thread(_stamps, self._folder)
            if stamps != before:
                self._take(await asyncio.to_thread(_read, [stamp[0] for stamp in stamps], self._names))
        except ObjectFilesError as error:
            if str(error) != self._error:
                _log.error("objects not read, what was read before holds", extra={"error": str(error)})
            self._error = str(error)
        self._seen = stamps

    def _take(self, known: KnownObjects) -> None:
        self._known, self._error = known, None
        counts = {"machines": len(known.machines), "instances": len(known.instances)}
        _log.info("objects read", extra={"namespaces": len(known.namespaces), **counts})

    def _good(self) -> KnownObjects:
        if self._known is None:
            raise LookupFailed(self.problem() or "")
        return self._known


def _stamps(folder: Path) -> list[_Stamp]:
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
        states = [(path, path.stat()) for path in files]
    except OSError as error:
        raise ObjectFilesError(f"{error.filename}: {error.strerror}") from error
    return [(path, state.st_ino, state.st_size, state.st_ctime_ns) for path, state in states]


def _read(files: Iterable[Path], names: KubeVirtNames) -> KnownObjects:
    try:
        return KnownObjects.read((found for path in files for found in _objects(path)), names)
    except UnusableObject as error:
        raise ObjectFilesError(one_line(str(error))) from error


def _objects(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the objects of a file with where they are."""
    try:
        objects = read_manifests(path.read_bytes().decode("utf-8-sig")).objects
    except OSError as error:
        raise ObjectFilesError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ObjectFilesError(f"{path}: not UTF-8 text, at byte {error.start}") from error
    except ManifestError as error:
        raise ObjectFilesError(one_line(f"{path}: {error}")) from error
    for number, item in enumerate(objects, 1):
        yield f"{path}: object {number}", item
