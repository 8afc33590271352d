# AIX's cross-memory services: memory of some process, described so that others can use it.
#
# Source: the pages of xmattach, xmdetach, xmempin, xmemunpin, xmemin, xmemout, xmemdma, xmempsize.
from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pinfold.dialects.aix import numbers as aix
from pinfold.dialects.aix.descriptor import Xmem, descriptor, own
from pinfold.dialects.aix.pins import system_space, warn_if_reached
from pinfold.dialects.aix.services import (
    DriverBug,
    address,
    in_interrupt,
    process_only,
    service,
)
from pinfold.dialects.calling import i32, u32, u64
from pinfold.errors import BadHandle, InvalidArgs, OutOfRange
from pinfold.objects.cross_memory import CrossMemory, Described, copy
from pinfold.objects.holds import Unpinned
from pinfold.objects.process import current_process
from pinfold.rights import Perm

_SYSTEM = {
    aix.USER_ADSPACE: False,
    aix.UIO_USERSPACE: False,
    aix.SYS_ADSPACE: True,
    aix.SYS_ADSPACE_ASSIGN_KEYSET: True,
    aix.UIO_SYSSPACE: True,
}
"""Which segment flags speak of system space."""

_DMA_FLAGS = (
    aix.XMEM_HIDE | aix.XMEM_UNHIDE | aix.XMEM_ACC_CHK | aix.XMEM_WRITE_ONLY | aix.XMEM_DR_SAFE
)
_READ, _WRITE = int(Perm.READ), int(Perm.WRITE)


# Attaching ----------------------------------------------------------------------------------------


@service("xmem")
def xmattach(addr: Any, count: int, dp: Xmem | None, segflag: int) -> None:
    """Describe a buffer: ``int xmattach(caddr_t addr, int count, struct xmem *dp, int segflag)``.

    The memory objects that are mapped in the range are kept until `xmdetach`, whatever is unmapped
    or closed meanwhile. Memory of no object stays the caller's to keep, unless ``addr`` is a buffer
    itself, which is lent for so long. A child that is forked does not have the descriptor. For the
    process environment only.

    Args:
      addr: an address, or the buffer itself.
      segflag: USER_ADSPACE or UIO_USERSPACE; SYS_ADSPACE, SYS_ADSPACE_ASSIGN_KEYSET (there are no
        keys here) or UIO_SYSSPACE.

    Returns XMEM_SUCC; or XMEM_FAIL, and the descriptor is as it was:
      the descriptor is NULL or in use; ``count`` is negative or 0; there is no such flag; a part of
      the range is not defined in that space.
    """
    start, keep = address(addr)
    count, segflag = i32(count), i32(segflag)
    process_only("xmattach")
    with own(dp).lock:
        _attach(own(dp), start, keep, count, segflag)


def _attach(dp: Xmem, start: int, keep: memoryview | None, count: int, segflag: int) -> None:
    if dp.aspace_id != aix.XMEM_INVAL:
        raise InvalidArgs("the descriptor is in use", remedy="detach it, or use another")
    if count <= 0:
        raise InvalidArgs("a buffer has at least a byte", asked=count)
    system = _SYSTEM.get(segflag)
    if system is None:
        raise InvalidArgs("there is no such space", asked=segflag)
    if keep is not None and count > keep.nbytes:
        raise OutOfRange("the buffer ends before that", asked=count, limit=keep.nbytes)
    dp.attach(CrossMemory(current_process(), start, count, system=system, keep=keep))


xmattach64 = xmattach
"""`xmattach` with a 64-bit address, which every address is here."""


@service("xmem")
def xmdetach(dp: Xmem | None) -> None:
    """Free a descriptor: ``int xmdetach(struct xmem *dp)``. In any environment.

    What `xmempin` has pinned stays pinned, with a `DriverBug` warning: it takes another descriptor
    to unpin it.

    Returns XMEM_SUCC; or XMEM_FAIL:
      the descriptor is NULL, free, or that of all kernel memory; a device has been granted pages
      through it, which `xlate_unpin` takes back. Or the host refused to close memory that nobody
      else has: then it is free all the same.
    """
    with own(dp).lock:
        pinned = _detach(own(dp))
    if pinned:
        warnings.warn(
            "a cross-memory descriptor was detached while its memory is pinned",
            DriverBug,
            stacklevel=3,
        )


def _detach(dp: Xmem) -> bool:
    memory = dp.described()
    if not isinstance(memory, CrossMemory):
        raise InvalidArgs("nobody attached this descriptor")
    listed = dp.xlate
    if listed is not None and listed.granted:
        raise InvalidArgs("a device can reach the memory", remedy="xlate_unpin it first")
    try:
        return memory.detach()
    finally:
        if not memory.attached:
            dp.free()


# Pinning ------------------------------------------------------------------------------------------


@service("described")
def xmempin(base: int, len: int, xd: Xmem | None) -> None:  # noqa: A002 - the page's name
    """Pin memory of the space that is described:
    ``int xmempin(caddr_t base, int len, struct xmem *xd)``.

    The range may leave the buffer, but not the space. Otherwise as `pin`.

    Returns 0, or, in this order:
      EFAULT: the descriptor is NULL or free.
      EINVAL: ``len`` is negative or 0.
      EFAULT: a part of the range is outside the space.
      EINVAL: a part of it is not defined.
      ENOMEM, ENOSPC, EIO: as `pin`.
    """
    base, length = u64(base), i32(len)
    process_only("xmempin")
    with _lock_of(xd):
        _filled_in(xd).pin(base, length)


@service("described")
def xmemunpin(base: int, len: int, xd: Xmem | None) -> None:  # noqa: A002 - the page's name
    """Undo `xmempin`: ``int xmemunpin(caddr_t base, int len, struct xmem *xd)``.

    What was attached is unpinned even where it has been unmapped since. At interrupt level for
    kernel memory only. Otherwise as `unpin`.

    Returns 0, or, in this order:
      EFAULT: the descriptor is NULL or free.
      EINVAL: ``len`` is negative or 0.
      EFAULT: a part of the range is outside the space.
      EINVAL: a part of it is not defined; nothing changed. Or a page was not pinned.
      ENOMEM: the host has none to say what is mapped outside of the buffer; nothing changed.
      EIO: as `unpin`.
    """
    base, length = u64(base), i32(len)
    done = Unpinned()
    with _lock_of(xd):
        memory = _filled_in(xd)
        if not memory.space.system:
            process_only("xmemunpin of user space")
        try:
            memory.unpin(base, length, done)
        finally:
            warn_if_reached(done.let_go)


def _lock_of(xd: Xmem | None) -> AbstractContextManager[None]:
    return nullcontext() if xd is None else own(xd).lock


def _filled_in(xd: Xmem | None) -> Described:
    try:
        return descriptor(xd)
    except BadHandle as error:  # which is EFAULT here: it describes no space
        raise OutOfRange(str(error)) from error


# Copying ------------------------------------------------------------------------------------------


@service("xmem")
def xmemin(uaddr: int, kaddr: int, count: int, dp: Xmem | None) -> None:
    """Copy from what is described to kernel memory:
    ``int xmemin(caddr_t uaddr, caddr_t kaddr, int count, struct xmem *dp)``.

    All of it, or nothing. A count of 0 copies nothing.

    Returns XMEM_SUCC; or XMEM_FAIL:
      the descriptor is NULL or free; ``count`` is negative; a range leaves the buffer that was
      attached, or is not what it was; ``kaddr`` is not defined; no access; a page cannot be read;
      at interrupt level, a page is not in memory.
    """
    uaddr, kaddr, count = u64(uaddr), u64(kaddr), i32(count)
    with own(dp).lock:
        memory = descriptor(dp)
        if _something(count):
            copy(memory, uaddr, Described(system_space()), kaddr, count, now=in_interrupt())


@service("xmem")
def xmemout(kaddr: int, uaddr: int, count: int, dp: Xmem | None) -> None:
    """Copy from kernel memory to what is described:
    ``int xmemout(caddr_t kaddr, caddr_t uaddr, int count, struct xmem *dp)``. As `xmemin`.
    """
    kaddr, uaddr, count = u64(kaddr), u64(uaddr), i32(count)
    with own(dp).lock:
        memory = descriptor(dp)
        if _something(count):
            copy(Described(system_space()), kaddr, memory, uaddr, count, now=in_interrupt())


def _something(count: int) -> bool:
    """False where there is nothing to copy. Raises `InvalidArgs` for less than that."""
    if count < 0:
        raise InvalidArgs("a count is not negative", asked=count)
    return count > 0


# For a device -------------------------------------------------------------------------------------


def _xmemdma(xp: Xmem | None, xaddr: int, flag: int, *, hiding: bool) -> int:
    xaddr, flag = u64(xaddr), u32(flag)
    with own(xp).lock:
        return _translated(own(xp), xaddr, flag, hiding=hiding)


def _translated(dp: Xmem, xaddr: int, flag: int, *, hiding: bool) -> int:
    memory = dp.described()
    both = aix.XMEM_HIDE | aix.XMEM_UNHIDE
    if flag & ~_DMA_FLAGS or flag & both == both:
        raise InvalidArgs("flags that there are not, or that exclude each other", asked=flag)
    perms = 0
    if flag & aix.XMEM_ACC_CHK:
        perms = _READ if flag & aix.XMEM_WRITE_ONLY else _READ | _WRITE
    found: int | None = memory.frame(xaddr, perms=perms)
    if dp.bti is not None:  # the device has an address of its own for it, or none
        listed = dp.xlate
        found = None if listed is None else listed.address_of(xaddr)
        if found is None:
            raise InvalidArgs("the page is not granted to the device", remedy="xlate_pin it")
    if hiding and flag & both:
        memory.hide(xaddr, show=bool(flag & aix.XMEM_UNHIDE))
    return found  # type: ignore[return-value]  # an address, from here on


@service("xmem")
def xmemdma(xp: Xmem | None, xaddr: int, flag: int) -> int:
    """The real address of a byte, for a device:
    ``int xmemdma(struct xmem *xp, caddr_t xaddr, int flag)``.

    Real addresses are simulated here, those of the stub bus. Of a descriptor that was made for a
    device, it is the address on its bus, once `xlate_pin` has granted the page.

    Args:
      flag: XMEM_HIDE and XMEM_UNHIDE are counted, and hide nothing: caches agree here.
        XMEM_ACC_CHK wants the page to be writable, with XMEM_WRITE_ONLY readable. XMEM_DR_SAFE
        says nothing here.

    Returns the address; or XMEM_FAIL:
      the descriptor is NULL or free; there is no such flag; ``xaddr`` is outside, or not defined;
      its page is not pinned; no access; XMEM_UNHIDE of what is not hidden.
    """
    return _xmemdma(xp, xaddr, flag, hiding=True)


@service("xmem")
def xmemdma64(xp: Xmem | None, xaddr: int, flag: int) -> int:
    """`xmemdma` for 64 bits: ``unsigned long long xmemdma64(struct xmem *dp, caddr_t xaddr, int
    flags)``. It translates, and does nothing to caches.
    """
    return _xmemdma(xp, xaddr, flag, hiding=False)


@service("xmem")
def xmempsize(dp: Xmem | None, uaddr: int, count: int) -> int:
    """Bytes in the smallest page of a range: ``int xmempsize(struct xmem *dp, caddr_t uaddr,
    size_t count)``.

    Returns the size; or XMEM_FAIL: the descriptor is NULL or free, ``count`` is 0, or the range is
    outside the space or not defined.
    """
    uaddr, count = u64(uaddr), u64(count)
    space = descriptor(dp).space
    space.look(uaddr, count)
    return space.smallest_page(uaddr, count)
