# A handle to a memory object, and the ways to make one. What else it can do is in the classes that
# it is made of, a file each.
#
# Source: zx_vmo_create, zx_vmo_create_contiguous, zx_vmo_create_physical; Zircon's dispatcher for
# the order of checks.
from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Final

from pinfold.errors import InvalidArgs
from pinfold.memory.backing import Backing
from pinfold.memory.files import adopted, opened
from pinfold.memory.hosterrors import noted
from pinfold.memory.hugepages import in_one_run
from pinfold.memory.pages import Pages
from pinfold.objects.initiator import BtiObject
from pinfold.objects.memory_object import MAX_SIZE, VmoObject
from pinfold.objects.own_memory import refuse_own
from pinfold.objects.page_ops import check_64_bits, checked_size, using
from pinfold.objects.process import current_process
from pinfold.objects.resource import ResourceObject
from pinfold.objects.vmo_child import VmoChild
from pinfold.objects.vmo_parts import CachePolicy, VmoStatistics
from pinfold.objects.vmo_relatives import VmoRelatives
from pinfold.rights import Right
from pinfold.units import PAGE_SIZE, UINT64_MAX, is_page_aligned, is_power_of_two

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from pinfold.objects.bti import Bti
    from pinfold.objects.process import Process
    from pinfold.objects.resource import Resource
    from pinfold.objects.resource_object import DeviceHold

__all__ = ["CachePolicy", "Vmo", "VmoChild", "VmoObject", "VmoStatistics"]

_RESIZABLE, _DISCARDABLE, _UNBOUNDED = 0x2, 0x4, 0x10  # the options of zx_vmo_create
_CREATE: Final = _RESIZABLE | _DISCARDABLE | _UNBOUNDED

_WRITE: Final = int(Right.WRITE)
_MAP: Final = int(Right.MAP)


class Vmo(VmoRelatives):
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
        self._adopt(
            process,
            backing,
            name,
            resizable=resizable,
            stream=index(size),
            finish=_discardable if discardable else None,
        )

    def _adopt(
        self,
        process: Process,
        backing: Backing,
        name: str,
        *,
        resizable: bool = False,
        stream: int | None = None,
        rights: int | None = None,
        finish: Callable[[VmoObject], None] | None = None,
    ) -> VmoObject:
        """Make the object and open this handle to it; the backing is closed on failure.

        Args:
          rights: of the handle; by default what a new object's has.
          finish: makes the object what it is to be, before anybody can find it: another thread may
            end the process, and its handles with it, as soon as there is one.
        """
        kernel = process.kernel
        try:
            with kernel.lock:
                pages = Pages(backing, kernel.physmap)
                target = VmoObject(kernel, pages, name=name, resizable=resizable, stream=stream)
                try:
                    if finish is not None:
                        finish(target)
                    granted = target.default_rights if rights is None else rights
                    if not backing.writable:
                        granted &= ~_WRITE
                    self._open(process.add(target, granted))
                except BaseException:
                    target.pages.abandon()
                    raise
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

        On buses with simulated physical addresses the run is simulated, and so it is on those that
        translate. On a bus that gives out real frames (`BusLimits.real_frames`) it is made of huge
        pages, which the machine's owner has to have set aside, and no `Vmar` maps it. The object
        keeps no reference to ``bti``.

        Args:
          size: bytes, whole pages, > 0.
          alignment: of the first physical address; a power of two, at least a page.

        Raises:
          InvalidArgs: ``size`` or ``alignment`` is not as above.
          AccessDenied: ``bti`` lacks MAP.
          NoMemory: no such run is left, or the host has no memory.
          NotSupported: real frames are asked for, and the kernel has no huge pages.

        Source: zx_vmo_create_contiguous.
        """
        size, alignment = index(size), index(alignment)
        if size <= 0 or not is_page_aligned(size):
            raise InvalidArgs("a contiguous object has whole pages, at least one", asked=size)
        if not is_power_of_two(alignment) or not PAGE_SIZE <= alignment <= UINT64_MAX:
            raise InvalidArgs("an alignment is a power of two, at least a page", asked=alignment)
        process = process or current_process()
        with process.kernel.lock:
            device = bti._demand(BtiObject, _MAP)
            if device.kernel is not process.kernel:
                raise InvalidArgs(f"{bti!r} belongs to another kernel", remedy="make both in one")
            real = device.limits.real_frames
        return cls.one_run(process, size, alignment, name=name, real_frames=real)

    @classmethod
    def one_run(
        cls,
        process: Process,
        size: int,
        alignment: int,
        *,
        name: str = "",
        rights: int | None = None,
        real_frames: bool = False,
    ) -> Vmo:
        """`contiguous`, for a caller that has checked who may have it, and what they ask for.

        Args:
          rights: of the handle; by default what a new object's has.
          real_frames: one run of the frames that Linux has it in, beside the simulated one.
        """
        size = checked_size(size)
        backing = (
            in_one_run(size, alignment, name=name)
            if real_frames
            else Backing.memfd(size, name=name, resizable=False)
        )
        made = cls.__new__(cls)
        target = made._adopt(
            process,
            backing,
            name,
            stream=0,
            rights=rights,
            finish=lambda vmo: vmo.pages.make_contiguous(alignment),
        )
        try:
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
        return cls.over_device(process, address, backing, hold, name=name)

    @classmethod
    def over_device(
        cls,
        process: Process,
        address: int,
        backing: Backing,
        hold: DeviceHold,
        *,
        name: str = "",
        rights: int | None = None,
    ) -> Vmo:
        """`physical`, over device memory that a resource has given; it is given back on failure.

        Args:
          rights: of the handle; by default what a new object's has.
        """

        def finish(vmo: VmoObject) -> None:
            vmo.body.device = hold
            vmo.physical = True
            vmo.cache_policy = CachePolicy.UNCACHED
            vmo.pages.show_at(address)

        made = cls.__new__(cls)
        try:
            made._adopt(process, backing, name, stream=0, rights=rights, finish=finish)
        except BaseException:
            with process.kernel.lock:
                hold.leave()
            raise
        return made

    @classmethod
    def from_fd(cls, fd: int, *, name: str = "", process: Process | None = None) -> Vmo:
        """The memory behind a descriptor: a memfd somebody passed us, or an open file.

        The descriptor stays the caller's. A memfd is sealed against shrinking, for good, if it can
        be: nobody may cut memory that a device writes to. Without WRITE where it is read-only.

        Raises:
          NotSupported: neither a regular file nor a memfd.
          InvalidArgs: it is empty, or cannot be read; it is opened for appending, and cannot be
            opened anew; it is the memory of an object of this kernel (``.holder``).
          HostError: ``fd`` is not open.
        """
        return cls._over(adopted(fd), name, process)

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
        return cls._over(opened(path, writable=writable), name or str(path), process)

    @classmethod
    def _over(cls, backing: Backing, name: str, process: Process | None) -> Vmo:
        process = process or current_process()
        made = cls.__new__(cls)
        made._adopt(process, backing, name, finish=lambda _: refuse_own(process.kernel, backing.fd))
        return made


def _discardable(vmo: VmoObject) -> None:
    vmo.discardable = True
