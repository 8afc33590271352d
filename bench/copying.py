# Claim: BusMaster.copy of 64 KiB and more moves at least 70 % of what memcpy moves.
#
# The floor is ctypes.memmove between the same two buffers, at the addresses that the bus itself
# uses, and where there is a compiler a loop of memcpy in C as well, which has no call from Python
# to pay for. All of them copy the same bytes again and again and so work in the cache, where a call
# weighs most; `walking`, they go through large objects piece by piece, as a ring of buffers does.
# read_into and write are held against the same floor for information: they move the bytes between
# device memory and a bytearray.
from __future__ import annotations

import ctypes
from collections.abc import Iterator
from itertools import cycle, islice

from bench.measure import Row, Scale, against, interleave, time_text
from bench.rig import RW, address_of, c_floors, rig
from pinfold.units import KIB, MIB, human_size

_SMALL = 64


def run(scale: Scale) -> Iterator[Row]:
    """The rows of this claim."""
    for size in (64 * KIB, scale.pick(4 * MIB, 128 * KIB)):
        yield from _of_size(scale, size)
    yield from _walking(scale, 64 * KIB)


def _of_size(scale: Scale, size: int) -> Iterator[Row]:
    with rig() as made:
        bti = made.bti(1)
        source, target = made.vmo(size), made.vmo(size)
        own = bytearray(size)
        with bti.pin(source, perms=RW) as here, bti.pin(target, perms=RW) as there:
            master = bti.master()
            reading, writing = int(here.addrs[0]), int(there.addrs[0])
            from_view, to_view = source.view(), target.view()
            from_, to, mine = address_of(from_view), address_of(to_view), memoryview(own)

            def copy(count: int) -> None:
                for _ in range(count):
                    master.copy(writing, reading, size)

            def copy_small(count: int) -> None:
                for _ in range(count):
                    master.copy(writing, reading, _SMALL)

            def read_into(count: int) -> None:
                for _ in range(count):
                    master.read_into(reading, mine)

            def write(count: int) -> None:
                for _ in range(count):
                    master.write(writing, own)

            def memmove(count: int) -> None:
                for _ in range(count):
                    ctypes.memmove(to, from_, size)

            subjects = {
                "copy": copy,
                "small": copy_small,
                "read_into": read_into,
                "write": write,
                "memmove": memmove,
            }
            floors = c_floors()
            if floors is not None:
                c_copy = floors.copy_many
                subjects["C"] = lambda count: c_copy(to, from_, size, count)
            timings = interleave(subjects, scale)
    label = human_size(size)
    fixed = time_text(timings["small"].best)
    yield against(
        "copy",
        f"BusMaster.copy of {label}",
        timings["copy"],
        "ctypes.memmove",
        timings["memmove"],
        scale,
        share=0.7,
        why=f"of each copy, {fixed} do not depend on its size",
    )
    if "C" in timings:
        yield against(
            "copy",
            f"BusMaster.copy of {label}",
            timings["copy"],
            "memcpy in C",
            timings["C"],
            scale,
        )
    for name in ("read_into", "write"):
        yield against(
            "copy",
            f"BusMaster.{name} of {label}",
            timings[name],
            "ctypes.memmove",
            timings["memmove"],
            scale,
        )


def _walking(scale: Scale, size: int) -> Iterator[Row]:
    whole = scale.pick(128 * MIB, 256 * KIB)
    with rig() as made:
        bti = made.bti(1)
        source, target = made.vmo(whole), made.vmo(whole)
        with bti.pin(source, perms=RW) as here, bti.pin(target, perms=RW) as there:
            master = bti.master()
            reading, writing = int(here.addrs[0]), int(there.addrs[0])
            from_view, to_view = source.view(), target.view()
            from_, to = address_of(from_view), address_of(to_view)
            ours, theirs = cycle(range(0, whole, size)), cycle(range(0, whole, size))

            def copy(count: int) -> None:
                for at in islice(ours, count):
                    master.copy(writing + at, reading + at, size)

            def memmove(count: int) -> None:
                for at in islice(theirs, count):
                    ctypes.memmove(to + at, from_ + at, size)

            timings = interleave({"copy": copy, "memmove": memmove}, scale)
    yield against(
        "copy",
        f"BusMaster.copy of {human_size(size)}, walking {human_size(whole)}",
        timings["copy"],
        "ctypes.memmove",
        timings["memmove"],
        scale,
        share=0.7,
    )
