# The guest's machine, as QEMU's command line.
#
# Each function on the root bus is alone in its IOMMU group, so the slots decide the groups. The
# disks and the ports of the rig itself are virtio devices without iommu_platform: they pass the
# IOMMU by, and a test that breaks its domain does not lose its output.
from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rig.tools import RigError, tool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.rig.images import Images

DEVICES = {"edu0": "0000:00:04.0", "edu1": "0000:00:05.0", "nvme": "0000:00:06.0"}
"""Name to PCI address, of what the tests may take. QEMU's `edu` with the 28 address bits that it
has by itself, one with 64, and a disk of `NVME_BYTES`."""

NVME_BYTES = 64 << 20
OUT_BYTES = 1 << 30

_QUICK = (
    "console=ttyS0 quiet panic=-1 intel_iommu=on mitigations=off nokaslr cryptomgr.notests "
    "no_timer_check ipv6.disable=1 random.trust_cpu=on"
)
"""Without trust in RDRAND the first Python waits a second for random numbers; the self-tests of
the ciphers and the mitigations cost the rest."""


@dataclass(frozen=True)
class Machine:
    """What may be chosen about it."""

    mebibytes: int = 1024
    accelerator: str = "auto"
    """auto, kvm or tcg."""
    append: str = ""
    """More of the kernel's command line."""
    arguments: tuple[str, ...] = field(default=())
    """More of QEMU's command line, each as a shell would split it."""

    def command(
        self, images: Images, work: Path, console: Path, pipes: Mapping[str, int]
    ) -> list[str]:
        """QEMU's command line.

        Args:
          images: what it boots.
          work: has ``in`` and ``out``, the disks of this run, and ``nvme``.
          console: the file for the kernel's console.
          pipes: descriptors that QEMU inherits, for ``stdout`` and ``stderr``.

        Raises:
          RigError: QEMU is not installed, or KVM was asked for and cannot be used.
        """
        virtual = self._virtualised()
        line = [tool("qemu-system-x86_64"), "-nodefaults", "-no-user-config", "-no-reboot"]
        line += ["-display", "none", "-m", str(self.mebibytes)]
        board = "q35,sata=off,usb=off,smbus=off,i8042=off,vmport=off,hpet=off"
        if virtual:
            # Remapped interrupts need an irqchip that QEMU sees into.
            line += ["-machine", f"{board},kernel-irqchip=split", "-accel", "kvm", "-cpu", "host"]
        else:
            # numpy asks for x86-64-v2, which Nehalem is and QEMU's default is not.
            line += ["-machine", board, "-accel", "tcg,thread=multi", "-cpu", "Nehalem,+rdrand"]
        # 48 bits of address: an IOVA may be any user's virtual address.
        line += ["-device", "intel-iommu,intremap=on,aw-bits=48"]
        line += ["-kernel", str(images.kernel), "-initrd", str(images.initrd)]
        line += ["-append", f"{_QUICK} {self.append}".strip()]

        line += ["-serial", f"file:{console}", "-device", "virtio-serial-pci,addr=1"]
        for name, descriptor in pipes.items():
            line += ["-chardev", f"file,id={name},path=/dev/fd/{descriptor},append=on"]
            line += ["-device", f"virtserialport,chardev={name},name={name}"]
        line += _disk("root", images.root, "virtio-blk-pci,serial=root,addr=2", read_only=True)
        line += _disk("in", work / "in", "virtio-blk-pci,serial=in,addr=8", read_only=True)
        line += _disk("out", work / "out", "virtio-blk-pci,serial=out,addr=3")
        line += ["-device", "edu,addr=4"]
        line += ["-device", "edu,addr=5,dma_mask=0xffffffffffffffff"]
        line += _disk("nvme", work / "nvme", "nvme,serial=pinfold,addr=6")
        for argument in self.arguments:
            line += shlex.split(argument)
        return line

    def _virtualised(self) -> bool:
        """KVM only where the processor's own virtualisation shows.

        A /dev/kvm without it, of a hypervisor in software, lets a stock kernel get no further
        than early boot.
        """
        if self.accelerator == "tcg":
            return False
        flags = Path("/proc/cpuinfo").read_text()
        shows = re.search(r"^flags\s*:.*\b(vmx|svm)\b", flags, re.MULTILINE) is not None
        usable = shows and os.access("/dev/kvm", os.R_OK | os.W_OK)
        if self.accelerator == "kvm" and not usable:
            raise RigError("KVM cannot be used here: no vmx or svm, or no access to /dev/kvm")
        return usable


def _disk(name: str, path: Path, device: str, *, read_only: bool = False) -> list[str]:
    # The file is gone with the run: nothing is worth a flush.
    drive = f"if=none,id={name},format=raw,cache=unsafe,file={str(path).replace(',', ',,')}"
    return [
        *("-drive", drive + (",readonly=on" if read_only else "")),
        *("-device", f"{device},drive={name}"),
    ]
