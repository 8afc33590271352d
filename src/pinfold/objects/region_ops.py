# What is done with the pages behind a range of addresses.
#
# Source: zx_vmar_op_range, and zx_vmar_map for MAP_RANGE; Zircon's VmAddressRegion for the order of
# checks, which is the order of the code here: the first that fails decides the error.
#
# A range is worked through mapping by mapping, each looked at and checked under the kernel's lock
# when its turn comes. What gives pages memory, or enters them in the page tables, is done after the
# lock is let go: it may take long, or wait for a disk. The memory object counts as in use while it
# is given memory. The addresses are nobody's meanwhile: another thread may unmap them and map
# something else there. Then pages of that are entered, which changes nothing that can be read.
from __future__ import annotations

import enum
from operator import index
from typing import TYPE_CHECKING, Final, cast

from pinfold.errors import AccessDenied, BadState, InvalidArgs, OutOfRange, PinfoldError
from pinfold.memory.hosterrors import noted
from pinfold.memory.mapped import READ, WRITE, Piece
from pinfold.memory.ranges import RangeSet
from pinfold.memory.regions import populate
from pinfold.objects import page_ops
from pinfold.objects.handle import Handle
from pinfold.objects.region import VmarObject
from pinfold.objects.vmoption import RIGHT_SHIFT
from pinfold.rights import Right, describe_perms
from pinfold.units import PAGE_MASK, PAGE_SIZE, UINT64_MAX, ByteRange, page_up

if TYPE_CHECKING:
    from pinfold.objects.mapping import Mapping


class VmarOp(enum.IntEnum):
    """What `Vmar.op_range` does. The numbers are Zircon's."""

    COMMIT = 1
    DECOMMIT = 2
    MAP_RANGE = 3
    ZERO = 10
    DONT_NEED = 12
    ALWAYS_NEED = 13
    PREFETCH = 14


_OP_CHILDREN: Final = int(Right.OP_CHILDREN)

# Plain ints, as in vmoption.py.
_COMMIT, _DECOMMIT, _MAP_RANGE, _ZERO, _DONT_NEED, _ALWAYS_NEED, _PREFETCH = map(int, VmarOp)
_OPS: Final = frozenset(map(int, VmarOp))
_OWN_ONLY: Final = frozenset((_COMMIT, _DECOMMIT, _PREFETCH))
"""Not done to the mappings of child regions."""
_NEEDS: Final = {_COMMIT: WRITE, _DECOMMIT: WRITE, _ZERO: WRITE, _PREFETCH: READ}
"""What the mapping must be able to allow."""
_ENTERS: Final = frozenset((_COMMIT, _MAP_RANGE, _ALWAYS_NEED, _PREFETCH))


class VmarOps(Handle[VmarObject]):
    """The pages behind the addresses of a region, through a handle to it. `Vmar` is one."""

    __slots__ = ()

    def op_range(self, op: VmarOp | int, address: int, size: int) -> None:
        """Do something with the pages of a mapped range, one mapping after another.

        Of the rights of this handle only OP_CHILDREN counts: what else is allowed was noted when
        the memory was mapped. COMMIT, DECOMMIT and ZERO are for mappings that may be made writable,
        PREFETCH is for those that may be made readable. COMMIT, ALWAYS_NEED, PREFETCH and MAP_RANGE
        enter the pages that have memory, as far as they can be read; DONT_NEED does nothing.

        Other threads may change the region meanwhile: each mapping is looked at when its turn
        comes. Its memory object is kept while it is given memory, and what another thread unmaps
        just then is no error.

        Args:
          op: a `VmarOp`.
          address: absolute, page-aligned.
          size: bytes, rounded up to pages, > 0.

        Raises:
          InvalidArgs: no such operation; unaligned; ``size`` 0; a mapping of a child region, for
            COMMIT, DECOMMIT and PREFETCH, or without OP_CHILDREN.
          OutOfRange: the range leaves the region, the memory object, or the stream that a mapping
            ends with.
          BadState: the region is destroyed; a part of the range is not mapped; DECOMMIT, and a page
            is pinned.
          AccessDenied: the mapping was made without the permission (``.missing``).
          NotSupported, NotFound, NoMemory, NoSpace, HostError: as `Vmo.commit`, `Vmo.decommit` and
            `Vmo.zero`.

        After an error what was done to the mappings before it stays done.

        Source: zx_vmar_op_range.
        """
        op, address, size = index(op), index(address), index(size)
        with self._entry.process.kernel.lock:
            target = self._require(0)
            start, stop = _checked(target, op, address, size)
        _operate(target, op, start, stop, children=bool(self._entry.rights & _OP_CHILDREN))


def _checked(target: VmarObject, op: int, address: int, size: int) -> tuple[int, int]:
    """The range that an operation is about, in a region that may be dead: (start, stop)."""
    if op not in _OPS:
        raise InvalidArgs("there is no such operation", asked=op, remedy="give a member of VmarOp")
    if size <= 0 or page_up(size) > UINT64_MAX or address & PAGE_MASK:
        raise InvalidArgs(
            "a range begins at a page border, has at least a byte, and ends",
            asked=address if address & PAGE_MASK else size,
            limit=PAGE_SIZE if address & PAGE_MASK else UINT64_MAX,
            remedy="give an address that map returned, and a size above 0",
        )
    region = target.region
    stop = address + page_up(size)
    if address < region.base or stop > region.stop:
        raise OutOfRange(
            f"the range leaves {target}",
            asked=address if address < region.base else stop,
            limit=region.base if address < region.base else region.stop,
            remedy="give absolute addresses, as map returns them",
        )
    return address, stop


def _operate(target: VmarObject, op: int, start: int, stop: int, *, children: bool) -> None:
    """Do it, mapping by mapping; see `Vmar.op_range`. Called without the kernel's lock.

    Args:
      children: the handle has OP_CHILDREN.
    """
    kernel = target.kernel
    while start < stop:
        with kernel.lock:
            piece = _next(target, op, start, children=children)
            mapping = cast("Mapping", piece.mapped)
            vmo = mapping.vmo
            high = min(stop, piece.stop)
            offset, size = mapping.vmo_offset + start - mapping.address, high - start
            _check(op, mapping, offset, size)
            if op == _DECOMMIT:
                page_ops.decommit(vmo, offset, size)
            elif op == _ZERO:
                page_ops.zero(vmo, offset, size)
            elif op == _PREFETCH:
                page_ops.prefetch(vmo, offset, size)
            elif op == _COMMIT:
                page_ops.begin_use(vmo)
        if op == _COMMIT:
            with page_ops.letting_go(kernel, vmo):
                page_ops.commit(vmo, offset, size)
        if op in _ENTERS:
            enter_pages(mapping, start, high)
        start = high


def _next(target: VmarObject, op: int, at: int, *, children: bool) -> Piece:
    """The piece at an address, if the operation may be done to it."""
    region = target.require_alive()
    piece = region.piece_at(at)
    if piece is None:
        raise BadState(
            "a part of the range is not mapped", asked=at, remedy="name only what is mapped"
        )
    if piece.region is not region and (op in _OWN_ONLY or not children):
        raise InvalidArgs(
            "a mapping of a child region is in the range",
            asked=at,
            holder=f"the mapping at {ByteRange(piece.start, piece.stop)}",
            remedy="use the child's own handle"
            if op in _OWN_ONLY
            else "use a handle with OP_CHILDREN, or the child's own",
        )
    return piece


def _check(op: int, mapping: Mapping, offset: int, size: int) -> None:
    """Raise unless the operation may be done to a part of a mapping."""
    vmo = mapping.vmo
    if mapping.follows and offset + size > page_up(vmo.stream.size):
        raise OutOfRange(
            f"the range leaves the stream of {vmo}",
            asked=offset + size,
            limit=page_up(vmo.stream.size),
            remedy="ask for less, or set a larger stream size",
        )
    denied = _NEEDS.get(op, 0) & ~mapping.allowed
    if denied:
        raise AccessDenied(
            f"the mapping at {mapping.address:#x} was made without {describe_perms(denied)}",
            missing=denied << RIGHT_SHIFT,
            remedy="map it again through handles with that right",
        )


# Entering pages -----------------------------------------------------------------------------------


def enter_pages(mapping: Mapping, start: int, stop: int) -> None:
    """Enter what has memory in the page tables; what has none stays without. Without the lock.

    Left out is what the mapping does not show, what cannot be read, and device memory, whose pages
    Linux enters when they are touched. Another thread may change the range meanwhile. The host's
    refusal is no error then: what the other thread did came after.

    Raises:
      NoMemory, HostError: a page cannot be entered.
    """
    lock, entered = mapping.vmo.kernel.lock, list[tuple[int, int]]()
    try:
        with lock:  # for the descriptor, which may be closed with the last mapping
            entered = _with_memory(mapping, start, stop)
        for low, high in entered:
            populate(low, high)
    except PinfoldError:
        with lock:
            readable = RangeSet()
            for low, high in _readable(mapping, start, stop):
                readable.add(low, high)
        if all(readable.covers(low, high) for low, high in entered):
            raise


def enter_all(mapping: Mapping) -> None:
    """`enter_pages`, of what was just mapped: if a page cannot be entered, it is unmapped."""
    try:
        enter_pages(mapping, mapping.address, mapping.address + mapping.size)
    except BaseException as error:
        with noted("unmap it again; it stays mapped", error):
            mapping.unmap()
        raise


def _readable(mapping: Mapping, start: int, stop: int) -> list[tuple[int, int]]:
    """Where in a range a mapping can be read, the memory object's end included."""
    end = mapping.address + mapping.vmo.size - mapping.vmo_offset
    found = []
    for piece in mapping.pieces_in(start, stop):
        for low, high, prot in piece.runs_in(start, min(stop, piece.edge, end)):
            if prot & READ:
                found.append((low, high))
    return found


def _with_memory(mapping: Mapping, start: int, stop: int) -> list[tuple[int, int]]:
    vmo = mapping.vmo
    if vmo.physical:
        return []
    shift = mapping.address - mapping.vmo_offset - vmo.base
    return [
        (first + shift, last + shift)
        for low, high in _readable(mapping, start, stop)
        for first, last in vmo.pages.backing.data_runs(low - shift, high - low)
    ]
