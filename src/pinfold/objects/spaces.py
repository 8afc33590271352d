# The two spaces that a program's addresses belong to, and what can be done with a range of one.
#
#   system space   what is mapped in the root region of a process: memory objects, nothing else
#   user space     every other address of the Python process
#
# Source: AIX's kernel space and user space, for pin and the cross-memory services. A range outside
# the space is one error (`OutOfRange`), a hole inside it another (`NotFound`).
#
# Whether memory may be read or written is what the kernel says of its mapping, not what our books
# say: it is /proc/self/maps, for both spaces. Bytes go through descriptors and process_vm_readv, so
# that an access of what was taken away meanwhile is an error and no signal.
from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from pinfold.errors import AccessDenied, InvalidArgs, NotFound, OutOfRange
from pinfold.memory.hosterrors import noted
from pinfold.memory.process_memory import (
    first_without,
    in_memory,
    module_at,
    shows_a_file,
    smallest_page,
)
from pinfold.objects.addresses import Stretch, mapped, pages_of, stretches
from pinfold.objects.page_ops import using
from pinfold.rights import Perm, describe_perms
from pinfold.units import FILE_LIMIT, PAGE_SHIFT, ByteRange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pinfold.objects.process import Process

_WRITE = int(Perm.WRITE)


class Space:
    """System space or user space, as a process has them.

    Attributes:
      process: whose. All processes of this package share the addresses of one Python process, but
        each has a root region of its own.
      system: system space; else user space.
    """

    __slots__ = ("process", "system")

    def __init__(self, process: Process, *, system: bool) -> None:
        self.process = process
        self.system = system

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Space)
            and self.process is other.process
            and self.system is other.system
        )

    __hash__ = None  # type: ignore[assignment]  # nobody keeps spaces by value

    # Looking ------------------------------------------------------------------------------------

    def find(self, address: int, size: int) -> list[Stretch]:
        """What is in the pages that a range touches. Called with the kernel's lock held.

        Raises:
          InvalidArgs: ``size`` is not above 0; a part is mapped by another kernel.
          OutOfRange: a part of it is outside the space.
          NotFound: a part of it is not defined: nothing is mapped there.
          HostError: the mappings of the process cannot be read.
        """
        if size <= 0:
            raise InvalidArgs("a range has at least a byte", asked=size)
        span = pages_of(address, size)
        root = self.process.address_space
        region = None if root is None else root.region
        if self.system:
            if region is None or span.start < region.base or region.stop < span.stop:
                raise OutOfRange("the range leaves system space", asked=address)
            return mapped(root, *span)
        if span.start < 0 or span.stop > FILE_LIMIT:
            raise OutOfRange("the range leaves the addresses of processes", asked=address)
        if (
            region is not None
            and region.alive
            and span.overlaps(ByteRange(region.base, region.stop))
        ):
            raise OutOfRange("a part of the range is in system space", asked=address)
        hole = first_without(*span)
        if hole is not None:
            raise NotFound("a part of the range is not defined", asked=hole)
        return stretches(self.process.kernel, *span)

    def finder(self, address: int, size: int) -> Callable[[], list[Stretch]]:
        """`find`, put off."""
        return lambda: self.find(address, size)

    def look(self, address: int, size: int) -> list[Stretch]:
        """`find`, by whoever has no lock."""
        with self.process.kernel.lock:
            return self.find(address, size)

    def check_access(self, address: int, size: int, perms: int) -> None:
        """Raise `AccessDenied` unless every page that a range touches allows ``perms``.

        Raises:
          AccessDenied: as above.
          HostError: the mappings of the process cannot be read.
        """
        refused = first_without(*pages_of(address, size), perms=perms)
        if refused is not None:
            raise AccessDenied(
                f"the memory at {refused:#x} may not be used for {describe_perms(perms)}",
                remedy="look at the protection of its mapping",
            )

    def check_in_memory(self, address: int, size: int) -> None:
        """Raise `NotFound` where touching a page of a defined range would have to wait."""
        if not in_memory(*pages_of(address, size)):
            raise NotFound("a page of the range is not in memory", asked=address)

    def shows_a_file(self, address: int, size: int) -> bool:
        """True when a part of the range shows a file that others may have."""
        return shows_a_file(*pages_of(address, size))

    def smallest_page(self, address: int, size: int) -> int:
        """Bytes in the smallest page of a defined range."""
        return smallest_page(*pages_of(address, size))

    # Bytes --------------------------------------------------------------------------------------

    def read(self, found: list[Stretch], address: int, size: int) -> bytearray:
        """The bytes of a range, in which ``found`` is.

        Raises:
          BadHandle: an object of it was given back meanwhile.
          AccessDenied: a part may not be read.
          HostError: a page cannot be had.
        """
        self.check_access(address, size, int(Perm.READ))
        data = bytearray(size)
        with ExitStack() as stack:
            for offset, part, stretch in self._parts(found, address, memoryview(data), stack):
                stretch.vmo.pages.read_into(part, offset)
        return data

    def write(self, found: list[Stretch], address: int, data: bytearray) -> None:
        """Put bytes into a range, in which ``found`` is: all of them, or none.

        It is brought in as a whole before one is written; if a write fails all the same, what was
        there is put back.

        Raises:
          BadHandle: an object of it was given back meanwhile.
          AccessDenied: a part may not be written.
          NoMemory, NoSpace, HostError: a page cannot be had.
        """
        self.check_access(address, len(data), _WRITE)
        with ExitStack() as stack:
            parts = list(self._parts(found, address, memoryview(data), stack))
            for _, _, stretch in parts:
                stretch.vmo.pages.commit(stretch.first << PAGE_SHIFT, stretch.stop - stretch.start)
            former = [bytearray(len(part)) for _, part, _ in parts]
            for (offset, _, stretch), before in zip(parts, former, strict=True):
                stretch.vmo.pages.read_into(memoryview(before), offset)
            try:
                for offset, part, stretch in parts:
                    stretch.vmo.pages.write_from(part, offset)
            except BaseException as error:
                for (offset, _, stretch), before in zip(parts, former, strict=True):
                    with noted("put back what was there", error):
                        stretch.vmo.pages.write_from(memoryview(before), offset)
                raise
            with self.process.kernel.lock:
                for offset, part, stretch in parts:
                    stretch.vmo.body.own(offset, offset + len(part))

    def _parts(
        self, found: list[Stretch], address: int, data: memoryview, stack: ExitStack
    ) -> Iterator[tuple[int, memoryview, Stretch]]:
        """Byte offsets among the pages, and the part of ``data`` for each, ascending."""
        for stretch in found:
            stack.enter_context(using(self.process.kernel, stretch.vmo))
        for stretch in found:
            low, high = max(stretch.start, address), min(stretch.stop, address + len(data))
            offset = (stretch.first << PAGE_SHIFT) + low - stretch.start
            yield offset, data[low - address : high - address], stretch


def module_space(process: Process, address: int) -> list[Stretch]:
    """The code and the data of the program or library that has code at an address.

    Called with the kernel's lock held.

    Raises:
      InvalidArgs: no program or library has.
      HostError: the mappings of the process cannot be read.
    """
    found = module_at(address)
    if not found:
        raise InvalidArgs("no code of a program or library is at the address", asked=address)
    return [part for span in found for part in stretches(process.kernel, *span)]
