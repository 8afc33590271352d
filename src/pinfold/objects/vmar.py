# A handle to an address region: real host address space, handed out in parts.
#
# Source: zx_vmar_allocate, zx_vmar_map, zx_vmar_unmap, zx_vmar_protect, zx_vmar_op_range,
# zx_vmar_destroy, and mx_vmar_map; Zircon's dispatcher for the order of checks, which is the order
# of the code here: the first that fails decides the error.
#
# Offsets given to allocate and map are relative to the region, addresses given to unmap and protect
# are absolute. Closing a handle unmaps nothing: a region ends when it is destroyed, when its parent
# unmaps it, or with the process.
#
# Everything is done under the kernel's lock, the system calls included: they are what the books
# are about. Only pages are given memory, or entered, after it is let go (region_ops.py): that may
# take long, or wait for a disk.
from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Final

from pinfold.errors import BufferTooSmall, InvalidArgs, NotSupported, OutOfRange
from pinfold.objects.mapping import Mapping, protect, show
from pinfold.objects.memory_object import memory_of
from pinfold.objects.process import current_process
from pinfold.objects.region import VmarObject
from pinfold.objects.region_ops import VmarOp, VmarOps, enter_all
from pinfold.objects.region_records import MapsRecord, VmarStatistics
from pinfold.objects.vmoption import (
    ALLOW_FAULTS,
    CAN_RWX,
    CAN_SHIFT,
    MAP_RANGE,
    NOT_FOR_ALLOCATE,
    PERMS,
    RIGHT_SHIFT,
    STREAM,
    XOM,
    VmOption,
    check_address,
    check_bits,
    check_map,
    check_perms,
    check_region_size,
    not_taken,
)
from pinfold.rights import Right
from pinfold.units import PAGE_MASK, PAGE_SIZE, UINT64_MAX, HostVa, page_up

if TYPE_CHECKING:
    from pinfold.objects.handle import Handle
    from pinfold.objects.memory_object import VmoObject

__all__ = ["MapsRecord", "VmOption", "Vmar", "VmarObject", "VmarOp", "VmarStatistics"]

_OP_CHILDREN: Final = int(Right.OP_CHILDREN)
_INSPECT: Final = int(Right.INSPECT)
_READ_BIT = 1  # of the permissions


class Vmar(VmarOps):
    """A handle to an address region of this Python process. Get one from a `Process` or `allocate`.

    Every call raises `BadHandle` where this handle is closed.
    """

    __slots__ = ()

    def __del__(self) -> None:
        entry = getattr(self, "_entry", None)  # absent when making the handle failed
        if entry is None or not entry.process.keeps(self):  # else it goes with its process
            super().__del__()

    @classmethod
    def root(cls) -> Vmar:
        """The root region of the current process, which keeps the handle."""
        return current_process().root

    @property
    def base(self) -> HostVa:
        """The first address. A destroyed region keeps it. Source: ZX_INFO_VMAR."""
        return HostVa(self.object.region.base)

    @property
    def size(self) -> int:
        """Bytes. A destroyed region keeps it."""
        region = self.object.region
        return region.stop - region.base

    @property
    def alive(self) -> bool:
        """False once it is destroyed."""
        return self.object.region.alive

    def allocate(
        self, size: int, options: VmOption | int = 0, *, offset: int = 0, name: str = ""
    ) -> Vmar:
        """A child region: address space, nothing mapped, no system call.

        Args:
          size: bytes, page-aligned, > 0.
          options: what may be mapped in it (CAN_MAP_*), COMPACT, an alignment, and how to place it:
            SPECIFIC or OFFSET_IS_UPPER_LIMIT; without either the lowest address that fits.
          offset: bytes from the base of this region: where, or the upper limit.
          name: for people.

        Raises:
          AccessDenied: this handle lacks READ, WRITE or EXECUTE for a CAN_MAP option; the region
            does not allow it, or lets nobody choose addresses (``.missing``).
          InvalidArgs: options that allocate does not take, or that exclude each other; ``size`` not
            in whole pages, or 0; ``offset`` unaligned, useless, or outside.
          BadState: this region is destroyed.
          AlreadyExists: the place is taken (``.holder``).
          NoResources: no gap is large enough (``.available`` is the largest).

        After an error nothing has changed.

        Source: zx_vmar_allocate.
        """
        options = int(options) & ~XOM
        size, offset = index(size), index(offset)  # numpy's integers wrap; ours do not
        can = options & CAN_RWX
        process = self._entry.process
        with process.kernel.lock:
            target = self._require(can >> CAN_SHIFT << RIGHT_SHIFT)
            check_bits(options)
            if options & PERMS:
                raise InvalidArgs(
                    "a region has CAN_MAP options, permissions are for mappings",
                    asked=options,
                    remedy="give CAN_MAP_READ for PERM_READ, and so on",
                )
            check_region_size(size)
            if options & NOT_FOR_ALLOCATE:
                raise not_taken("allocate", options & NOT_FOR_ALLOCATE)
            start = target.place(options, can, offset, size)
            return self.wrap(target.allocated(process, start, size, options, name))

    def map(
        self,
        vmo: Handle[VmoObject],
        options: VmOption | int,
        *,
        offset: int = 0,
        vmo_offset: int = 0,
        size: int | None = None,
    ) -> Mapping:
        """Show a part of a memory object at host addresses.

        The mapping stays until it is unmapped, whatever happens to handles, and keeps the memory
        object alive. Permissions of both handles are noted: `protect` can never allow more.

        Beyond the end of the object, now or after a `Vmo.resize`, the mapping has addresses and no
        memory, and so it has, with FAULT_BEYOND_STREAM_SIZE, beyond the last page of its stream:
        touching one ends the process.

        Args:
          vmo: has MAP.
          options: PERM_*, of which none is legal (it holds the addresses); SPECIFIC,
            SPECIFIC_OVERWRITE (replaces the mappings that are there, in one step),
            OFFSET_IS_UPPER_LIMIT or an alignment to place it; MAP_RANGE enters the pages that have
            memory, and gives none to others; REQUIRE_NON_RESIZABLE; ALLOW_FAULTS, which the two
            that follow need: a discardable object; FAULT_BEYOND_STREAM_SIZE. With
            ``Kernel(strict="docs")`` a resizable object needs it too, and a range beyond the end.
          offset: bytes from the base of this region: where, or the upper limit.
          vmo_offset: bytes, page-aligned.
          size: bytes, rounded up to pages; to the end of the object by default.

        Raises:
          WrongType: ``vmo`` is not a handle to a memory object.
          AccessDenied: a handle lacks a right, the region does not allow a permission, or lets
            nobody choose addresses (``.missing``).
          NotSupported: REQUIRE_NON_RESIZABLE and it is resizable; it is discardable and may not
            fault; FAULT_BEYOND_STREAM_SIZE and it has no stream (contiguous, device memory); it is
            made of huge pages.
          BufferTooSmall: on a strict kernel, the range leaves the object (``.limit``).
          InvalidArgs: options that do not go together, PERM_WRITE or PERM_EXECUTE without
            PERM_READ; an unaligned offset; ``size`` 0; a range outside the region; a child region
            in the way of SPECIFIC_OVERWRITE.
          OutOfRange: the offset and the size do not fit into 64 bits (``.limit``).
          AlreadyExists: SPECIFIC, and something is there (``.holder``).
          NoResources: no gap is large enough (``.available`` is the largest).
          BadState: the region is destroyed; a live view shows a mapping that would be replaced, or
            one that was unmapped here by force (``.holder``).
          NoMemory: the host is out of mappings (vm.max_map_count) or of memory.
          HostError: the memory of a mapping that was replaced could not be let go, or a page could
            not be read (MAP_RANGE).

        After an error nothing has changed, but for what SPECIFIC_OVERWRITE had replaced by then: it
        is unmapped. Where MAP_RANGE fails and the kernel refuses to unmap as well, which a note on
        the error says, the mapping stays: `maps` lists it, and `unmap` or `destroy` ends it. A
        mapping that another thread unmaps or protects while MAP_RANGE enters its pages is returned
        all the same.

        Source: zx_vmar_map, mx_vmar_map.
        """
        options = int(options)
        offset, vmo_offset = index(offset), index(vmo_offset)
        if options & XOM:  # execute-only memory is not to be had here
            options = options & ~XOM | _READ_BIT
        kernel = self._entry.process.kernel
        with kernel.lock:
            target = self._require(0)
            memory = memory_of(vmo, kernel)
            vmo_rights = vmo._entry.rights
            allowed = (self._entry.rights & vmo_rights) >> RIGHT_SHIFT & PERMS
            check_map(options, memory, vmo_rights, allowed)
            perms = options & PERMS
            can = perms << CAN_SHIFT
            if can & ~target.options:
                raise target.not_allowed(can)
            if vmo_offset & PAGE_MASK or vmo_offset < 0:
                raise InvalidArgs(
                    "a memory offset is page-aligned, and not negative",
                    asked=vmo_offset,
                    limit=PAGE_SIZE,
                    remedy="give a multiple of the page size",
                )
            size = page_up(max(memory.size - vmo_offset, 0) if size is None else index(size))
            if size > UINT64_MAX or vmo_offset + size > UINT64_MAX:
                raise OutOfRange(
                    "the range of memory ends where no object can",
                    asked=vmo_offset + size,
                    limit=UINT64_MAX,
                    remedy="map a part that the object has",
                )
            docs = kernel.strict == "docs"
            if docs and not options & ALLOW_FAULTS and vmo_offset + size > memory.size:
                raise BufferTooSmall(
                    f"the range leaves {memory}",
                    asked=vmo_offset + size,
                    limit=memory.size,
                    remedy="map what there is, or add ALLOW_FAULTS",
                )
            start = target.place(options, can, offset, size)
            mapping = show(
                target.region,
                memory,
                allowed,
                start,
                size,
                vmo_offset,
                perms,
                follows=bool(options & STREAM),
            )
        if options & MAP_RANGE:
            enter_all(mapping)
        return mapping

    def protect(self, address: int, size: int, options: VmOption | int) -> None:
        """Change what may be done with a mapped range, all of it or, mostly, nothing.

        Args:
          address: absolute, page-aligned.
          size: bytes, rounded up to pages, > 0.
          options: PERM_*; 0 takes all access away, and needs no right.

        Raises:
          AccessDenied: this handle lacks a right; a mapping was made without the permission, or
            belongs to a child region and would gain one (``.missing``).
          InvalidArgs: PERM_WRITE or PERM_EXECUTE without PERM_READ; other options; unaligned;
            ``size`` 0; outside the region; a child region in it and no OP_CHILDREN.
          BadState: the region is destroyed; a live view needs what would be taken (``.holder``).
          NotFound: a part of the range is not mapped.
          NoMemory: the host is out of mappings: what lies before the place of the refusal has
            changed. After every other error nothing has.

        Source: zx_vmar_protect.
        """
        options, address, size = int(options), index(address), index(size)
        if options & XOM:
            options = options & ~XOM | _READ_BIT
        perms = options & PERMS
        with self._entry.process.kernel.lock:
            target = self._require(perms << RIGHT_SHIFT)
            check_perms(perms)
            check_address(address)
            if options != perms:
                raise not_taken("protect", options & ~PERMS)
            start, stop = _checked_range(target, address, size)
            children = bool(self._entry.rights & _OP_CHILDREN)
            target.check_protect(start, stop, perms, children=children)
            protect(target.region, start, stop, perms)

    def unmap(self, address: int, size: int, *, force: bool = False) -> None:
        """Unmap a range. Holes in it are skipped, mappings at its borders are cut.

        Child regions in it are destroyed. With ``force`` live views are no obstacle: their
        addresses stay reserved and inaccessible while they live, so that a late access faults (and
        ends the process) instead of reading somebody else's bytes.

        Args:
          address: absolute, page-aligned.
          size: bytes, rounded up to pages, > 0.

        Raises:
          InvalidArgs: unaligned; ``size`` 0; outside the region; a child region that is only partly
            covered, or any without OP_CHILDREN.
          BadState: the region is destroyed; a live view shows a part of the range (``.holder``).
          NoMemory: cutting a mapping takes one more than vm.max_map_count allows.

        After an error nothing has changed.

        Source: zx_vmar_unmap.
        """
        address, size = index(address), index(size)
        with self._entry.process.kernel.lock:
            target = self._require(0)
            check_address(address)
            start, stop = _checked_range(target, address, size)
            if not target.region.is_piece(start, stop):  # what one call mapped has no regions in it
                target.check_unmap(start, stop, children=bool(self._entry.rights & _OP_CHILDREN))
            target.region.clear(start, stop, force=force)

    def destroy(self, *, force: bool = False) -> None:
        """Unmap everything in the region, end it and all regions below it, free its range.

        The handles to them stay, and every further use of them is a `BadState`. For ``force`` see
        `unmap`.

        Raises:
          AccessDenied: without OP_CHILDREN.
          NotSupported: the root region, which ends with its process.
          BadState: it is destroyed already; a live view shows a part of it (``.holder``).
          NoMemory: the host is out of mappings.

        After an error nothing has changed.

        Source: zx_vmar_destroy.
        """
        with self._entry.process.kernel.lock:
            target = self._require(_OP_CHILDREN)
            if target.region.parent is None:
                raise NotSupported(
                    f"{target} is the root of its process", remedy="end the process instead"
                )
            target.require_alive().destroy(force=force)

    def statistics(self) -> VmarStatistics:
        """The region as a frozen record; one that is destroyed as well."""
        target = self.object
        with target.kernel.lock:
            return target.statistics()

    def maps(self) -> list[MapsRecord]:
        """The region and everything in it, depth first, in ascending order of address.

        A mapping is one record for every run of one protection. This region is at depth 0.

        Raises:
          AccessDenied: without INSPECT.
          BadState: the region is destroyed.

        Source: ZX_INFO_VMAR_MAPS.
        """
        with self._entry.process.kernel.lock:
            target = self._require(_INSPECT)
            target.require_alive()
            return list(target.records())


def _checked_range(target: VmarObject, address: int, size: int) -> tuple[int, int]:
    if size <= 0 or page_up(size) > UINT64_MAX:
        raise InvalidArgs(
            "a range has at least a byte, and ends",
            asked=size,
            limit=UINT64_MAX,
            remedy="give a size above 0",
        )
    return target.range_of(address, size)
