# AIX's cross-memory descriptor, and what a service may ask of one.
#
# A descriptor is the caller's structure. What the services know of it is kept beside its public
# fields and has to agree with them: a caller that overwrites `aspace_id`, as drivers do to make a
# descriptor free, has a free descriptor, and what was attached goes as if it had been dropped.
#
# Lock: a descriptor's own, for one service at a time; before every other.
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from pinfold.dialects.aix import numbers as aix
from pinfold.dialects.aix.pins import system_space
from pinfold.dialects.calling import handle_of
from pinfold.errors import BadHandle
from pinfold.objects.bti import Bti
from pinfold.objects.cross_memory import CrossMemory, Described, call_lock

if TYPE_CHECKING:
    from pinfold.objects.translations import Translations

_IN_USE = (aix.XMEM_GLOBAL, aix.XMEM_PROC, aix.XMEM_XLATE)


class Xmem:
    """A cross-memory descriptor: ``struct xmem``. A new one is free (XMEM_INVAL).

    Args:
      bti: of the device that the memory is for, a `Bti` or the number of one: what `xlate_pin` pins
        is granted to it then, and translations are the addresses of its bus. Without one they are
        page frames, simulated ones.

    Attributes:
      aspace_id: what it describes: XMEM_INVAL, XMEM_GLOBAL, XMEM_PROC, XMEM_XLATE.
      prexflags: of its pretranslation list: XLATE_PERSISTENT, XLATE_SPARSE, XLATE_ALLOC.
      vaddr: where the buffer begins.
      count: its bytes.
      bti: of the device that it was made for.
    """

    __slots__ = ("_list", "_memory", "aspace_id", "bti", "count", "lock", "prexflags", "vaddr")

    def __init__(self, *, bti: Bti | int | None = None) -> None:
        self.aspace_id = aix.XMEM_INVAL
        self.prexflags = 0
        self.vaddr = 0
        self.count = 0
        self.bti = handle_of(bti, Bti) if isinstance(bti, int) else bti
        self.lock: AbstractContextManager[None] = call_lock()
        """One service at a time works on it; not the caller's to take."""
        self._memory: CrossMemory | None = None
        self._list: Translations | None = None

    @property
    def xlate(self) -> Translations | None:
        """Its pretranslation list."""
        return self._list if self.aspace_id == aix.XMEM_XLATE else None

    @property
    def segments(self) -> list[str]:
        """The names of the memory objects that it keeps, for people."""
        memory = self._memory
        return [] if memory is None else [use.vmo.label for use in memory.uses]

    def described(self) -> Described:
        """What it describes.

        Raises:
          BadHandle: nothing: it is free, or was detached.
        """
        memory = self._memory
        if self.aspace_id not in _IN_USE or memory is None or not memory.attached:
            raise BadHandle("the cross-memory descriptor is free")
        return memory

    # What the services do to it -----------------------------------------------------------------

    def attach(self, memory: CrossMemory) -> None:
        """It describes a buffer from now on."""
        self._memory, self._list = memory, None
        self.vaddr, self.count, self.prexflags = memory.address, memory.size, 0
        self.aspace_id = self._kind(memory)

    def free(self) -> None:
        """It describes nothing any more."""
        self._memory = self._list = None
        self.aspace_id, self.prexflags = aix.XMEM_INVAL, 0

    def hang(self, listed: Translations, flags: int) -> None:
        """It has a pretranslation list."""
        self._list, self.prexflags, self.aspace_id = listed, flags, aix.XMEM_XLATE

    def drop_list(self) -> None:
        """It has none any more."""
        self._list, self.prexflags = None, 0
        if self._memory is not None:
            self.aspace_id = self._kind(self._memory)

    @staticmethod
    def _kind(memory: CrossMemory) -> int:
        return aix.XMEM_GLOBAL if memory.space.system else aix.XMEM_PROC

    def __repr__(self) -> str:
        return f"<Xmem aspace_id {self.aspace_id}, {self.count:#x} bytes at {self.vaddr:#x}>"


class _Global(Xmem):
    """The descriptor of all of system space, which nobody attaches or detaches."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self.aspace_id = aix.XMEM_GLOBAL
        self.lock = nullcontext()  # it never changes

    def described(self) -> Described:
        """System space, as the current process has it."""
        return Described(system_space())


xmem_global = _Global()
"""Describes kernel memory, ready-made."""


def descriptor(dp: Xmem | None) -> Described:
    """What a descriptor argument describes; None is the NULL pointer.

    Raises:
      TypeError: it is no `Xmem`.
      BadHandle: NULL, or it is free.
    """
    if dp is None:
        raise BadHandle("the cross-memory descriptor is NULL")
    return own(dp).described()


def own(dp: Xmem | None) -> Xmem:
    """A descriptor argument that is there.

    Raises:
      TypeError: it is no `Xmem`.
      BadHandle: NULL.
    """
    if dp is None:
        raise BadHandle("the cross-memory descriptor is NULL")
    if not isinstance(dp, Xmem):
        raise TypeError(f"a cross-memory descriptor is an Xmem, not a {type(dp).__name__}")
    return dp
