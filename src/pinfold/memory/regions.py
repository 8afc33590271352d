# Host address ranges: one reservation, and the tree of regions and mappings inside it.
#
# Source: mmap(2), mprotect(2), and measurements on Linux 6.18; Zircon's VmAddressRegion for first
# fit, cutting and protection runs.
#
# The root is one PROT_NONE reservation. A child region is books and costs no system call. Whatever
# changes what an address shows is ONE call that replaces: MAP_FIXED of the file to map, MAP_FIXED
# of a new reservation to unmap. Never munmap and then mmap: another thread's allocation takes the
# hole in between, and a reader faults in it. Only a mapping that ends to show anything before its
# addresses end (memory/reach.py) replaces others in two. The kernel refuses a call as a whole, so:
#
#   the host first, THEN the books
#
# and a refusal leaves both as they were. Only the reservation itself ends with a munmap.
#
# A KeyboardInterrupt may come between the two, or before the first, and nobody can tell. Then the
# range ends up unmapped in both. If they must differ, then so that the kernel has a mapping which
# the books lack: the next map replaces it. The other way round, a view made from the books would
# end the process.
#
# A live view of mapped memory is a `Lease`. What it shows is not taken away under it unless by
# force, and then its addresses are given to nobody else while it lives: a late access meets the
# reservation and faults, it never meets somebody else's bytes.
#
# What is mapped is opaque here: a `Mapped` with a descriptor. Callers hold the kernel's lock.
from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

from pinfold.errors import PinfoldError
from pinfold.host import mm
from pinfold.memory.hosterrors import noted, translated
from pinfold.memory.mapped import (
    PROT,
    Changes,
    Mapped,
    Piece,
    change_protection,
    lent,
    refuse,
    refused,
    settle,
)
from pinfold.memory.ranges import RangeMap
from pinfold.memory.reach import show_instead, shown
from pinfold.units import MIB, PAGE_SIZE, HostVa

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pinfold.memory.reservation import AddressSpace

_POPULATE_PIECE: Final = 256 * MIB


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
        left = [iter(self.children.overlapping(start, stop))]
        while left:  # no recursion: regions may be nested deeper than Python calls
            for _, _, child in left[-1]:
                if isinstance(child, Region):
                    left.append(iter(child.children.overlapping(start, stop)))
                    break
                found.append(child)
            else:
                left.pop()
        return found

    def piece_at(self, address: int) -> Piece | None:
        """The piece that has an address, in child regions too."""
        found = self.children.find(address)
        while found is not None:
            child = found[2]
            if not isinstance(child, Region):
                return child
            found = child.children.find(address)
        return None

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
        sees the old bytes or the new ones, and nothing beyond ``mapped.reach``.

        Raises:
          BadState: a live view shows a part of it; nothing changed.
          NoMemory, AccessDenied, HostError: the kernel refuses; nothing changed, or a note says
            that the range is unmapped.

        Interrupted, or where what was there cannot be let go, it leaves the range unmapped.
        """
        over = self.children.overlapping(start, stop)
        if over:
            refuse(lent((node for _, _, node in over), start, stop), "map over this range")
        stale = self.space.stale_in(start, stop) if self.space.stale else None
        if stale is not None:
            raise stale.refusal("map here again")
        piece = Piece(self, start, stop, mapped, offset, [(start, stop, prot)])
        try:
            if piece.edge == stop:
                mm.map_shared_at(HostVa(start), mapped.fd, offset, stop - start, PROT[prot])
            else:
                show_instead(piece, (node for _, _, node in over))
            changes: Changes = []
            if over:
                self._carve(start, stop, changes)
            self.children.append(start, stop, piece)
            mapped.pieces_changed(1)
            if changes:
                settle(changes)
        except BaseException as error:
            if isinstance(error, OSError) and not isinstance(error, PinfoldError):
                raise refused("map memory", error, stop - start) from error
            former = {node.mapped for _, _, node in over if isinstance(node, Piece)}
            self._abandon(start, stop, (start, stop), {mapped, *former}, error)
            raise

    def clear(self, start: int, stop: int, *, force: bool = False) -> None:
        """Unmap the range, and destroy the child regions in it, which it covers wholly.

        Raises:
          BadState: a live view shows a part of it, and not ``force``; nothing changed.
          NoMemory: cutting a mapping in two needs one more than the kernel allows; nothing changed.

        Interrupted, it leaves the range unmapped all the same.
        """
        exact = self.children.get(start)
        if exact is not None and exact[0] == stop:  # the hot path: just what one call mapped
            child = exact[1]
            if isinstance(child, Piece) and not child.mapped.leases and child.edge == stop:
                try:
                    self._reserve(start, stop)
                    self.children.pop(start)
                    if start < self._cursor:
                        self._cursor = start
                    child.mapped.pieces_changed(-1)
                except PinfoldError:
                    raise
                except BaseException as error:
                    self._abandon(start, stop, (start, stop), {child.mapped}, error)
                    raise
                return
        pieces = self.pieces(start, stop)
        held = lent(pieces, start, stop)
        if not force:
            refuse(held, "unmap this range")
        hull = shown(pieces, start, stop)
        changes: Changes = []
        try:
            if hull is not None:
                self._reserve(*hull)
            self.space.note_stale(held)
            self._carve(start, stop, changes)
            settle(changes)
        except PinfoldError:  # the kernel's refusal, or all is done and something was not let go
            raise
        except BaseException as error:
            self.space.note_stale(held)
            self._abandon(start, stop, hull, {piece.mapped for piece in pieces}, error)
            raise

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
                if former == prot:
                    continue
                last = min(high, piece.edge)  # beyond it is the reservation, which stays as it is
                try:
                    if low < last:
                        change_protection(low, last, former, prot)
                    piece.set_protection(low, high, prot)
                except PinfoldError:
                    raise
                except BaseException as error:
                    piece.set_protection(low, high, former & prot)  # whichever it is now
                    with noted("change the protection again", error):
                        if low < last:
                            mm.protect(HostVa(low), last - low, PROT[prot])
                        piece.set_protection(low, high, prot)
                    raise

    def end(self, changes: Changes) -> None:
        """Strike out the region and all that is in it. Books only."""
        left = [self]
        while left:  # no recursion, as in `pieces`
            region = left.pop()
            region.alive = False
            for _, _, child in region.children:
                if isinstance(child, Region):
                    left.append(child)
                else:
                    changes.append((child.mapped, -1))
            region.children.clear()
            if region.owner is not None:
                region.owner.region_ended()

    def _reserve(self, start: int, stop: int) -> None:
        try:
            self.space.clear(start, stop)
        except OSError as error:
            raise refused("unmap memory", error, stop - start) from error

    def _abandon(
        self,
        start: int,
        stop: int,
        hull: tuple[int, int] | None,
        touched: set[Mapped],
        error: BaseException,
    ) -> None:
        """Whatever ``error`` broke off: unmap the range, and count each of ``touched`` anew.

        Args:
          hull: the part of the range where the kernel may have a mapping.
        """
        if hull is not None:
            with noted("unmap the range", error):
                mm.clear_to_reserved(HostVa(hull[0]), hull[1] - hull[0])
        changes: Changes = []
        self._carve(start, stop, changes)
        touched.update(mapped for mapped, _ in changes)
        whole = self.space.root
        counts = Counter(id(piece.mapped) for piece in whole.pieces(whole.base, whole.stop))
        settle([(mapped, counts[id(mapped)] - mapped.pieces) for mapped in touched])

    def _carve(self, start: int, stop: int, changes: Changes) -> None:
        """Take the range out of the books. A region in it is covered wholly."""
        for low, high, child in self.children.overlapping(start, stop):
            if isinstance(child, Region):
                child.end(changes)
                self.children.pop(low)
                continue
            self.children.pop(low)
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


def populate(start: int, stop: int) -> None:
    """Enter pages that have memory in the page tables; one that has none would be given some.

    May read from a disk: call it without the kernel's lock.
    """
    # In pieces, so that a Ctrl-C is heard before the last of many gigabytes.
    for at in range(start, stop, _POPULATE_PIECE):
        piece = min(_POPULATE_PIECE, stop - at)
        with translated("enter pages", asked=stop - start):
            mm.populate_read(HostVa(at), piece)
