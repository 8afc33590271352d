# A pinned memory token: the authority over one pin.
#
# Source: zx_pmt_unpin; Zircon's dispatcher for quarantine.
#
# States, and what holds in each:
#
#   PINNED        the device can reach the pages; the host holds them
#   QUARANTINED   the device is shut out where the bus isolates, and the pages are still held: the
#                 token was dropped, so nobody has said that the device is quiet
#   STUCK         the bus refused to revoke, or the anchor to let go: the device may still reach the
#                 pages, so they are still held; release_quarantine() tries again
#   RELEASED      nothing is granted, nothing is held
#
# There is no state in which the device reaches pages that the host does not hold. A failed revoke
# is why STUCK exists: see docs/adr/0001-failed-revoke.md.
from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from pinfold import sites
from pinfold.errors import BadHandle
from pinfold.memory.pinned import Anchor
from pinfold.objects.handle import Handle
from pinfold.objects.object import KernelObject, ObjectType
from pinfold.rights import Perm, Right

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from pinfold.bus import Extents, Grant
    from pinfold.memory.pinned import PinnedRange
    from pinfold.objects.initiator import BtiObject
    from pinfold.objects.memory_object import VmoObject

PMT_RIGHTS: Final = int(Right.INSPECT)


class PmtState(enum.Enum):
    """What is true of a pin; see the head of this file."""

    PINNED = "pinned"
    QUARANTINED = "quarantined"
    STUCK = "stuck"
    RELEASED = "released"


class AddrForm(enum.Enum):
    """How many device addresses a pin gives."""

    PER_PAGE = "per page"
    """One a page: ``size // PAGE_SIZE``."""
    COMPRESS = "compress"
    """One for every minimum contiguity: ``ceil(size / minimum_contiguity)``."""
    CONTIGUOUS = "contiguous"
    """One, of a contiguous object; of Magenta's pins, one of any range that is one run."""


@dataclass(frozen=True, slots=True)
class PmtStatistics:
    """A pin at one moment."""

    koid: int
    state: PmtState
    offset: int
    """Bytes into the memory object."""
    size: int
    perms: Perm
    form: AddrForm
    extents: int
    """Runs of device addresses."""
    anchor: Anchor
    """What holds the pages, beside pinfold's own counts."""
    pinned_at: str
    """Where in the caller's code."""
    pinned_ns: int
    """`time.monotonic_ns()` at that moment."""


class PmtObject(KernelObject):
    """One pin: a pinned range, and the grant over it."""

    __slots__ = ("bti", "form", "grant", "granted", "keep", "leaving", "pinned", "state", "vmo")

    object_type = ObjectType.PMT
    keep: object
    """What has to stay for as long as this is in anybody's books; unset for most."""

    def __init__(
        self, bti: BtiObject, vmo: VmoObject, pinned: PinnedRange, grant: Grant, form: AddrForm
    ) -> None:
        # KernelObject's, written out: this is on the path of every pin.
        kernel = bti.kernel
        self.kernel = kernel
        self.name = ""
        self.handle_count = 0
        self.koid = kernel.next_koid()
        self.bti = bti
        self.vmo = vmo
        self.pinned = pinned
        self.grant = grant
        self.form = form
        self.state = PmtState.PINNED
        self.granted = True
        """False once the bus has confirmed that the device is shut out."""
        self.leaving: object = None
        """The mark of whoever unpins it; None while nobody does."""

    def on_zero_handles(self) -> None:
        """The last handle went away. Unless it was unpinned: quarantine."""
        if self.state is PmtState.PINNED and not self.leaving:
            # First of all, and with no call that could fail: this is where a release finds it.
            self.state = PmtState.QUARANTINED
            self.bti.quarantined[self.koid] = self
            self.bti.quarantine(self)

    def settle(self) -> None:
        """What was put off: shut the device out of a quarantined pin."""
        self.bti.revoke_quarantined(self)

    @property
    def step(self) -> int:
        """Bytes from one address of the pin's form to the next."""
        if self.form is AddrForm.PER_PAGE:
            return self.bti.limits.page_size
        if self.form is AddrForm.COMPRESS:
            return self.bti.limits.minimum_contiguity
        return self.pinned.size


E = TypeVar("E", covariant=True)


class Holder(Protocol[E]):
    """Who is to have the token of a pin: a process in its table, or a device in its list."""

    def add(self, target: PmtObject, rights: int, /) -> E:
        """Take it, with the kernel's lock held. If this raises, the pin is undone."""


class Pmt(Handle[PmtObject]):
    """A handle to a pin. As a context manager it unpins at the end of the block.

    Dropped or closed without `unpin`, the pin goes to its Bti's quarantine. There is never a second
    handle to a pin.
    """

    __slots__ = ("_addrs",)

    _addrs: NDArray[np.uint64] | None

    @property
    def addrs(self) -> NDArray[np.uint64]:
        """The device addresses, ``uint64``, ascending by offset, as many as the form says.

        The same read-only array each time. The addresses are good until `unpin`.

        Raises:
          BadHandle: the handle is closed.
        """
        found = getattr(self, "_addrs", None)
        target = self.object
        if found is None:
            found = target.grant.extents.addresses(target.step)
            found.flags.writeable = False
            self._addrs = found
        return found

    @property
    def extents(self) -> Extents:
        """The runs of device addresses, ascending by offset."""
        return self.object.grant.extents

    @property
    def size(self) -> int:
        """Bytes that are pinned."""
        return self.object.pinned.size

    @property
    def state(self) -> PmtState:
        """What is true of the pin."""
        return self.object.state

    def unpin(self) -> None:
        """Shut the device out, then let the pages go. The handle is closed, whatever happens.

        Raises:
          BadHandle: the handle is closed; nothing was done.
          HostError, or what the bus raises: the bus refused to revoke, or the anchor to let go. The
            pin is in the Bti's quarantine then, its pages still held. Or the pin is gone, and it
            was the last hold of its memory, which could not be closed.

        Source: zx_pmt_unpin.
        """
        target = self._entry.object
        if target is None:
            raise BadHandle("this Pmt is closed")
        assert isinstance(target, PmtObject)  # noqa: S101 - narrows a type; never a caller's error
        target.bti.unpin(target, self._entry)

    def statistics(self) -> PmtStatistics:
        """The pin as a frozen record."""
        target = self.object
        pinned = target.pinned
        return PmtStatistics(
            koid=target.koid,
            state=target.state,
            offset=pinned.offset,
            size=pinned.size,
            perms=Perm(target.grant.perms),
            form=target.form,
            extents=len(target.grant.extents),
            anchor=pinned.anchor,
            pinned_at=sites.describe(pinned.site),
            pinned_ns=pinned.when,
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.closed:
            self.unpin()
