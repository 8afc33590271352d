# One device's authority, as all handles to it share it.
#
# Source: zx_bti_pin, zx_pmt_unpin, zx_bti_release_quarantine; Zircon's dispatcher for what the
# pages leave out.
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
# A pin of Magenta's has no handle: it is listed (listed_pins.py), and ends with its Bti's last one.
#
# Undoing a pin stops at the first step that fails: an ExitStack would run the steps beneath a
# failed revoke and unpin memory that the device still reaches.
#
# Locks: the kernel's, then the bus's. Committing and locking pages happens without either.
from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pinfold import sites
from pinfold.errors import BadHandle, BadState, Unavailable
from pinfold.memory.locks import log
from pinfold.memory.pinned import Anchor
from pinfold.objects.listed_pins import ListedPins
from pinfold.objects.object import KernelObject, ObjectType
from pinfold.objects.pmt import PmtObject, PmtState
from pinfold.units import UINT64_MAX

if TYPE_CHECKING:
    from pinfold.bus import BusLimits, DeviceSpace, PinnedRange
    from pinfold.objects.handle import HandleEntry
    from pinfold.objects.iommu import IommuObject
    from pinfold.objects.memory_object import VmoObject


class BtiObject(KernelObject):
    """What every handle to a device's authority shares."""

    __slots__ = (
        "granting",
        "iommu",
        "left",
        "limits",
        "listed",
        "owner",
        "pins",
        "quarantined",
        "space",
        "stopped",
    )

    object_type = ObjectType.BTI
    has_name = True

    def __init__(self, iommu: IommuObject, space: DeviceSpace, name: str) -> None:
        super().__init__(iommu.kernel, name)
        self.iommu = iommu
        self.limits: BusLimits = iommu.bus.limits
        self.space = space
        self.left = False
        """True once it has left the bus."""
        self.stopped = False
        """True once the bus was told that nobody has the device any more."""
        self.granting = 0
        """Pins that the bus is granting, without the kernel's lock."""
        self.pins: dict[int, PmtObject] = {}
        """Every token that still holds pages, by koid."""
        self.quarantined: dict[int, PmtObject] = {}
        """Those of them that are QUARANTINED or STUCK."""
        self.listed = ListedPins()
        """Those of them that have no handle, and are found by their addresses."""
        self.owner = ""
        """Who answers for its pins, for people."""
        self.renamed()

    @property
    def address_space(self) -> int:
        """Bytes that the device can address; 2^64 - 1 stands for 2^64. Source: zx_info_bti_t."""
        top: int = self.limits.apertures[-1].stop
        return min(top, 1 << self.space.address_bits, UINT64_MAX)

    def renamed(self) -> None:
        """Pins made from now on answer to the new name."""
        self.owner = f"bti {self.space.initiator:#x}" + (f" ({self.name})" if self.name else "")

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

    def let_go(self, vmo: VmoObject, pinned: PinnedRange) -> None:
        """Undo a pin that was never granted. Called with the kernel's lock held.

        If the anchor does not let go, the pages stay held for good, on record in ``Kernel.leaks``.
        """
        try:
            pinned.loosen()
        except BaseException:
            self.kernel.leak(self.owner, pinned)
            raise
        pinned.drop()
        vmo.pins -= 1
        vmo.release_if_idle()

    # Unpin --------------------------------------------------------------------------------------

    def unpin(self, token: PmtObject, entry: HandleEntry) -> None:
        """Take the device's access back, then let the pages go; ``entry`` is closed with it.

        Raises:
          BadHandle: the handle was closed or replaced meanwhile; nothing was done.
          What the bus or the anchor raises: the pages are held, and the token is STUCK.
        """
        mark = object()
        try:
            with self.kernel.lock:
                if entry.object is not token or token.leaving:
                    raise BadHandle("this Pmt was closed meanwhile")
                token.leaving = mark
                entry.close_locked()
                if token.pinned.anchor is Anchor.NONE:
                    self.withdraw(token)
                    return
        except BaseException:
            # Whatever broke it off, a RecursionError or what the end of the lock had to tell: a
            # token that still holds its pages is where release_quarantine() finds it. No call here.
            if token.leaving is mark and token.koid in self.pins:
                if entry.value not in entry.process.handles:  # else nothing happened yet
                    token.state = PmtState.STUCK
                    self.quarantined[token.koid] = token
                token.leaving = None
            raise
        self.unpin_marked(token, mark)

    def unpin_listed(self, addresses: bytes) -> None:
        """End the oldest listed pin that gave exactly these addresses.

        Raises:
          BadState: the last handle was closed meanwhile, which ends them all.
          InvalidArgs: there is none that nobody else is ending.
          What the bus or the anchor raises: the pages are held. The same call tries again.

        Source: mx_bti_unpin.
        """
        with self.kernel.lock:
            if not self.handle_count:
                raise BadState(f"{self.owner} was closed meanwhile")
            token = self.listed.oldest(addresses)
            token.leaving = mark = object()
        self.unpin_marked(token, mark)

    def unpin_marked(self, token: PmtObject, mark: object) -> None:
        """The rest of an unpin whose token is marked as leaving: the anchor may take its time.

        Args:
          mark: the caller's. Whoever has it in the token, and nobody else, ends that.
        """
        try:
            try:
                if token.pinned.anchor.in_place:  # the host's work: see completing.py
                    with self.kernel.lock.inside():
                        self._end_access(token)
                else:
                    with self.kernel.lock:
                        self._end_access(token)
                token.pinned.loosen()
            except BaseException:
                with self.kernel.lock:
                    self._stick(token)
                raise
            with self.kernel.lock:
                self._finish(token)
        except BaseException:  # as in `unpin`
            if token.leaving is mark and token.koid in self.pins:
                token.state = PmtState.STUCK
                self.quarantined[token.koid] = token
                token.leaving = None
            raise

    def withdraw(self, token: PmtObject) -> None:
        """Revoke, loosen, finish, in one holding of the kernel's lock, which the caller has."""
        token.leaving = token.leaving or True
        try:
            self._end_access(token)
            token.pinned.loosen()
        except BaseException:
            self._stick(token)
            raise
        self._finish(token)

    def _end_access(self, token: PmtObject) -> None:
        if token.granted:
            self.space.revoke(token.grant)
            token.granted = False

    def _stick(self, token: PmtObject) -> None:
        """It could not be unpinned: it keeps its pages, where release_quarantine() finds it."""
        token.leaving = None
        token.state = PmtState.STUCK
        self.quarantined[token.koid] = token
        if not self.handle_count:
            self.kernel.leak(self.owner, token.pinned)

    def _finish(self, token: PmtObject) -> None:
        """The device is shut out and the anchor has let go: books only from here on.

        If giving the memory itself back fails, that is raised; the pin is gone all the same.
        """
        token.pinned.drop()
        token.state = PmtState.RELEASED
        del self.pins[token.koid]
        if self.quarantined:
            self.quarantined.pop(token.koid, None)
        if self.listed:
            self.listed.remove(token)
        self.kernel.forget(token)
        vmo = token.vmo
        vmo.pins -= 1
        try:
            if not vmo.handle_count:
                vmo.release_if_idle()
        finally:
            if not self.handle_count:
                self.leave_if_idle()

    def mark_quarantined(self, mark: object) -> list[PmtObject]:
        """The tokens that may be released, marked as leaving: nobody else releases them."""
        # Those, too, that were to go to quarantine and did not get there: a RecursionError may come
        # between the end of the last handle and that.
        tokens = [
            token
            for koid, token in self.pins.items()
            if not token.leaving
            and (koid in self.quarantined or not (token.handle_count or koid in self.listed))
        ]
        for token in tokens:
            token.leaving = mark
        return tokens

    # Quarantine ---------------------------------------------------------------------------------

    def quarantine(self, token: PmtObject) -> None:
        """A token's last handle went away without unpin: it has just been listed among the
        quarantined. Called with the kernel's lock held."""
        pinned = token.pinned
        self._warn(
            "%s: a pin of %s [%#x, %#x) was dropped without unpin and is in quarantine; "
            "it was made at %s",
            self.owner,
            pinned.what,
            pinned.offset,
            pinned.offset + pinned.size,
            sites.describe(pinned.site),
        )
        try:
            self.revoke_quarantined(token)
        except Unavailable:
            self.kernel.lock.later(token)
        if not self.handle_count:
            self.kernel.leak(self.owner, token.pinned)

    def revoke_quarantined(self, token: PmtObject) -> None:
        """Shut the device out of a quarantined pin; the pages stay held.

        Not where revoking shuts nobody out and the grant is what holds the pages in place: the
        device may be writing to them yet. There the grant ends when the quarantine does.

        Raises:
          Unavailable: a finaliser inside an access of its own thread, whose end settles it.
        """
        if not token.granted or token.koid not in self.quarantined:
            return
        if token.pinned.anchor.in_place and not self.limits.isolates:
            return
        try:
            self.space.revoke(token.grant)
        except Unavailable:
            self.space.notify_idle(self.kernel.lock.settle)
            raise
        except Exception:  # nobody to raise to: the pages are held, and a release tries again
            token.state = PmtState.STUCK
            self._warn("%s: a quarantined pin could not be revoked", self.owner)
        else:
            token.granted = False

    def _warn(self, message: str, *facts: object) -> None:
        """Log it, once the kernel's lock is let go."""
        self.kernel.lock.tell(partial(log.warning, message, *facts))

    # The end ------------------------------------------------------------------------------------

    def on_zero_handles(self) -> None:
        """No more pins can be made. Listed ones end, tokens can be unpinned, quarantined ones leak.

        Source: Zircon, a BTI that is closed with quarantined tokens leaks them for ever; Magenta.
        """
        for token in self.quarantined.values():
            if not token.leaving and token.koid not in self.listed:  # somebody is releasing it
                self.kernel.leak(self.owner, token.pinned)
        try:
            self.settle()
        except Unavailable:
            self.kernel.lock.later(self)

    def _end_listed(self) -> None:
        """Unpin what is listed, and raise the first refusal: that pin is a leak on record.

        Raises:
          Unavailable: a finaliser inside an access of its own thread; the rest is done later.
        """
        failed: Exception | None = None
        for token in self.listed.tokens():
            if token.leaving:  # somebody is unpinning it
                continue
            if token.pinned.anchor.in_place and not self.limits.isolates:
                self.listed.remove(token)  # nobody is shut out: its device may be writing yet
                self.kernel.leak(self.owner, token.pinned)
                continue
            try:
                if token.granted:
                    self.space.revoke(token.grant)
                    token.granted = False
                self.withdraw(token)
            except Unavailable:
                self.space.notify_idle(self.kernel.lock.settle)
                raise
            except Exception as error:
                if token.granted:  # `withdraw` has seen to its own failures
                    self._stick(token)
                self.listed.remove(token)  # it is on record as a leak
                failed = failed or error
        if failed is not None:
            raise failed

    def leave_if_idle(self) -> None:
        """Leave the bus once there is neither a handle nor a token."""
        try:
            self._leave()
        except Unavailable:
            self.kernel.lock.later(self)

    def _leave(self) -> None:
        if self.handle_count or self.pins or self.granting or self.left:
            return
        try:
            self.space.close()
        except Unavailable:  # a finaliser, inside an access of its own thread
            self.space.notify_idle(self.kernel.lock.settle)
            raise
        except BaseException:  # all of it was tried, and is not tried again
            self._gone()
            raise
        self._gone()

    def _gone(self) -> None:
        self.left = True
        self.kernel.forget(self)
        self.iommu.leave()

    def settle(self) -> None:
        """What the last handle leaves to be done, when no access of the thread is under way.

        Nobody has the device any more, so it is to stop, before anything is taken from it.
        """
        if not self.stopped:
            try:
                self.space.quiesce()
            except Unavailable:
                self.space.notify_idle(self.kernel.lock.settle)
                raise
            except Exception as error:  # nobody to raise to; what is granted is taken back below
                self._warn("%s: the device could not be stopped: %s", self.owner, error)
            self.stopped = True
        self._end_listed()
        self._leave()
