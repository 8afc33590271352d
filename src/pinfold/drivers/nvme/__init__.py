"""A user-space driver for NVMe controllers: modelled ones, and real ones behind VFIO.

with NvmeDriver(bar0, bti) as disk:
    disk.store(0, b"one block of it".ljust(disk.namespace.block_size, b"."))
    with bti.pin(memory, perms=Perm.WRITE) as pmt:
        disk.read(pmt, lba=0, blocks=256)
"""

from pinfold.drivers.nvme.commands import Completion, NvmeDriverStatistics
from pinfold.drivers.nvme.driver import NvmeDriver
from pinfold.drivers.nvme.identify import ControllerInfo, NamespaceInfo
from pinfold.drivers.nvme.status import CommandFailed

__all__ = [
    "CommandFailed",
    "Completion",
    "ControllerInfo",
    "NamespaceInfo",
    "NvmeDriver",
    "NvmeDriverStatistics",
]
