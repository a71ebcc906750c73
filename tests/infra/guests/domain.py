"""A guest as libvirt is told about it."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from xml.sax.saxutils import escape

from tests.infra.guests.image import GuestImage

DISKS = ("*.img", "*.qcow2", "memory")
"""The large files in a domain's folder."""


class Agent(StrEnum):
    """What the guest's init script makes of the guest agent."""

    NORMAL = "normal"
    NONE = "none"
    """None is installed, as far as anybody can tell."""
    BLOCK_EXEC = "blockexec"
    """It refuses guest-exec, as RHEL and its relatives configure it."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A libvirt domain in `folder`. `data_disk` is raw; the root disk is an overlay that dies with the folder."""

    name: str
    agent: Agent
    folder: Path
    data_disk: Path

    @property
    def root_disk(self) -> Path:
        """A qcow2 overlay over the image."""
        return self.folder / "root.qcow2"

    @property
    def console(self) -> Path:
        """What the guest's kernel and its init script say."""
        return self.folder / "console.log"

    @property
    def earlier_console(self) -> Path:
        """The same of the guest that this one goes on from, if it does."""
        return self.folder / "earlier-console.log"

    @property
    def shell(self) -> Path:
        """A socket that leads to a shell in the guest, for what has to be done while the agent does nothing."""
        return self.folder / "shell.sock"

    def xml(self, image: GuestImage) -> str:
        """The definition, for software emulation: machines that run tests seldom allow KVM."""
        # no_timer_check: on a busy machine an emulated timer is late, and the kernel would refuse to go on.
        kernel_arguments = (
            "root=/dev/vda rw init=/init.sh console=ttyS0 quiet loglevel=4 mitigations=off no_timer_check panic=-1 "
            f"vmc.agent={self.agent}"
        )
        return f"""
<domain type='qemu'>
  <name>{escape(self.name)}</name>
  <memory unit='MiB'>512</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{escape(str(image.kernel))}</kernel>
    <initrd>{escape(str(image.initrd))}</initrd>
    <cmdline>{escape(kernel_arguments)}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'/>
  <on_reboot>destroy</on_reboot>
  <devices>
    {_disk(self.root_disk, "qcow2", "vda", "unsafe")}
    {_disk(self.data_disk, "raw", "vdb", "writeback")}
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{escape(str(self.console))}'/><target port='0'/></serial>
    <serial type='unix'><source mode='bind' path='{escape(str(self.shell))}'/><target port='1'/></serial>
    <channel type='unix'>
      <source mode='bind' path='{escape(str(self.folder / "agent.sock"))}'/>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def _disk(path: Path, form: str, target: str, cache: str) -> str:
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='{form}' cache='{cache}'/>"
        f"<source file='{escape(str(path))}'/><target dev='{target}' bus='virtio'/></disk>"
    )
