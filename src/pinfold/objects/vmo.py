# A memory object: pages of real memory, held by a file of ours.
#
# Source: zx_vmo_create, zx_vmo_create_contiguous, zx_vmo_create_physical, zx_vmo_read,
# zx_vmo_write, zx_vmo_set_size, zx_vmo_op_range; Zircon's dispatcher for the order of checks.
#
# Reads and writes go through the descriptor, not through a mapping: a read of an absent page
# commits nothing, and neither can end the process. A view is a mapping: reading through it commits.
#
# The object lives for as long as it has a handle, a mapping, a pin or a view.
from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from pinfold import sites
from pinfold.errors import (
    BadHandle,
    BadState,
    InvalidArgs,
    NotSupported,
    OutOfRange,
    Unavailable,
    WrongType,
)
from pinfold.memory.backing import Backing
from pinfold.memory.hosterrors import noted
from pinfold.memory.locks import held_by_this_thread, refuse_inside
from pinfold.memory.pages import Pages
from pinfold.objects.handle import Handle
from pinfold.objects.object import KernelObject, ObjectType
from pinfold.objects.process import current_process
from pinfold.rights import Right
from pinfold.units import (
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    UINT64_MAX,
    ByteRange,
    is_page_aligned,
    is_power_of_two,
    page_down,
    page_up,
)

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from pinfold.memory.backing import Window
    from pinfold.objects.bti import Bti
    from pinfold.objects.kernel import Kernel
    from pinfold.objects.process import Process
    from pinfold.objects.resource import Resource, ResourceObject
    from pinfold.sites import Site

VMO_RIGHTS: Final = int(Right.BASIC | Right.IO | Right.PROPERTY | Right.MAP | Right.SIGNAL)
_READ: Final = int(Right.READ)
_WRITE: Final = int(Right.WRITE)
_MAP: Final = int(Right.MAP)
_RESIZE: Final = int(Right.RESIZE)

MAX_SIZE: Final = (1 << 63) - PAGE_SIZE
"""Bytes: what a file offset on Linux can say, in whole pages."""


@dataclass(frozen=True, slots=True)
class VmoStatistics:
    """A memory object at one moment. Sizes in bytes."""

    koid: int
    name: str
    size: int
    committed: int
    """Memory or file blocks behind it."""
    pinned: int
    """Bytes that at least one pin holds."""
    pins: int
    """Live pins, those in quarantine included."""
    mappings: int
    views: int
    handles: int
    kind: str
    """``memfd``, ``fd``, ``file`` or ``physical``."""
    resizable: bool
    contiguous: bool


class ShownRange(Protocol):
    """A live view of a memory object, through a window of ours or through a mapping."""

    offset: int
    size: int
    site: Site


class _ViewLease:
    """A live view of a memory object: keeps its window, and is found when the view is gone."""

    __slots__ = ("offset", "ref", "site", "size", "vmo", "window")

    def __init__(self, vmo: VmoObject, window: Window, offset: int, size: int, site: Site) -> None:
        self.vmo = vmo
        self.window = window
        self.offset = offset
        self.size = size
        self.site = site
        self.ref: weakref.ref[Any] | None = None

    def settle(self) -> None:
        """The view is gone. Called with the kernel's lock held."""
        self.vmo.end_view(self)


class VmoObject(KernelObject):
    """What every handle to a memory object shares."""

    __slots__ = (
        "contiguous",
        "label",
        "mappings",
        "pages",
        "physical",
        "resizable",
        "resource",
        "views",
    )

    object_type = ObjectType.VMO

    def __init__(
        self, kernel: Kernel, backing: Backing, *, name: str = "", resizable: bool = False
    ) -> None:
        super().__init__(kernel, name)
        self.pages = Pages(backing, kernel.physmap)
        self.resizable = resizable
        self.contiguous = False
        self.physical = False
        self.mappings = 0
        self.views: list[ShownRange] = []
        self.label = str(self)
        """The object's name in pin records, made once: pins are frequent."""
        self.resource: ResourceObject | None = None

    @property
    def size(self) -> int:
        """Bytes, whole pages."""
        return self.pages.backing.size

    @property
    def default_rights(self) -> int:
        """The rights of the first handle. Source: Zircon; RESIZE only where it can be used."""
        return VMO_RIGHTS | (_RESIZE if self.resizable else 0)

    def release_if_idle(self) -> None:
        """Give the memory back when nothing refers to it. Called with the kernel's lock held."""
        if self.handle_count or self.mappings or self.pages.pins or self.views:
            return
        kernel = self.kernel
        if held_by_this_thread(kernel.physmap.lock):  # a finaliser, inside a device's access
            kernel.lock.later(self)
            return
        kernel.forget(self)
        resource, self.resource = self.resource, None
        try:
            self.pages.close()
        finally:
            if resource is not None:
                resource.leave()

    def on_zero_handles(self) -> None:
        """The last handle was closed; mappings, pins and views keep the memory."""
        self.release_if_idle()

    def settle(self) -> None:
        """What was put off until no device is in the physical map."""
        refuse_inside(self.kernel.physmap.lock)
        self.release_if_idle()

    def end_view(self, lease: _ViewLease) -> None:
        """A view is gone. Called with the kernel's lock held."""
        self.views.remove(lease)
        lease.window.release()
        self.release_if_idle()

    def refuse_if_viewed(self, what: str, offset: int, size: int) -> None:
        """Raise `BadState` when a live view shows a part of the range."""
        for lease in self.views:
            if lease.offset < offset + size and offset < lease.offset + lease.size:
                raise BadState(
                    f"cannot {what}: a view of it is in use",
                    asked=offset,
                    holder=f"the view made at {sites.describe(lease.site)}",
                    remedy="drop the view, and every slice and array made from it",
                )

    def check_range(self, offset: int, size: int) -> None:
        """Raise unless ``[offset, offset + size)`` lies in the object."""
        if offset < 0 or size < 0:
            raise InvalidArgs("an offset and a size are not negative", asked=min(offset, size))
        end = offset + size
        if end > self.size:
            raise OutOfRange(f"the range leaves {self}", asked=end, limit=self.size)


class Vmo(Handle[VmoObject]):
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
        rounded = _checked_size(size)
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
        if size <= 0 or not is_page_aligned(size):
            raise InvalidArgs("a contiguous object has whole pages, at least one", asked=size)
        if not is_power_of_two(alignment) or alignment < PAGE_SIZE:
            raise InvalidArgs("an alignment is a power of two, at least a page", asked=alignment)
        process = process or current_process()
        with process.kernel.lock:
            bti._require(_MAP)
        backing = Backing.memfd(_checked_size(size), name=name, resizable=False)
        made = cls.__new__(cls)
        target = made._adopt(process, backing, name)
        try:
            with process.kernel.lock:
                target.pages.make_contiguous(alignment)
                target.contiguous = True
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
        if size <= 0 or not is_page_aligned(size):
            raise InvalidArgs("device memory comes in whole pages, at least one", asked=size)
        process = process or current_process()
        with process.kernel.lock:
            owner = resource._require(0)
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
            target.physical = target.contiguous = True
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
            return target.pages.pin_count(offset >> PAGE_SHIFT)

    def committed_ranges(self) -> list[ByteRange]:
        """The parts that have memory, ascending. Nothing is committed by asking."""
        target = self.object
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

    # Bytes --------------------------------------------------------------------------------------

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """``size`` bytes from ``offset``; to the end by default. Commits nothing.

        Raises:
          AccessDenied: without READ.
          NotSupported: device memory; map it instead.
          OutOfRange: the range leaves the object; nothing was read.
          HostError: a file behind it has become shorter.

        Source: zx_vmo_read.
        """
        if size is None:
            size = max(self.size - offset, 0)
        data = bytearray(size)
        self.read_into(data, offset)
        return bytes(data)

    def read_into(self, buffer: bytearray | memoryview | NDArray[Any], offset: int = 0) -> int:
        """Fill a writable buffer from ``offset``; how many bytes that were. See `read`."""
        view = bytes_of(buffer)
        pages = self._pages_for(_READ, offset, len(view))
        pages.read_into(view, offset)
        return len(view)

    def write(self, data: bytes | bytearray | memoryview | NDArray[Any], offset: int = 0) -> int:
        """Write ``data`` at ``offset``; how many bytes that were. Commits what it touches.

        Raises:
          AccessDenied: without WRITE.
          NotSupported: device memory; map it instead.
          OutOfRange: the range leaves the object, or the file behind it; nothing was written.
          NoMemory, NoSpace: the host, or the file system, has no room; a part may be written.

        Source: zx_vmo_write.
        """
        view = bytes_of(data)
        pages = self._pages_for(_WRITE, offset, len(view))
        if offset + len(view) > pages.backing.length:
            raise OutOfRange(
                "the file behind the memory ends before that",
                asked=offset + len(view),
                limit=pages.backing.length,
            )
        pages.write_from(view, offset)
        return len(view)

    def _pages_for(self, right: int, offset: int, size: int) -> Pages:
        with self._entry.process.kernel.lock:
            target = self._require(right)
            if target.physical:
                raise NotSupported(f"{target} is device memory", remedy="map it")
            target.check_range(offset, size)
            return target.pages

    # Pages --------------------------------------------------------------------------------------

    def commit(self, offset: int = 0, size: int | None = None) -> None:
        """Give every page of a range memory; to the end by default. Rounded out to pages.

        After a failure some of the pages may be committed.

        Raises:
          AccessDenied: without WRITE.
          NotSupported: device memory.
          OutOfRange: the range leaves the object.
          NoMemory, NoSpace: the host, or the file system, has no room.

        Source: zx_vmo_op_range, COMMIT.
        """
        with self._entry.process.kernel.lock:
            target = self._require(_WRITE)
            start, stop = self._range(target, offset, size, "commit")
            epoch = target.pages.epoch
        start, stop = page_down(start), page_up(stop)
        if start < stop:
            target.pages.commit(start, stop - start)
            with self._entry.process.kernel.lock:
                target.pages.remember(start, stop - start, epoch)

    def decommit(self, offset: int = 0, size: int | None = None) -> None:
        """Give the memory of a range back; it reads as zeros afterwards.

        Raises:
          AccessDenied: without WRITE.
          NotSupported: contiguous or device memory.
          OutOfRange: the range leaves the object.
          InvalidArgs: unaligned.
          BadState: a page of it is pinned; nothing changed.

        Source: zx_vmo_op_range, DECOMMIT.
        """
        with self._entry.process.kernel.lock:
            target = self._require(_WRITE)
            if target.pages.kept:
                raise NotSupported(f"{target} is contiguous or device memory and keeps its pages")
            start, stop = self._range(target, offset, size, "decommit")
            if start < stop:
                if (start | stop) & PAGE_MASK:
                    raise InvalidArgs("only whole pages are decommitted", asked=start)
                target.pages.decommit(start, stop - start)

    def zero(self, offset: int = 0, size: int | None = None) -> None:
        """Make a range read as zeros; to the end by default.

        Whole pages are given back. Pinned pages are cleared in place and keep their address.

        Raises:
          AccessDenied: without WRITE.
          NotSupported: device memory.
          OutOfRange: the range leaves the object.

        Source: zx_vmo_op_range, ZERO.
        """
        with self._entry.process.kernel.lock:
            target = self._require(_WRITE)
            start, stop = self._range(target, offset, size, "zero")
            if start < stop:
                target.pages.zero(start, stop - start)

    def _range(
        self, target: VmoObject, offset: int, size: int | None, what: str
    ) -> tuple[int, int]:
        if target.physical:
            raise NotSupported(f"cannot {what} device memory")
        if size is None:
            size = max(target.size - offset, 0)
        target.check_range(offset, size)
        return offset, offset + size

    def resize(self, size: int) -> None:
        """Make the object ``size`` bytes, rounded up to whole pages; new pages read as zeros.

        The tail of the last page beyond ``size`` reads as zeros too. Mappings keep their length:
        touching one beyond the end ends the process, as Linux has it.

        Raises:
          AccessDenied: without WRITE, or without RESIZE on a resizable object.
          Unavailable: the object is not resizable.
          OutOfRange: more than a file can have.
          BadState: a page that would be cut off is pinned, or shown by a view; nothing changed.

        Source: zx_vmo_set_size.
        """
        with self._entry.process.kernel.lock:
            target = self._require(_WRITE)
            if target.resizable:
                self._require(_RESIZE)
            fixed = Unavailable(f"{target} cannot be resized", remedy="make it resizable")
            if target.contiguous:
                raise fixed
            if page_up(size) > UINT64_MAX:
                raise OutOfRange("no object can be so large", asked=size, limit=MAX_SIZE)
            if not target.resizable:
                raise fixed
            new, old = _checked_size(size), target.size
            if new < old:
                target.refuse_if_viewed("shrink", new, old - new)
            if new != old:
                target.pages.resize(new)
            if size & PAGE_MASK:
                target.pages.zero(size, new - size)

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
            if size is None:
                size = max(target.size - offset, 0)
            if not size:
                raise InvalidArgs("a view shows at least a byte", asked=0)
            target.check_range(offset, size)
            backing = target.pages.backing
            if not backing.sealed:
                raise NotSupported(
                    f"{target} shows a file that others can cut", remedy="use read and write"
                )
            lease = _ViewLease(target, backing.borrow(offset, size), offset, size, sites.caller())
            target.views.append(lease)
            exported = lease.window.export(offset, size)
            lease.ref = weakref.ref(exported, lambda _: kernel.lock.post(lease))
            shown = memoryview(exported).cast("B")
            return shown if self._entry.rights & _WRITE and backing.writable else shown.toreadonly()

    def array(
        self, dtype: str | np.dtype[Any] | type = "u1", offset: int = 0, size: int | None = None
    ) -> NDArray[Any]:
        """The bytes themselves, as a numpy array; see `view`.

        Args:
          dtype: of an element; ``size`` is a multiple of its length.
          offset, size: bytes.
        """
        return np.frombuffer(self.view(offset, size), dtype=dtype)


def memory_of(handle: object, kernel: Kernel) -> VmoObject:
    """The memory object behind what a caller gave as a handle to one.

    Raises:
      BadHandle: it is closed.
      WrongType: it is a handle to something else, or none.
      InvalidArgs: the object belongs to another kernel, whose books and lock are not these.
    """
    target = handle._entry.object if isinstance(handle, Handle) else None
    if isinstance(target, VmoObject):
        if target.kernel is kernel:
            return target
        raise InvalidArgs(f"{target} belongs to another kernel", remedy="make both in one kernel")
    if isinstance(handle, Handle) and target is None:
        raise BadHandle(f"this {type(handle).__name__} is closed", remedy="use an open handle")
    raise WrongType(f"{type(handle).__name__} is not a Vmo", remedy="pass a Vmo")


def bytes_of(buffer: Any) -> memoryview:
    """The bytes of anything with the buffer protocol, numpy arrays included.

    Raises:
      WrongType: it has no buffer.
      InvalidArgs: its bytes do not lie next to each other.
    """
    try:
        view = memoryview(buffer)
    except TypeError as error:
        raise WrongType(f"{type(buffer).__name__} has no buffer") from error
    if not view.contiguous:
        raise InvalidArgs(
            "the bytes of the buffer do not lie next to each other",
            remedy="copy it first: numpy.ascontiguousarray",
        )
    return view.cast("B") if view.nbytes else memoryview(b"")


def _checked_size(size: int) -> int:
    """``size`` in whole pages, if an object can have it. Source: zx_vmo_create."""
    if size < 0:
        raise InvalidArgs("a size is not negative", asked=size)
    rounded = page_up(size)
    if rounded > MAX_SIZE or size > UINT64_MAX:
        raise OutOfRange("no object can be so large", asked=size, limit=MAX_SIZE)
    return rounded
