"""A guest that was saved with its memory, so that others go on from there: in two seconds, and on a busy machine too.

What `virsh save` writes begins with a header, with the domain's definition in it (libvirt 9.0, src/qemu/
qemu_saveimage.h). `virsh restore --xml` refuses a definition of another name or UUID, hence the changes made here.
"""

import re
import shutil
import struct
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from tests.infra.guests.domain import Domain

_HEADER = struct.Struct("<16sIIIII56x")
_MAGIC = b"LibvirtQemudSave"
_VERSION = 2


@dataclass(frozen=True, slots=True)
class Seed:
    """The files of a saved guest, never written: its memory, and its disks as they were then."""

    folder: Path

    @property
    def memory(self) -> Path:
        """What `virsh save` wrote."""
        return self.folder / "memory"

    def take(self, domain: Domain) -> None:
        """Keep the disks of a domain that was saved to `memory`."""
        shutil.copy(domain.root_disk, self.folder / "root.qcow2")
        shutil.copy(domain.console, self.folder / "console.log")
        _copy(domain.data_disk, self.folder / "data.img")

    def plant(self, domain: Domain) -> Path:
        """Make the disks of `domain`, and return what `virsh restore` makes it from."""
        shutil.copy(self.folder / "root.qcow2", domain.root_disk)
        shutil.copy(self.folder / "console.log", domain.earlier_console)
        _copy(self.folder / "data.img", domain.data_disk)
        planted = domain.folder / "memory"
        shutil.copy(self.memory, planted)
        with planted.open("r+b") as file:
            magic, version, length, running, form, cookie_at = _HEADER.unpack(file.read(_HEADER.size))
            if (magic, version) != (_MAGIC, _VERSION):
                raise RuntimeError(f"virsh save wrote version {version} of its format, not {_VERSION}: adapt seed.py")
            # The definition, the cookie, and room to spare.
            texts = file.read(length)
            cookie = texts[cookie_at:].split(b"\0")[0]
            definition = _renamed(texts.split(b"\0")[0].decode(), domain).encode()
            file.seek(0)
            file.write(_HEADER.pack(magic, version, length, running, form, len(definition) + 1))
            file.write((definition + b"\0" + cookie).ljust(length, b"\0"))
        return planted


def _renamed(definition: str, domain: Domain) -> str:
    found = re.search("<source path='([^']*)/console.log'", definition)
    assert found is not None
    definition = definition.replace(f"{found[1]}/", f"{domain.folder}/")
    definition = re.sub("<name>[^<]*</name>", f"<name>{domain.name}</name>", definition, count=1)
    return re.sub("<uuid>[^<]*</uuid>", f"<uuid>{uuid.uuid4()}</uuid>", definition, count=1)


def _copy(disk: Path, to: Path) -> None:
    subprocess.run(["cp", "--sparse=always", disk, to], check=True)
