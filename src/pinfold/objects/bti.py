# Bti: one device's authority to reach host memory.
#
# Source: zx_bti_create, zx_bti_pin, zx_pmt_unpin, zx_bti_release_quarantine; Zircon's dispatcher
# for what the pages leave out.
#
# Two orders carry the safety of this file:
#
#   pin    the host pins the pages, THEN the bus grants them
#   unpin  the bus revokes them, THEN the host unpins
#
# Swapped, a device can write to a page the host has given to someone else. A Pmt dropped without
# unpin() is revoked but stays pinned ("quarantined") until release_quarantine(): we cannot know
# that the device has gone quiet.
#
# Undoing a pin stops at the first step that fails: an ExitStack would run the steps beneath a
# failed revoke and unpin memory that the device still reaches.
#
# Locks: the kernel's, then the bus's. Committing and locking pages happens without either.
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pinfold import sites
from pinfold.errors import AccessDenied, BadState, InvalidArgs, OutOfRange, Unavailable
from pinfold.memory.locks import log
from pinfold.memory.pinned import Anchor, PinnedRange
from pinfold.objects.handle import Handle
from pinfold.objects.kernel import Leak
from pinfold.objects.object import KernelObject, ObjectType
from pinfold.objects.pmt import PMT_RIGHTS, AddrForm, Pmt, PmtObject, PmtState
from pinfold.rights import ALL_PERMS, RIGHTS_FOR_PERMS, Right
from pinfold.units import PAGE_MASK, UINT64_MAX

if TYPE_CHECKING:
    from pinfold.bus import BusLimits, BusMaster, DeviceSpace
    from pinfold.objects.handle import HandleEntry
    from pinfold.objects.iommu import Iommu, IommuObject
    from pinfold.objects.process import Process
    from pinfold.objects.vmo import Vmo, VmoObject
    from pinfold.rights import Perm

BTI_RIGHTS: Final = int(
    Right.TRANSFER | Right.DUPLICATE | Right.INSPECT | Right.IO | Right.PROPERTY | Right.MAP
)
_MAP: Final = int(Right.MAP)
_WRITE: Final = int(Right.WRITE)


@dataclass(frozen=True, slots=True)
class BtiStatistics:
    """A device's authority at one moment."""

    koid: int
    name: str
    initiator: int
    address_bits: int
    pins: int
    """Live tokens, quarantined ones included."""
    quarantined: int
    pinned_bytes: int
    """Bytes over all its pins; a page pinned twice counts twice."""
    anchor: Anchor


class BtiObject(KernelObject):
    """What every handle to a device's authority shares."""

    __slots__ = ("iommu", "limits", "owner", "pins", "quarantined", "space")

    object_type = ObjectType.BTI

    def __init__(self, iommu: IommuObject, space: DeviceSpace, name: str) -> None:
        super().__init__(iommu.kernel, name)
        self.iommu = iommu
        self.limits: BusLimits = iommu.bus.limits
        self.space = space
        self.pins: dict[int, PmtObject] = {}
        """Every token that still holds pages, by koid."""
        self.quarantined: dict[int, PmtObject] = {}
        """Those of them that are QUARANTINED or STUCK."""
        self.owner = f"bti {space.initiator:#x}" + (f" ({name})" if name else "")

    # Pin ----------------------------------------------------------------------------------------

    def refuse_if_unusable(self) -> None:
        """Raise `BadState` when no pin may be made. Called with the kernel's lock held."""
        if self.quarantined:
            raise BadState(
                f"{self.owner} has pins in quarantine",
                holder=f"{len(self.quarantined)} quarantined token(s)",
                remedy="stop the device, then release_quarantine()",
            )
        if not self.handle_count:
            raise BadState(f"{self.owner} was closed meanwhile")

    def grant(
        self, process: Process, vmo: VmoObject, pinned: PinnedRange, perms: int, form: AddrForm
    ) -> HandleEntry:
        """The second half of a pin: the pages are held, now the bus may grant them.

        Called with the kernel's lock held. If it raises, nothing is granted and the pages have been
        let go, or the device may reach them and they are held.
        """
        try:
            self.refuse_if_unusable()
            grant = self.space.grant(pinned, perms)
        except Exception:
            let_go(pinned, vmo)
            raise
        except BaseException:  # a Ctrl-C may have come after the bus had granted: hold the pages
            self._leak(pinned)
            raise
        token = PmtObject(self, vmo, pinned, grant, form)
        self.pins[token.koid] = token
        try:
            return process.add(token, PMT_RIGHTS)
        except BaseException:
            self.withdraw(token)
            raise

    # Unpin --------------------------------------------------------------------------------------

    def unpin(self, token: PmtObject, entry: HandleEntry | None = None) -> None:
        """Take the device's access back, then let the pages go; close ``entry`` with it.

        Whatever raises, the pages are held until both steps are done: the token is STUCK then.
        """
        lock = self.kernel.lock
        with lock:
            if token.leaving or token.state is PmtState.RELEASED:
                raise BadState(f"{token} is being unpinned by somebody else")
            token.leaving = True
            if entry is not None:
                entry.close_locked()
            if token.pinned.anchor is Anchor.NONE:
                self.withdraw(token)
                return
            self._revoke(token)
        try:
            token.pinned.loosen()
        except BaseException:
            with lock:
                self._stick(token)
            raise
        with lock:
            self._finish(token)

    def withdraw(self, token: PmtObject) -> None:
        """Revoke, loosen, finish, in that order. Called with the kernel's lock held."""
        token.leaving = True
        self._revoke(token)
        try:
            token.pinned.loosen()
        except BaseException:
            self._stick(token)
            raise
        self._finish(token)

    def _revoke(self, token: PmtObject) -> None:
        if token.granted:
            try:
                self.space.revoke(token.grant)
            except BaseException:
                self._stick(token)
                raise
            token.granted = False

    def _stick(self, token: PmtObject) -> None:
        """It could not be unpinned: it keeps its pages, where release_quarantine() finds it."""
        token.leaving = False
        token.state = PmtState.STUCK
        self.quarantined[token.koid] = token

    def _finish(self, token: PmtObject) -> None:
        """The device is shut out and the anchor has let go: books only from here on."""
        token.pinned.drop()
        token.state = PmtState.RELEASED
        del self.pins[token.koid]
        if self.quarantined:
            self.quarantined.pop(token.koid, None)
        self.kernel.forget(token)
        vmo = token.vmo
        if not vmo.handle_count:
            vmo.release_if_idle()
        if not self.handle_count:
            self.leave_if_idle()

    # Quarantine ---------------------------------------------------------------------------------

    def quarantine(self, token: PmtObject) -> None:
        """A token's last handle went away without unpin. Called with the kernel's lock held."""
        token.state = PmtState.QUARANTINED
        self.quarantined[token.koid] = token
        pinned = token.pinned
        log.warning(
            "%s: a pin of %s [%#x, %#x) was dropped without unpin and is in quarantine; "
            "it was made at %s",
            self.owner,
            pinned.what,
            pinned.offset,
            pinned.offset + pinned.size,
            sites.describe(pinned.site),
        )
        self.revoke_quarantined(token)
        if not self.handle_count:
            self._leak(token.pinned)

    def revoke_quarantined(self, token: PmtObject) -> None:
        """Shut the device out of a quarantined pin; the pages stay held."""
        if not token.granted or token.koid not in self.quarantined:
            return
        try:
            self.space.revoke(token.grant)
        except Unavailable:  # a finaliser, inside an access of its own thread
            self.kernel.lock.later(token)
            self.space.notify_idle(self.kernel.lock.settle)
        except (
            Exception
        ):  # nobody to raise to; the pages are held, and the next release tries again
            token.state = PmtState.STUCK
            log.exception("%s: a quarantined pin could not be revoked", self.owner)
        else:
            token.granted = False

    def _leak(self, pinned: PinnedRange) -> None:
        """Put on record that nobody can release these pages any more."""
        leak = Leak(
            self.owner, pinned.what, pinned.offset, pinned.size, sites.describe(pinned.site)
        )
        self.kernel.leaks.append(leak)
        log.warning("no handle can release this any more: %s", leak)

    # The end ------------------------------------------------------------------------------------

    def on_zero_handles(self) -> None:
        """No more pins can be made. Live tokens can still be unpinned; quarantined ones leak.

        Source: Zircon, a BTI that is closed with quarantined tokens leaks them for ever.
        """
        for token in self.quarantined.values():
            self._leak(token.pinned)
        self.leave_if_idle()

    def leave_if_idle(self) -> None:
        """Leave the bus once there is neither a handle nor a token."""
        if not self.handle_count and not self.pins:
            self.kernel.forget(self)
            self.space.close()
            self.iommu.leave()


class Bti(Handle[BtiObject]):
    """A handle to one device's authority to reach host memory. `Iommu.initiator` makes one.

    Closed while pins are live, the pins stay: each can still be unpinned. Closed while pins are in
    quarantine, those are leaked, listed in ``Kernel.leaks``.
    """

    __slots__ = ()

    def __init__(
        self, iommu: Iommu, number: int, *, address_bits: int = 64, name: str = ""
    ) -> None:
        if not 0 <= number <= UINT64_MAX:
            raise InvalidArgs("an initiator is an unsigned 64-bit number", asked=number)
        if not 1 <= address_bits <= 64:
            raise InvalidArgs("a device has 1 to 64 address bits", asked=address_bits, limit=64)
        kernel = iommu.kernel
        with kernel.lock:
            owner = iommu._require(0)
            space = owner.bus.attach(number, address_bits=address_bits)
            try:
                target = BtiObject(owner, space, name)
                entry = iommu._entry.process.add(target, BTI_RIGHTS)
            except BaseException:
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
        own = self._entry
        kernel = own.process.kernel
        with kernel.lock:
            bti = self._require(_MAP)
            source = vmo.object
            if size is None:
                size = source.size - offset
            if (offset | size) & PAGE_MASK or offset < 0 or size < 0:
                raise _misaligned(offset, size)
            bits = int(perms)
            granted = vmo._entry.rights
            missing = (_MAP | RIGHTS_FOR_PERMS[bits & ALL_PERMS]) & ~granted
            if missing:
                raise AccessDenied(
                    f"the handle to {source} that is to be pinned",
                    missing=missing,
                    remedy="pin through a handle with that right, or for less",
                )
            if form is AddrForm.CONTIGUOUS:
                _refuse_scattered(source)
            if bits & ~ALL_PERMS:
                raise InvalidArgs("a permission that does not exist", asked=bits, limit=ALL_PERMS)
            if not size:
                raise InvalidArgs("a pin of no pages", asked=0)
            if offset + size > source.size:
                raise OutOfRange(
                    f"the range leaves {source}", asked=offset + size, limit=source.size
                )
            pinned = PinnedRange(
                source.pages,
                offset,
                size,
                owner=bti.owner,
                what=source.label,
                site=sites.caller(),
                ledger=kernel.ledger,
                anchor=bti.limits.anchor,
            )
            try:
                bti.refuse_if_unusable()
                if not bits:
                    raise InvalidArgs("a pin that permits nothing", remedy="name a Perm")
                filled = pinned.fill_from_books()
            except BaseException:
                let_go(pinned, source)
                raise
            if filled:
                return Pmt.wrap(bti.grant(own.process, source, pinned, bits, form))
        try:
            pinned.fill()
        except BaseException:
            pinned.loosen()
            with kernel.lock:
                let_go(pinned, source)
            raise
        with kernel.lock:
            return Pmt.wrap(bti.grant(own.process, source, pinned, bits, form))

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
            tokens = [token for token in bti.quarantined.values() if not token.leaving]
        first: Exception | None = None
        for token in tokens:
            try:
                bti.unpin(token)
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
                pins=len(bti.pins),
                quarantined=len(bti.quarantined),
                pinned_bytes=sum(token.pinned.size for token in bti.pins.values()),
                anchor=bti.limits.anchor,
            )


def let_go(pinned: PinnedRange, source: VmoObject) -> None:
    """Undo a pin that was never granted. Called with the kernel's lock held.

    If the anchor refuses to let go, the pages stay held, and this raises.
    """
    pinned.loosen()
    pinned.drop()
    source.release_if_idle()


def _misaligned(offset: int, size: int) -> InvalidArgs:
    return InvalidArgs(
        f"a pin covers whole pages, not {size:#x} bytes at {offset:#x}",
        limit=PAGE_MASK + 1,
        remedy="align the offset and the size to pages",
    )


def _refuse_scattered(source: VmoObject) -> None:
    if not source.contiguous:
        raise InvalidArgs(
            f"{source} is not contiguous",
            remedy="make it with Vmo.contiguous, or pin it in another form",
        )
