# For information: what Vmo adds to the system calls beneath it.
#
# read and write of 4 KiB of committed memory against os.pread and os.pwrite on a memfd of the same
# size; Vmo() and close() against memfd_create, ftruncate and close.
from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from bench.measure import Row, Scale, Subject, against, interleave
from bench.rig import rig
from pinfold import Vmo
from pinfold.units import KIB, MIB

_BYTES = 4 * KIB


def run(scale: Scale) -> Iterator[Row]:
    """The rows of this benchmark."""
    data = bytes(_BYTES)
    buffer = bytearray(_BYTES)
    fd = os.memfd_create("bench")
    try:
        os.pwrite(fd, bytes(MIB), 0)
        with rig() as made:
            vmo, process = made.vmo(MIB), made.process

            def make(count: int) -> None:
                for _ in range(count):
                    Vmo(MIB, process=process).close()

            subjects: dict[str, Subject] = {
                "read": loop(lambda: vmo.read(0, _BYTES)),
                "read_into": loop(lambda: vmo.read_into(buffer, 0)),
                "pread": loop(lambda: os.pread(fd, _BYTES, 0)),
                "write": loop(lambda: vmo.write(data, 0)),
                "pwrite": loop(lambda: os.pwrite(fd, data, 0)),
                "make": make,
                "make raw": make_raw,
            }
            timings = interleave(subjects, scale)
    finally:
        os.close(fd)
    for name, floor in (("read", "pread"), ("read_into", "pread"), ("write", "pwrite")):
        yield against(
            "bytes",
            f"Vmo.{name} of 4 KiB",
            timings[name],
            f"os.{floor}",
            timings[floor],
            scale,
        )
    yield against(
        "bytes",
        "Vmo() and close()",
        timings["make"],
        "memfd_create, ftruncate, close",
        timings["make raw"],
        scale,
    )


def make_raw(count: int) -> None:
    """What making and closing a memory object asks of the kernel, and no more."""
    for _ in range(count):
        own = os.memfd_create("bench", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(own, MIB)
        os.close(own)


def loop(act: Callable[[], object]) -> Subject:
    """Do it so many times."""

    def subject(count: int) -> None:
        for _ in range(count):
            act()

    return subject
