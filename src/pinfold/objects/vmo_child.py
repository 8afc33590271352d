# Memory objects made from memory objects: snapshots, slices, references. And moving pages.
#
# Source: zx_vmo_create_child, zx_vmo_transfer_data; Zircon's VM for the order of checks, which is
# the order of the code here: the first that fails decides the error.
#
# A snapshot is a copy, made at once and of committed pages only. Zircon shares the pages until one
# side writes. A memfd cannot: a store through a mapping of the parent would show in the child, and
# nothing tells us of stores. The price is the time and the memory of the copy; what it buys is that
# pinning, writing or dropping either side concerns the other in no way.
#
# Locks: the kernel's, for all of it, the copy included: a pin made in the middle would let a device
# write to a page of which half is copied.
from __future__ import annotations

import enum
from operator import index
from typing import TYPE_CHECKING, Any, Final

from pinfold.errors import BadState, InvalidArgs, NotSupported, OutOfRange
from pinfold.memory.backing import Backing
from pinfold.memory.copying import copy_pages
from pinfold.memory.hosterrors import noted
from pinfold.memory.pages import Pages
from pinfold.objects.memory_object import MAX_SIZE, VmoObject
from pinfold.objects.vmo_parts import CachePolicy
from pinfold.rights import Right
from pinfold.units import PAGE_MASK, PAGE_SIZE, UINT64_MAX, page_up

if TYPE_CHECKING:
    from pinfold.objects.handle import Handle, HandleEntry


class VmoChild(enum.IntFlag, boundary=enum.KEEP):
    """What kind of child, one of the first five, and how. The numbers are Zircon's."""

    SNAPSHOT = 1 << 0
    """A copy: what is written to either side afterwards, the other does not see."""
    SLICE = 1 << 3
    """A part of the parent's own pages, which cannot be resized."""
    SNAPSHOT_AT_LEAST_ON_WRITE = 1 << 4
    """A child that sees no more of the parent once it has written. Here a snapshot, as Zircon has
    it for memory that no pager backs."""
    REFERENCE = 1 << 6
    """All of the parent's own pages, with its size and its stream size."""
    SNAPSHOT_MODIFIED = 1 << 7
    """A copy of what was modified since a pager gave it. Here a snapshot, as above."""

    RESIZABLE = 1 << 2
    NO_WRITE = 1 << 5
    """The handle has no WRITE."""


_RESIZABLE: Final = int(VmoChild.RESIZABLE)
_NO_WRITE: Final = int(VmoChild.NO_WRITE)
_SLICE: Final = int(VmoChild.SLICE)
_REFERENCE: Final = int(VmoChild.REFERENCE)
_SNAPSHOTS: Final = tuple(
    int(kind)
    for kind in (
        VmoChild.SNAPSHOT,
        VmoChild.SNAPSHOT_AT_LEAST_ON_WRITE,
        VmoChild.SNAPSHOT_MODIFIED,
    )
)
_READ: Final = int(Right.READ)
_WRITE: Final = int(Right.WRITE)
_RESIZE: Final = int(Right.RESIZE)
_PROPERTY: Final = int(Right.PROPERTY)
_GET_PROPERTY: Final = int(Right.GET_PROPERTY)

_LONGEST: Final = UINT64_MAX // (32 * PAGE_SIZE) * (32 * PAGE_SIZE)
"""Bytes that an object of Zircon's can have. Ours have `MAX_SIZE`."""


def make_child(handle: Handle[Any], options: int, offset: int, size: int) -> HandleEntry:
    """A child of the memory object behind ``handle``; see `Vmo.child`."""
    options, offset, size = index(options), index(offset), index(size)
    rounded = page_up(size)
    if rounded > UINT64_MAX or size < 0:
        raise OutOfRange("no object can be so large", asked=size, limit=_LONGEST)
    if options & _NO_WRITE and options & _RESIZABLE:
        raise InvalidArgs(
            "NO_WRITE and RESIZABLE exclude each other",
            asked=options,
            remedy="leave one out: resizing writes",
        )
    kind = options & ~_NO_WRITE
    rights = int(Right.DUPLICATE | Right.READ)
    if kind & _REFERENCE and kind & _RESIZABLE:
        rights |= _RESIZE
    entry = handle._entry
    with entry.process.kernel.lock:
        parent = handle._demand(VmoObject, rights)
        if parent.discardable:
            raise NotSupported(f"{parent} is discardable", remedy="read it into another object")
        if kind & _SLICE:
            _only(kind, _SLICE)
            made = _slice(parent, offset, size)
        elif kind & _REFERENCE:
            _only(kind, _REFERENCE | _RESIZABLE)
            made = _reference(parent, offset, size, resizable=bool(kind & _RESIZABLE))
        else:
            made = _snapshot(parent, kind, offset, size)
        granted = entry.rights & ~_RESIZE | _PROPERTY
        if kind & _RESIZABLE:
            granted |= _RESIZE
        if options & _NO_WRITE:
            granted &= ~_WRITE
            made.immutable = bool(kind & VmoChild.SNAPSHOT)
        elif made.snapshot:
            granted = granted & ~int(Right.EXECUTE) | _WRITE
        return handed_over(made, parent, entry, offset, granted)


def handed_over(
    made: VmoObject, parent: VmoObject, entry: HandleEntry, offset: int, granted: int
) -> HandleEntry:
    """The row of a new child, made through the handle of ``entry``. With the kernel's lock held."""
    made.root_offset = parent.root_offset + offset
    if entry.rights & _GET_PROPERTY:
        made.name = parent.name
    made.renamed()
    parent.adopt(made)
    try:
        return entry.process.add(made, granted)
    except BaseException:
        made.release_if_idle()
        raise


def _only(kind: int, allowed: int) -> None:
    """Raise `InvalidArgs` for an option that does not go with the kind of child."""
    if kind & ~allowed:
        raise InvalidArgs(
            "options of a child that do not go together",
            asked=kind,
            limit=allowed,
            remedy="name one kind, and RESIZABLE where the kind can be",
        )


def _slice(parent: VmoObject, offset: int, size: int) -> VmoObject:
    rounded = page_up(size)
    if offset & PAGE_MASK:
        raise InvalidArgs("a slice begins at a page", asked=offset, limit=PAGE_SIZE)
    if rounded > _LONGEST:
        raise OutOfRange("no object can be so large", asked=size, limit=_LONGEST)
    if offset < 0 or offset + rounded > parent.size:
        raise InvalidArgs(f"the slice leaves {parent}", asked=offset + rounded, limit=parent.size)
    if not parent.physical:
        if parent.resizable:
            raise NotSupported(f"{parent} is resizable", remedy="make a reference, or a snapshot")
        if not parent.contiguous:
            parent.refuse_if_uncached("slice it")
    made = VmoObject(
        parent.kernel,
        parent.pages,
        body=parent.body,
        stream=0 if parent.contiguous else size,
    )
    made.base = parent.base + offset
    made.length = rounded
    made.physical = parent.physical
    made.cache_policy = parent.cache_policy
    return made


def _reference(parent: VmoObject, offset: int, size: int, *, resizable: bool) -> VmoObject:
    if parent.physical:
        raise NotSupported(f"{parent} is device memory", remedy="make a slice")
    if offset or size:
        raise InvalidArgs(
            "a reference is to all of its parent",
            asked=offset or size,
            remedy="give 0 for both, or make a slice",
        )
    if parent.is_slice:
        raise NotSupported(f"{parent} is a slice", remedy="make a slice of it")
    if parent.contiguous:
        raise NotSupported(f"{parent} is contiguous", remedy="make a slice of it")
    if resizable and not parent.resizable:
        raise NotSupported(f"{parent} is not resizable", remedy="leave RESIZABLE out")
    parent.refuse_if_uncached("refer to it")
    return VmoObject(
        parent.kernel,
        parent.pages,
        body=parent.body,
        stream=parent.stream,
        resizable=parent.resizable,
    )


def _snapshot(parent: VmoObject, kind: int, offset: int, size: int) -> VmoObject:
    found = [snapshot for snapshot in _SNAPSHOTS if kind & snapshot]
    _only(kind, found[0] | _RESIZABLE if found else 0)
    if not found:
        raise InvalidArgs("no kind of child is named", asked=kind, remedy="name one")
    rounded = page_up(size)
    if parent.physical:
        raise NotSupported(f"{parent} is device memory", remedy="make a slice")
    if parent.contiguous:
        raise InvalidArgs(f"{parent} is contiguous", remedy="make a slice")
    if offset & PAGE_MASK:
        raise InvalidArgs("a snapshot begins at a page", asked=offset, limit=PAGE_SIZE)
    if rounded > MAX_SIZE:
        raise OutOfRange("no object can be so large", asked=size, limit=MAX_SIZE)
    end = offset + rounded
    if offset < 0 or end > UINT64_MAX or (parent.is_slice and end > parent.size):
        raise OutOfRange(f"the snapshot leaves {parent}", asked=end, limit=parent.size)
    parent.refuse_if_uncached("take a snapshot")
    if parent.root_offset + end > UINT64_MAX:
        raise InvalidArgs(
            "the range ends beyond 64 bits of the first ancestor",
            asked=parent.root_offset + end,
            limit=UINT64_MAX,
        )
    if parent.is_slice:
        raise NotSupported(f"{parent} is a slice", remedy="take a snapshot of what it is a part of")
    parent.pages.refuse_if_pinned("take a snapshot", 0, parent.size)
    return copied(parent, offset, size, resizable=bool(kind & _RESIZABLE))


def copied(parent: VmoObject, offset: int, size: int, *, resizable: bool) -> VmoObject:
    """A snapshot that has been checked: the pages are copied here. With the kernel's lock held."""
    kernel = parent.kernel
    backing = Backing.memfd(page_up(size), name=parent.name, resizable=resizable)
    try:
        pages = Pages(backing, kernel.physmap)
        shared = min(page_up(size), parent.size - offset)
        if shared > 0:
            copy_pages(parent.pages, offset, pages, 0, shared)
    except BaseException as error:
        with noted("close the copy", error):
            backing.close()
        raise
    made = VmoObject(kernel, pages, stream=size, resizable=resizable)
    made.snapshot = True
    relatives = parent.body.relatives
    relatives.append(made.body)
    made.body.relatives = relatives
    return made


# Moving pages -------------------------------------------------------------------------------------


def transfer(
    target: Handle[Any], source: Handle[Any], offset: int, size: int, source_offset: int
) -> None:
    """Move pages from one memory object to another; see `Vmo.transfer`."""
    offset, size, source_offset = index(offset), index(size), index(source_offset)
    if (offset | size | source_offset) & PAGE_MASK or min(offset, size, source_offset) < 0:
        raise InvalidArgs(
            "only whole pages are moved",
            asked=next(
                (n for n in (offset, size, source_offset) if n & PAGE_MASK or n < 0), offset
            ),
            limit=PAGE_SIZE,
        )
    kernel = target._entry.process.kernel
    with kernel.lock:
        to = target._demand(VmoObject, _WRITE)
        origin = source._demand(VmoObject, _READ | _WRITE)
        if origin.kernel is not to.kernel:
            raise InvalidArgs(f"{origin} belongs to another kernel", remedy="make both in one")
        if origin is to and offset == source_offset:
            return
        for vmo, start in ((origin, source_offset), (to, offset)):
            if vmo.contiguous:
                raise NotSupported(f"{vmo} is contiguous or device memory and keeps its pages")
            vmo.check_range(start, size)
            if vmo.pages.backing.inode is not None:
                raise NotSupported(f"{vmo} shows a file, whose pages are the file's")
            vmo.pages.refuse_if_pinned("move pages", vmo.base + start, size, base=vmo.base)
            vmo.refuse_if_discarded()
        if size:
            _move(origin, source_offset, to, offset, size)


def _move(origin: VmoObject, source_offset: int, to: VmoObject, offset: int, size: int) -> None:
    start, place = origin.base + source_offset, to.base + offset
    for vmo, at in ((origin, start), (to, place)):  # neither shows what it was cloned from any more
        vmo.body.own(at, at + size)
    if origin.pages is not to.pages or abs(start - place) >= size:
        to.pages.decommit(place, size)
        copy_pages(origin.pages, start, to.pages, place, size)
        origin.pages.decommit(start, size)
        return
    # The ranges overlap: by way of memory of their own.
    backing = Backing.memfd(size, name="moving", resizable=False)
    aside = Pages(backing, origin.kernel.physmap)
    try:
        copy_pages(origin.pages, start, aside, 0, size)
        try:
            origin.pages.decommit(start, size)
            to.pages.decommit(place, size)
            copy_pages(aside, 0, to.pages, place, size)
        except BaseException as error:
            with noted("put the pages back", error):
                origin.pages.decommit(start, size)
                copy_pages(aside, 0, origin.pages, start, size)
            raise
    finally:
        aside.close()


def set_cache_policy(handle: Handle[Any], policy: int) -> None:
    """Set how the CPU is to cache a memory object; see `Vmo.set_cache_policy`."""
    policy = index(policy)
    if policy not in CachePolicy.__members__.values():
        raise InvalidArgs("there is no such cache policy", asked=policy, limit=3)
    with handle._entry.process.kernel.lock:
        vmo = handle._demand(VmoObject, int(Right.MAP))
        if vmo.physical:
            if policy == vmo.cache_policy:
                return
        elif vmo.pages.pinned_pages:
            raise _fixed(vmo, "has pinned pages")
        if vmo.mappings:
            raise _fixed(vmo, "is mapped")
        if vmo.children:
            raise _fixed(vmo, "has a child")
        if vmo.parent is not None or vmo.shares_pages or len(vmo.body.members) > 1:
            raise _fixed(vmo, "is a child, or shows the pages of another object")
        if vmo.discardable and policy:
            raise _fixed(vmo, "is discardable")
        vmo.cache_policy = CachePolicy(policy)


def _fixed(vmo: VmoObject, why: str) -> BadState:
    return BadState(
        f"the cache policy of {vmo} is fixed: it {why}",
        remedy="set it right after the object is made",
    )
