# An address space: one PROT_NONE reservation with a root region in it.
#
# Source: mmap(2): MAP_NORESERVE, MAP_FIXED_NOREPLACE; getrlimit(2): RLIMIT_AS counts reservations.
#
# The spare: a process may come to have one mapping more than vm.max_map_count allows, because the
# kernel looks at the count before it cuts what is in the way, and then it refuses every mmap, the
# one that would unmap included. So each space holds a mapping for nothing but to be given up then.
#
# It also remembers the stale views: those whose memory was unmapped under them by force. Their
# addresses are given to nobody while they live, and the reservation outlives them.
#
# Callers hold the kernel's lock.
from __future__ import annotations

import errno
import random
from operator import index
from typing import TYPE_CHECKING, Any, Final

from pinfold.errors import AlreadyExists, InvalidArgs, NoMemory
from pinfold.host import calls, mm, probe
from pinfold.host.abi import MAP_ANONYMOUS, MAP_NORESERVE, MAP_SHARED, PROT_NONE
from pinfold.memory.hosterrors import from_host, noted, translated
from pinfold.memory.locks import log
from pinfold.memory.mapped import Changes, Lease, Mapped, settle
from pinfold.memory.ranges import RangeSet
from pinfold.memory.regions import Region
from pinfold.units import GIB, MIB, PAGE_SIZE, HostVa, is_page_aligned, page_down, page_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DEFAULT_SIZE: Final = 1024 * GIB
_SMALLEST: Final = 64 * MIB  # below that a default is of no use, and the limit should be named
_SHARE_OF_LIMIT: Final = 4  # of RLIMIT_AS: the rest is for the program itself
_TOP: Final = 1 << 63
"""No user address is so high on any machine. The C library takes 64 bits of what it is given, so a
number beyond them would reserve one range and have another in the books."""

_ENTROPY_BITS: Final = 30
"""A random placement is one of the first 2^30 candidates. Source: Zircon, at most 2^36."""


class AddressSpace:
    """A reservation of ``[base, stop)`` in this process, and the tree of regions in it.

    Args:
      size: bytes, page-aligned. By default 1 TiB, or what a limit on address space leaves room for.
      address: where; page-aligned, not 0. By default where the kernel likes.
      seed: places at random, repeatably. By default each request gets the lowest address that fits.

    Raises:
      InvalidArgs: ``size`` or ``address`` is not as above, or ends beyond every user address
        (``.limit``).
      AlreadyExists: something is in the way at ``address``.
      NoMemory: there is no room, or RLIMIT_AS does not allow it (``.limit``).

    Attributes:
      keeper: lives for as long as anybody has a region, a mapping or a view of it.
    """

    __slots__ = (
        "_ghosts",
        "_spare",
        "base",
        "chance",
        "closed",
        "keeper",
        "lent",
        "root",
        "stale",
        "stop",
    )

    def __init__(
        self, size: int | None = None, address: int | None = None, seed: int | None = None
    ) -> None:
        size = None if size is None else index(size)  # numpy's integers wrap; ours do not
        address = None if address is None else index(address)
        _check(size, address)
        self.base, size = _reserve(size, address)
        self.stop = self.base + size
        try:
            with translated("reserve a spare mapping"):
                self._spare: HostVa | None = _spare_mapping()
        except BaseException as error:
            with noted("give the address space back", error):
                mm.unmap(HostVa(self.base), size)
            raise
        self.closed = False
        self.keeper: object = None
        self.chance = None if seed is None else random.Random(seed)  # noqa: S311 - repeatable
        self.root = Region(self, None, self.base, self.stop)
        self.lent: set[Lease] = set()
        """All views of what is or was mapped here."""
        self.stale: list[Lease] = []
        """Live views of memory that is not there any more."""
        self._ghosts = RangeSet()  # their addresses, in whole pages

    def pick(self, candidates: Iterable[range]) -> int | None:
        """One of the first 2^entropy addresses of ``candidates``, each as likely as another."""
        parts: list[range] = []
        total, most = 0, 1 << _ENTROPY_BITS
        for part in candidates:
            parts.append(part)
            total += len(part)
            if total >= most:
                break
        if not total or self.chance is None:
            return None
        index = self.chance.randrange(min(total, most))
        for part in parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        return None

    def close(self) -> None:
        """End every region, unmap everything, and give the reservation back.

        Where views are in use their addresses stay reserved, inaccessible, until the last is gone.
        Closing it again does nothing.
        """
        if self.closed:
            return
        self.closed = True
        self.note_stale(lease for lease in self.lent if lease.live)
        changes: Changes = []
        try:
            # Before the books: at the limit of mappings Python has no memory for them either.
            if self.stale:
                with translated("unmap memory", asked=self.stop - self.base):
                    mm.clear_to_reserved(HostVa(self.base), self.stop - self.base)
            else:
                self._give_back()
        finally:
            self.root.end(changes)
            settle(changes)

    def clear(self, start: int, stop: int) -> None:
        """Put the reservation over a range of it, whatever is there, in one step. Host only.

        Raises:
          OSError: the kernel refuses, with the spare given up as well; nothing changed.
        """
        try:
            mm.clear_to_reserved(HostVa(start), stop - start)
        except OSError as error:
            if error.errno != errno.ENOMEM or not self.clear_at_the_limit(start, stop):
                raise

    def clear_at_the_limit(self, start: int, stop: int) -> bool:
        """Unmap a range when the kernel has just said that it is out of mappings.

        Works where whole mappings go; cutting one in two takes one more than there was.

        Returns:
          False where the kernel refuses again; nothing changed.
        """
        spare, self._spare = self._spare, None
        if spare is None:
            return False
        try:
            mm.unmap(spare, PAGE_SIZE)
            mm.clear_to_reserved(HostVa(start), stop - start)
        except OSError:  # the caller raises the refusal that came first
            return False
        else:
            return True
        finally:
            try:
                self._spare = _spare_mapping()
            except OSError as error:
                log.warning("no spare mapping: unmapping may fail at vm.max_map_count: %s", error)

    # Stale views --------------------------------------------------------------------------------

    def note_stale(self, leases: Iterable[Lease]) -> None:
        """Their memory was just unmapped by force."""
        for lease in leases:
            if lease not in self.stale:
                self.stale.append(lease)
                self._ghosts.add(page_down(lease.start), page_up(lease.stop))

    def lend(self, mapped: Mapped, lease: Lease, on_end: Callable[[Any], None]) -> memoryview:
        """The bytes of ``lease``, which ``mapped`` shows; see `Mapped.lend`."""
        self.lent.add(lease)
        return mapped.lend(lease, on_end, self)

    def lease_over(self, lease: Lease) -> None:
        """A view is gone; if it was stale its addresses are free again."""
        self.lent.discard(lease)
        if lease not in self.stale:
            return
        self.stale.remove(lease)
        self._ghosts = RangeSet()
        for other in self.stale:
            self._ghosts.add(page_down(other.start), page_up(other.stop))
        if self.closed and not self.stale:
            self._give_back()

    def stale_in(self, start: int, stop: int) -> Lease | None:
        """A stale view that shows an address of the range."""
        for lease in self.stale:
            if page_down(lease.start) < stop and start < page_up(lease.stop) and lease.live:
                return lease
        return None

    def free_of_stale(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The parts of a gap that no stale view shows."""
        return self._ghosts.gaps(start, stop) if self._ghosts else iter(((start, stop),))

    def _give_back(self) -> None:
        spare, self._spare = self._spare, None
        try:
            if spare is not None:
                with translated("give the spare mapping back"):
                    mm.unmap(spare, PAGE_SIZE)
        finally:
            with translated("give an address space back", asked=self.stop - self.base):
                mm.unmap(HostVa(self.base), self.stop - self.base)


def _check(size: int | None, address: int | None) -> None:
    """Raise `InvalidArgs` for what no address space can be."""
    if size is not None and (size <= 0 or not is_page_aligned(size)):
        raise InvalidArgs(
            "an address space has whole pages, at least one",
            asked=size,
            limit=PAGE_SIZE,
            remedy="round the size up to pages",
        )
    if address is not None and (address < PAGE_SIZE or not is_page_aligned(address)):
        raise InvalidArgs(
            "an address space begins at a page border, and not at address 0",
            asked=address,
            limit=PAGE_SIZE,
            remedy="give a multiple of the page size",
        )
    stop = (address or 0) + (size or 0)
    if stop > _TOP:
        raise InvalidArgs(
            "no address is so high",
            asked=stop,
            limit=_TOP,
            remedy="ask for less address space, or at a lower address",
        )


def _spare_mapping() -> HostVa:
    """A page that cannot be accessed. Shared, so that the kernel joins it to no neighbour."""
    flags = MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE
    return HostVa(calls.mmap(0, PAGE_SIZE, PROT_NONE, flags, -1, 0))


def _reserve(size: int | None, address: int | None) -> tuple[int, int]:
    """Reserve, and where it is up to us how much, as much as the host allows: (base, size)."""
    limit = probe.address_space_limit()
    wanted = size
    if wanted is None:
        wanted = DEFAULT_SIZE
        if limit is not None:
            wanted = max(min(wanted, page_down(limit // _SHARE_OF_LIMIT)), _SMALLEST)
    while True:
        try:
            if address is None:
                return mm.reserve(wanted), wanted
            mm.reserve_at(HostVa(address), wanted)
        except OSError as error:
            if error.errno == errno.EEXIST:
                raise AlreadyExists(
                    "something is in the way of the address space",
                    asked=address,
                    holder="another mapping of this process",
                    remedy="choose another address: /proc/self/maps shows the gaps",
                ) from error
            if error.errno != errno.ENOMEM:
                raise from_host("reserve address space", error, asked=wanted) from error
            if size is None and wanted // 2 >= _SMALLEST:
                wanted //= 2
                continue
            raise NoMemory(
                "no room for an address space",
                asked=wanted,
                limit=limit,
                remedy="ask for less address space, or end processes that are done (Process.exit)"
                if limit is None
                else "raise RLIMIT_AS (ulimit -v), ask for less address space, or end processes "
                "that are done (Process.exit)",
            ) from error
        else:
            return address, wanted
