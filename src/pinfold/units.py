# Addresses, byte ranges and page arithmetic. No policy, no I/O.
#
# Three address spaces meet in this package, and mixing them up is how a device comes to write
# into somebody else's memory. Each has a type of its own, which mypy tells apart and which costs
# nothing at run time. Ranges are half-open everywhere, offsets and sizes are bytes.
from __future__ import annotations

import os
from typing import NamedTuple, NewType

HostVa = NewType("HostVa", int)
"""An address in this process, as the CPU uses it."""

DevVa = NewType("DevVa", int)
"""An address as a device puts it on its bus: an IOVA, or a physical address without an IOMMU."""

PhysAddr = NewType("PhysAddr", int)
"""An address of physical memory, real or simulated."""

PAGE_SIZE: int = os.sysconf("SC_PAGESIZE")
"""Bytes in a page of this machine. Never assumed, always asked."""

PAGE_SHIFT: int = PAGE_SIZE.bit_length() - 1
"""``PAGE_SIZE == 1 << PAGE_SHIFT``."""

PAGE_MASK: int = PAGE_SIZE - 1
"""The bits of an address that lie within a page."""

KIB: int = 1 << 10
MIB: int = 1 << 20
GIB: int = 1 << 30
TIB: int = 1 << 40

UINT64_MAX: int = (1 << 64) - 1

FILE_LIMIT: int = (1 << 63) - PAGE_SIZE
"""Where Linux maps no file any more: what an offset in one can say, in whole pages."""


class ByteRange(NamedTuple):
    """The half-open range of bytes ``[start, stop)``."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Bytes in the range."""
        return self.stop - self.start

    def contains(self, other: ByteRange) -> bool:
        """True when every byte of ``other`` lies in this range."""
        return self.start <= other.start and other.stop <= self.stop

    def overlaps(self, other: ByteRange) -> bool:
        """True when the two share at least one byte."""
        return self.start < other.stop and other.start < self.stop

    def __str__(self) -> str:
        return f"[{self.start:#x}, {self.stop:#x})"


def page_down(value: int) -> int:
    """``value`` rounded down to a page border."""
    return value & ~PAGE_MASK


def page_up(value: int) -> int:
    """``value`` rounded up to a page border."""
    return (value + PAGE_MASK) & ~PAGE_MASK


def page_count(size: int) -> int:
    """Pages that ``size`` bytes from a page border touch."""
    return (size + PAGE_MASK) >> PAGE_SHIFT


def is_page_aligned(*values: int) -> bool:
    """True when every value is a multiple of the page size."""
    return not any(value & PAGE_MASK for value in values)


def is_power_of_two(value: int) -> bool:
    """True for 1, 2, 4, 8, ..."""
    return value > 0 and value & (value - 1) == 0


def human_size(size: int) -> str:
    """``size`` bytes as a person says it: ``4 KiB``, ``64 MiB``, ``1.5 GiB``.

    For people; messages that carry addresses print hex beside it.
    """
    for name, unit in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size >= unit:
            return f"{size // unit} {name}" if size % unit == 0 else f"{size / unit:.1f} {name}"
    return "1 byte" if size == 1 else f"{size} bytes"
