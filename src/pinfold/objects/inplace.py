# pin(): keeping the memory behind any buffer in place, without a VMO.
#
# Source: AIX's pin and unpin: whole pages, counts that nest, all or nothing. The kernel's part is
# mlock(2) with the counts of memory/residency.py, so the pages stay resident; compaction may move
# them to other frames, which no program can see and no device reaches.
#
# Two books are kept of it, and neither can stand in for the other.
#
#   RESIDENCY          one per process, because a lock is a property of its address space
#   the ledger         one per kernel, because `max_pinned` is a promise about that kernel's pins
#
# What the ledger is charged is what no pin of the *same kernel* held before. Charging by what
# RESIDENCY found unlocked would look simpler and be wrong: of two kernels that pin one page the
# first would be charged, and whoever unpins last credited. The counts are those of the pages
# themselves (objects/addresses.py): what is pinned through a view or a mapping of a memory object
# is pinned for the object, and is neither decommitted nor cut off; a page that a device's pin holds
# as well is charged once.
#
# Orders that carry safety, as in memory/pinned.py: books, then the kernel's lock on the pages; and
# the pages go before the books, the buffer last of all. An object that gave its memory back while
# the pages are still locked would leave the lock to whoever gets the addresses next.
#
# No device is involved, so a buffer dropped without unpin() is unlocked, with a ResourceWarning;
# there is nobody whose quiet would have to be waited for.
#
# Locks: the kernel's for the books, then let go; then RESIDENCY's own. Never one inside the other.
from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Self

from pinfold import sites
from pinfold.errors import BadHandle, InvalidArgs, PinfoldError, WrongType
from pinfold.memory.hosterrors import each_tried
from pinfold.memory.pinned import Anchor
from pinfold.memory.residency import RESIDENCY, address_of
from pinfold.objects.addresses import HeldByAddress, pages_of, stretches
from pinfold.objects.process import current_process
from pinfold.units import ByteRange, HostVa, human_size

if TYPE_CHECKING:
    from types import TracebackType

    from pinfold.objects.kernel import Kernel


@dataclass(frozen=True, slots=True)
class PinnedBufferStatistics:
    """A buffer pinned in place, at one moment."""

    address: HostVa
    """Where the first byte is."""
    size: int
    """Bytes of the buffer."""
    pages: ByteRange
    """Addresses of the whole pages that are held."""
    anchor: Anchor
    """What holds them: always `Anchor.MLOCK`, resident but not in place on a device's view."""
    owner: str
    """Who answers for it: the process object that was current."""
    pinned_at: str
    """Where in the caller's code."""
    pinned_ns: int
    """`time.monotonic_ns()` at that moment."""


class _Pin(HeldByAddress):
    """One pin in place: the ledger's record, and what is to be undone. Knows no `PinnedBuffer`."""

    __slots__ = (
        "address", "kernel", "length", "live", "owner", "site", "view", "what", "when",
    )  # fmt: skip

    def __init__(self, kernel: Kernel, view: memoryview, owner: str, what: str) -> None:
        self.kernel = kernel
        self.view = view
        self.address = address_of(view)
        self.length = view.nbytes
        self.owner = owner
        self.what = what
        self.site = sites.caller()
        self.when = monotonic_ns()
        self.held = []
        self.live = True
        """False from the moment somebody ends it; flips once, under the kernel's lock."""

    @property
    def pages(self) -> ByteRange:
        """The whole pages that the buffer touches."""
        return pages_of(self.address, self.length)

    @property
    def offset(self) -> int:
        """For the ledger: where the pages begin, an address of this process."""
        return self.pages.start

    @property
    def size(self) -> int:
        """For the ledger: bytes held."""
        return self.pages.size

    def charge(self) -> None:
        """Enter the pin into the kernel's books. Called with the kernel's lock held.

        Raises:
          LimitReached: `max_pinned` would be passed; nothing was entered.
        """
        found = stretches(self.kernel, *self.pages)
        fresh = sum(stretch.hold() for stretch in found)
        try:
            self.kernel.ledger.charge(self, fresh)
        except BaseException:
            for stretch in found:
                stretch.end_hold()
            raise
        self.held = found

    def settle(self) -> None:
        """Strike the pin out of the kernel's books. Called with the kernel's lock held."""
        found, self.held = self.held, []
        self.kernel.ledger.discharge(self, sum(stretch.end_hold() for stretch in found))
        each_tried(stretch.vmo.release_if_idle for stretch in found)


class PinnedBuffer:
    """The memory of a buffer, held in place until `unpin`. Made by `pin`.

    As a context manager it unpins at the end of the block. Dropped without, it warns and unpins.

    Until then the buffer stays exported: a bytearray cannot be resized, an mmap cannot be closed.
    """

    __slots__ = ("__weakref__", "_pin")

    def __init__(self, pin: _Pin) -> None:
        self._pin = pin

    @property
    def pinned(self) -> bool:
        """True until it is unpinned."""
        return self._pin.live

    @property
    def address(self) -> HostVa:
        """Where the first byte of the buffer is, in this process.

        Raises:
          BadHandle: it is not pinned any more.
        """
        return self._live().address

    @property
    def size(self) -> int:
        """Bytes of the buffer."""
        return self._pin.length

    @property
    def pages(self) -> ByteRange:
        """The addresses of the whole pages that are held; the buffer's first and last included.

        Raises:
          BadHandle: it is not pinned any more.
        """
        return self._live().pages

    def unpin(self) -> None:
        """Let the pages go, those excepted that another pin holds. Once.

        Raises:
          BadHandle: it was unpinned before; nothing was done.
          WrongProcess: this process was forked from the one that pinned it.
          HostError: the kernel refused; it is still pinned, and may be tried again.

        Source: AIX unpin; that a second one is an error, from zx_pmt_unpin.
        """
        pin = self._pin
        with pin.kernel.lock:
            self._live()
            pin.live = False
        try:
            RESIDENCY.unlock(pin.address, pin.length)
        except PinfoldError:  # no count has changed. After anything else, nobody knows: not twice
            pin.live = True
            raise
        with pin.kernel.lock:
            pin.settle()
        pin.view.release()

    def statistics(self) -> PinnedBufferStatistics:
        """The pin as a frozen record.

        Raises:
          BadHandle: it is not pinned any more.
        """
        pin = self._live()
        return PinnedBufferStatistics(
            address=pin.address,
            size=pin.length,
            pages=pin.pages,
            anchor=Anchor.MLOCK,
            owner=pin.owner,
            pinned_at=sites.describe(pin.site),
            pinned_ns=pin.when,
        )

    def _live(self) -> _Pin:
        if not self._pin.live:
            raise BadHandle("this buffer is not pinned any more")
        return self._pin

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.pinned:
            self.unpin()

    def __repr__(self) -> str:
        pin = self._pin
        state = f"pinned {pin.pages}" if pin.live else "unpinned"
        return f"<PinnedBuffer {pin.what} {state}>"

    def __del__(self) -> None:
        pin = getattr(self, "_pin", None)
        if pin is None or not pin.live or sys.is_finalizing():
            return
        if pin.kernel.lost:  # a forked child: the lock is the parent's, and was not inherited
            return
        pin.live = False
        try:
            warnings.warn(
                f"{pin.what} was dropped while pinned, at {sites.describe(pin.site)}",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
        finally:  # where warnings are errors, it raises
            # Two pieces of work for two locks, so that neither is taken inside the other. Either
            # may come first: the books of both are right on their own.
            RESIDENCY.drop(pin.address, pin.length, pin.view)
            pin.kernel.lock.post(pin)


def pin(buffer: object) -> PinnedBuffer:
    """Keep the pages behind ``buffer`` in memory until the result is unpinned.

    ``with pinfold.pin(array) as held: ...`` Every page the buffer touches is held whole, all of
    them or none. Pins nest: a page is let go when the last pin that touches it ends. The content is
    not touched, and nothing is copied.

    A locked page stays in memory; it may move to another frame, and `fork` followed by a write
    moves it. For a device, pin a `Vmo` with a `Bti`. Pages of a mapping of device registers are
    not locked by Linux, and one private mapping can fool a lock: without write permission and never
    written to, it holds only the shared page of zeros.

    Args:
      buffer: anything with the buffer protocol, read-only included: bytes, bytearray, memoryview,
        array.array, mmap, a numpy array, a ctypes object. In one piece, of at least one byte.

    Raises:
      WrongType: it has no buffer.
      InvalidArgs: it is empty, in several pieces, or will not lend its memory; or it is mapped by
        another kernel than the current process's.
      LimitReached: the current kernel's `max_pinned`, RLIMIT_MEMLOCK or the map count would be
        passed (``.limit``).
      NotFound, NoMemory, HostError: part of it is unmapped, or cannot be had; see `Residency.lock`.

    After a failure nothing new is locked, and no count has changed.

    Source: AIX pin: whole pages, counts, all of the range or none, EINVAL for a length of 0.
    """
    view = _borrow(buffer)
    try:
        process = current_process()
        kernel = process.kernel
        name = type(buffer).__name__
        held = _Pin(kernel, view, str(process), f"{name} of {human_size(view.nbytes)}")
        with kernel.lock:
            held.charge()
        try:
            RESIDENCY.lock(held.address, held.length)
        except BaseException:
            with kernel.lock:
                held.settle()
            raise
    except BaseException:
        view.release()
        raise
    return PinnedBuffer(held)


def _borrow(buffer: object) -> memoryview:
    """A view of the buffer, which keeps it from moving, shrinking or closing."""
    lender: Any = buffer
    try:
        view = memoryview(lender)
    except TypeError as error:
        raise WrongType(
            f"a {type(buffer).__name__} has no memory to pin",
            remedy="pass an object with the buffer protocol",
        ) from error
    except (BufferError, ValueError) as error:  # closed, released, or a format that it cannot tell
        raise InvalidArgs(
            f"this {type(buffer).__name__} does not lend its memory: {error}",
            remedy="open it, or pass a view of its bytes",
        ) from error
    if view.nbytes and view.contiguous:
        return view
    refusal = InvalidArgs(
        f"this {type(buffer).__name__} is not in one piece",
        remedy="pin a contiguous copy, or each piece by itself",
    )
    if not view.nbytes:
        refusal = InvalidArgs(f"this {type(buffer).__name__} is empty", asked=0)
    view.release()
    raise refusal
