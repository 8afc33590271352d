# What can be done with the pages of a memory object, apart from who may: rights are the handle's.
#
# Source: zx_vmo_op_range; Zircon's VM for the order of checks, which is the order of the code here:
# the first that fails decides the error. `Vmo` asks for a right first, `Vmar.op_range` for the
# permissions of a mapping.
#
# Lock: the kernel's is held, except for `commit`, which may take long and takes it where it must.
from __future__ import annotations

from contextlib import contextmanager
from operator import index
from typing import TYPE_CHECKING

from pinfold.errors import BadHandle, InvalidArgs, NotSupported, OutOfRange
from pinfold.objects.memory_object import MAX_SIZE
from pinfold.units import PAGE_MASK, PAGE_SIZE, UINT64_MAX, page_down, page_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pinfold.objects.kernel import Kernel
    from pinfold.objects.memory_object import VmoObject


def commit(vmo: VmoObject, offset: int, size: int) -> None:
    """Give every page of a range memory, rounded out to pages. Call without the kernel's lock.

    After a failure some of the pages may be committed.

    Raises:
      BadHandle: the object was given back meanwhile.
      NotSupported: device memory.
      OutOfRange: the range leaves the object.
      NotFound: the memory was discarded.
      NoMemory, NoSpace: the host, or the file system, has no room.
    """
    kernel = vmo.kernel
    with kernel.lock:
        start, stop = committable(vmo, offset, size)
        if start == stop:
            return
        begin_use(vmo)
        epoch = vmo.pages.epoch
    with letting_go(kernel, vmo):
        vmo.pages.commit(start, stop - start)
        with kernel.lock:
            vmo.pages.remember(start, stop - start, epoch)
            vmo.body.own(start, stop)


def committable(vmo: VmoObject, offset: int, size: int) -> tuple[int, int]:
    """The pages that a commit of a range is about: bytes of the pages, (start, stop)."""
    vmo.refuse_if_physical("commit")
    start, stop = _range(vmo, offset, size)
    start, stop = page_down(start), page_up(stop)
    if start < stop:
        vmo.refuse_if_discarded()
    return vmo.base + start, vmo.base + stop


def decommit(vmo: VmoObject, offset: int, size: int) -> None:
    """Give the memory of a range back; it reads as zeros afterwards.

    Raises:
      NotSupported: contiguous or device memory; an object with a snapshot relative, whose memory
        Zircon's objects share.
      OutOfRange: the range leaves the object.
      InvalidArgs: unaligned.
      BadState: a page of it is pinned; nothing changed.
    """
    if vmo.pages.kept:
        raise NotSupported(f"{vmo} is contiguous or device memory and keeps its pages")
    start, stop = _range(vmo, offset, size)
    if start == stop:
        return
    if len(vmo.body.relatives) > 1:
        raise NotSupported(
            f"{vmo} is a snapshot, or has one",
            holder=f"{len(vmo.body.relatives) - 1} relative(s)",
            remedy="zero it: that gives back what it alone has",
        )
    if (start | stop) & PAGE_MASK:
        raise InvalidArgs("only whole pages are decommitted", asked=start)
    vmo.pages.decommit(vmo.base + start, stop - start, base=vmo.base)
    vmo.body.own(vmo.base + start, vmo.base + stop)


def zero(vmo: VmoObject, offset: int, size: int) -> None:
    """Make a range read as zeros. Whole pages are given back, pinned ones cleared in place.

    The range is checked as a whole before anything changes.

    Raises:
      NotSupported: device memory.
      OutOfRange: the range leaves the object; an empty one never does.
      BadState: it is not cached, and a part of a page, or a page that is never given back, would
        have to be written.
    """
    vmo.refuse_if_physical("zero")
    if not index(size):
        return
    start, stop = _range(vmo, offset, size)
    if vmo.cache_policy:
        _refuse_uncached_parts(vmo, start, stop)
    vmo.body.own(vmo.base + start, vmo.base + stop)
    vmo.pages.zero(vmo.base + start, stop - start)


def prefetch(vmo: VmoObject, offset: int, size: int) -> None:
    """Have the bytes of a range in memory soon. What has no memory gets none.

    Raises:
      OutOfRange: the range leaves the object.
    """
    _range(vmo, offset, size)


def clean_cache(vmo: VmoObject, offset: int, size: int) -> None:
    """Have the caches and the memory of a range agree.

    On Linux they do, as far as a program can tell: only the checks are left.

    Raises:
      NotSupported: device memory.
      InvalidArgs: ``size`` is 0.
      OutOfRange: the range leaves the object.
    """
    vmo.refuse_if_physical("clean the cache of")
    if not index(size):
        raise InvalidArgs("a cache operation covers at least a byte", asked=0)
    _range(vmo, offset, size)


def _range(vmo: VmoObject, offset: int, size: int) -> tuple[int, int]:
    offset, size = index(offset), index(size)  # numpy's integers wrap; ours do not
    vmo.check_range(offset, size)
    return offset, offset + size


def _refuse_uncached_parts(vmo: VmoObject, start: int, stop: int) -> None:
    """Raise `BadState` where an uncached object would have to be written.

    Source: Zircon: whole pages are decommitted, which no policy forbids. Those that cannot be, for
    they are pinned, never given back, or shared with a snapshot, are written, and so are parts of
    pages; but where a part is to be zeroed and the page reads as zeros there is nothing to write.
    """
    pages, low, high = vmo.pages, page_up(start), page_down(stop)
    inner = max(high - low, 0)
    kept = pages.kept or len(vmo.body.relatives) > 1
    if inner and (kept or pages.first_pinned(vmo.base + low, inner) is not None):
        vmo.refuse_if_uncached("write zeros")
    for page in {page_down(end) for end in (start, stop) if end & PAGE_MASK}:
        found = bytearray(PAGE_SIZE)
        pages.read_into(memoryview(found), vmo.base + page)
        if any(found):
            vmo.refuse_if_uncached("write zeros")


def checked_size(size: int) -> int:
    """``size`` in whole pages, if an object can have it. Source: zx_vmo_create."""
    size = index(size)
    if size < 0:
        raise InvalidArgs("a size is not negative", asked=size)
    rounded = page_up(size)
    if rounded > MAX_SIZE or size > UINT64_MAX:
        raise OutOfRange("no object can be so large", asked=size, limit=MAX_SIZE)
    return rounded


def check_64_bits(size: int) -> None:
    """Raise `OutOfRange` for a size whose whole pages no 64 bits hold."""
    if page_up(size) > UINT64_MAX:
        raise OutOfRange("no object can be so large", asked=size, limit=MAX_SIZE)


# Using the memory without the kernel's lock -------------------------------------------------------


def begin_use(vmo: VmoObject) -> None:
    """Count a use. Called with the kernel's lock held.

    Raises:
      BadHandle: the memory was given back already.
    """
    if vmo.released:
        raise BadHandle(f"the last handle to {vmo} was closed meanwhile")
    vmo.in_use += 1


@contextmanager
def using(kernel: Kernel, vmo: VmoObject) -> Iterator[None]:
    """Keep the memory of an object while it is used without the kernel's lock.

    Else another thread could close its last handle meanwhile: the descriptor would be free, and
    soon somebody else's file.

    Raises:
      BadHandle: that has happened already.
    """
    with kernel.lock:
        begin_use(vmo)
    with letting_go(kernel, vmo):
        yield


@contextmanager
def letting_go(kernel: Kernel, vmo: VmoObject) -> Iterator[None]:
    """The end of a use that has been counted."""
    try:
        yield
    finally:
        with kernel.lock:
            vmo.in_use -= 1
            if not vmo.in_use and not vmo.handle_count:
                vmo.release_if_idle()
