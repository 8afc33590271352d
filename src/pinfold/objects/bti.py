# Bti: a handle to one device's authority to reach host memory.
#
# Source: zx_bti_create, zx_bti_pin, zx_pmt_unpin, zx_bti_release_quarantine; Zircon's dispatcher
# for what the pages leave out.
#
# Here are the checks, in Zircon's order, and the steps of a pin; what they do to the books and the
# bus, and in which order, is in initiator.py.
from __future__ import annotations

from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any, Final

from pinfold import sites
from pinfold.errors import AccessDenied, InvalidArgs, OutOfRange, WrongType
from pinfold.memory.hosterrors import noted
from pinfold.memory.pinned import Anchor, PinnedRange
from pinfold.objects.completing import completed, granted
from pinfold.objects.handle import Handle
from pinfold.objects.initiator import BtiObject
from pinfold.objects.memory_object import VmoObject, memory_of
from pinfold.objects.pmt import AddrForm, Pmt, PmtObject
from pinfold.rights import ALL_PERMS, RIGHTS_FOR_PERMS, Right
from pinfold.units import PAGE_MASK, PAGE_SIZE, UINT64_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.bus import Bus, BusLimits, BusMaster, DeviceSpace
    from pinfold.objects.iommu import Iommu
    from pinfold.objects.vmo import Vmo
    from pinfold.rights import Perm
    from pinfold.sites import Site

BTI_RIGHTS: Final = int(
    Right.TRANSFER | Right.DUPLICATE | Right.INSPECT | Right.IO | Right.PROPERTY | Right.MAP
)
MOST_ADDRESSES: Final = 64 * PAGE_SIZE // 8
"""Addresses that one zx_bti_pin may ask for. Source: Zircon, from 2021 on."""

_COMPRESS, _CONTIGUOUS = 0x8, 0x10  # among the options of zx_bti_pin
_OPTIONS: Final = ALL_PERMS | _COMPRESS | _CONTIGUOUS
_MAP: Final = int(Right.MAP)
_WRITE: Final = int(Right.WRITE)


@dataclass(frozen=True, slots=True)
class BtiStatistics:
    """A device's authority at one moment."""

    koid: int
    name: str
    initiator: int
    address_bits: int
    address_space: int
    """Bytes that the device can address on this bus; 2^64 - 1 stands for 2^64."""
    pins: int
    """Live tokens, quarantined ones included."""
    quarantined: int
    pinned_bytes: int
    """Bytes over all its pins; a page pinned twice counts twice."""
    anchor: Anchor


class Bti(Handle[BtiObject]):
    """A handle to one device's authority to reach host memory. `Iommu.initiator` makes one.

    Closed while pins are live, the pins stay: each can still be unpinned. Closed while pins are in
    quarantine, those are leaked, listed in ``Kernel.leaks``. Pins that Magenta's calls made have no
    token, and end with the last handle.
    """

    __slots__ = ()

    def __init__(
        self, iommu: Iommu, number: int, *, address_bits: int = 64, name: str = ""
    ) -> None:
        number, address_bits = index(number), index(address_bits)
        if not 0 <= number <= UINT64_MAX:
            raise InvalidArgs("an initiator is an unsigned 64-bit number", asked=number)
        if not 1 <= address_bits <= 64:
            raise InvalidArgs("a device has 1 to 64 address bits", asked=address_bits, limit=64)
        self._attach(iommu, lambda bus: bus.attach(number, address_bits=address_bits), name)

    def _attach(self, iommu: Iommu, attach: Callable[[Bus], DeviceSpace], name: str) -> None:
        """Become the authority of a device that ``attach`` puts on the bus."""
        with iommu.kernel.lock:
            owner = iommu._require(0)
            space = attach(owner.bus)
            try:
                target = BtiObject(owner, space, name)
                entry = iommu._entry.process.add(target, BTI_RIGHTS)
            except BaseException as error:
                # A real device may be working from the moment it was attached.
                with noted("stop the device", error):
                    space.quiesce()
                with noted("leave the bus", error):
                    space.close()
                raise
            owner.users += 1
            self._open(entry)

    def pin(
        self,
        vmo: Vmo,
        offset: int = 0,
        size: int | None = None,
        *,
        perms: Perm | int,
        form: AddrForm = AddrForm.PER_PAGE,
    ) -> Pmt:
        """Pin part of ``vmo`` and let this device reach it.

        Commits any absent page in the range. The memory lives for as long as it is pinned, whatever
        becomes of ``vmo``.

        Args:
          vmo: has MAP, and READ or WRITE as ``perms`` asks (EXECUTE asks for READ: it is the device
            that executes, not the host).
          offset, size: bytes; page-aligned; ``size`` > 0, to the end of ``vmo`` by default.
          perms: what the device may do; never empty.
          form: how many addresses come back: PER_PAGE ``size // PAGE_SIZE``; COMPRESS
            ``ceil(size / minimum_contiguity)``; CONTIGUOUS 1, of a contiguous object only.

        Returns:
          A `Pmt`. ``pmt.addrs`` has the addresses; they are good until ``pmt.unpin()``.

        Raises:
          BadHandle: this Bti or ``vmo`` is closed.
          AccessDenied: this Bti lacks MAP, or ``vmo`` MAP or what ``perms`` asks (``.missing``).
          InvalidArgs: unaligned; ``size`` 0; ``perms`` empty or with an unknown bit; CONTIGUOUS on
            an object that is not.
          OutOfRange: the range leaves the object (``.limit``).
          Unavailable: a page is pinned as often as a page can be; the same call may succeed later.
          BadState: this Bti has pins in quarantine.
          LimitReached: the pin limit, the anchor's limit or the bus's address space is spent
            (``.limit``, ``.holder``, ``.remedy``).
          OutOfReach: the device cannot put an address of the range on the bus (``.extent``).
          NoMemory, NoSpace, HostError: an absent page could not be committed.

        The order of the checks is Zircon's. After any error nothing is granted and nothing stays
        pinned; pages may be committed.

        Source: zx_bti_pin, DESCRIPTION and ERRORS; ``size`` 0 from the dispatcher.
        """
        bits = index(perms)
        if form is not AddrForm.PER_PAGE and not isinstance(form, AddrForm):
            raise WrongType(f"a form is an AddrForm, not a {type(form).__name__}")
        return self._pin(vmo, offset, size, bits, form, bits & ~ALL_PERMS, None, None)

    def pin_as(
        self,
        vmo: Handle[Any],
        offset: int,
        size: int,
        options: int,
        count: int,
        site: Site | None = None,
    ) -> Pmt:
        """`pin`, as Zircon's callers say it.

        Args:
          vmo: a handle of whatever kind: that it is one to a memory object is found out in its
            turn.
          options: the bits of `Perm`, and COMPRESS (0x8) or CONTIGUOUS (0x10).
          count: how many addresses the caller has room for: exactly as many as there are.
          site: where in the caller's code this is; a dialect knows how far out that is, and to look
            for it frame by frame would cost a tenth of the pin.

        Raises:
          As `pin`, each when Zircon finds it.
          InvalidArgs: ``count`` is more than any pin may have, which is found first, or not the
            number of addresses, which is found last. Nothing stays pinned.

        Source: zx_bti_pin.
        """
        options, form = index(options), AddrForm.PER_PAGE
        unknown = options & ~_OPTIONS
        if options & _COMPRESS:
            form = AddrForm.COMPRESS
            unknown |= options & _CONTIGUOUS
        elif options & _CONTIGUOUS:
            form = AddrForm.CONTIGUOUS
        return self._pin(vmo, offset, size, options & ALL_PERMS, form, unknown, count, site)

    def _pin(
        self,
        vmo: Any,
        offset: int,
        size: int | None,
        bits: int,
        form: AddrForm,
        unknown: int,
        count: int | None,
        site: Site | None,
    ) -> Pmt:
        own = self._entry
        kernel = own.process.kernel
        with kernel.lock:
            bti = self._require(_MAP)
            offset = index(offset)  # numpy's integers wrap; ours do not
            wanted = 0 if size is None else index(size)
            if (offset | wanted) & PAGE_MASK or offset < 0 or wanted < 0:
                raise _misaligned(offset, wanted)
            if count is not None and count > MOST_ADDRESSES:
                raise _too_many(count)
            found = vmo._entry.object if isinstance(vmo, Handle) else None
            if isinstance(found, VmoObject) and found.kernel is kernel:  # spares a call
                source = found
            else:
                source = memory_of(vmo, kernel)
            length = source.length
            end = source.pages.backing.size if length is None else length  # its size
            if size is None:
                wanted = max(end - offset, 0)
            rights = vmo._entry.rights
            missing = (_MAP | RIGHTS_FOR_PERMS[bits & ALL_PERMS]) & ~rights
            if missing:
                raise AccessDenied(
                    f"the handle to {source} that is to be pinned",
                    missing=missing,
                    remedy="pin through a handle with that right, or for less",
                )
            if form is not AddrForm.PER_PAGE:
                _check_form(form, source)
            if unknown:
                raise InvalidArgs(
                    "an option that does not exist, or does not go with the others",
                    asked=bits | unknown,
                    limit=_OPTIONS if count is not None else ALL_PERMS,
                    remedy="use the bits of Perm, and one form of addresses",
                )
            if not wanted and (size is not None or offset <= end):
                raise InvalidArgs("a pin of no pages", asked=0, remedy="pin at least one page")
            if offset + wanted > end:
                raise _leaves(source, offset + wanted)
            if source.discarded:
                source.refuse_if_discarded()
            pinned = PinnedRange(
                source.pages,
                offset,
                wanted,
                owner=bti.owner,
                what=source.label,
                site=site or sites.caller(3),
                ledger=kernel.ledger,
                anchor=bti.limits.anchor,
                base=source.base,
            )
            source.pins += 1
            if source.body.borrowed is not None:  # a clone of Magenta's: the device may write it
                source.body.own(pinned.start, pinned.start + wanted)
            try:
                filled = pinned.fill_from_books()
            except BaseException:
                bti.let_go(source, pinned)
                raise
            if filled:
                entry = granted(bti, own.process, source, pinned, bits, form, count)
                return Pmt.wrap(entry, pinned.site)
        entry = completed(bti, own.process, source, pinned, bits, form, count)
        return Pmt.wrap(entry, pinned.site)

    def release_quarantine(self) -> int:
        """Let go of every quarantined pin; how many there were. The device is quiet: you say so.

        Raises:
          AccessDenied: this handle lacks WRITE.
          HostError, or what the bus raises: one could not be released, and is still in quarantine;
            the others were.

        Source: zx_bti_release_quarantine.
        """
        with self._entry.process.kernel.lock:
            bti = self._require(_WRITE)
            mark = object()
            tokens = bti.mark_quarantined(mark)
        first: Exception | None = None
        for token in tokens:
            try:
                bti.unpin_marked(token, mark)
            except Exception as error:
                first = first or error
        if first is not None:
            raise first
        return len(tokens)

    def master(self) -> BusMaster:
        """A port for a software device that sits behind this authority.

        Raises:
          NotSupported: the devices of this bus are real.
        """
        return self.object.space.master()

    def device(self) -> Any:
        """The real device behind this authority: its registers, interrupts, reset.

        What it offers is its bus's to say, see docs/buses.md.

        Raises:
          NotSupported: the devices of this bus are programs; see `master`.
          BadHandle: this handle is closed.
        """
        return self.object.space.device()

    @property
    def limits(self) -> BusLimits:
        """What the bus promises."""
        return self.object.limits

    def pins(self) -> list[PmtObject]:
        """The tokens that hold pages, oldest first, those in quarantine included."""
        bti = self.object
        with bti.kernel.lock:
            return list(bti.pins.values())

    def statistics(self) -> BtiStatistics:
        """The authority as a frozen record."""
        bti = self.object
        with bti.kernel.lock:
            return BtiStatistics(
                koid=bti.koid,
                name=bti.name,
                initiator=bti.space.initiator,
                address_bits=bti.space.address_bits,
                address_space=bti.address_space,
                pins=len(bti.pins),
                quarantined=len(bti.quarantined),
                pinned_bytes=sum(token.pinned.size for token in bti.pins.values()),
                anchor=bti.limits.anchor,
            )


def _leaves(source: VmoObject, end: int) -> OutOfRange:
    return OutOfRange(
        f"the range leaves {source}",
        asked=end,
        limit=source.size,
        remedy="pin what lies in the object",
    )


def _misaligned(offset: int, size: int) -> InvalidArgs:
    return InvalidArgs(
        f"a pin covers whole pages, not {size:#x} bytes at {offset:#x}",
        asked=offset if offset < 0 or offset & PAGE_MASK else size,
        limit=PAGE_MASK + 1,
        remedy="align the offset and the size to pages",
    )


def _too_many(count: int) -> InvalidArgs:
    return InvalidArgs(
        "no pin has so many addresses",
        asked=count,
        limit=MOST_ADDRESSES,
        remedy="pin a part at a time, or ask for COMPRESS",
    )


def _check_form(form: AddrForm, source: VmoObject) -> None:
    if form is AddrForm.CONTIGUOUS and not source.contiguous:
        raise InvalidArgs(
            f"{source} is not contiguous",
            remedy="make it with Vmo.contiguous, or pin it in another form",
        )
