# A resource: the authority to name physical ranges.
#
# Here it also stands for what is at them: an MMIO resource has device memory behind it, simulated
# in a memfd, or a real window when it is given the descriptor of one. Every physical VMO over the
# resource shows the same bytes.
from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Final

from pinfold.errors import InvalidArgs, OutOfRange, Unavailable, WrongType
from pinfold.memory.backing import Backing
from pinfold.memory.hosterrors import noted
from pinfold.memory.pages import Pages
from pinfold.objects.handle import Handle
from pinfold.objects.object import KernelObject, ObjectType
from pinfold.objects.process import current_process
from pinfold.rights import Right
from pinfold.units import PAGE_SIZE, UINT64_MAX, ByteRange, is_page_aligned

if TYPE_CHECKING:
    from pinfold.objects.kernel import Kernel
    from pinfold.objects.process import Process

MMIO: Final = 0
"""The kind of a resource over device memory. Source: ZX_RSRC_KIND_MMIO."""

_RIGHTS: Final = int(Right.TRANSFER | Right.DUPLICATE | Right.WRITE | Right.INSPECT)


class ResourceObject(KernelObject):
    """Physical addresses ``[base, base + size)`` and, for MMIO, the device memory at them."""

    __slots__ = ("_fd", "_pages", "kind", "range", "users")

    object_type = ObjectType.RESOURCE

    def __init__(
        self, kernel: Kernel, kind: int, base: int, size: int, fd: int | None, name: str
    ) -> None:
        super().__init__(kernel, name)
        self.kind = kind
        self.range = ByteRange(base, base + size)
        self.users = 0  # physical VMOs over it
        self._fd = fd
        self._pages: Pages | None = None

    def window(self, base: int, size: int) -> Backing:
        """Device memory at ``base``. Called with the kernel's lock held.

        Raises:
          WrongType: not an MMIO resource.
          OutOfRange: the range leaves the resource.
        """
        if self.kind != MMIO:
            raise WrongType(f"{self} is not an MMIO resource", asked=self.kind)
        if not self.range.contains(ByteRange(base, base + size)):
            raise OutOfRange(
                f"the physical range leaves {self}", asked=base + size, limit=self.range.stop
            )
        if self._pages is None:
            whole = self.range.size
            backing = (
                Backing.memfd(whole, name=f"mmio {self.name}", resizable=False)
                if self._fd is None
                else Backing.window_of(self._fd, 0, whole)
            )
            pages = Pages(backing, self.kernel.physmap)
            try:
                pages.place_at(self.range.start)
            except BaseException as error:
                with noted("close the device memory", error):
                    backing.close()
                raise
            self._pages = pages
        fd = self._pages.backing.fd
        made = Backing.window_of(fd, base - self.range.start, size)
        self.users += 1
        return made

    def leave(self) -> None:
        """One physical VMO is gone. Called with the kernel's lock held."""
        self.users -= 1
        self._close_if_idle()

    def on_zero_handles(self) -> None:
        """The last handle was closed; the device memory stays while a VMO shows it."""
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        try:
            self.settle()
        except Unavailable:  # a finaliser, inside an access to the device memory
            self.kernel.lock.later(self)

    def settle(self) -> None:
        """Give the device memory back when nothing refers to it."""
        if self.users or self.handle_count:
            return
        pages = self._pages
        if pages is not None:
            pages.refuse_inside_access()
        self.kernel.forget(self)
        self._pages = None
        if pages is not None:
            pages.close()


class Resource(Handle[ResourceObject]):
    """The authority to make physical VMOs over a range of physical addresses.

    Args:
      base, size: bytes, page-aligned; ``size`` > 0.
      kind: `MMIO`; other kinds are for what dialects check.
      fd: the descriptor of a real window (a BAR, /dev/mem), whose byte 0 is at ``base``; None
        simulates the device memory.

    Raises:
      InvalidArgs: unaligned, empty, or past the end of the address space.

    Source: zx_resource_create, zx_vmo_create_physical.
    """

    __slots__ = ()

    def __init__(
        self,
        base: int,
        size: int,
        *,
        kind: int = MMIO,
        fd: int | None = None,
        name: str = "",
        process: Process | None = None,
    ) -> None:
        base, size = index(base), index(size)
        if size <= 0 or base < 0 or base + size > UINT64_MAX + 1:
            raise InvalidArgs("the range is empty or no range of addresses", asked=size)
        if kind == MMIO and not is_page_aligned(base, size):
            raise InvalidArgs("device memory comes in whole pages", asked=base, limit=PAGE_SIZE)
        process = process or current_process()
        with process.kernel.lock:
            target = ResourceObject(process.kernel, kind, base, size, fd, name)
            self._open(process.add(target, _RIGHTS))

    @property
    def range(self) -> ByteRange:
        """The physical addresses it stands for."""
        return self.object.range
