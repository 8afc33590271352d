# A handle to a memory object: making one, what is known of it, and views of its memory.
#
# Source: zx_vmo_create, zx_vmo_create_contiguous, zx_vmo_create_physical; Zircon's dispatcher for
# the order of checks.
#
# A view is a mapping of our own: reading through it commits what it touches.
from __future__ import annotations

import weakref
from operator import index
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pinfold import sites
from pinfold.errors import InvalidArgs, NotSupported
from pinfold.memory.backing import Backing
from pinfold.memory.hosterrors import noted
from pinfold.objects.memory_object import ViewLease, VmoObject, VmoStatistics, checked_size
from pinfold.objects.process import current_process
from pinfold.objects.vmo_contents import VmoContents, using
from pinfold.rights import Right
from pinfold.units import (
    PAGE_SHIFT,
    PAGE_SIZE,
    ByteRange,
    is_page_aligned,
    is_power_of_two,
)

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from pinfold.objects.bti import Bti
    from pinfold.objects.process import Process
    from pinfold.objects.resource import Resource

_READ: Final = int(Right.READ)
_WRITE: Final = int(Right.WRITE)
_MAP: Final = int(Right.MAP)


class Vmo(VmoContents):
    """A handle to a memory object.

    ``Vmo(size)`` makes one of zeros, with nothing committed.

    Args:
      size: bytes; rounded up to whole pages, and to nothing more. 0 is legal.
      resizable: `resize` works, and this handle has RESIZE.
      name: for people, and for /proc.
      process: whose handle it is; the current process by default.

    Raises:
      InvalidArgs: ``size`` is negative.
      OutOfRange: ``size`` is more than a file can have (``.limit``).
      NoMemory: the host has no descriptor or no memory for it.

    Source: zx_vmo_create.
    """

    __slots__ = ()

    def __init__(
        self,
        size: int,
        *,
        resizable: bool = False,
        name: str = "",
        process: Process | None = None,
    ) -> None:
        process = process or current_process()
        rounded = checked_size(size)
        backing = Backing.memfd(rounded, name=name, resizable=resizable)
        self._adopt(process, backing, name, resizable=resizable)

    def _adopt(
        self, process: Process, backing: Backing, name: str, *, resizable: bool = False
    ) -> VmoObject:
        """Make the object and open this handle to it; the backing is closed on failure."""
        try:
            with process.kernel.lock:
                target = VmoObject(process.kernel, backing, name=name, resizable=resizable)
                self._open(process.add(target, target.default_rights))
                target.join_family()
        except BaseException as error:
            with noted("close the memory", error):
                backing.close()
            raise
        return target

    # Other ways to make one ---------------------------------------------------------------------

    @classmethod
    def contiguous(
        cls,
        bti: Bti,
        size: int,
        *,
        alignment: int = PAGE_SIZE,
        name: str = "",
        process: Process | None = None,
    ) -> Vmo:
        """Memory in one physical run, all of it committed.

        On buses with simulated physical addresses the run is simulated. The object keeps no
        reference to ``bti``.

        Args:
          size: bytes, whole pages, > 0.
          alignment: of the first physical address; a power of two, at least a page.

        Raises:
          InvalidArgs: ``size`` or ``alignment`` is not as above.
          AccessDenied: ``bti`` lacks MAP.
          NoMemory: no such run is left, or the host has no memory.

        Source: zx_vmo_create_contiguous.
        """
        size, alignment = index(size), index(alignment)
        if size <= 0 or not is_page_aligned(size):
            raise InvalidArgs("a contiguous object has whole pages, at least one", asked=size)
        if not is_power_of_two(alignment) or alignment < PAGE_SIZE:
            raise InvalidArgs("an alignment is a power of two, at least a page", asked=alignment)
        process = process or current_process()
        with process.kernel.lock:
            if bti._require(_MAP).kernel is not process.kernel:
                raise InvalidArgs(f"{bti!r} belongs to another kernel", remedy="make both in one")
        backing = Backing.memfd(checked_size(size), name=name, resizable=False)
        made = cls.__new__(cls)
        target = made._adopt(process, backing, name)
        try:
            with process.kernel.lock:
                target.pages.make_contiguous(alignment)
            with using(process.kernel, target):
                target.pages.commit(0, size)
            with process.kernel.lock:
                target.pages.remember(0, size)
        except BaseException as error:
            with noted("close the memory", error):
                made.close()
            raise
        return made

    @classmethod
    def physical(
        cls,
        resource: Resource,
        address: int,
        size: int,
        *,
        name: str = "",
        process: Process | None = None,
    ) -> Vmo:
        """Device memory at a physical address. It uses no host memory and is always committed.

        Args:
          resource: MMIO, and holds the range. No right is needed on it.
          address, size: bytes, page-aligned; ``size`` > 0.

        Raises:
          InvalidArgs: unaligned or empty.
          WrongType: the resource is of another kind.
          OutOfRange: the range leaves the resource.

        Source: zx_vmo_create_physical.
        """
        address, size = index(address), index(size)
        if size <= 0 or not is_page_aligned(size):
            raise InvalidArgs("device memory comes in whole pages, at least one", asked=size)
        process = process or current_process()
        with process.kernel.lock:
            owner = resource._require(0)
            if owner.kernel is not process.kernel:
                raise InvalidArgs(f"{owner} belongs to another kernel", remedy="make both in one")
            if not is_page_aligned(address):
                raise InvalidArgs("a physical address is page-aligned", asked=address)
            backing = owner.window(address, size)
        made = cls.__new__(cls)
        try:
            target = made._adopt(process, backing, name)
        except BaseException:
            with process.kernel.lock:
                owner.leave()
            raise
        with process.kernel.lock:
            target.resource = owner
            target.physical = True
            target.pages.show_at(address)
        return made

    @classmethod
    def from_fd(cls, fd: int, *, name: str = "", process: Process | None = None) -> Vmo:
        """The memory behind a descriptor: a memfd somebody passed us, or an open file.

        The descriptor stays the caller's. A memfd is sealed against shrinking, for good, if it can
        be: nobody may cut memory that a device writes to. Without WRITE where it is read-only.

        Raises:
          NotSupported: neither a regular file nor a memfd.
          InvalidArgs: it is empty, or cannot be read.
          HostError: ``fd`` is not open.
        """
        return cls._over(Backing.adopted(fd), name, process)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        writable: bool = False,
        name: str = "",
        process: Process | None = None,
    ) -> Vmo:
        """The bytes of a file, shared with whoever else has it open; nothing is copied.

        Its size is the file's, rounded up to whole pages; what lies beyond the file's last byte
        reads as zero and cannot be written. Without WRITE unless ``writable``.

        Raises:
          HostError: it cannot be opened (``.errno``).
          NotSupported: not a regular file.
          InvalidArgs: it is empty.
        """
        return cls._over(Backing.file(path, writable=writable), name or str(path), process)

    @classmethod
    def _over(cls, backing: Backing, name: str, process: Process | None) -> Vmo:
        process = process or current_process()
        made = cls.__new__(cls)
        made._adopt(process, backing, name)
        if not backing.writable:
            made._entry.rights &= ~_WRITE
        return made

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
            return target.pages.pin_count(index(offset) >> PAGE_SHIFT)

    def committed_ranges(self) -> list[ByteRange]:
        """The parts that have memory, ascending. Nothing is committed by asking."""
        target = self.object
        with using(target.kernel, target):
            return [ByteRange(*run) for run in target.pages.backing.data_runs(0, target.size)]

    def statistics(self) -> VmoStatistics:
        """The object as a frozen record."""
        target = self.object
        with target.kernel.lock:
            pages = target.pages
            return VmoStatistics(
                koid=target.koid,
                name=target.name,
                size=target.size,
                committed=pages.backing.committed_bytes(),
                pinned=pages.pinned_pages << PAGE_SHIFT,
                pins=pages.pins,
                mappings=target.mappings,
                views=len(target.views),
                handles=target.handle_count,
                kind=pages.backing.kind,
                resizable=target.resizable,
                contiguous=target.contiguous,
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
            backing = target.pages.backing
            if not backing.sealed:
                raise NotSupported(
                    f"{target} shows a file that others can cut", remedy="use read and write"
                )
            writable = bool(self._entry.rights & _WRITE) and backing.writable
            exported, window = backing.export(offset, size, writable=writable)
            lease = ViewLease(target, window, offset, size, sites.caller())
            lease.ref = weakref.ref(exported.owner, lambda _: kernel.lock.post(lease))
            target.views.append(lease)
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
