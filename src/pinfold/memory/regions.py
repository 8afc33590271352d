# Host address ranges: one reservation, and the tree of regions and mappings inside it.
#
# Source: mmap(2), mprotect(2), and measurements on Linux 6.18; Zircon's VmAddressRegion for first
# fit, cutting and protection runs.
#
# The root is one PROT_NONE reservation. A child region is books and costs no system call. Whatever
# changes what an address shows is ONE call that replaces: MAP_FIXED of the file to map, MAP_FIXED
# of a new reservation to unmap. Never munmap and then mmap: another thread's allocation takes the
# hole in between, and a reader faults in it. The kernel refuses such a call as a whole, so:
#
#   the host first, THEN the books
#
# and a refusal leaves both as they were. Only the reservation itself ends with a munmap.
#
# A live view of mapped memory is a `Lease`. What it shows is not taken away under it unless by
# force, and then its addresses are given to nobody else while it lives: a late access meets the
# reservation and faults, it never meets somebody else's bytes.
#
# What is mapped is opaque here: a `Mapped` with a descriptor. Callers hold the kernel's lock.
from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, Protocol

from pinfold.errors import AccessDenied, PinfoldError
from pinfold.host import mm
from pinfold.host.abi import PROT_EXEC, PROT_READ, PROT_WRITE
from pinfold.memory.hosterrors import from_host, translated
from pinfold.memory.mapped import (
    EXECUTE,
    READ,
    RWX,
    WRITE,
    Changes,
    Mapped,
    Piece,
    lent,
    refuse,
    settle,
)
from pinfold.memory.ranges import RangeMap
from pinfold.units import PAGE_SIZE, HostVa

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pinfold.memory.reservation import AddressSpace

_PROT: Final = tuple(
    (PROT_READ if bits & READ else 0)
    | (PROT_WRITE if bits & WRITE else 0)
    | (PROT_EXEC if bits & EXECUTE else 0)
    for bits in range(RWX + 1)
)
"""From our permission bits to Linux's."""


class Owner(Protocol):
    """What stands above a region and wants to know when it ends."""

    def region_ended(self) -> None:
        """The region is destroyed. Books only; must not raise."""


class Region:
    """A range of addresses with regions and pieces in it, by address, and gaps between them.

    Attributes:
      owner: told when the region ends.
      compact: placed by first fit even where the space places at random.
      alive: False once it is destroyed; it keeps its base and stop.
    """

    __slots__ = (
        "_cursor",
        "_hole",
        "alive",
        "base",
        "children",
        "compact",
        "owner",
        "parent",
        "space",
        "stop",
    )

    def __init__(
        self,
        space: AddressSpace,
        parent: Region | None,
        base: int,
        stop: int,
        owner: Owner | None = None,
        *,
        compact: bool = False,
    ) -> None:
        self.space = space
        self.parent = parent
        self.base = base
        self.stop = stop
        self.owner = owner
        self.compact = compact
        self.alive = True
        self.children: RangeMap[Region | Piece] = RangeMap()
        # Every gap that ends at or below the cursor is at most so large. A gap that contains the
        # cursor is not vouched for. It makes a run of equal requests cost no search.
        self._cursor = base
        self._hole = 0

    # Looking ------------------------------------------------------------------------------------

    def gaps(self, at: int) -> Iterator[tuple[int, int]]:
        """The free ranges from the one that holds ``at`` on, ascending, as they are asked for."""
        below = self.children.at_or_below(at)
        low = self.base if below is None else below[1]
        for start, stop, _ in self.children.onward(low):
            if low < start:
                yield low, start
            low = stop
        if low < self.stop:
            yield low, self.stop

    def find_gap(self, size: int, align: int, limit: int) -> int | None:
        """An address for ``size`` bytes that end at or below ``limit``; the lowest there is.

        Where the space places at random and the region is not compact, any candidate may come.
        """
        space = self.space
        if space.chance is not None and not self.compact:
            return space.pick(self._candidates(size, align, limit))
        plain = align <= PAGE_SIZE and limit >= self.stop and not space.stale
        fresh = not plain or size <= self._hole
        seen = 0 if fresh else self._hole
        for low, high in self.gaps(self.base if fresh else self._cursor):
            for start, stop in space.free_of_stale(low, high):
                at = -(-start // align) * align
                if at + size <= min(stop, limit):
                    if plain and at >= self._cursor:
                        self._cursor, self._hole = at, seen
                    return at
            if low >= limit:
                break
            if high - low > seen:
                seen = high - low
        else:
            if plain:
                self._cursor, self._hole = self.stop, seen
        return None

    def _candidates(self, size: int, align: int, limit: int) -> Iterator[range]:
        """The addresses where a block may begin, gap by gap."""
        for low, high in self.gaps(self.base):
            for start, stop in self.space.free_of_stale(low, high):
                first = -(-start // align) * align
                last = min(stop, limit) - size
                if first <= last:
                    yield range(first, last + 1, align)

    def pieces(self, start: int, stop: int) -> list[Piece]:
        """The whole pieces that show something in the range, ascending, in child regions too."""
        found: list[Piece] = []
        for _, _, child in self.children.overlapping(start, stop):
            if isinstance(child, Region):
                found += child.pieces(start, stop)
            else:
                found.append(child)
        return found

    def is_piece(self, start: int, stop: int) -> bool:
        """True when the range is exactly one piece, directly in this region."""
        exact = self.children.get(start)
        return exact is not None and exact[0] == stop and isinstance(exact[1], Piece)

    def largest_gap(self) -> int:
        """Bytes in the largest free range; for messages."""
        return max((high - low for low, high in self.gaps(self.base)), default=0)

    # Changing -----------------------------------------------------------------------------------

    def allocate(self, start: int, stop: int, owner: Owner | None, *, compact: bool) -> Region:
        """A child region in a range that the caller knows to be free. Books only."""
        made = Region(self.space, self, start, stop, owner, compact=compact)
        self.children.append(start, stop, made)
        return made

    def map(self, start: int, stop: int, mapped: Mapped, offset: int, prot: int) -> None:
        """Show ``mapped`` from ``offset`` on in place of whatever pieces are in the range.

        The range holds no child region. All that was there is replaced in one step: another thread
        sees the old bytes or the new ones.

        Raises:
          BadState: a live view shows a part of it; nothing changed.
          NoMemory, AccessDenied, HostError: the kernel refuses; nothing changed.
        """
        over = self.children.overlapping(start, stop)
        if over:
            refuse(lent((node for _, _, node in over), start, stop), "map over this range")
        stale = self.space.stale_in(start, stop) if self.space.stale else None
        if stale is not None:
            raise stale.refusal("map here again")
        try:
            mm.map_shared_at(HostVa(start), mapped.fd, offset, stop - start, _PROT[prot])
        except OSError as error:
            raise refused("map memory", error, stop - start) from error
        changes: Changes = []
        if over:
            self._carve(start, stop, changes)
        self.children.append(
            start, stop, Piece(self, start, stop, mapped, offset, [(start, stop, prot)])
        )
        mapped.pieces_changed(1)
        if changes:
            settle(changes)

    def clear(self, start: int, stop: int, *, force: bool = False) -> None:
        """Unmap the range, and destroy the child regions in it, which it covers wholly.

        Raises:
          BadState: a live view shows a part of it, and not ``force``; nothing changed.
          NoMemory: cutting a mapping in two needs one more than the kernel allows; nothing changed.
        """
        exact = self.children.get(start)
        if exact is not None and exact[0] == stop:  # the hot path: just what one call mapped
            child = exact[1]
            if isinstance(child, Piece) and not child.mapped.leases:
                self._reserve(start, stop)
                self.children.pop(start)
                if start < self._cursor:
                    self._cursor = start
                child.mapped.pieces_changed(-1)
                return
        pieces = self.pieces(start, stop)
        held = lent(pieces, start, stop)
        if not force:
            refuse(held, "unmap this range")
        if pieces:
            # Only from the first mapped byte to the last: a border inside a gap would have the
            # kernel split the reservation, which it refuses when it is out of mappings.
            self._reserve(max(start, pieces[0].start), min(stop, pieces[-1].stop))
        changes: Changes = []
        self._carve(start, stop, changes)
        self.space.note_stale(held)
        settle(changes)

    def destroy(self, *, force: bool = False) -> None:
        """Unmap everything in the region, end it and what is below it, free its range.

        Raises:
          BadState, NoMemory: as `clear`; nothing changed.
        """
        assert self.parent is not None  # noqa: S101 - the root is closed, not destroyed
        self.parent.clear(self.base, self.stop, force=force)

    def protect(self, start: int, stop: int, prot: int) -> None:
        """Set the permissions of every piece of the range; the caller knows that it has no holes.

        Raises:
          BadState: a live view needs what would be taken away; nothing changed.
          NoMemory: the kernel is out of mappings; what comes before the refusal has changed.
        """
        pieces = self.pieces(start, stop)
        refuse(
            [lease for lease in lent(pieces, start, stop) if lease.needs & ~prot],
            "take access to this range away",
        )
        for piece in pieces:
            for low, high, former in piece.runs_in(start, stop):
                if former != prot:
                    _change_protection(low, high, former, prot)
                    piece.set_protection(low, high, prot)

    def end(self, changes: Changes) -> None:
        """Strike out the region and all that is in it. Books only."""
        self.alive = False
        for _, _, child in self.children:
            if isinstance(child, Region):
                child.end(changes)
            else:
                changes.append((child.mapped, -1))
        self.children.clear()
        if self.owner is not None:
            self.owner.region_ended()

    def _reserve(self, start: int, stop: int) -> None:
        try:
            mm.clear_to_reserved(HostVa(start), stop - start)
        except OSError as error:
            if error.errno != errno.ENOMEM or not self.space.clear_at_the_limit(start, stop):
                raise refused("unmap memory", error, stop - start) from error

    def _carve(self, start: int, stop: int, changes: Changes) -> None:
        """Take the range out of the books. A region in it is covered wholly."""
        for low, high, child in self.children.overlapping(start, stop):
            self.children.pop(low)
            if isinstance(child, Region):
                child.end(changes)
                continue
            by = -1
            if low < start:
                self.children.append(low, start, child.part(low, start))
                by += 1
            if stop < high:
                self.children.append(stop, high, child.part(stop, high))
                by += 1
            changes.append((child.mapped, by))
        self._freed(start)

    def _freed(self, start: int) -> None:
        if start < self._cursor:
            self._cursor = start


def refused(what: str, error: OSError, size: int) -> PinfoldError:
    """The error for the kernel's refusal to change the address space."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessDenied(
            f"{what}: the kernel does not let this file be used so",
            remedy="look at how the file was opened, its seals and its mount",
        )
    return from_host(what, error, asked=size)


def _change_protection(start: int, stop: int, former: int, prot: int) -> None:
    """One mprotect. A run may span several of the kernel's mappings, where locks have cut it.

    mprotect changes those one after another, so a refusal may leave a part changed: it is put
    back, which takes no mapping that was not there before.
    """
    try:
        mm.protect(HostVa(start), stop - start, _PROT[prot])
    except OSError as error:
        failure = refused("change the protection of memory", error, stop - start)
        try:
            mm.protect(HostVa(start), stop - start, _PROT[former])
        except OSError as again:
            failure.add_note(f"and it could not be put back: {again.strerror}")
        raise failure from error


def populate(start: int, stop: int) -> None:
    """Enter pages that have memory in the page tables; one that has none would be given some."""
    with translated("enter pages", asked=stop - start):
        mm.populate_read(HostVa(start), stop - start)
