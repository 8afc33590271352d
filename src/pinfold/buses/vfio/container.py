# What maps pinned memory for one device: VFIO's own container, or an iommufd.
#
# The vfio bus places grants and owns the device; this is all it asks of whoever tells the kernel.
from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pinfold.bus import Anchor, PinnedRange
    from pinfold.units import ByteRange


class Container(Protocol):
    """An open device's I/O address space. Calls of several threads at once are possible.

    After `close`, everything but `close` raises `BadState`; after `abandon`, everything but `close`
    raises `WrongProcess`, and `close` does nothing.
    """

    name: str
    """``type1`` or ``iommufd``."""
    anchor: Anchor
    """What holds the pages of a mapping."""

    def open_device(self) -> int:
        """The device's descriptor, for requests on the device; whoever asks closes it.

        Raises HostError: the kernel refused.
        """

    def ranges(self) -> tuple[ByteRange, ...]:
        """Where mappings can lie, ascending."""

    def page_sizes(self) -> tuple[int, ...]:
        """Bytes in each kind of page that the IOMMU has, ascending."""

    def limit(self) -> int | None:
        """Mappings at once at most; None where it is not known."""

    def map(self, pinned: PinnedRange, iova: int, perms: int) -> None:
        """Pin the pages and let the device reach them at ``iova``. All or nothing.

        Raises:
          NotSupported: it is to permit EXECUTE, which no IOMMU under VFIO tells from READ.
          LimitReached: RLIMIT_MEMLOCK, or the number of mappings, is spent.
          NoMemory: the host has none left.
          AlreadyExists: something is mapped there.
          Unavailable: not now; the same call may succeed later.
          HostError: the kernel refused for another reason.

        What a signal handler raises meanwhile is raised as it is, and the mapping may be there.
        """

    def unmap(self, iova: int, size: int, *, again: bool = False) -> None:
        """Undo one `map`, whole. On return the device is shut out and the pins are gone.

        Args:
          again: it was tried before and did not return, so it is no error if nothing is mapped.

        Raises HostError, or BadState where the kernel unmapped another number of bytes: assume that
        the device still reaches it.
        """

    def close(self) -> None:
        """Close what is open. The device's own descriptor is closed before. Twice is once."""

    def abandon(self) -> None:
        """In a forked child: close the child's copies, and unmap nothing."""
