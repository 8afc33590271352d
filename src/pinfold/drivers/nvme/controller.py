# An NVMe controller's registers: what it can do, and starting, shutting down and stopping it.
#
# Source: NVM Express Base Specification 1.4, sections 3.1 (registers), 7.6 (initialisation and
# shutdown), 9.5 (fatal status).
#
# A register of eight bytes is read and written as two of four, the lower half first, which section
# 3.1 allows everywhere: some hosts split a wide access anyway, and some controllers take no other.
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pinfold.drivers.mmio import DeviceFailed, read_present

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.drivers.mmio import Mmio

_CAP: Final = 0x00
_VS: Final = 0x08
_INTMS: Final = 0x0C
_CC: Final = 0x14
_CSTS: Final = 0x1C
_AQA: Final = 0x24
_ASQ: Final = 0x28
_ACQ: Final = 0x30
_DOORBELLS: Final = 0x1000

# CC, section 3.1.5.
_ENABLE: Final = 1 << 0
_MPS_SHIFT: Final = 7
_SHN_MASK: Final = 0x3 << 14
_SHN_NORMAL: Final = 0x1 << 14
_IOSQES_SHIFT: Final = 16
_IOCQES_SHIFT: Final = 20

# CSTS, section 3.1.6.
_READY: Final = 1 << 0
_FATAL: Final = 1 << 1
_SHST_MASK: Final = 0x3 << 2
_SHST_COMPLETE: Final = 0x2 << 2

_MASK32: Final = (1 << 32) - 1
_PAGE_UNIT: Final = 12
"""MPS, MPSMIN and MPSMAX are powers of two over 2^12 bytes."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """CAP, section 3.1.1."""

    max_entries: int
    """In a queue, at most (MQES, which counts from 0)."""
    ready_seconds: float
    """How long becoming ready, or ceasing to be, may take (TO)."""
    doorbell_stride: int
    """Bytes from one doorbell to the next (DSTRD)."""
    nvm: bool
    """True when it has the NVM command set (CSS)."""
    smallest_page: int
    """Bytes (MPSMIN)."""
    largest_page: int
    """Bytes (MPSMAX)."""

    @classmethod
    def parse(cls, value: int) -> Capabilities:
        """The fields of the register."""
        return cls(
            max_entries=(value & 0xFFFF) + 1,
            ready_seconds=(value >> 24 & 0xFF) * 0.5,
            doorbell_stride=4 << (value >> 32 & 0xF),
            nvm=bool(value >> 37 & 1),
            smallest_page=1 << _PAGE_UNIT + (value >> 48 & 0xF),
            largest_page=1 << _PAGE_UNIT + (value >> 52 & 0xF),
        )


class Controller:
    """One controller's registers.

    Args:
      registers: its BAR 0.
      until: waits until what it is given is true, or raises DeviceTimeout with the words it is
        given.

    Raises:
      DeviceFailed: nothing answers there.
    """

    def __init__(self, registers: Mmio, until: Callable[[Callable[[], bool], str], object]) -> None:
        self._registers = registers
        self._until = until
        self.version = read_present(registers, _VS)
        """Of the specification: major << 16 | minor << 8 | tertiary (section 3.1.2)."""
        self.capabilities = Capabilities.parse(
            registers.read32(_CAP) | registers.read32(_CAP + 4) << 32
        )

    def enable(self, submission: int, completion: int, entries: int, page: int) -> None:
        """Start it, with queues for admin commands (section 7.6.1). It is disabled before this.

        Args:
          submission, completion: device addresses of the two queues, on page borders.
          entries: in each.
          page: bytes; what PRPs are made of.

        Raises:
          DeviceTimeout: it does not become ready.
          DeviceFailed: it reports a fatal status, or does not answer.
        """
        write = self._registers.write32
        # We poll. With pin-based interrupts the admin queue would hold the line up (section 3.1.3).
        write(_INTMS, _MASK32)
        write(_AQA, (entries - 1) << 16 | (entries - 1))  # section 3.1.8; both count from 0
        for register, address in ((_ASQ, submission), (_ACQ, completion)):  # sections 3.1.9, 3.1.10
            write(register, address & _MASK32)
            write(register + 4, address >> 32)
        configuration = (
            (page.bit_length() - 1 - _PAGE_UNIT) << _MPS_SHIFT
            | 6 << _IOSQES_SHIFT  # 64 bytes
            | 4 << _IOCQES_SHIFT  # 16 bytes
        )  # and of CSS and AMS 0: the NVM command set, and round robin
        write(_CC, configuration)
        write(_CC, configuration | _ENABLE)
        allowed = self.capabilities.ready_seconds
        self._until(
            lambda: bool(self.check() & _READY),
            f"becoming ready, for which the controller asks {allowed} s at most",
        )

    def check(self) -> int:
        """CSTS. Raises DeviceFailed: it reports a fatal status (section 9.5), or is gone."""
        status = read_present(self._registers, _CSTS)
        if status & _FATAL:
            raise DeviceFailed(
                "the controller reports a fatal status and does no more",
                asked=status,
                remedy="close this driver, then make another, which resets the controller",
            )
        return status

    def shut_down(self) -> None:
        """Tell it of the end, so that it writes out what it caches (section 7.6.2).

        Does nothing on one that does not run: it could not answer.

        Raises:
          DeviceTimeout: it does not confirm.
          DeviceFailed: it is gone.
        """
        status = read_present(self._registers, _CSTS)
        if status & _FATAL or not status & _READY:
            return
        configuration = self._registers.read32(_CC)
        self._registers.write32(_CC, configuration & ~_SHN_MASK | _SHN_NORMAL)
        self._until(
            lambda: read_present(self._registers, _CSTS) & _SHST_MASK == _SHST_COMPLETE,
            "shutting down",
        )

    def disable(self) -> None:
        """Stop it: on return it reaches no memory (section 7.3.2, Controller Level Reset).

        One that is starting is waited for: what comes of clearing EN before RDY is set is undefined
        (section 3.1.5). A fatal status may come in its place, and then it is the remedy (section
        9.5).

        Raises:
          DeviceTimeout: it does not become ready, and was not told to stop; or it stays ready.
          DeviceFailed: it is gone.
        """
        configuration = self._registers.read32(_CC)
        if configuration & _ENABLE:
            self._until(
                lambda: bool(read_present(self._registers, _CSTS) & (_READY | _FATAL)),
                "becoming ready, before which the controller cannot be stopped",
            )
            self._registers.write32(_CC, configuration & ~(_ENABLE | _SHN_MASK))
        self._until(
            lambda: not read_present(self._registers, _CSTS) & _READY, "stopping the controller"
        )

    def ring_submission(self, queue: int, tail: int) -> None:
        """SQyTDBL, section 3.1.24."""
        self._ring(2 * queue, tail)

    def ring_completion(self, queue: int, head: int) -> None:
        """CQyHDBL, section 3.1.25."""
        self._ring(2 * queue + 1, head)

    def _ring(self, doorbell: int, value: int) -> None:
        offset = _DOORBELLS + doorbell * self.capabilities.doorbell_stride
        self._registers.write32(offset, value)
