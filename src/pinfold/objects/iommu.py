# An IOMMU: a bus that is open, from which device authorities are made.
#
# Buses are found by name, and a module is imported when its bus is first asked for: those that
# come with pinfold, and whatever other packages offer in the entry-point group "pinfold.buses".
# Each is a function open_bus(physical, **options) -> Bus.
#
# Source: zx_iommu_create for `Iommu.create`; Zircon's kernel for the order of checks. Zircon's
# stub, which was called dummy, is our stub bus; its Intel IOMMU is a sim bus that serves the
# devices of its descriptor.
from __future__ import annotations

import enum
import importlib
import weakref
from dataclasses import dataclass
from importlib.metadata import entry_points
from operator import index
from typing import TYPE_CHECKING, Any, Final

from pinfold.bus import Bus
from pinfold.errors import AlreadyExists, InvalidArgs, NotFound, NotSupported, WrongType
from pinfold.memory.hosterrors import translated
from pinfold.objects.handle import Handle
from pinfold.objects.intel_iommu import IntelDescriptor
from pinfold.objects.object import KernelObject, ObjectType
from pinfold.objects.process import current_process
from pinfold.objects.resource_object import ResourceObject
from pinfold.rights import Right
from pinfold.units import MIB, PAGE_SIZE, ByteRange

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from pinfold.bus import BusLimits, FaultLog
    from pinfold.objects.bti import Bti
    from pinfold.objects.file_initiator import FileInitiator
    from pinfold.objects.kernel import Kernel
    from pinfold.objects.process import Process

_RIGHTS: Final = int(Right.TRANSFER | Right.DUPLICATE | Right.INSPECT)
_DUPLICATE: Final = int(Right.DUPLICATE)
_LONGEST_DESCRIPTOR: Final = 4096  # ZX_IOMMU_MAX_DESC_LEN, whatever the size of a page
_GROUP: Final = "pinfold.buses"
_WITHOUT_ADDRESS: Final = ("io_uring", "phys", "sim", "stub")
_BUILT_IN: Final = (*_WITHOUT_ADDRESS, "vfio")

_claimed: weakref.WeakSet[Bus] = weakref.WeakSet()
"""The buses that an Iommu will close: each has one."""


class IommuType(enum.IntEnum):
    """The kinds of IOMMU that a call can ask for. The numbers are Zircon's."""

    STUB = 0
    """None at all: device addresses are physical addresses."""
    INTEL = 1
    ARM_SMMU = 2
    """Refused: there is none here."""


@dataclass(frozen=True, slots=True)
class IommuStatistics:
    """A bus at one moment."""

    koid: int
    name: str
    bus: str
    initiators: int
    """Device authorities that were made from it and are still there."""
    faults: int
    """Accesses that it stopped, those no longer on record included."""
    handles: int


class IommuObject(KernelObject):
    """A bus, and how many device authorities use it."""

    __slots__ = ("bus", "descriptor", "users")

    object_type = ObjectType.IOMMU

    def __init__(self, kernel: Kernel, bus: Bus, name: str) -> None:
        super().__init__(kernel, name or bus.name)
        self.bus = bus
        self.descriptor: IntelDescriptor | None = None
        """What the caller said of an Intel IOMMU."""
        self.users = 0

    def leave(self) -> None:
        """One Bti is gone. Called with the kernel's lock held."""
        self.users -= 1
        self.on_zero_handles()

    def on_zero_handles(self) -> None:
        """The bus is closed when nobody uses it any more. Source: Zircon, an IOMMU outlives its
        handle for as long as a BTI refers to it."""
        if not self.handle_count and not self.users:
            self.kernel.forget(self)
            _claimed.discard(self.bus)
            self.bus.close()

    def on_fork_child(self) -> None:
        """In a forked child: no device reaches the parent's memory through this bus."""
        self.bus.abandon()


class Iommu(Handle[IommuObject]):
    """A handle over an open bus.

    Args:
      bus: the bus; it is closed when the last handle and the last `Bti` are gone.
      process: whose handle this is; the current process by default.
    """

    __slots__ = ()

    def __init__(self, bus: Bus, *, name: str = "", process: Process | None = None) -> None:
        if not isinstance(bus, Bus):
            raise WrongType(f"{type(bus).__name__} is not a bus", remedy="see pinfold.bus.Bus")
        process = process or current_process()
        with process.kernel.lock:
            if bus in _claimed:
                raise AlreadyExists(
                    "that bus has an Iommu, which closes it", remedy="duplicate() that handle"
                )
            self._open(process.add(IommuObject(process.kernel, bus, name), _RIGHTS))
            _claimed.add(bus)

    @classmethod
    def create(
        cls,
        resource: Handle[Any],
        kind: IommuType | int,
        descriptor: bytes | bytearray | memoryview | None,
        size: int | None = None,
    ) -> Iommu:
        """An IOMMU of a kind, made with the authority to make one.

        Args:
          resource: SYSTEM for IOMMUs, or ROOT. No right is needed on it.
          descriptor: what the kind wants to be told: of STUB one byte, of INTEL what
            `IntelDescriptor` reads. None is one that could not be read, which is refused when its
            turn comes.
          size: bytes of ``descriptor``; by default all.

        Raises:
          BadHandle: ``resource`` is closed.
          WrongType: it is no resource, or not for IOMMUs.
          InvalidArgs: the descriptor is too long, cannot be read, or says something wrong.
          NotSupported: there is no such IOMMU here.

        Source: zx_iommu_create.
        """
        kind, process = index(kind), resource._entry.process
        kernel = process.kernel
        with kernel.lock:
            resource._demand(ResourceObject, 0).check_iommu()
        given = memoryview(b"" if descriptor is None else descriptor).cast("B")
        length = len(given) if size is None else index(size)
        if length > _LONGEST_DESCRIPTOR:
            raise InvalidArgs(
                "an IOMMU descriptor is not so long", asked=length, limit=_LONGEST_DESCRIPTOR
            )
        if not 0 <= length <= len(given):
            raise InvalidArgs(
                "the IOMMU descriptor cannot be read", asked=length, available=len(given)
            )
        raw = bytes(given[:length])
        if kind == IommuType.STUB:
            if length != 1:
                raise InvalidArgs("the descriptor of a stub is one byte", asked=length, limit=1)
            return _opened("stub", process, {})
        if kind != IommuType.INTEL:
            raise NotSupported(f"there is no IOMMU of type {kind} here", remedy="use STUB or INTEL")
        intel = IntelDescriptor.parse(raw)
        registers = ByteRange(intel.register_base, intel.register_base + PAGE_SIZE)
        made = _opened("sim", process, {"minimum_contiguity": MIB, "serves": intel.serves})
        made.object.descriptor = intel
        with kernel.lock:
            kernel.resources.deny(registers)
        return made

    def shared_with(self, process: Process) -> Iommu:
        """Another handle to it, with the same rights, in a process of the same kernel.

        Raises:
          BadHandle: this handle is closed.
          AccessDenied: it lacks DUPLICATE.
          InvalidArgs: the process is of another kernel.
        """
        with self.kernel.lock:
            target = self._require(_DUPLICATE)
            if process.kernel is not target.kernel:
                raise InvalidArgs(
                    f"{target} belongs to another kernel", remedy="open a bus in that kernel"
                )
            return self.wrap(process.add(target, self._entry.rights))

    @property
    def descriptor(self) -> IntelDescriptor | None:
        """What was said of an Intel IOMMU when it was made; None of every other bus."""
        return self.object.descriptor

    @property
    def bus(self) -> Bus:
        """The bus itself."""
        return self.object.bus

    @property
    def limits(self) -> BusLimits:
        """What the bus promises."""
        return self.object.bus.limits

    @property
    def faults(self) -> FaultLog:
        """The accesses that the bus stopped."""
        return self.object.bus.faults

    def statistics(self) -> IommuStatistics:
        """The bus as a frozen record."""
        target = self.object
        with target.kernel.lock:
            return IommuStatistics(
                koid=target.koid,
                name=target.name,
                bus=target.bus.name,
                initiators=target.users,
                faults=target.bus.faults.total,
                handles=target.handle_count,
            )

    def initiator(self, number: int, *, address_bits: int = 64, name: str = "") -> Bti:
        """The authority of one device to reach host memory.

        Args:
          number: the device, as the bus knows it; 0 to 2**64 - 1.
          address_bits: how many address bits the device can put on the bus, 1 to 64. A pin gives
            addresses within them, or fails with the extent named.

        Raises:
          InvalidArgs: the bus has no such initiator, or has it with other address bits.
          BadHandle: this handle is closed.

        Source: zx_bti_create.
        """
        from pinfold.objects.bti import Bti

        return Bti(self, number, address_bits=address_bits, name=name)

    def file(
        self,
        path: str | os.PathLike[str] | int,
        *,
        writable: bool = False,
        direct: bool | None = None,
        depth: int | None = None,
        name: str = "",
    ) -> FileInitiator:
        """A file as a device, on a bus whose devices are files: ``io_uring``.

        Args:
          path: of a regular file or a block device that is there; or a descriptor of one, which
            stays the caller's.
          writable: it is opened for writing, too.
          direct: past the page cache: None wherever the file system and a transfer's address, size
            and offset allow; True refuses a file system that has no such thing; False never.
          depth: transfers under way at once, a power of two; by default the bus's.

        Raises:
          NotSupported: the bus has no files; it is no such file; no direct I/O where asked for.
          InvalidArgs: ``depth`` is none; a descriptor that cannot be read.
          AccessDenied: a descriptor that is not for writing, and ``writable``.
          HostError: it cannot be opened (``errno``).
          BadHandle: this handle is closed.
        """
        from pinfold.objects.file_initiator import FileInitiator

        return FileInitiator(self, path, writable=writable, direct=direct, depth=depth, name=name)


def open_bus(name: str, *, process: Process | None = None, **options: Any) -> Iommu:
    """Open a bus by name.

    Args:
      name: ``"sim"``, ``"stub"``, ``"io_uring"``, ``"vfio:0000:00:04.0"``, ``"phys"``
        (docs/buses.md says what each promises), or what another package offers in the group
        ``pinfold.buses``. What follows a colon is given to the bus as its ``address``.
      process: whose handle it is; the current process by default.
      options: the bus's own; see its module.

    Raises:
      NotFound: there is no such bus (``.available``).
      InvalidArgs: an option that the bus does not have, or does not accept.
      NoMemory: the host has no descriptor left to load it with.
    """
    if not isinstance(name, str):
        raise WrongType(f"a bus is named by a string, not a {type(name).__name__}")
    kind, colon, address = name.partition(":")
    if colon:
        if kind in _WITHOUT_ADDRESS:
            raise InvalidArgs(
                f"the {kind} bus has no address", asked=name, remedy=f'open_bus("{kind}")'
            )
        options["address"] = address
    return _opened(kind, process or current_process(), options)


def _opened(kind: str, process: Process, options: dict[str, Any]) -> Iommu:
    with translated(f"load the {kind} bus"):  # importing one opens files
        factory = _factory(kind)
    try:
        bus = factory(process.kernel.physmap, **options)
    except TypeError as error:
        raise InvalidArgs(f"the {kind} bus: {error}") from error
    try:
        return Iommu(bus, process=process)
    except BaseException:
        bus.close()
        raise


def _factory(kind: str) -> Callable[..., Bus]:
    if kind in _BUILT_IN:
        module = importlib.import_module(f"pinfold.buses.{kind}")
        factory: Callable[..., Bus] = module.open_bus
        return factory
    offered = {point.name: point for point in entry_points(group=_GROUP)}
    if kind not in offered:
        raise NotFound(
            f"there is no bus called {kind!r}",
            available=", ".join(sorted({*_BUILT_IN, *offered})),
            remedy="use one of those, or install the package that has it",
        )
    loaded: Callable[..., Bus] = offered[kind].load()
    return loaded
