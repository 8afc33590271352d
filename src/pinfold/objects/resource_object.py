# A resource, as all handles to it share it: which addresses it stands for, and what it keeps.
#
# Source: zx_vmo_create_physical, zx_iommu_create, zx_vmo_replace_as_executable for what is asked of
# one; Zircon's kernel for the order of checks, which their pages leave out.
#
# It is a permission and nothing more. What is at its addresses belongs to the kernel and is found
# by address (memory/device_memory.py): it does not matter through which of several resources a
# physical VMO was made. A resource keeps the device memory of its kernel in being.
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pinfold.errors import InvalidArgs, OutOfRange, Unavailable, WrongType
from pinfold.objects.object import KernelObject, ObjectType
from pinfold.objects.resource_space import EXCLUSIVE, ResourceKind, SystemBase
from pinfold.units import PAGE_SIZE, UINT64_MAX, ByteRange, is_page_aligned, page_down, page_up

if TYPE_CHECKING:
    from pinfold.memory.backing import Backing
    from pinfold.memory.device_memory import DeviceWindow
    from pinfold.objects.kernel import Kernel

_MMIO: Final = ResourceKind.MMIO


class DeviceHold:
    """One user of device memory: a resource over some, or a memory object that shows some."""

    __slots__ = ("_kernel", "window")

    def __init__(self, kernel: Kernel, window: DeviceWindow) -> None:
        self._kernel = kernel
        self.window = window
        window.users += 1

    def leave(self) -> None:
        """Let go of it. Called with the kernel's lock held."""
        self.window.users -= 1
        try:
            self.settle()
        except Unavailable:  # a finaliser, inside an access to the device memory
            self._kernel.lock.later(self)

    def settle(self) -> None:
        """Give the device memory back if this was its last user."""
        self.window.close_if_unused()


class ResourceObject(KernelObject):
    """Addresses ``[base, base + size)`` of one kind.

    With ``size`` 0 it stands for all of its kind: what Zircon gives its first process of each kind,
    and what ROOT is of every kind.
    """

    __slots__ = ("exclusive", "hold", "kind", "range")

    object_type = ObjectType.RESOURCE

    def __init__(
        self,
        kernel: Kernel,
        kind: ResourceKind,
        where: ByteRange,
        *,
        exclusive: bool = False,
        name: str = "",
        window: DeviceWindow | None = None,
    ) -> None:
        super().__init__(kernel, name)
        self.kind = kind
        self.range = where
        self.exclusive = exclusive
        self.hold: DeviceHold | None = None
        """On device memory: of the real window that it was made with, or of what is simulated."""
        if kind in (_MMIO, ResourceKind.ROOT):
            self.hold = DeviceHold(kernel, window or kernel.devices.simulated)

    @property
    def flags(self) -> int:
        """As Zircon has them: EXCLUSIVE or nothing."""
        return EXCLUSIVE if self.exclusive else 0

    def is_root_of(self, kind: ResourceKind) -> bool:
        """True when it stands for every address of a kind, but for what is denied to everybody."""
        return self.kind is kind and not self.range.size

    # Checks: called with the kernel's lock held -------------------------------------------------

    def check(self, kind: ResourceKind, base: int, size: int, *, strict: bool = False) -> None:
        """Raise unless it stands for ``[base, base + size)`` of ``kind``.

        Device memory can only be mapped in pages, so an MMIO resource stands for the whole of every
        page that it touches, unless ``strict``.

        Raises:
          WrongType: it is of another kind.
          AccessDenied: it stands for every address, and a part of the range is denied.
          OutOfRange: the range is empty or leaves it (``.limit``).
        """
        if self.kind is not kind:
            raise WrongType(
                f"{self} is of kind {self.kind.name}, not {kind.name}",
                asked=int(kind),
                remedy="use a resource of that kind",
            )
        wanted = ByteRange(base, base + size)
        if self.is_root_of(kind):
            self.kernel.resources.refuse_denied(kind, wanted)
            return
        held = self.range
        if kind is _MMIO and not strict:
            held = ByteRange(page_down(held.start), page_up(held.stop))
        if not size or not held.contains(wanted):
            raise OutOfRange(
                f"{wanted} leaves {self}, which stands for {held}",
                asked=wanted.stop,
                limit=held.stop,
                remedy="use a resource that holds the range",
            )

    def check_system(self, base: int) -> None:
        """Raise unless it stands for one of the system's privileges; see `SystemBase`.

        Raises:
          WrongType: it is of another kind.
          OutOfRange: of this kind, but for something else.

        Source: zx_vmo_replace_as_executable.
        """
        self.check(ResourceKind.SYSTEM, base, 1)

    def check_iommu(self) -> None:
        """Raise `WrongType` unless an IOMMU may be made with it.

        Source: zx_iommu_create in Zircon's kernel, which compares the kind and the base and nothing
        else. It took the root resource as well, as long as there was one.
        """
        if self.kind is ResourceKind.ROOT:
            return
        if self.kind is not ResourceKind.SYSTEM or self.range.start != SystemBase.IOMMU:
            raise WrongType(
                f"{self} is no authority over IOMMUs",
                asked=int(SystemBase.IOMMU),
                remedy="use a SYSTEM resource for the IOMMU base",
            )

    # Device memory ------------------------------------------------------------------------------

    def window(self, address: int, size: int) -> tuple[Backing, DeviceHold]:
        """The device memory at ``address``, and what keeps it. Called with the kernel's lock held.

        ``size`` is whole pages, at least one.

        Raises:
          WrongType, AccessDenied, OutOfRange: see `check`. OutOfRange also beyond 2**63, which no
            file can simulate, and where a real window begins or ends within the range.
          InvalidArgs: ``address`` is unaligned, or the range leaves the physical address space.
          NoMemory, HostError: the host has no descriptor for it.

        Source: zx_vmo_create_physical: the resource is looked at before the address is.
        """
        self.check(_MMIO, address, size)
        return self.shown(address, size)

    def shown(self, address: int, size: int) -> tuple[Backing, DeviceHold]:
        """`window`, for a caller that has checked what the resource stands for.

        Raises:
          InvalidArgs, OutOfRange, NoMemory, HostError: as `window`.
        """
        if not is_page_aligned(address):
            raise InvalidArgs("a physical address is page-aligned", asked=address, limit=PAGE_SIZE)
        if address + size > UINT64_MAX + 1:
            raise InvalidArgs("the range leaves the address space", asked=address + size)
        where = ByteRange(address, address + size)
        window = self.kernel.devices.at(where)
        made = window.show(where)
        return made, DeviceHold(self.kernel, window)

    def on_zero_handles(self) -> None:
        """The last handle was closed: its addresses are free. Physical VMOs stay as they are."""
        self.kernel.forget(self)
        if self.range.size:
            self.kernel.resources.give_back(self.kind, self.range, exclusive=self.exclusive)
        if self.hold is not None:
            self.hold.leave()
