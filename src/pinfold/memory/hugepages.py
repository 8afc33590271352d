# Memory in one run of real frames: files of huge pages.
#
# One huge page is one run, whatever moves it. Several are one only if they happen to be neighbours:
# that is looked up in the pagemap, and never assumed. Between here and a pin they may still be
# moved, so a bus that gives out frames looks again when it holds them.
#
# Huge pages are set aside by the machine's owner, and there is no taking more: what is not free
# cannot be had. So every page of the file is allocated when it is made. A mapping that came too
# late for its page would end the process (SIGBUS) at its first touch.
#
# Such a file cannot be written with pwrite, and is mapped in whole huge pages alone. It is sealed
# and all there, so storing through a mapping of it is as safe.
#
# Source: memfd_create(2), Documentation/admin-guide/mm/hugetlbpage.rst, and measurements on 6.18.
from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

import numpy as np

from pinfold.errors import NoMemory, NotSupported, PinfoldError
from pinfold.host import mm, pagemap, probe
from pinfold.host.abi import F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK
from pinfold.memory.backing import Backing
from pinfold.memory.hosterrors import from_host, noted, translated
from pinfold.units import PAGE_SIZE, human_size

if TYPE_CHECKING:
    from pinfold.host.probe import HugePages

_TOO_FEW: Final = (errno.ENOSPC, errno.ENOMEM)

_TRIES: Final = 2
"""Linux gives out first what was given back last: pages that came in falling order come in rising
order the second time."""


class HugeBacking(Backing):
    """A file of huge pages, all of them allocated."""

    __slots__ = ()

    @classmethod
    def of(cls, size: int, page: int, *, name: str) -> HugeBacking:
        """``size`` bytes in huge pages of ``page`` bytes.

        Raises:
          OSError: they could not be allocated; ENOSPC or ENOMEM where too few are free.
          HostError, NoMemory: the kernel has no such files, or no descriptor is left.
        """
        whole = size + -size % page
        with translated("create a memfd of huge pages", asked=size):
            fd = mm.create_memfd(f"pinfold:{name}", whole, huge=page)
        made = cls("memfd", fd, size)
        made.grain = page
        made.exclusive = made.sealed = True
        try:
            mm.allocate(fd, whole)
            with translated("seal a memfd"):
                mm.seal(fd, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)
        except BaseException as error:
            with noted("close the memfd", error):
                made.close()
            raise
        return made

    def write_from(self, buffer: memoryview, offset: int) -> None:
        """Write ``buffer`` at ``offset``. Bytes beyond the size are dropped."""
        buffer = buffer[: max(self.length - offset, 0)]
        if not buffer:
            return
        window = self.borrow(offset, len(buffer))
        try:
            at = offset - window.offset
            window.view[at : at + len(buffer)] = buffer
        finally:
            window.release()


def in_one_run(size: int, alignment: int, *, name: str) -> HugeBacking:
    """``size`` bytes in frames that follow one another, the first at a multiple of ``alignment``.

    Raises:
      NotSupported: the kernel has no huge pages.
      NoMemory: too few are free, or those that are do not lie so (``.remedy`` has the command).
      AccessDenied: the kernel hides frames from this process.
      HostError: the kernel refused for another reason.
    """
    with translated("look at the machine's huge pages"):
        kinds = probe.huge_pages()
    if not kinds:
        raise NotSupported(
            "memory in one physical run is made of huge pages, which this kernel has not",
            asked=size,
            remedy="use a kernel with CONFIG_HUGETLBFS, or pin scattered memory",
        )
    apart = False
    for kind in kinds:
        for _ in range(_TRIES if size > kind.size else 1):
            try:
                made = HugeBacking.of(size, kind.size, name=name)
            except PinfoldError:
                raise
            except OSError as error:
                if error.errno in _TOO_FEW:
                    break
                raise from_host("allocate huge pages", error, asked=size) from error
            try:
                if _is_one_run(made, alignment):
                    return made
            except BaseException as error:
                with noted("close the memory", error):
                    made.close()
                raise
            made.close()
            apart = True
    raise _none_free(size, alignment, kinds, apart=apart)


def _is_one_run(backing: HugeBacking, alignment: int) -> bool:
    window = backing.borrow(0, backing.size)
    try:
        with translated("look up frames"):
            mm.populate_read(window.address_of(0), backing.size)
            frames = pagemap.frames(window.address_of(0), backing.size)
    finally:
        window.release()
    return not int(frames[0]) % alignment and bool((np.diff(frames) == PAGE_SIZE).all())


def _none_free(size: int, alignment: int, kinds: list[HugePages], *, apart: bool) -> NoMemory:
    """There is no such run; what the machine's owner can do about it."""
    wanted = max(size, alignment)
    best = next((kind for kind in kinds if kind.size >= wanted), kinds[-1])
    count = best.total - best.free + -(-size // best.size)
    remedy = f"as root: echo {count} > {best.count_file}"
    if best.size < wanted:
        remedy += ", early, when free memory lies together; or ask for less"
    elif best.total >= count:
        remedy = "try again, or see which process has taken them meanwhile"
    elif best is not kinds[0]:
        remedy += f", or boot with hugepagesz={best.size >> 20}M hugepages={count}"
    free = ", ".join(f"{kind.free} of {human_size(kind.size)}" for kind in kinds)
    where = "too few huge pages are free"
    if apart:
        where = f"no free huge pages lie side by side at a multiple of {human_size(alignment)}"
    return NoMemory(
        f"{where} for {human_size(size)} in one physical run",
        asked=size,
        available=f"free: {free}",
        remedy=remedy,
    )
