# Identity: what every object of a kernel has.
from __future__ import annotations

import enum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pinfold.objects.kernel import Kernel


class ObjectType(enum.IntEnum):
    """Kinds of object. The numbers are Zircon's."""

    NONE = 0
    PROCESS = 1
    VMO = 3
    RESOURCE = 15
    VMAR = 18
    IOMMU = 23
    BTI = 24
    PMT = 26


class KernelObject:
    """An object of a kernel: a koid, a name, and how many handles there are to it.

    Attributes:
      kernel: whose it is.
      koid: its number; never given to another object.
      name: for people; may be empty.
      handle_count: open handles in all processes; mappings and pins do not count.
    """

    __slots__ = ("__weakref__", "handle_count", "kernel", "koid", "name")

    object_type: ClassVar[ObjectType] = ObjectType.NONE
    has_name: ClassVar[bool] = False
    """True for the kinds that can be renamed. Source: Zircon, ZX_PROP_NAME."""

    def __init__(self, kernel: Kernel, name: str = "") -> None:
        self.kernel = kernel
        self.name = name
        self.handle_count = 0
        self.koid = kernel.next_koid()

    @property
    def signals(self) -> int:
        """What it says of itself, bits of `Signal`. Read with the kernel's lock held."""
        return 0

    def signals_changed(self) -> None:
        """Have those who wait for it look again. Called with the kernel's lock held."""
        for waiter in self.kernel.waiters:
            if waiter.target is self:
                waiter.wake()

    def renamed(self) -> None:
        """It has another name. Called with the kernel's lock held."""

    def on_zero_handles(self) -> None:
        """The last handle was closed. Called with the kernel's lock held."""
        self.kernel.forget(self)

    def on_fork_child(self) -> None:
        """In a forked child: give up whatever could reach what is the parent's."""

    def __str__(self) -> str:
        label = f" {self.name!r}" if self.name else ""
        return f"{self.object_type.name.lower()} {self.koid}{label}"
