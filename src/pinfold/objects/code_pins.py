# Pinning a whole program or library by the address of some code in it.
#
# Source: AIX pincode, unpincode: code and data, for the long term. What was pinned is remembered,
# for the mappings of a library change while it is in use (relocated data becomes read-only), and go
# when it is unloaded.
#
# Lock: the kernel's, for the books.
from __future__ import annotations

from typing import TYPE_CHECKING

from pinfold.errors import NotPinned
from pinfold.memory.process_memory import first_without
from pinfold.memory.ranges import RangeSet
from pinfold.objects.addresses import Stretch
from pinfold.objects.holds import Unpinned
from pinfold.objects.spaces import module_space

if TYPE_CHECKING:
    from pinfold.objects.process import Process


def pin_code(process: Process, address: int) -> None:
    """Count one more long-term pin of every page of a program or library.

    Raises:
      InvalidArgs: none has code there.
      As `CountedPins.pin`: nothing is pinned.
    """
    kernel, found = process.kernel, list[Stretch]()

    def find() -> list[Stretch]:
        found[:] = module_space(process, address)
        return found

    kernel.counted.pin(find, owner=str(process), long=True)
    with kernel.lock:
        kernel.code_pins.append((found, found))


def unpin_code(process: Process, address: int) -> bool:
    """Undo the latest `pin_code` of what has code there; False where it has been unloaded since.

    Raises:
      InvalidArgs: no program or library has code there, or had when it was pinned.
      NotPinned: it is not pinned.
      HostError: as `CountedPins.unpin`; what is left of it can be tried again.
    """
    kernel = process.kernel
    with kernel.lock:
        for pinned in reversed(kernel.code_pins):
            found, left = pinned
            if any(stretch.start <= address < stretch.stop for stretch in found):
                break
        else:
            module_space(process, address)
            raise NotPinned("the program or library is not pinned", asked=address)
        there = all(first_without(s.start, s.stop) is None for s in found)
        kernel.code_pins.remove(pinned)
    done = Unpinned()
    try:
        kernel.counted.unpin(lambda: left, long=True, done=done)
    finally:
        rest = _without(left, done.lowered)
        if rest:
            with kernel.lock:
                kernel.code_pins.append((found, rest))
    return there


def _without(found: list[Stretch], lowered: list[Stretch]) -> list[Stretch]:
    """What of ``found`` is still to be unpinned."""
    gone = RangeSet()
    for stretch in lowered:
        gone.add(stretch.start, stretch.stop)
    return [s.part(*gap) for s in found for gap in gone.gaps(s.start, s.stop)]
