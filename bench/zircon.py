# Claim: zx_bti_pin and zx_pmt_unpin of a committed page take at most 1.5 times Bti.pin and
# Pmt.unpin of the same page on the sim bus.
#
# For information, the other calls that a driver makes often, each against the system calls beneath
# it: zx_vmo_create and zx_handle_close, zx_vmo_read of 4 KiB, zx_vmar_map and zx_vmar_unmap of a
# page. And what a snapshot costs, which is a copy: against memmove of the same bytes between two
# mappings that have their pages.
from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator

from bench.bytes_io import loop, make_raw
from bench.mapping import raw_pair
from bench.measure import Row, Scale, Subject, Timing, against, interleave
from bench.rig import RW, rig
from pinfold import PAGE_SIZE
from pinfold.dialects import Out, zx
from pinfold.dialects.calling import number_of
from pinfold.units import KIB, MIB

_BYTES = 4 * KIB
_PIN = zx.ZX_BTI_PERM_READ | zx.ZX_BTI_PERM_WRITE
_SHOWN = zx.ZX_VM_PERM_READ | zx.ZX_VM_PERM_WRITE


def run(scale: Scale) -> Iterator[Row]:
    """The rows of this claim."""
    fd = os.memfd_create("bench")
    try:
        os.pwrite(fd, bytes(MIB), 0)
        with rig() as made, made.process, raw_pair(fd) as raw_map:
            bti, vmo = made.bti(0x10), made.vmo(MIB)
            device, memory = number_of(bti), number_of(vmo)
            root = zx.zx_vmar_root_self()
            addrs, buffer, pmt, out = bytearray(8), bytearray(_BYTES), Out(), Out()

            def pin(count: int) -> None:
                for _ in range(count):
                    bti.pin(vmo, 0, PAGE_SIZE, perms=RW).unpin()

            def zx_pin(count: int) -> None:
                for _ in range(count):
                    zx.zx_bti_pin(device, _PIN, memory, 0, PAGE_SIZE, addrs, 1, pmt)
                    zx.zx_pmt_unpin(pmt.value)

            def zx_create(count: int) -> None:
                for _ in range(count):
                    zx.zx_vmo_create(MIB, 0, out)
                    zx.zx_handle_close(out.value)

            def zx_map(count: int) -> None:
                for _ in range(count):
                    zx.zx_vmar_map(root, _SHOWN, 0, memory, 0, PAGE_SIZE, out)
                    zx.zx_vmar_unmap(root, out.value, PAGE_SIZE)

            subjects: dict[str, Subject] = {
                "pin": pin,
                "zx pin": zx_pin,
                "zx create": zx_create,
                "create": make_raw,
                "zx read": loop(lambda: zx.zx_vmo_read(memory, buffer, 0, _BYTES)),
                "read": loop(lambda: os.preadv(fd, [buffer], 0)),
                "zx map": zx_map,
                "map": raw_map,
            }
            timings = interleave(subjects, scale)
            yield from _rows(timings, scale)
            yield from _snapshot(scale)
    finally:
        os.close(fd)


def _rows(timings: dict[str, Timing], scale: Scale) -> Iterator[Row]:
    yield against(
        "zircon",
        "zx_bti_pin + zx_pmt_unpin of a page",
        timings["zx pin"],
        "Bti.pin + Pmt.unpin",
        timings["pin"],
        scale,
        at_most=1.5,
    )
    for subject, name, floor, what in (
        (
            "zx_vmo_create + zx_handle_close",
            "zx create",
            "create",
            "memfd_create, ftruncate, close",
        ),
        ("zx_vmo_read of 4 KiB", "zx read", "read", "os.preadv"),
        ("zx_vmar_map + zx_vmar_unmap of a page", "zx map", "map", "2 mmap, ctypes"),
    ):
        yield against("zircon", subject, timings[name], what, timings[floor], scale)


def _snapshot(scale: Scale) -> Iterator[Row]:
    """A snapshot of committed memory, made and closed, against moving the same bytes."""
    size = scale.pick(64 * MIB, MIB)
    with rig() as made, made.process, mmap.mmap(-1, size) as one, mmap.mmap(-1, size) as other:
        source, child = number_of(made.vmo(size)), Out()
        to = ctypes.addressof(ctypes.c_char.from_buffer(one))
        origin = ctypes.addressof(ctypes.c_char.from_buffer(other))
        ctypes.memset(to, 1, size)
        ctypes.memset(origin, 1, size)

        def snapshot(count: int) -> None:
            for _ in range(count):
                zx.zx_vmo_create_child(source, zx.ZX_VMO_CHILD_SNAPSHOT, 0, size, child)
                zx.zx_handle_close(child.value)

        def move(count: int) -> None:
            for _ in range(count):
                ctypes.memmove(to, origin, size)

        timings = interleave({"snapshot": snapshot, "move": move}, scale)
    yield against(
        "zircon",
        f"a snapshot of {size // MIB} MiB, made and closed",
        timings["snapshot"],
        "memmove of as much",
        timings["move"],
        scale,
    )
