# A handle to a memory object: what is known of it, and views of its memory.
#
# A view is a mapping of our own: reading through it commits what it touches.
from __future__ import annotations

import weakref
from operator import index
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pinfold import sites
from pinfold.errors import InvalidArgs, NotSupported
from pinfold.memory.residency import address_of
from pinfold.objects.addresses import pages_of
from pinfold.objects.lent import view_made
from pinfold.objects.page_ops import using
from pinfold.objects.vmo_contents import VmoContents
from pinfold.objects.vmo_parts import ViewLease, VmoStatistics
from pinfold.rights import Right
from pinfold.units import PAGE_SHIFT, ByteRange, page_down

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pinfold.memory.window import Export, Window
    from pinfold.objects.vmo_parts import CachePolicy

_READ: Final = int(Right.READ)
_WRITE: Final = int(Right.WRITE)
_MAP: Final = int(Right.MAP)


class VmoViews(VmoContents):
    """The facts and the views of a memory object, through a handle to it. `Vmo` is one."""

    __slots__ = ()

    # Facts --------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes, whole pages. Source: zx_vmo_get_size."""
        return self.object.size

    def __len__(self) -> int:
        return self.object.size

    def pin_count(self, offset: int = 0) -> int:
        """How often the page at ``offset`` is pinned.

        Raises:
          OutOfRange: the object ends before it.
        """
        target = self.object
        with target.kernel.lock:
            target.check_range(offset, 1)
            return target.pages.pin_count((target.base + index(offset)) >> PAGE_SHIFT)

    def committed_ranges(self) -> list[ByteRange]:
        """The parts that have memory, ascending. Nothing is committed by asking."""
        target = self.object
        with using(target.kernel, target):
            base = target.base
            runs = target.pages.backing.data_runs(base, target.size)
            return [ByteRange(start - base, stop - base) for start, stop in runs]

    @property
    def parent_koid(self) -> int:
        """The koid of what it was made from, while that is there; else 0."""
        parent = self.object.parent
        return 0 if parent is None else parent.koid

    @property
    def cache_policy(self) -> CachePolicy:
        """How the CPU is to cache the memory; see `Vmo.set_cache_policy`."""
        return self.object.cache_policy

    def statistics(self) -> VmoStatistics:
        """The object as a frozen record."""
        with self._entry.process.kernel.lock:
            target = self._require(0)
            pages, parent = target.pages, target.parent
            return VmoStatistics(
                koid=target.koid,
                name=target.name,
                size=target.size,
                stream_size=target.stream.size,
                committed=pages.backing.committed_bytes(),
                attributed=target.attributed(0, target.size),
                pinned=pages.pinned_pages << PAGE_SHIFT,
                pins=target.pins,
                mappings=target.mappings,
                share_count=target.share_count,
                views=len(target.views),
                handles=target.handle_count,
                parent_koid=0 if parent is None else parent.koid,
                children=len(target.children),
                kind=pages.backing.kind,
                cache_policy=target.cache_policy,
                resizable=target.resizable,
                contiguous=target.contiguous,
                physical=target.physical,
                discardable=target.discardable,
                cow_clone=target.cow_clone,
                immutable=target.immutable,
                discards=target.discards,
            )

    # Views --------------------------------------------------------------------------------------

    def view(self, offset: int = 0, size: int | None = None) -> memoryview:
        """The bytes themselves, as a memoryview: writable where the handle has WRITE.

        It keeps the memory for as long as it, or anything made from it, lives. Reading through it
        commits what it touches. While it lives the object cannot shrink below its end.

        Raises:
          AccessDenied: without MAP or READ.
          InvalidArgs: empty.
          OutOfRange: the range leaves the object.
          NotFound: its memory was discarded.
          NotSupported: a file that somebody else could cut, which would end the process; read it.
        """
        kernel = self._entry.process.kernel
        with kernel.lock:
            target = self._require(_MAP | _READ)
            offset = index(offset)
            size = max(target.size - offset, 0) if size is None else index(size)
            if not size:
                raise InvalidArgs("a view shows at least a byte", asked=0)
            target.check_range(offset, size)
            target.refuse_if_discarded()
            backing = target.pages.backing
            if not backing.sealed:
                raise NotSupported(
                    f"{target} shows a file that others can cut", remedy="use read and write"
                )
            writable = bool(self._entry.rights & _WRITE) and backing.writable
            start = target.base + offset
            exported, window = backing.export(start, size, writable=writable)
            if writable:
                target.body.own(start, start + size)
            lease = ViewLease(target, window, start, size, sites.caller())
            lease.ref = weakref.ref(exported.owner, lambda _: kernel.lock.post(lease))
            target.views.append(lease)
            view_made(kernel, lease, *_mapping_of(exported, window, start, size))
            return exported.view

    def array(
        self, dtype: str | np.dtype[Any] | type = "u1", offset: int = 0, size: int | None = None
    ) -> NDArray[Any]:
        """The bytes themselves, as a numpy array; see `view`.

        Args:
          dtype: of an element; ``size`` is a multiple of its length.
          offset, size: bytes.
        """
        return np.frombuffer(self.view(offset, size), dtype=dtype)


def _mapping_of(
    exported: Export, window: Window | None, start: int, size: int
) -> tuple[ByteRange, int]:
    """The addresses of the mapping that a view lies in, and the byte of the pages at the first."""
    if window is not None:
        return ByteRange(window.address, window.address + window.size), window.offset
    return pages_of(address_of(exported.view), size), page_down(start)
