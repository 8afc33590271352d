# What a range of host addresses shows, in pieces, and the live views of it.
#
# One `Mapped` is what one call put into the address space; cutting leaves several `Piece`s of it. A
# piece keeps its protections as runs, so that protecting a part of it does not cut it. What of it
# is not to be shown lies beyond its edge: see memory/reach.py.
#
# A `Lease` is a live view. It is found through a weak reference to the one object that all views
# made from it keep alive. That object says nothing of the mapping to Python, so whoever would take
# the bytes away asks `lent` first.
from __future__ import annotations

import errno
import weakref
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Any, Final

from pinfold import sites
from pinfold.errors import AccessDenied, BadState, PinfoldError
from pinfold.host import calls, mm
from pinfold.host.abi import PROT_EXEC, PROT_READ, PROT_WRITE
from pinfold.memory.hosterrors import from_host
from pinfold.units import HostVa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pinfold.memory.regions import Region
    from pinfold.sites import Site

READ: Final = 1
WRITE: Final = 2
EXECUTE: Final = 4
RWX: Final = READ | WRITE | EXECUTE

PROT: Final = tuple(
    (PROT_READ if bits & READ else 0)
    | (PROT_WRITE if bits & WRITE else 0)
    | (PROT_EXEC if bits & EXECUTE else 0)
    for bits in range(RWX + 1)
)
"""From our permission bits to Linux's."""


class Lease:
    """A live view of mapped memory.

    Attributes:
      start, stop: the addresses it shows.
      needs: permissions it was made with; none of them may be taken away.
      site: where it was made.
    """

    __slots__ = ("needs", "ref", "site", "start", "stop")

    def __init__(self, start: int, stop: int, needs: int, site: Site) -> None:
        self.start = start
        self.stop = stop
        self.needs = needs
        self.site = site
        self.ref: weakref.ref[Any] | None = None

    @property
    def live(self) -> bool:
        """False as soon as nobody can read through it, even if nobody has been told yet."""
        return self.ref is not None and self.ref() is not None

    def refusal(self, what: str) -> BadState:
        """The error for something that this view forbids."""
        return BadState(
            f"cannot {what}: a view of it is in use",
            asked=self.start,
            holder=f"the view made at {sites.describe(self.site)}",
            remedy="drop the view, and every slice and array made from it",
        )


class Mapped:
    """What one call put into the address space. It lasts for as long as a piece of it does.

    Attributes:
      fd: whose bytes are shown.
      allowed: permissions that may ever be set on it.
      reach: where in the file that ends which may be shown, in whole pages; None for no such place.
      pieces: how many separate ranges show it now.
      leases: the views of it, dead ones until they are settled.
    """

    __slots__ = ("allowed", "fd", "leases", "pieces", "reach")

    def __init__(self, fd: int, allowed: int = RWX, reach: int | None = None) -> None:
        self.fd = fd
        self.allowed = allowed
        self.reach = reach
        self.pieces = 0
        self.leases: set[Lease] = set()

    def pieces_changed(self, by: int) -> None:
        """Count. A subclass lets go of what is mapped when the last piece is gone."""
        self.pieces += by

    def lend(self, lease: Lease, on_end: Callable[[Any], None], keep: object = None) -> memoryview:
        """The bytes of ``lease``; ``on_end`` is called, wherever, when no view of them is left.

        Every view keeps ``keep`` alive: who reads through it must not find the addresses given away
        because nobody else held on to them.
        """
        exported = calls.buffer_at(lease.start, lease.stop - lease.start)
        exported.keep = keep  # type: ignore[attr-defined]  # a ctypes object has a __dict__
        lease.ref = weakref.ref(exported, on_end)
        self.leases.add(lease)
        view = memoryview(exported).cast("B")
        return view if lease.needs & WRITE else view.toreadonly()


class Piece:
    """A range of addresses that shows part of a file.

    Attributes:
      offset: where in the file ``start`` is.
      runs: (start, stop, permissions), ascending, covering the piece; neighbours differ.
      edge: from this address on it shows nothing, the reservation is there; ``stop`` where all of
        it is shown.
    """

    __slots__ = ("edge", "mapped", "offset", "region", "runs", "start", "stop")

    def __init__(
        self,
        region: Region,
        start: int,
        stop: int,
        mapped: Mapped,
        offset: int,
        runs: list[tuple[int, int, int]],
    ) -> None:
        self.region = region
        self.start = start
        self.stop = stop
        self.mapped = mapped
        self.offset = offset
        self.runs = runs
        reach = mapped.reach
        self.edge = stop if reach is None else self.edge_at(reach)

    def edge_at(self, reach: int | None) -> int:
        """Where the edge belongs when the file may be shown up to ``reach``."""
        if reach is None:
            return self.stop
        return min(max(self.start + reach - self.offset, self.start), self.stop)

    def part(self, start: int, stop: int) -> Piece:
        """What is left of it when only ``[start, stop)`` stays."""
        offset = self.offset + start - self.start
        made = Piece(self.region, start, stop, self.mapped, offset, self.runs_in(start, stop))
        made.edge = min(max(self.edge, start), stop)  # as the kernel has it, whatever the reach
        return made

    def runs_in(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """The runs of ``[start, stop)``, cut to it."""
        found = self.runs[self._first_run(start) : self._first_run(stop, begins=True)]
        if found:
            low, high, prot = found[0]
            found[0] = (max(low, start), high, prot)
            low, high, prot = found[-1]
            found[-1] = (low, min(high, stop), prot)
        return [run for run in found if run[0] < run[1]]

    def _first_run(self, at: int, *, begins: bool = False) -> int:
        """Which run is the first that ends after ``at``, or that begins there or after."""
        if begins:
            return bisect_left(self.runs, at, key=_begin)
        return bisect_right(self.runs, at, key=_end)

    def set_protection(self, start: int, stop: int, prot: int) -> None:
        """Note that ``[start, stop)`` of it has these permissions now."""
        # With the neighbours, which may turn out to be the same.
        first = max(self._first_run(start) - 1, 0)
        last = min(self._first_run(stop, begins=True) + 1, len(self.runs))
        touched = self.runs[first:last]
        fresh: list[tuple[int, int, int]] = []
        for low, high, bits in (
            *((low, min(high, start), bits) for low, high, bits in touched if low < start),
            (start, stop, prot),
            *((max(low, stop), high, bits) for low, high, bits in touched if stop < high),
        ):
            if fresh and fresh[-1][2] == bits:
                fresh[-1] = (fresh[-1][0], high, bits)
            else:
                fresh.append((low, high, bits))
        self.runs[first:last] = fresh


def _begin(run: tuple[int, int, int]) -> int:
    return run[0]


def _end(run: tuple[int, int, int]) -> int:
    return run[1]


Changes = list[tuple["Mapped", int]]
"""What was mapped, and how many pieces more or fewer there are of it."""


def settle(changes: Changes) -> None:
    """Tell each `Mapped` how many pieces it has gained or lost.

    All of them are told, whatever one of them raises while it lets go; the first error is raised.
    """
    failed: BaseException | None = None
    for mapped, by in changes:
        try:
            mapped.pieces_changed(by)
        except BaseException as error:
            failed = failed or error
    if failed is not None:
        raise failed


def lent(nodes: Iterable[object], start: int, stop: int) -> list[Lease]:
    """The live views that show something in the range through one of the pieces."""
    found: list[Lease] = []
    for node in nodes:
        if isinstance(node, Piece) and node.mapped.leases:
            low, high = max(node.start, start), min(node.stop, stop)
            found += [
                lease
                for lease in node.mapped.leases
                if lease.start < high and low < lease.stop and lease.live
            ]
    return found


def refuse(leases: list[Lease], what: str) -> None:
    """Raise `BadState` if there is a view among ``leases``, naming it."""
    if leases:
        raise leases[0].refusal(what)


def refused(what: str, error: OSError, size: int) -> PinfoldError:
    """The error for the kernel's refusal to change the address space."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessDenied(
            f"{what}: the kernel does not let this file be used so",
            remedy="look at how the file was opened, its seals and its mount",
        )
    return from_host(what, error, asked=size)


def change_protection(start: int, stop: int, former: int, prot: int) -> None:
    """One mprotect. A run may span several of the kernel's mappings, where locks have cut it.

    mprotect changes those one after another, so a refusal may leave a part changed: it is put
    back, which takes no mapping that was not there before.
    """
    try:
        mm.protect(HostVa(start), stop - start, PROT[prot])
    except OSError as error:
        failure = refused("change the protection of memory", error, stop - start)
        try:
            mm.protect(HostVa(start), stop - start, PROT[former])
        except OSError as again:
            failure.add_note(f"and it could not be put back: {again.strerror}")
        raise failure from error
