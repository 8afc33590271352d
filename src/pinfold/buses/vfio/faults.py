# What the IOMMU stopped, as far as the kernel's log says.
#
# VFIO tells a program nothing of a stopped access. The IOMMU's driver logs it: the device, the
# direction, and the page. Not the address in the page, nor how many bytes; a few lines in five
# seconds, and the rest are dropped; and nobody says when a line will come. So a record here is a
# proof that something was stopped, and no record proves nothing.
#
# The log is read when somebody asks for the faults. What was nearest to the address is looked up
# then, among the grants of that moment and the last ones that were revoked. So a reason is that of
# the moment when the log is read. The line has a time, but of a clock (the scheduler's) that nobody
# keeps in step with ours: after a day they are seconds apart, and a pin lives for microseconds.
#
# Source: dmar_fault_do_one in drivers/iommu/intel/dmar.c, amd_iommu_report_page_fault in
# drivers/iommu/amd/iommu.c. Intel's line does not name the PCI domain.
from __future__ import annotations

import errno
import re
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pinfold.faults import Fault, FaultLog
from pinfold.host.kmsg import KernelLog
from pinfold.host.pci import PciAddress
from pinfold.memory.hosterrors import from_host, translated
from pinfold.memory.locks import LostLock
from pinfold.rights import Perm
from pinfold.units import PAGE_SIZE, page_down

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pinfold.faults import FaultReason, GrantRecord

_INTEL: Final = re.compile(
    r"DMAR: \[DMA (?P<access>Read|Write)[^\]]*\] Request device "
    r"\[(?P<device>[0-9a-f:.]+)\].*? fault addr (?:0x)?(?P<address>[0-9a-f]+) "
    r"\[fault reason (?P<code>0x[0-9a-f]+|[0-9]+)\] ?(?P<why>.*)"
)
_AMD: Final = re.compile(
    r"(?:(?P<name>[0-9a-f:]+\.[0-7]): )?AMD-Vi: Event logged "
    r"\[IO_PAGE_FAULT (?:device=(?P<device>\S+) )?domain=\S+ "
    r"address=0x(?P<address>[0-9a-f]+) flags=0x(?P<flags>[0-9a-f]+)"
)
_AMD_WRITE: Final = 0x020

_NOT_READABLE: Final = frozenset(
    (errno.EPERM, errno.EACCES, errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOSYS)
)
"""What opening the log says where this process may not, or a kernel or container has none."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """What one line of the kernel's log says of a stopped access."""

    device: PciAddress
    access: int
    """READ or WRITE."""
    address: int
    """In the page that was meant."""
    why: str
    """In the log's words."""
    any_domain: bool = False
    """True where the line does not say which PCI domain."""

    def is_about(self, device: PciAddress) -> bool:
        """Whether it may be that device."""
        mine = device.requester == self.device.requester
        return mine and (self.any_domain or device.domain == self.device.domain)


def parse(line: str) -> LogLine | None:
    """A line of the kernel's log; None for one about something else."""
    match = _INTEL.search(line)
    if match is not None:
        device = PciAddress.parse(match["device"])
        if device is None:
            return None
        access = Perm.WRITE if match["access"] == "Write" else Perm.READ
        why = f"reason {match['code']}, {match['why'].strip()}"
        address = int(match["address"], 16)
        return LogLine(device, int(access), address, why, any_domain=device.domain == 0)
    match = _AMD.search(line)
    if match is not None:
        device = PciAddress.parse(match["device"] or match["name"] or "")
        if device is None:
            return None
        flags = int(match["flags"], 16)
        access = Perm.WRITE if flags & _AMD_WRITE else Perm.READ
        why = f"IO_PAGE_FAULT, flags {flags:#x}"
        return LogLine(device, int(access), int(match["address"], 16), why)
    return None


class KernelFaultLog(FaultLog):
    """The faults of one device, from the kernel's log, from when the bus was opened.

    Empty for ever where this process may not read the log (``readable``). A fault's ``address`` is
    where its page begins and its ``size`` is that page: the log says no more. Listeners hear of a
    fault when somebody looks at the records; not of `total`, which is asked inside locks, too.

    A fault's reason is the one that holds when the log is read. To have it as of the access, look
    before anything is unpinned.

    Args:
      device: whose.
      explain: why an access to a page, READ or WRITE, was stopped.

    Raises:
      NoMemory, HostError: the log could not be opened, though it is there and may be read.
    """

    __slots__ = ("_device", "_explain", "_lock", "_log", "_untold")

    def __init__(
        self,
        device: PciAddress,
        explain: Callable[[int, int], tuple[FaultReason, str, GrantRecord | None]],
    ) -> None:
        super().__init__()
        self._device = device
        self._explain = explain
        self._lock: threading.RLock | LostLock = threading.RLock()
        self._untold: deque[Fault] = deque()
        try:
            self._log: KernelLog | None = KernelLog()
        except OSError as error:
            if error.errno not in _NOT_READABLE:
                raise from_host("open the kernel's log", error) from error
            self._log = None  # documented: without the log there are no faults to show

    @property
    def readable(self) -> bool:
        """True where this process may read the kernel's log, so that faults are seen at all."""
        return self._log is not None

    @property
    def total(self) -> int:
        """See `FaultLog.total`, after a look at the log."""
        self._read()
        return super().total

    def __len__(self) -> int:
        self.look()
        return super().__len__()

    def __iter__(self) -> Iterator[Fault]:
        self.look()
        return super().__iter__()

    def __getitem__(self, index: int) -> Fault:
        self.look()
        return super().__getitem__(index)

    def clear(self) -> None:
        """Forget the records, those not yet read included; the total goes on."""
        self.look()
        super().clear()

    def look(self) -> list[Fault]:
        """Read what the log has got, and tell the listeners; the faults since the last look.

        Raises HostError: the kernel does not let it be read any more.
        """
        self._read()
        told: list[Fault] = []
        while self._untold:
            try:
                told.append(self._untold.popleft())
            except IndexError:  # another thread was quicker
                break
            self.tell(told[-1])
        return told

    def _read(self) -> None:
        with self._lock, translated("read the kernel's log"):
            for text in self._log.lines() if self._log is not None else ():
                line = parse(text)
                if line is not None and line.is_about(self._device):
                    self._untold.append(self._enter(line))

    def close(self) -> None:
        """Read once more, then no longer; what was found stays."""
        with self._lock:  # whoever reads is done before the descriptor is somebody else's
            try:
                self._read()
            finally:
                self._drop()

    def abandon(self) -> None:
        """In a forked child: close the child's copy of the descriptor; no more is found."""
        self._lock = LostLock()
        self._drop()

    def _drop(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            with translated("close the kernel's log"):
                log.close()

    def _enter(self, line: LogLine) -> Fault:
        page = page_down(line.address)
        reason, detail, nearest = self._explain(page, line.access)
        return self.record(
            initiator=self._device.requester,
            access=line.access,
            address=page,
            size=PAGE_SIZE,
            reason=reason,
            detail=f"{detail}; somewhere in this page, says the kernel's log: {line.why}",
            nearest=nearest,
        )
