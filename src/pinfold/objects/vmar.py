# A handle to an address region: real host address space, handed out in parts.
#
# Source: zx_vmar_allocate, zx_vmar_map, zx_vmar_unmap, zx_vmar_protect, zx_vmar_destroy, and
# mx_vmar_map; Zircon's dispatcher for the order of checks, which is the order of the code here: the
# first that fails decides the error.
#
# Offsets given to allocate and map are relative to the region, addresses given to unmap and protect
# are absolute. Closing a handle unmaps nothing: a region ends when it is destroyed, when its parent
# unmaps it, or with the process.
#
# Everything is done under the kernel's lock, the system calls included: they are what the books
# are about. Populating for MAP_RANGE is among them and takes time by the page.
from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Final

from pinfold.errors import InvalidArgs, NotSupported, OutOfRange
from pinfold.memory.regions import populate
from pinfold.objects.handle import Handle
from pinfold.objects.mapping import Mapping
from pinfold.objects.memory_object import MAX_SIZE, VmoObject, memory_of
from pinfold.objects.process import current_process
from pinfold.objects.region import MapsRecord, VmarObject, VmarStatistics
from pinfold.objects.vmoption import (
    CAN_RWX,
    CAN_SHIFT,
    CAN_SPECIFIC,
    COMPACT,
    MAP_RANGE,
    NOT_FOR_ALLOCATE,
    PERMS,
    RIGHT_SHIFT,
    XOM,
    VmOption,
    check_bits,
    check_map,
    check_perms,
    not_taken,
)
from pinfold.rights import Right
from pinfold.units import PAGE_MASK, PAGE_SIZE, UINT64_MAX, HostVa, page_up

if TYPE_CHECKING:
    from pinfold.objects.vmo import Vmo

__all__ = ["MapsRecord", "VmOption", "Vmar", "VmarObject", "VmarStatistics"]

_OP_CHILDREN: Final = int(Right.OP_CHILDREN)
_INSPECT: Final = int(Right.INSPECT)
_READ_BIT, _WRITE_BIT = 1, 2  # of the permissions


class Vmar(Handle[VmarObject]):
    """A handle to an address region of this Python process. Get one from a `Process` or `allocate`.

    Every call raises `BadHandle` where this handle is closed.
    """

    __slots__ = ()

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
                    "a region has CAN_MAP options, permissions are for mappings", asked=options
                )
            if size & PAGE_MASK:
                raise InvalidArgs("a region has whole pages", asked=size, limit=PAGE_SIZE)
            if options & NOT_FOR_ALLOCATE:
                raise not_taken("allocate", options & NOT_FOR_ALLOCATE)
            start = target.place(options, can, offset, size)
            made = VmarObject(process.kernel, options & (CAN_RWX | CAN_SPECIFIC | COMPACT), name)
            entry = process.add(made, made.default_rights)
            made.region = target.region.allocate(
                start, start + size, made, compact=bool(options & COMPACT)
            )
            return self.wrap(entry)

    def map(
        self,
        vmo: Vmo,
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
        memory: touching one is a bus error.

        Args:
          vmo: has MAP.
          options: PERM_*, of which none is legal (it holds the addresses); SPECIFIC,
            SPECIFIC_OVERWRITE (replaces the mappings that are there, in one step),
            OFFSET_IS_UPPER_LIMIT or an alignment to place it; MAP_RANGE enters the pages that have
            memory, and gives none to others; REQUIRE_NON_RESIZABLE; ALLOW_FAULTS, which is accepted
            and changes nothing.
          offset: bytes from the base of this region: where, or the upper limit.
          vmo_offset: bytes, page-aligned.
          size: bytes, rounded up to pages; to the end of the object by default.

        Raises:
          WrongType: ``vmo`` is not a handle to a memory object.
          AccessDenied: a handle lacks a right, the region does not allow a permission, or lets
            nobody choose addresses (``.missing``).
          NotSupported: REQUIRE_NON_RESIZABLE and it is resizable; FAULT_BEYOND_STREAM_SIZE.
          InvalidArgs: options that do not go together, PERM_WRITE or PERM_EXECUTE without
            PERM_READ; an unaligned offset; ``size`` 0; a range outside the region; a child region
            in the way of SPECIFIC_OVERWRITE.
          OutOfRange: the offsets are beyond what a file can have (``.limit``).
          AlreadyExists: SPECIFIC, and something is there (``.holder``).
          NoResources: no gap is large enough (``.available`` is the largest).
          BadState: the region is destroyed; a live view shows a mapping that would be replaced, or
            one that was unmapped here by force (``.holder``).
          NoMemory: the host is out of mappings (vm.max_map_count) or of memory.

        After an error nothing has changed.

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
                    "a memory offset is page-aligned", asked=vmo_offset, limit=PAGE_SIZE
                )
            size = page_up(max(memory.size - vmo_offset, 0) if size is None else index(size))
            backing = memory.pages.backing
            at = backing.base + vmo_offset
            if at + size > MAX_SIZE:
                raise OutOfRange("no file is so large", asked=at + size, limit=MAX_SIZE)
            start = target.place(options, can, offset, size)
            if not backing.writable:
                allowed &= ~_WRITE_BIT
            mapping = Mapping(target.region, memory, allowed, start, size, vmo_offset)
            target.region.map(start, start + size, mapping, at, perms)
            if options & MAP_RANGE and perms and not memory.physical:
                self._enter_pages(target, memory, mapping)
            return mapping

    def _enter_pages(self, target: VmarObject, memory: VmoObject, mapping: Mapping) -> None:
        """MAP_RANGE: what has memory is entered in the page tables, what has none stays without."""
        first = mapping.vmo_offset
        size = min(mapping.size, memory.size - first)
        if size <= 0:
            return
        shift = mapping.address - first
        try:
            for low, high in memory.pages.backing.data_runs(first, size):
                populate(low + shift, high + shift)
        except BaseException:
            target.region.clear(mapping.address, mapping.address + mapping.size)
            raise

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
            _check_address(address)
            if options != perms:
                raise not_taken("protect", options & ~PERMS)
            start, stop = _checked_range(target, address, size)
            children = bool(self._entry.rights & _OP_CHILDREN)
            target.check_protect(start, stop, perms, children=children)
            target.region.protect(start, stop, perms)

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
            _check_address(address)
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


def _check_address(address: int) -> None:
    if address & PAGE_MASK or address < 0:
        raise InvalidArgs("an address is page-aligned", asked=address, limit=PAGE_SIZE)


def _checked_range(target: VmarObject, address: int, size: int) -> tuple[int, int]:
    if size <= 0 or page_up(size) > UINT64_MAX:
        raise InvalidArgs("a range has at least a byte, and ends", asked=size, limit=UINT64_MAX)
    return target.range_of(address, size)
