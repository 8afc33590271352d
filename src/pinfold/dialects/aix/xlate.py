# AIX's pretranslation services: pin a buffer, and note where a device finds each page of it.
#
# Source: the pages of xlate_create, xlate_pin, xlate_unpin, xlate_remove. They leave open which
# calls a list allows in which state; that is said here, with each call, and in docs/aix.md.
from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from pinfold.dialects.aix import numbers as aix
from pinfold.dialects.aix.descriptor import Xmem, own
from pinfold.dialects.aix.pins import warn_if_reached
from pinfold.dialects.aix.services import KernelAssertion, process_only, service
from pinfold.dialects.calling import i32, u32, u64
from pinfold.errors import (
    AccessDenied,
    BadHandle,
    HostError,
    InvalidArgs,
)
from pinfold.objects.cross_memory import CrossMemory
from pinfold.objects.holds import Unpinned
from pinfold.objects.translations import Translations
from pinfold.rights import Perm

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLAGS: Final = aix.XLATE_PERSISTENT | aix.XLATE_ALLOC | aix.XLATE_SPARSE

_DEVICE_DOES: Final = {aix.B_READ: int(Perm.WRITE), aix.B_WRITE: int(Perm.READ)}
"""A block read has the device write memory, and a block write has it read."""


@contextmanager
def _attached(dp: Xmem | None) -> Iterator[tuple[Xmem, CrossMemory]]:
    """A descriptor that can have a list, and its buffer; the block is alone with it.

    Raises:
      BadHandle: NULL, free, or the descriptor of all kernel memory.
    """
    found = own(dp)
    with found.lock:
        memory = found.described()
        if not isinstance(memory, CrossMemory):
            raise BadHandle("the descriptor of all kernel memory is everybody's, and has no list")
        yield found, memory


@service("xmem")
def xlate_create(dp: Xmem | None, baddr: int, count: int, flags: int) -> int:
    """Hang a pretranslation list on a descriptor: ``int xlate_create(struct xmem *dp, caddr_t
    baddr, int count, uint flags)``.

    It has room for every page that the range touches. Without XLATE_ALLOC the pages, which have to
    be pinned already and stay the caller's to unpin, are translated as well. For the process
    environment only.

    Args:
      flags: XLATE_ALLOC makes an empty list, for `xlate_pin`. XLATE_SPARSE lets parts of it be
        pinned at a time, and a page more than once. With XLATE_PERSISTENT it lasts until
        `xlate_remove`.

    Returns XMEM_SUCC; or ENOMEM: no memory for the list; or XMEM_FAIL:
      the descriptor is NULL, free, or that of all kernel memory, or has a list; ``count`` is
      negative or 0; there is no such flag; the range is outside the space or not defined; without
      XLATE_ALLOC also: a page is not pinned, or may not be read and written; the descriptor was
      made for a device.
    """
    baddr, count, flags = u64(baddr), i32(count), u32(flags)
    process_only("xlate_create")
    with _attached(dp) as (found, memory):
        if found.aspace_id == aix.XMEM_XLATE or flags & ~_FLAGS:
            raise InvalidArgs("there is a list already, or no such flag", asked=flags)
        sparse = bool(flags & aix.XLATE_SPARSE)
        memory.space.look(baddr, count)
        try:
            made = Translations(memory, baddr, count, sparse=sparse, bti=found.bti)
            if not flags & aix.XLATE_ALLOC:
                made.fill()
        except MemoryError:  # pinfold's NoMemory is one
            return aix.ENOMEM
        found.hang(made, flags)
    return aix.XMEM_SUCC


@service("system")
def xlate_pin(dp: Xmem | None, baddr: int, count: int, rw: int) -> int:
    """Pin a buffer, and translate its pages: ``int xlate_pin(struct xmem *dp, caddr_t baddr, int
    count, int rw)``.

    A short-term pin of every page that the range touches, mapped files and shared memory included:
    all of them, or none. Where the descriptor has no list, one is made for the range. Where it was
    made for a device (`Xmem(bti=)`), the pages are granted to it. For the process environment only.

    Args:
      rw: B_READ: the device is to write the memory, which has to be writable; B_WRITE: it is to
        read it.

    Returns 0, or, in this order:
      EINVAL: the descriptor is NULL, free, or that of all kernel memory; ``count`` is negative or
        0; ``rw`` is neither of the two; the range does not fit into the list; a page of it is
        pinned through the list, which is not sparse, or shows other memory now; the range is
        outside the space, or not defined; the device's authority is closed or in quarantine.
      XMEM_FAIL: a page does not allow what ``rw`` asks.
      ENOMEM: as `pin`; or the bus has no address space.
      ENOSPC: as `pin`.
      XMEM_FAIL: a page cannot be had: the file behind it has become shorter.

    After an error nothing is pinned, granted, or listed that was not before.
    """
    baddr, count, rw = u64(baddr), i32(count), i32(rw)
    process_only("xlate_pin")
    with _attached(dp) as (found, memory):
        perms = _DEVICE_DOES.get(rw)
        if count <= 0 or perms is None:
            raise InvalidArgs("a buffer has at least a byte, and a direction", asked=count)
        listed = found.xlate
        try:
            made = Translations(memory, baddr, count, bti=found.bti) if listed is None else listed
            made.pin(baddr, count, perms)
        except (AccessDenied, HostError):
            return aix.XMEM_FAIL
        if listed is None:
            found.hang(made, 0)
    return 0


@service("system")
def xlate_unpin(dp: Xmem | None, baddr: int, count: int) -> None:
    """Undo `xlate_pin`: ``int xlate_unpin(struct xmem *dp, caddr_t baddr, int count)``.

    The pages that were pinned are unpinned, whatever is mapped at their addresses now. When none is
    pinned any more the list goes, unless it is XLATE_PERSISTENT. For the process environment only.

    Returns 0, or, in this order:
      EINVAL: the descriptor is NULL, free, or has no list; ``count`` is negative or 0; the range
        does not fit into the list; a page of it is not pinned through the list; a device was
        granted it by a call that named another range. Nothing changed.
      EINVAL: somebody has unpinned a page of it by another way: the rest of the range is unpinned.
      EIO: the host refused to unlock a page; it and those after it are as they were. Or the bus
        refused to revoke: the pages are still pinned, and the device's token is in quarantine.
    """
    baddr, count = u64(baddr), i32(count)
    process_only("xlate_unpin")
    done = Unpinned()
    with _attached(dp) as (found, _):
        listed = found.xlate
        if listed is None:
            raise InvalidArgs("the descriptor has no list")
        was = listed.pinned
        try:
            listed.unpin(baddr, count, done)
        finally:
            warn_if_reached(done.let_go)
            lasting = found.prexflags & aix.XLATE_PERSISTENT
            if was and not (listed.pinned or lasting):
                found.drop_list()


@service("xmem")
def xlate_remove(dp: Xmem | None) -> None:
    """Take the list from a descriptor: ``int xlate_remove(struct xmem *dp)``.

    For the process environment only.

    Returns XMEM_SUCC; or XMEM_FAIL: the descriptor is NULL or free, or has no list.

    Raises:
      KernelAssertion: a page is pinned through the list; nothing changed.
    """
    process_only("xlate_remove")
    with _attached(dp) as (found, _):
        listed = found.xlate
        if listed is None:
            raise InvalidArgs("the descriptor has no list")
        if listed.pinned:
            raise KernelAssertion("xlate_remove: pages are pinned through the list")
        found.drop_list()
