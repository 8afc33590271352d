# A handle to a resource: the authority to name physical addresses, vectors, ports or privileges.
#
# Source: zx_resource_create; Zircon's kernel for the order of checks, which the page leaves out.
from __future__ import annotations

from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Final

from pinfold.errors import AccessDenied, InvalidArgs, OutOfRange, WrongType
from pinfold.objects.handle import Handle, kept_name
from pinfold.objects.own_memory import refuse_own
from pinfold.objects.process import current_process
from pinfold.objects.resource_object import ResourceObject
from pinfold.objects.resource_space import ResourceKind, SystemBase
from pinfold.rights import Right
from pinfold.units import PAGE_SIZE, UINT64_MAX, ByteRange, is_page_aligned

if TYPE_CHECKING:
    from pinfold.memory.device_memory import DeviceWindow
    from pinfold.objects.handle import HandleEntry
    from pinfold.objects.process import Process

__all__ = ["Resource", "ResourceKind", "ResourceObject", "ResourceStatistics", "SystemBase"]

_RIGHTS: Final = int(Right.TRANSFER | Right.DUPLICATE | Right.WRITE | Right.INSPECT)
_WRITE: Final = int(Right.WRITE)

_MMIO: Final = ResourceKind.MMIO
_RANGED: Final = {int(kind): kind for kind in ResourceKind if kind is not ResourceKind.ROOT}


@dataclass(frozen=True, slots=True)
class ResourceStatistics:
    """A resource at one moment. Source: zx_info_resource_t."""

    koid: int
    name: str
    kind: ResourceKind
    exclusive: bool
    base: int
    size: int
    """0 for a resource of every address of its kind."""
    handles: int


class Resource(Handle[ResourceObject]):
    """The authority to name addresses of some kind: of device memory, first of all.

    Made like this it comes from nowhere, as the resources do that a kernel hands out when it
    starts; `child` makes one from another.

    Args:
      base, size: addresses; ``size`` > 0. Of device memory, bytes, which need not be whole pages.
      kind: what the addresses are addresses of; not ROOT.
      exclusive: no other resource of the kind overlaps it while it is there.
      fd: the descriptor of a real window: a BAR, a file, /dev/mem. While the resource, one made
        from it or a memory object over it is there, it is what everybody finds at the addresses.
        None leaves them simulated. The descriptor stays the caller's.
      fd_offset: bytes into the real window, page-aligned: what is at ``base``.

    Raises:
      InvalidArgs: the range is empty or no range of 64-bit addresses; the kind is unknown; a real
        window is unaligned or of another kind.
      AccessDenied: of device memory, addresses that are simulated RAM (16 MiB to 2 GiB, 4 GiB to
        2**46) or the registers of an IOMMU.
      NotFound: the kind has no such addresses, or they are another's, exclusively.
      AlreadyExists: a real window, where other device memory has been shown.
      HostError: ``fd`` is not open.

    Source: zx_resource_create.
    """

    __slots__ = ()

    def __init__(
        self,
        base: int,
        size: int,
        *,
        kind: ResourceKind | int = _MMIO,
        exclusive: bool = False,
        fd: int | None = None,
        fd_offset: int = 0,
        name: str = "",
        process: Process | None = None,
    ) -> None:
        base, size, fd_offset = index(base), index(size), index(fd_offset)
        kind = _kind(kind)
        if size <= 0 or base < 0 or base + size > UINT64_MAX + 1:
            raise InvalidArgs("the range is empty or no range of addresses", asked=size)
        if fd is not None and (
            kind is not _MMIO or fd_offset < 0 or not is_page_aligned(base, size, fd_offset)
        ):
            raise InvalidArgs(
                "a real window is whole pages of device memory", asked=base, limit=PAGE_SIZE
            )
        where = ByteRange(base, base + size)
        process = process or current_process()
        kernel = process.kernel
        with kernel.lock:
            kernel.resources.refuse_denied(kind, where)
            if fd is not None:
                refuse_own(kernel, fd)
            window = None if fd is None else kernel.devices.put(where, fd, fd_offset)
            try:
                entry = _enter(process, kind, where, exclusive, name, window)
            except BaseException:
                if window is not None:
                    window.close_if_unused()
                raise
            self._open(entry)

    @classmethod
    def root(
        cls, kind: ResourceKind | int = ResourceKind.ROOT, *, process: Process | None = None
    ) -> Resource:
        """All there is of one kind; of ROOT, all there is of every kind.

        What a Zircon kernel gives to the first process. ROOT makes a resource of any kind, or an
        IOMMU; it is no resource of any kind itself.

        Raises:
          InvalidArgs: there is no such kind.
        """
        kind = ResourceKind.ROOT if index(kind) == ResourceKind.ROOT else _kind(kind)
        process = process or current_process()
        made = cls.__new__(cls)
        with process.kernel.lock:
            label = f"{kind.name.lower()} root"
            target = ResourceObject(process.kernel, kind, ByteRange(0, 0), name=label)
            made._open(_add(process, target))
        return made

    def child(
        self,
        kind: ResourceKind | int,
        base: int,
        size: int,
        *,
        exclusive: bool = False,
        name: str | bytes | None = "",
    ) -> Resource:
        """A resource over a part of what this one stands for.

        Args:
          kind: this one's, or any but ROOT of a ROOT resource. A number with other bits is unknown.
          base, size: addresses, within this one's range to the byte; ``size`` > 0.
          exclusive: only of a resource that stands for every address of the kind.
          name: 31 bytes of it are kept. None is a name that could not be read, which is refused
            when its turn comes.

        Raises:
          InvalidArgs: the range leaves the address space; ``kind`` is unknown; one of the two is
            exclusive, and this one does not stand for every address; the name cannot be read;
            ``size`` is 0.
          BadHandle, WrongType: this handle is closed, or no resource.
          AccessDenied: this handle lacks WRITE; this resource is of another kind, or does not hold
            the range, or the range is denied to all: RAM, registers of an IOMMU.
          NotFound: the kind has no such addresses, or they are another's, exclusively, or are to be
            exclusive and some are another's.

        Source: zx_resource_create; the order of checks and NOT_FOUND from Zircon's kernel.
        """
        wanted, base, size = index(kind), index(base), index(size)
        if base < 0 or size < 0 or base + size > UINT64_MAX:
            raise InvalidArgs("the range leaves the address space", asked=base + size)
        where, process = ByteRange(base, base + size), self._entry.process
        with process.kernel.lock:
            parent = self._demand(ResourceObject, _WRITE)
            kind = _kind(wanted)
            whole = parent.kind is ResourceKind.ROOT or parent.is_root_of(kind)
            try:
                if parent.kind is ResourceKind.ROOT:
                    process.kernel.resources.refuse_denied(kind, where)
                else:
                    parent.check(kind, base, size, strict=True)
            except (WrongType, OutOfRange) as error:
                raise AccessDenied(str(error)) from error
            if not whole and (exclusive or parent.exclusive):
                raise InvalidArgs(
                    "a part of a resource is shared, and so is what it is a part of",
                    remedy="make exclusive resources from a root, and none from them",
                )
            if name is None:
                raise InvalidArgs("the name cannot be read")
            hold = parent.hold if kind is _MMIO else None
            window = hold.window if hold is not None else None
            return self.wrap(_enter(process, kind, where, exclusive, kept_name(name), window))

    @property
    def range(self) -> ByteRange:
        """The addresses it stands for; empty where it stands for all of its kind."""
        return self.object.range

    @property
    def kind(self) -> ResourceKind:
        """What they are addresses of."""
        return self.object.kind

    def statistics(self) -> ResourceStatistics:
        """The resource as a frozen record."""
        target = self.object
        return ResourceStatistics(
            koid=target.koid,
            name=target.name,
            kind=target.kind,
            exclusive=target.exclusive,
            base=target.range.start,
            size=target.range.size,
            handles=target.handle_count,
        )


def _kind(kind: ResourceKind | int) -> ResourceKind:
    """The kind of that number.

    Raises:
      InvalidArgs: there is none, or it is ROOT, of which none can be made.
    """
    found = _RANGED.get(index(kind))
    if found is None:
        raise InvalidArgs(
            "no resource of that kind can be made",
            asked=int(kind),
            remedy="use a ResourceKind other than ROOT",
        )
    return found


def _enter(
    process: Process,
    kind: ResourceKind,
    where: ByteRange,
    exclusive: bool,  # noqa: FBT001 - called twice, below what callers see
    name: str,
    window: DeviceWindow | None,
) -> HandleEntry:
    """A resource that was found to be allowed. Called with the kernel's lock held."""
    spaces = process.kernel.resources
    spaces.take(kind, where, exclusive=exclusive)
    try:
        target = ResourceObject(
            process.kernel, kind, where, exclusive=exclusive, name=name, window=window
        )
    except BaseException:
        spaces.give_back(kind, where, exclusive=exclusive)
        raise
    return _add(process, target)


def _add(process: Process, target: ResourceObject) -> HandleEntry:
    try:
        return process.add(target, _RIGHTS)
    except BaseException:
        target.on_zero_handles()
        raise
