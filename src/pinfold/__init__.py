"""pinfold: memory objects, pinned pages and device access for Python on Linux."""

from pinfold.bus import Anchor, Bus, BusLimits, BusMaster, Extent, Extents, Fault, FaultReason
from pinfold.errors import PinfoldError
from pinfold.objects.bti import Bti
from pinfold.objects.file_initiator import FileInitiator
from pinfold.objects.inplace import PinnedBuffer, pin
from pinfold.objects.iommu import Iommu, open_bus
from pinfold.objects.kernel import Kernel, default_kernel
from pinfold.objects.mapping import Mapping
from pinfold.objects.pmt import AddrForm, Pmt, PmtState
from pinfold.objects.process import Process, current_process
from pinfold.objects.region_ops import VmarOp
from pinfold.objects.resource import Resource, ResourceKind
from pinfold.objects.signals import Signal
from pinfold.objects.vmar import Vmar
from pinfold.objects.vmo import CachePolicy, Vmo, VmoChild
from pinfold.objects.vmoption import VmOption
from pinfold.rights import Perm, Right
from pinfold.transfers import TRANSFER, Outcome, Outcomes
from pinfold.units import PAGE_SIZE, ByteRange, DevVa, HostVa, PhysAddr

__all__ = [
    "PAGE_SIZE",
    "TRANSFER",
    "AddrForm",
    "Anchor",
    "Bti",
    "Bus",
    "BusLimits",
    "BusMaster",
    "ByteRange",
    "CachePolicy",
    "DevVa",
    "Extent",
    "Extents",
    "Fault",
    "FaultReason",
    "FileInitiator",
    "HostVa",
    "Iommu",
    "Kernel",
    "Mapping",
    "Outcome",
    "Outcomes",
    "Perm",
    "PhysAddr",
    "PinfoldError",
    "PinnedBuffer",
    "Pmt",
    "PmtState",
    "Process",
    "Resource",
    "ResourceKind",
    "Right",
    "Signal",
    "VmOption",
    "Vmar",
    "VmarOp",
    "Vmo",
    "VmoChild",
    "current_process",
    "default_kernel",
    "open_bus",
    "pin",
]
