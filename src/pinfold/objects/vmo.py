# A handle to a memory object: making one, and making another from it.
#
# Source: zx_vmo_create, zx_vmo_create_contiguous, zx_vmo_create_physical, zx_vmo_create_child,
# zx_vmo_set_cache_policy, zx_vmo_transfer_data, zx_vmo_replace_as_executable; Zircon's dispatcher
# for the order of checks.
from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any, Final

from pinfold.errors import InvalidArgs
from pinfold.memory.backing import Backing
from pinfold.memory.hosterrors import noted
from pinfold.memory.pages import Pages
from pinfold.objects.initiator import BtiObject
from pinfold.objects.memory_object import MAX_SIZE, VmoObject
from pinfold.objects.page_ops import check_64_bits, checked_size, using
from pinfold.objects.process import current_process
from pinfold.objects.resource import ResourceObject
from pinfold.objects.vmo_child import VmoChild, make_child, set_cache_policy, transfer
from pinfold.objects.vmo_exec import replace_as_executable
from pinfold.objects.vmo_parts import CachePolicy, VmoStatistics
from pinfold.objects.vmo_views import VmoViews
from pinfold.rights import Right
from pinfold.units import PAGE_SIZE, UINT64_MAX, is_page_aligned, is_power_of_two

if TYPE_CHECKING:
    import os

    from pinfold.objects.bti import Bti
    from pinfold.objects.handle import Handle
    from pinfold.objects.process import Process
    from pinfold.objects.resource import Resource

__all__ = ["CachePolicy", "Vmo", "VmoChild", "VmoObject", "VmoStatistics"]

_RESIZABLE, _DISCARDABLE, _UNBOUNDED = 0x2, 0x4, 0x10  # the options of zx_vmo_create
_CREATE: Final = _RESIZABLE | _DISCARDABLE | _UNBOUNDED

_WRITE: Final = int(Right.WRITE)
_MAP: Final = int(Right.MAP)


class Vmo(VmoViews):
    """A handle to a memory object.

    ``Vmo(size)`` makes one of zeros, with nothing committed.

    Args:
      size: bytes; rounded up to whole pages, and to nothing more. 0 is legal.
      resizable: `resize` works, and this handle has RESIZE.
      discardable: `Kernel.reclaim` may take its memory while it is unlocked; see `lock_memory`.
      unbounded: it is as large as an object can be, and ``size`` is its stream size. Not resizable.
      name: for people, and for /proc.
      process: whose handle it is; the current process by default.

    Raises:
      InvalidArgs: ``size`` is negative; both resizable and unbounded.
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
        discardable: bool = False,
        unbounded: bool = False,
        name: str = "",
        process: Process | None = None,
    ) -> None:
        process = process or current_process()
        if resizable and unbounded:
            raise InvalidArgs(
                "an unbounded object is as large as can be", remedy="leave resizable out"
            )
        rounded = checked_size(size)
        if unbounded:
            rounded = MAX_SIZE
        backing = Backing.memfd(rounded, name=name, resizable=resizable)
        target = self._adopt(process, backing, name, resizable=resizable, stream=index(size))
        target.discardable = discardable

    def _adopt(
        self,
        process: Process,
        backing: Backing,
        name: str,
        *,
        resizable: bool = False,
        stream: int | None = None,
    ) -> VmoObject:
        """Make the object and open this handle to it; the backing is closed on failure."""
        kernel = process.kernel
        try:
            with kernel.lock:
                pages = Pages(backing, kernel.physmap)
                target = VmoObject(kernel, pages, name=name, resizable=resizable, stream=stream)
                self._open(process.add(target, target.default_rights))
                target.join_family()
        except BaseException as error:
            with noted("close the memory", error):
                backing.close()
            raise
        return target

    @classmethod
    def with_options(
        cls, size: int, options: int, *, name: str = "", process: Process | None = None
    ) -> Vmo:
        """``Vmo(size)``, as Zircon's callers say it.

        Args:
          options: RESIZABLE (0x2), DISCARDABLE (0x4), UNBOUNDED (0x10).

        Raises:
          InvalidArgs: RESIZABLE and UNBOUNDED, or a bit that is no option.
          OutOfRange: ``size`` is more than an object can have.
          NoMemory: as `Vmo`.

        Source: zx_vmo_create, and its kernel for the order of checks.
        """
        size, options = index(size), index(options)
        resizable, unbounded = bool(options & _RESIZABLE), bool(options & _UNBOUNDED)
        if not (resizable and unbounded):  # else it is refused for that first
            if not unbounded:
                check_64_bits(size)
            if options & ~_CREATE:
                raise InvalidArgs("an option that there is not", asked=options, limit=_CREATE)
        return cls(
            size,
            resizable=resizable,
            discardable=bool(options & _DISCARDABLE),
            unbounded=unbounded,
            name=name,
            process=process,
        )

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
        if not is_power_of_two(alignment) or not PAGE_SIZE <= alignment <= UINT64_MAX:
            raise InvalidArgs("an alignment is a power of two, at least a page", asked=alignment)
        process = process or current_process()
        with process.kernel.lock:
            if bti._demand(BtiObject, _MAP).kernel is not process.kernel:
                raise InvalidArgs(f"{bti!r} belongs to another kernel", remedy="make both in one")
        backing = Backing.memfd(checked_size(size), name=name, resizable=False)
        made = cls.__new__(cls)
        target = made._adopt(process, backing, name, stream=0)
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
          OutOfRange: the range leaves the pages of the resource; or no file can simulate it.
          AccessDenied: a resource of all device memory is asked for RAM.

        Source: zx_vmo_create_physical.
        """
        address, size = index(address), index(size)
        if size <= 0 or not is_page_aligned(size):
            raise InvalidArgs("device memory comes in whole pages, at least one", asked=size)
        process = process or current_process()
        with process.kernel.lock:
            owner = resource._demand(ResourceObject, 0)
            if owner.kernel is not process.kernel:
                raise InvalidArgs(f"{owner} belongs to another kernel", remedy="make both in one")
            backing, hold = owner.window(address, size)
        made = cls.__new__(cls)
        try:
            target = made._adopt(process, backing, name, stream=0)
        except BaseException:
            with process.kernel.lock:
                hold.leave()
            raise
        with process.kernel.lock:
            target.body.device = hold
            target.physical = True
            target.cache_policy = CachePolicy.UNCACHED
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

    # Making another from it ---------------------------------------------------------------------

    def child(self, options: VmoChild | int, offset: int = 0, size: int = 0) -> Vmo:
        """Another memory object, made from this one.

        Snapshots are copied at once: the committed pages of the range, inside the kernel. What
        lies beyond the end of this object reads as zeros. Slices and references show this object's
        own pages: what is pinned through one is pinned for all.

        The child has the rights of this handle, RESIZE if RESIZABLE, the property rights, and not
        WRITE if NO_WRITE; a snapshot that may be written has WRITE, and not EXECUTE. While it has a
        handle, a mapping, a pin or a view this object has no ZERO_CHILDREN.

        Args:
          options: one kind of `VmoChild`, and NO_WRITE or RESIZABLE.
          offset, size: bytes of this object; ``offset`` page-aligned. ``size`` is rounded up, and
            is the stream size of a slice or a snapshot. Both 0 for a reference.

        Raises:
          AccessDenied: without DUPLICATE and READ, and RESIZE for a resizable reference.
          InvalidArgs: no kind, two of them, or what does not go with it; unaligned; a slice that
            leaves this object; a reference to a part; a snapshot of contiguous memory.
          OutOfRange: ``size`` is more than an object can have, or ``offset + size`` more than 64
            bits hold.
          NotSupported: this object is discardable, physical (but for slices), resizable (slices), a
            slice (references and snapshots), contiguous (references), or not resizable (resizable
            references).
          BadState: it is not cached; it has a pinned page anywhere (snapshots).
          NoMemory, NoSpace, HostError: the copy could not be made.

        After an error there is no child. The order of the checks is Zircon's.

        Source: zx_vmo_create_child.
        """
        return self.wrap(make_child(self, options, offset, size))

    def transfer(
        self, source: Handle[Any], *, offset: int = 0, size: int, source_offset: int = 0
    ) -> None:
        """Move pages of ``source`` here; where they were, ``source`` reads as zeros.

        Args:
          source: a handle to a memory object, with READ and WRITE; this one has WRITE.
          offset, size, source_offset: bytes, page-aligned.

        Raises:
          InvalidArgs: unaligned; another kernel's.
          AccessDenied: a right is missing.
          NotSupported: either is contiguous, device memory, or a file that others have too.
          OutOfRange: a range leaves its object.
          BadState: a page of either range is pinned.
          NoMemory, NoSpace, HostError: the host refuses. ``source`` still has the pages, or has
            them again, unless a note on the error says otherwise, and the range here is lost. Or,
            of ranges that overlap, they are here, and what they went by way of could not be closed.

        After every other error nothing has changed.

        Source: zx_vmo_transfer_data.
        """
        transfer(self, source, offset, size, source_offset)

    def set_cache_policy(self, policy: CachePolicy | int) -> None:
        """Say how the CPU is to cache the memory, before anybody uses it.

        On Linux a mapping of a memfd is cached all the same. The policy decides what is refused:
        `read` and `write`, and making children.

        Raises:
          InvalidArgs: there is no such policy.
          AccessDenied: without MAP.
          BadState: it has a pinned page, a mapping, or a relative; it is discardable.

        Source: zx_vmo_set_cache_policy.
        """
        set_cache_policy(self, policy)

    def replace_as_executable(self, vmex: Handle[Any] | None = None) -> Vmo:
        """This handle, with EXECUTE as well: a new one, and this one is closed, error or not.

        Args:
          vmex: a resource of the kind SYSTEM that covers VMEX. None leaves it to the policy of the
            process, which allows it.

        Raises:
          BadHandle: this handle, or ``vmex``, is closed.
          WrongType: ``vmex`` is no such resource.
          OutOfRange: it is of that kind and covers something else.

        Source: zx_vmo_replace_as_executable.
        """
        return self.wrap(replace_as_executable(self, vmex))
