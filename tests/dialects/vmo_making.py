"""What is wrong with making a memory object, in Zircon's order."""

from __future__ import annotations

from typing import Final

from pinfold.dialects import zx
from pinfold.objects.memory_object import MAX_SIZE

from .orders import Also, Fault, Order
from .settings import DEVICE, PAGE, SIZE

U64: Final = (1 << 64) - 1

NULL: Final = Fault("NULL", "INVALID_ARGS", {"out": False})
"""Of every call that has something to give, and found out last."""


def handle_faults(handle: str, other: str = "bti") -> tuple[Fault, ...]:
    """A number that is no handle of the right type; tested before any right.

    Source: the handle table of Zircon's kernel.
    """
    return (
        Fault(f"{handle}: no handle", "BAD_HANDLE", {f"{handle}.as": "none"}),
        Fault(f"{handle}: a closed handle", "BAD_HANDLE", {f"{handle}.as": "closed"}),
        Fault(f"{handle}: another type", "WRONG_TYPE", {f"{handle}.as": other}),
    )


def lacks(handle: str, right: str) -> Fault:
    """A handle to the right type of object, without a right."""
    bit = Also(getattr(zx, f"ZX_RIGHT_{right}"))
    fields = {f"{handle}.as": "open", f"{handle}.lacks": bit}
    return Fault(f"{handle}: no {right}", "ACCESS_DENIED", fields)


CREATE: Final = Order(
    "zx_vmo_create",
    zx.zx_vmo_create,
    {"size": "u64", "options": "u32", "out": "out"},
    {"size": SIZE - 1, "options": 0},
    (
        Fault("RESIZABLE and UNBOUNDED", "INVALID_ARGS", {"options": Also(0x12)}),
        Fault("whole pages beyond 64 bits", "OUT_OF_RANGE", {"size": U64, "bounded": True}),
        Fault("TRAP_DIRTY", "INVALID_ARGS", {"options": Also(0x8)}),
        Fault("a bit that is no option", "INVALID_ARGS", {"options": Also(0x8000_0001)}),
        Fault(
            "unbounded, and larger than can be",
            "OUT_OF_RANGE",
            {"options": Also(0x10), "size": MAX_SIZE + 1},
        ),
        Fault("larger than can be", "OUT_OF_RANGE", {"size": MAX_SIZE + PAGE}),
        NULL,
    ),
    pairs=18,
)

CONTIGUOUS: Final = Order(
    "zx_vmo_create_contiguous",
    zx.zx_vmo_create_contiguous,
    {"bti": "bti", "size": "u64", "alignment": "u32", "out": "out"},
    {"bti.kind": "bti", "size": SIZE, "alignment": 0},
    (
        Fault("no bytes", "INVALID_ARGS", {"size": 0}),
        Fault("no whole pages", "INVALID_ARGS", {"size": SIZE + 1}),
        Fault("aligned to 2 bytes", "INVALID_ARGS", {"alignment": 1}),
        Fault("aligned to half a page", "INVALID_ARGS", {"alignment": PAGE.bit_length() - 2}),
        Fault("aligned to 2**64", "INVALID_ARGS", {"alignment": 64}),
        Fault("aligned to far more", "INVALID_ARGS", {"alignment": (1 << 32) - 1}),
        *handle_faults("bti", other="vmo"),
        lacks("bti", "MAP"),
        Fault("larger than can be", "OUT_OF_RANGE", {"size": MAX_SIZE + PAGE}),
        Fault("larger than the memory", "NO_MEMORY", {"size": 1 << 50}),
        Fault("no such alignment in memory", "NO_MEMORY", {"alignment": 63}),
        NULL,
    ),
    pairs=69,
)

PHYSICAL: Final = Order(
    "zx_vmo_create_physical",
    zx.zx_vmo_create_physical,
    {"resource": "bar", "paddr": "u64", "size": "u64", "out": "out"},
    {"bar.kind": "mmio", "paddr": DEVICE, "size": PAGE},
    (
        Fault("no bytes", "INVALID_ARGS", {"size": 0}),
        Fault("no whole pages", "INVALID_ARGS", {"size": PAGE + 1}),
        *handle_faults("bar", other="vmo"),
        Fault("not device memory", "WRONG_TYPE", {"bar.as": "open", "bar.kind": "vmex"}),
        Fault("more than the resource", "OUT_OF_RANGE", {"size": 2 * SIZE}),
        Fault("before the resource", "OUT_OF_RANGE", {"paddr": DEVICE - PAGE}),
        Fault("behind the resource", "OUT_OF_RANGE", {"paddr": DEVICE + SIZE}),
        Fault("unaligned", "INVALID_ARGS", {"paddr": DEVICE + 1}),
        NULL,
    ),
    pairs=43,
)

ORDERS: Final = (CREATE, CONTIGUOUS, PHYSICAL)
