# The object behind a handle to an address region, and the rules of placing in it.
#
# Source: Zircon's VmAddressRegion for the order of checks: the first that fails decides the error.
from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from pinfold.errors import AccessDenied, AlreadyExists, BadState, InvalidArgs, NoResources, NotFound
from pinfold.memory.regions import Region
from pinfold.memory.reservation import AddressSpace
from pinfold.objects.object import KernelObject, ObjectType
from pinfold.objects.region_records import MapsRecord, VmarStatistics
from pinfold.objects.vmoption import (
    ALIGN_SHIFT,
    AT,
    CAN_RWX,
    CAN_SHIFT,
    CAN_SPECIFIC,
    COMPACT,
    OVERWRITE,
    PLACED,
    RIGHT_SHIFT,
    UPPER,
    VmOption,
)
from pinfold.rights import Perm, Right, describe_perms
from pinfold.units import PAGE_MASK, PAGE_SIZE, ByteRange, page_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pinfold.memory.mapped import Piece
    from pinfold.objects.handle import HandleEntry
    from pinfold.objects.kernel import Kernel
    from pinfold.objects.mapping import Mapping
    from pinfold.objects.memory_object import VmoObject
    from pinfold.objects.process import Process

_BASIC: Final = int(Right.TRANSFER | Right.DUPLICATE | Right.INSPECT | Right.OP_CHILDREN)


ROOTS: Final[dict[int, tuple[int, Kernel]]] = {}
"""The address spaces of all kernels: where each begins, where it ends, and whose it is."""


class VmarObject(KernelObject):
    """What every handle to a region shares."""

    __slots__ = ("options", "region")

    object_type = ObjectType.VMAR
    region: Region

    def __init__(self, kernel: Kernel, options: int, name: str) -> None:
        super().__init__(kernel, name)
        self.options = options  # CAN_MAP_* and COMPACT

    @classmethod
    def make_root(
        cls,
        kernel: Kernel,
        size: int | None = None,
        address: int | None = None,
        seed: int | None = None,
    ) -> VmarObject:
        """The root of a new address space. Called with the kernel's lock held.

        Args and errors: as `AddressSpace`.
        """
        made = cls(kernel, CAN_RWX | CAN_SPECIFIC, "root")
        space = AddressSpace(size, address, seed)
        made.region = space.root
        space.root.owner = made
        kernel.spaces[space.base] = made
        ROOTS[space.base] = space.stop, kernel
        return made

    def tear_down(self) -> None:
        """End a root region as process death does; see `AddressSpace.close`. Lock held."""
        self.kernel.spaces.pop(self.region.base, None)
        ROOTS.pop(self.region.base, None)
        self.region.space.close()

    @property
    def default_rights(self) -> int:
        """The rights of the first handle. Source: Zircon's VMAR dispatcher."""
        return _BASIC | (self.options & CAN_RWX) >> CAN_SHIFT << RIGHT_SHIFT

    def on_zero_handles(self) -> None:
        """The last handle was closed: nothing is unmapped, the region stays while it is alive."""
        if not self.region.alive:
            self.kernel.forget(self)

    def region_ended(self) -> None:
        """It was destroyed, or its parent was. Called with the kernel's lock held."""
        if not self.handle_count:
            self.kernel.forget(self)

    def require_alive(self) -> Region:
        """The range of addresses, unless the region is destroyed."""
        region = self.region
        if not region.alive:
            raise BadState(
                f"{self} is destroyed", asked=region.base, remedy="allocate another region"
            )
        return region

    def not_allowed(self, can: int) -> AccessDenied:
        """The error for CAN_MAP permissions that the region does not give."""
        denied = (can & ~self.options) >> CAN_SHIFT
        return AccessDenied(
            f"{self} does not allow {describe_perms(denied)}",
            missing=denied << RIGHT_SHIFT,
            remedy="allocate the region with the CAN_MAP options that are wanted in it",
        )

    def place(self, options: int, can: int, offset: int, size: int) -> int:
        """Where a block goes: its address. The region keeps no note of it.

        Source: Zircon's placement rules, in their order.
        """
        region = self.require_alive()
        if size <= 0:
            raise InvalidArgs(
                "a range has at least a byte", asked=size, remedy="give a size above 0"
            )
        if can & ~self.options:
            raise self.not_allowed(can)
        kind = options & PLACED
        length = region.stop - region.base
        if kind & AT and kind & UPPER:
            raise InvalidArgs(
                "an offset is where to place, or the upper limit, not both",
                asked=options,
                remedy="leave SPECIFIC or OFFSET_IS_UPPER_LIMIT out",
            )
        if not kind and offset:
            raise InvalidArgs(
                "an offset without SPECIFIC, SPECIFIC_OVERWRITE or OFFSET_IS_UPPER_LIMIT",
                asked=offset,
                remedy="say what the offset is for, or leave it 0",
            )
        if offset & PAGE_MASK:
            raise InvalidArgs(
                "an offset is page-aligned",
                asked=offset,
                limit=PAGE_SIZE,
                remedy="give a multiple of the page size",
            )
        if kind and not self.options & CAN_SPECIFIC:
            raise AccessDenied(
                f"{self} does not let its users choose addresses",
                remedy="allocate it with CAN_MAP_SPECIFIC, or let the region choose",
            )
        if kind & UPPER:
            if offset < 0 or offset > length or size > offset:
                raise InvalidArgs(
                    f"no range of this size in {self} ends at the upper limit",
                    asked=size,
                    available=offset,
                    limit=length,
                    remedy="ask for less, or raise the limit up to the region's size",
                )
        elif offset < 0 or offset >= length or size > length - offset:
            raise InvalidArgs(
                f"the range leaves {self}",
                asked=offset + size,
                limit=length,
                remedy="offsets count from the region's base; ask for less, or use a larger region",
            )
        bits = options >> ALIGN_SHIFT
        align = 1 << bits if bits else PAGE_SIZE
        if kind & AT:
            start = region.base + offset
            if start & align - 1:
                raise InvalidArgs(
                    "the address is not aligned as asked",
                    asked=start,
                    limit=align,
                    remedy="choose another offset, or leave the alignment out",
                )
            self._check_free(region, start, start + size, over=bool(kind & OVERWRITE))
            return start
        limit = region.base + offset if kind else region.stop
        found = region.find_gap(size, max(align, PAGE_SIZE), limit)
        if found is None:
            raise NoResources(
                f"no gap of this size is left in {self}",
                asked=size,
                available=region.largest_gap(),
                limit=limit,
                remedy="unmap something, or use a larger region",
            )
        return found

    def allocated(
        self,
        process: Process,
        start: int,
        size: int,
        options: int,
        name: str,
        rights: int | None = None,
    ) -> HandleEntry:
        """The row of a child region where `place` has found room; its own rights by default."""
        made = VmarObject(process.kernel, options & (CAN_RWX | CAN_SPECIFIC | COMPACT), name)
        compact = bool(options & COMPACT)
        made.region = self.region.allocate(start, start + size, made, compact=compact)
        try:
            return process.add(made, made.default_rights if rights is None else rights)
        except BaseException:
            made.region.destroy()
            raise

    def _check_free(self, region: Region, start: int, stop: int, *, over: bool) -> None:
        for low, high, child in region.children.overlapping(start, stop):
            inner = isinstance(child, Region)
            if not over:
                raise AlreadyExists(
                    f"something is at this place in {self}",
                    asked=start,
                    holder=f"{'a region' if inner else 'a mapping'} at {ByteRange(low, high)}",
                    remedy="choose another offset"
                    + ("" if inner else ", or replace it with SPECIFIC_OVERWRITE"),
                )
            if inner:
                raise InvalidArgs(
                    "a child region cannot be mapped over",
                    asked=start,
                    available=low - start,
                    remedy="destroy the region first",
                )

    def range_of(self, address: int, size: int) -> tuple[int, int]:
        """An absolute range in the region, with ``size`` rounded up: (start, stop)."""
        region = self.require_alive()
        stop = address + page_up(size)
        if address < region.base or stop > region.stop:
            raise InvalidArgs(
                f"the range leaves {self}",
                asked=address if address < region.base else stop,
                limit=region.base if address < region.base else region.stop,
                remedy="give absolute addresses, as map returns them",
            )
        return address, stop

    def check_protect(self, start: int, stop: int, perms: int, *, children: bool) -> None:
        """Raise unless `Region.protect` may go ahead.

        Source: Zircon, which checks the whole range before anything changes.
        """
        at = start
        region = self.region
        for piece in region.pieces(start, stop):
            if at < piece.start:
                break
            denied = perms & ~piece.mapped.allowed
            if denied:
                raise AccessDenied(
                    f"the mapping at {ByteRange(piece.start, piece.stop)} was made without "
                    f"{describe_perms(denied)}",
                    missing=denied << RIGHT_SHIFT,
                    remedy="map it again through handles with that right",
                )
            if piece.region is not region:
                runs = piece.runs_in(at, stop)
                self._check_protect_below(piece.start, runs, perms, children=children)
            at = piece.stop
        if at < stop:
            raise NotFound(
                "a part of the range is not mapped", asked=at, remedy="protect only what is mapped"
            )

    def _check_protect_below(
        self, at: int, runs: list[tuple[int, int, int]], perms: int, *, children: bool
    ) -> None:
        if not children:
            raise InvalidArgs(
                "a child region is in the range",
                asked=at,
                remedy="use a handle with OP_CHILDREN, or the child's own",
            )
        for low, _, prot in runs:
            more = perms & ~prot
            if more:
                raise AccessDenied(
                    f"a mapping of a child region, at {low:#x}, would gain {describe_perms(more)}",
                    missing=more << RIGHT_SHIFT,
                    remedy="use the child's own handle",
                )

    def check_unmap(self, start: int, stop: int, *, children: bool) -> None:
        """Raise `InvalidArgs` unless every child region in the range may be destroyed with it."""
        for low, high, child in self.region.children.overlapping(start, stop):
            if isinstance(child, Region) and not (children and start <= low and high <= stop):
                raise InvalidArgs(
                    "a child region is in the way",
                    asked=start,
                    holder=f"the region at {ByteRange(low, high)}",
                    remedy="cover it wholly" if children else "use a handle with OP_CHILDREN",
                )

    def records(self, depth: int = 0) -> Iterator[MapsRecord]:
        """The region and what is in it, depth first, ascending."""
        yield self.record(depth)
        left = [iter(self.region.children)]
        while left:  # no recursion: regions may be nested deeper than Python calls
            _, _, child = next(left[-1], (0, 0, None))
            if child is None:
                left.pop()
            elif isinstance(child, Region):
                yield cast("VmarObject", child.owner).record(depth + len(left))
                left.append(iter(child.children))
            else:
                yield from _records_of(child, depth + len(left))

    def record(self, depth: int) -> MapsRecord:
        """The region itself."""
        region, perms = self.region, Perm((self.options & CAN_RWX) >> CAN_SHIFT)
        size = region.stop - region.base
        return MapsRecord(depth, "vmar", self.name, region.base, size, perms, 0, 0, 0)

    def mapped(self) -> Iterator[VmoObject]:
        """The memory object of each mapping in it, child regions included, ascending."""
        region = self.region
        for piece in region.pieces(region.base, region.stop):
            yield cast("Mapping", piece.mapped).vmo

    def statistics(self) -> VmarStatistics:
        """The region as a frozen record."""
        region = self.region
        mapped = regions = mappings = 0
        taken = 0
        for low, high, child in region.children:
            taken += high - low
            if isinstance(child, Region):
                regions += 1
            else:
                mappings += 1
                mapped += high - low
        size = region.stop - region.base
        return VmarStatistics(
            koid=self.koid,
            name=self.name,
            base=region.base,
            size=size,
            alive=region.alive,
            options=VmOption(self.options),
            regions=regions,
            mappings=mappings,
            mapped=mapped,
            free=size - taken if region.alive else 0,
            largest_gap=region.largest_gap() if region.alive else 0,
            handles=self.handle_count,
        )


def _records_of(piece: Piece, depth: int) -> Iterator[MapsRecord]:
    """A mapping, a record for each run of one protection."""
    mapping = cast("Mapping", piece.mapped)
    vmo = mapping.vmo
    for low, high, prot in piece.runs:
        offset, size = mapping.vmo_offset + low - mapping.address, high - low
        committed = vmo.attributed(offset, size)
        yield MapsRecord(
            depth, "mapping", vmo.name, low, size, Perm(prot), vmo.koid, offset, committed
        )
