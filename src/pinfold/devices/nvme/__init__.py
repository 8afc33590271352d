"""An NVMe controller in software, with one namespace, over a file or over memory.

with FileMedium("disk.img") as medium:
    disk = Nvme(bti.master(), medium)
"""

from pinfold.devices.nvme.controller import Nvme, NvmeStatistics
from pinfold.devices.nvme.medium import FileMedium, Medium, MemoryMedium

__all__ = ["FileMedium", "Medium", "MemoryMedium", "Nvme", "NvmeStatistics"]
