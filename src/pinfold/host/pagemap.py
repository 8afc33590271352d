# Page frames, in bulk.
#
# A frame that the kernel hides is an error, never address 0: without CAP_SYS_ADMIN the frame bits
# read as 0 with the present bit set, and a driver that shifts them hands its device the first page
# of memory. Source: Documentation/admin-guide/mm/pagemap.rst.
from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from pinfold.errors import AccessDenied, NotFound
from pinfold.host import calls
from pinfold.host.abi import PM_ENTRY_BYTES, PM_PFN_MASK, PM_PRESENT
from pinfold.units import PAGE_SHIFT, HostVa, page_count

if TYPE_CHECKING:
    from numpy.typing import NDArray


def entries(address: HostVa, size: int) -> NDArray[np.uint64]:
    """The raw pagemap word of each page of this process's ``[address, address + size)``.

    Of no pages none, and the kernel is not asked.

    Raises:
      AccessDenied: the process has given up privileges and may not even open its own pagemap.
      NotFound: the addresses are above those of processes.
    """
    words = np.empty(page_count(size), dtype=np.uint64)
    if not len(words):
        return words
    view = memoryview(words.data).cast("B")
    try:
        fd = calls.open_file("/proc/self/pagemap", os.O_RDONLY)
    except PermissionError as error:
        raise AccessDenied(
            "the kernel hides the pagemap from this process", remedy="run with CAP_SYS_ADMIN"
        ) from error
    try:
        done = 0
        while done < len(view):
            start = (address >> PAGE_SHIFT) * PM_ENTRY_BYTES + done
            count = calls.preadv(fd, view[done:], start)
            if count == 0:
                raise NotFound(f"pagemap ends before address {address:#x}", asked=size)
            done += count
    finally:
        calls.close(fd)
    return words


def frames(address: HostVa, size: int) -> NDArray[np.uint64]:
    """The physical address of each page of ``[address, address + size)``.

    Meaningful only while the pages are held in place.

    Raises:
      NotFound: a page is not present (``.asked`` is its address).
      AccessDenied: the kernel hides the pagemap, or the frame numbers in it, from this process.
    """
    words = entries(address, size)
    present = (words & np.uint64(PM_PRESENT)) != 0
    if not present.all():
        first = int(np.argmin(present))
        raise NotFound("a page is not present", asked=address + (first << PAGE_SHIFT))
    numbers = words & np.uint64(PM_PFN_MASK)
    if not numbers.all():
        raise AccessDenied(
            "the kernel hides page frame numbers from this process",
            remedy="run with CAP_SYS_ADMIN",
        )
    return numbers << np.uint64(PAGE_SHIFT)
