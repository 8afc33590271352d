# For information: what AIX's services cost beside the system calls beneath them. pin and unpin of a
# page that is committed already, once and nested, and of many pages; xmempin of memory of the
# process, which has to look at the mappings of the process first, and is the dearer the more there
# are; xlate_pin, which looks at what they allow as well; xmemin of 4 KiB.
from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

from bench.bytes_io import loop
from bench.measure import Row, Scale, Subject, against, interleave
from bench.rig import rig
from pinfold import PAGE_SIZE, VmOption
from pinfold.dialects import aix
from pinfold.host import calls, mm
from pinfold.units import KIB, MIB, HostVa

_BYTES = 4 * KIB
_PERMS = VmOption.PERM_READ | VmOption.PERM_WRITE


def run(scale: Scale) -> Iterator[Row]:
    """The rows."""
    size = scale.pick(64 * MIB, MIB)
    with rig() as made, made.process, mmap.mmap(-1, size) as user:
        vmo = made.vmo(size)
        system = int(made.process.root.map(vmo, _PERMS).address)
        view = memoryview(user)
        start = calls.address_of(view)
        mm.populate_write(HostVa(start), size)
        dp, buffer = aix.Xmem(), bytearray(_BYTES)
        aix.xmattach(start, size, dp, aix.USER_ADSPACE)
        fd = os.memfd_create("bench")
        os.pwrite(fd, buffer, 0)

        def locked(length: int) -> Subject:
            """The floor: the system calls."""

            def lock(count: int) -> None:
                for _ in range(count):
                    calls.mlock(start, length)
                    calls.munlock(start, length)

            return lock

        def pinned(length: int) -> Subject:
            def pin(count: int) -> None:
                for _ in range(count):
                    aix.pin(system, length)
                    aix.unpin(system, length)

            return pin

        def attached(count: int) -> None:
            for _ in range(count):
                aix.xmempin(start, PAGE_SIZE, dp)
                aix.xmemunpin(start, PAGE_SIZE, dp)

        def listed(count: int) -> None:
            for _ in range(count):
                aix.xlate_pin(dp, start, PAGE_SIZE, aix.B_READ)
                aix.xlate_unpin(dp, start, PAGE_SIZE)

        subjects: dict[str, Subject] = {
            "lock": locked(PAGE_SIZE),
            "lock all": locked(size),
            "pin": pinned(PAGE_SIZE),
            "pin all": pinned(size),
            "xmempin": attached,
            "xlate_pin": listed,
            "xmemin": loop(lambda: aix.xmemin(start, system, _BYTES, dp)),
            "read": loop(lambda: os.preadv(fd, [buffer], 0)),
        }
        timings = interleave(subjects, scale)
        aix.pin(system, PAGE_SIZE)
        timings |= interleave({"nested": pinned(PAGE_SIZE)}, scale)
        aix.unpin(system, PAGE_SIZE)
        aix.xmdetach(dp)
        os.close(fd)
        view.release()
    floor = "mlock + munlock, ctypes"
    for subject, name, beneath, what in (
        ("aix.pin + unpin of a page", "pin", "lock", floor),
        ("aix.pin + unpin of a pinned page", "nested", "lock", floor),
        (f"aix.pin + unpin of {size // MIB} MiB", "pin all", "lock all", floor),
        ("xmempin + xmemunpin of a page", "xmempin", "lock", floor),
        ("xlate_pin + xlate_unpin of a page", "xlate_pin", "lock", floor),
        ("xmemin of 4 KiB", "xmemin", "read", "os.preadv"),
    ):
        yield against("aix", subject, timings[name], what, timings[beneath], scale)
