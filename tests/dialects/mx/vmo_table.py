"""What is wrong with the calls on memory objects, in Magenta's order.

Source: the mx_vmo_* pages of August 2017 for the errors; that kernel for which is found first.
"""

from __future__ import annotations

from typing import Any, Final

from pinfold.dialects import mx
from pinfold.objects.memory_object import MAX_SIZE
from tests.dialects.orders import Fault, Order

from .settings import DEVICE, SIZE
from .tables import U64, lacks, no_handle, order, other, refused, required
from .things import PAGE

NULL: Final = refused("NULL", "INVALID_ARGS", out=False)
PHYSICAL: Final = Fault(
    "device memory", "NOT_SUPPORTED", {"vmo.as": "open", "vmo.kind": "physical"}
)


def of_vmo(right: str) -> tuple[Fault, ...]:
    """A handle that is to have a right; no region has it, and a resource has."""
    return required("vmo", right, barren="iommu", rich="root")


ANY: Final = (*no_handle("vmo"), other("vmo", "bti"), other("vmo", "iommu"))
"""A handle that needs no right."""

CREATE: Final = order(
    "mx_vmo_create",
    mx.mx_vmo_create,
    {"size": "u64", "options": "u32", "out": "out"},
    {"size": 5000, "options": 0},
    (
        refused("an option", "INVALID_ARGS", options=1),
        refused("larger than can be", "INVALID_ARGS", size=MAX_SIZE + 1),
        refused("whole pages beyond 64 bits", "INVALID_ARGS", size=U64),
        NULL,
    ),
)

CLONE: Final = order(
    "mx_vmo_clone",
    mx.mx_vmo_clone,
    {"handle": "vmo", "options": "u32", "offset": "u64", "size": "u64", "out": "out"},
    {"vmo.kind": "plain", "options": 1, "offset": 0, "size": SIZE},
    (
        *no_handle("vmo"),
        lacks("vmo", "DUPLICATE"),
        lacks("vmo", "READ"),
        other("vmo", "iommu", "ACCESS_DENIED"),
        other("vmo", "root"),
        refused("no option", "INVALID_ARGS", options=0),
        refused("another option", "INVALID_ARGS", options=3),
        PHYSICAL,
        refused("larger than can be", "OUT_OF_RANGE", size=MAX_SIZE + 1),
        refused("unaligned", "INVALID_ARGS", offset=1),
        refused("overflow", "OUT_OF_RANGE", offset=U64 + 1 - PAGE),
        NULL,
    ),
)

CONTIGUOUS: Final = order(
    "mx_vmo_create_contiguous",
    mx.mx_vmo_create_contiguous,
    {"rsrc": "rsrc", "size": "u64", "alignment_log2": "u32", "out": "out"},
    {"rsrc.kind": "root", "size": PAGE + 1, "alignment_log2": 0},
    (
        refused("no bytes", "INVALID_ARGS", size=0),
        refused("aligned to 2 bytes", "INVALID_ARGS", alignment_log2=1),
        refused("aligned to 2 KiB", "INVALID_ARGS", alignment_log2=PAGE.bit_length() - 2),
        refused("aligned to 2**64", "INVALID_ARGS", alignment_log2=64),
        *no_handle("rsrc"),
        other("rsrc", "vmo"),
        Fault("device memory", "ACCESS_DENIED", {"rsrc.as": "open", "rsrc.kind": "mmio"}),
        refused("larger than can be", "INVALID_ARGS", size=MAX_SIZE + 1),
        refused("larger than the memory", "NO_MEMORY", size=1 << 50),
        refused("no such alignment in memory", "NO_MEMORY", alignment_log2=63),
        NULL,
    ),
)

DEVICE_MEMORY: Final = order(
    "mx_vmo_create_physical",
    mx.mx_vmo_create_physical,
    {"rsrc": "rsrc", "paddr": "u64", "size": "u64", "out": "out"},
    {"rsrc.kind": "mmio", "paddr": DEVICE, "size": 1},
    (
        refused("no bytes", "INVALID_ARGS", size=0),
        refused("overflow", "INVALID_ARGS", size=U64),
        *no_handle("rsrc"),
        other("rsrc", "vmo"),
        Fault("an interrupt", "ACCESS_DENIED", {"rsrc.as": "open", "rsrc.kind": "irq"}),
        refused("more than the resource", "ACCESS_DENIED", size=2 * PAGE + 1),
        refused("below the resource", "ACCESS_DENIED", paddr=DEVICE - PAGE),
        Fault(
            "RAM",
            "ACCESS_DENIED",
            {"rsrc.as": "open", "rsrc.kind": "root", "paddr": 0x1000_0000},
        ),
        refused("unaligned", "INVALID_ARGS", paddr=DEVICE + 1),
        NULL,
    ),
)


def moving(name: str, function: Any, right: str, kind: str) -> Order:
    bad = (refused("read-only", "INVALID_ARGS", data="read-only"),) if right == "READ" else ()
    return order(
        name,
        function,
        {"handle": "vmo", "data": kind, "offset": "u64", "len": "u64", "actual": "out"},
        {"vmo.kind": "plain", "data": 2 * PAGE, "offset": 2 * PAGE, "len": 2 * PAGE},
        (
            *of_vmo(right),
            refused("NULL data", "INVALID_ARGS", data="null"),
            *bad,
            refused("a buffer too short", "INVALID_ARGS", len=8 * PAGE + 1),
            PHYSICAL,
            refused("beyond the end", "OUT_OF_RANGE", offset=SIZE + 1),
            refused("at the end", "OUT_OF_RANGE", offset=SIZE),
            refused("overflow", "OUT_OF_RANGE", offset=U64),
            refused("NULL", "INVALID_ARGS", actual=False),
        ),
    )


READ: Final = moving("mx_vmo_read", mx.mx_vmo_read, "READ", "buffer")
WRITE: Final = moving("mx_vmo_write", mx.mx_vmo_write, "WRITE", "buffer")

GET_SIZE: Final = order(
    "mx_vmo_get_size",
    mx.mx_vmo_get_size,
    {"handle": "vmo", "size": "out"},
    {"vmo.kind": "plain"},
    (*ANY, refused("NULL", "INVALID_ARGS", size=False)),
)

SET_SIZE: Final = order(
    "mx_vmo_set_size",
    mx.mx_vmo_set_size,
    {"handle": "vmo", "size": "u64"},
    {"vmo.kind": "plain", "size": PAGE + 1},
    (
        *of_vmo("WRITE"),
        PHYSICAL,
        refused("larger than can be", "OUT_OF_RANGE", size=MAX_SIZE + 1),
        refused("beyond 64 bits", "OUT_OF_RANGE", size=U64),
        Fault("pinned", "BAD_STATE", {"vmo.as": "open", "vmo.pinned": 2}),
        Fault("contiguous", "BAD_STATE", {"vmo.as": "open", "vmo.kind": "contiguous"}),
    ),
)

GROW: Final = order(
    "mx_vmo_set_size, more",
    mx.mx_vmo_set_size,
    {"handle": "vmo", "size": "u64"},
    {"vmo.kind": "plain", "size": 8 * PAGE, "vmo.pinned": 2},
    (
        *of_vmo("WRITE"),
        refused("larger than can be", "OUT_OF_RANGE", size=MAX_SIZE + 1),
        Fault("contiguous", "NOT_SUPPORTED", {"vmo.as": "open", "vmo.kind": "contiguous"}),
    ),
)


def ranged(
    name: str,
    op: int,
    faults: tuple[Fault, ...],
    unlike: dict[tuple[str, str], str] | None = None,
    **fields: Any,
) -> Order:
    good = {
        "vmo.kind": "plain",
        "op": op,
        "offset": PAGE + 1,
        "size": PAGE,
        "buffer": "null",
        "buffer_size": 0,
    }
    return order(
        f"mx_vmo_op_range {name}",
        mx.mx_vmo_op_range,
        {
            "handle": "vmo",
            "op": "u32",
            "offset": "u64",
            "size": "u64",
            "buffer": "buffer",
            "buffer_size": "u64",
        },
        good | fields,
        (*ANY, *faults),
        unlike=unlike,
    )


BEYOND: Final = (
    refused("beyond the end", "OUT_OF_RANGE", offset=4 * PAGE + 1),
    refused("overflow", "OUT_OF_RANGE", offset=SIZE - 1, size=U64),
)
STRICT: Final = (
    refused("no bytes", "INVALID_ARGS", size=0),
    refused("a byte too many", "OUT_OF_RANGE", offset=SIZE, size=1),
    refused("overflow", "OUT_OF_RANGE", offset=SIZE - 1, size=U64),
)

OPERATIONS: Final = (
    ranged("COMMIT", mx.MX_VMO_OP_COMMIT, (PHYSICAL, *BEYOND), size=8 * PAGE),
    ranged(
        "DECOMMIT",
        mx.MX_VMO_OP_DECOMMIT,
        (
            PHYSICAL,
            *BEYOND,
            Fault("pinned", "BAD_STATE", {"vmo.as": "open", "vmo.pinned": 2}),
            Fault("contiguous", "BAD_STATE", {"vmo.as": "open", "vmo.kind": "contiguous"}),
        ),
        size=8 * PAGE,
    ),
    ranged(
        "LOOKUP",
        mx.MX_VMO_OP_LOOKUP,
        (
            refused("NULL", "INVALID_ARGS", buffer="null"),
            refused("room for none", "BUFFER_TOO_SMALL", buffer_size=7),
            refused("no bytes, aligned", "INVALID_ARGS", size=0, offset=PAGE),
            refused("a byte too many", "OUT_OF_RANGE", offset=SIZE, size=1),
            Fault("a hole", "NO_MEMORY", {"vmo.as": "open", "vmo.hole": 2}),
            refused("read-only", "INVALID_ARGS", buffer="read-only"),
            refused("a buffer too short", "INVALID_ARGS", buffer=15),
        ),
        unlike={("room for none", "no bytes, aligned"): "no page needs no room"},
        buffer=16,
        buffer_size=16,
    ),
    *(
        ranged(name, getattr(mx, f"MX_VMO_OP_{name}"), (PHYSICAL, *STRICT))
        for name in ("CACHE_SYNC", "CACHE_INVALIDATE", "CACHE_CLEAN", "CACHE_CLEAN_INVALIDATE")
    ),
)

POLICY: Final = order(
    "mx_vmo_set_cache_policy",
    mx.mx_vmo_set_cache_policy,
    {"handle": "vmo", "cache_policy": "u32"},
    {"vmo.kind": "physical", "cache_policy": 3},
    (
        refused("no such policy", "INVALID_ARGS", cache_policy=4),
        *required("vmo", "MAP", barren="iommu", rich="bti"),
        Fault("memory", "NOT_SUPPORTED", {"vmo.as": "open", "vmo.kind": "plain"}),
        Fault("mapped", "BAD_STATE", {"vmo.as": "open", "vmo.mapped": True}),
    ),
)

DUPLICATE: Final = order(
    "mx_handle_duplicate",
    mx.mx_handle_duplicate,
    {"handle": "vmo", "rights": "u32", "out": "out"},
    {"vmo.kind": "plain", "rights": 0x80000000},
    (
        *no_handle("vmo"),
        lacks("vmo", "DUPLICATE"),
        refused("a right it lacks", "INVALID_ARGS", rights=0x200),
        refused("a right that came later", "INVALID_ARGS", rights=0x8000),
        NULL,
    ),
)

REPLACE: Final = order(
    "mx_handle_replace",
    mx.mx_handle_replace,
    {"handle": "vmo", "rights": "u32", "out": "out"},
    {"vmo.kind": "plain", "rights": 0x3},
    (
        *no_handle("vmo"),
        refused("a right it lacks", "INVALID_ARGS", rights=0x203),
        refused("all of them", "INVALID_ARGS", rights=0xFFFFFFFF),
    ),
)

ORDERS: Final = (
    CREATE,
    CLONE,
    CONTIGUOUS,
    DEVICE_MEMORY,
    READ,
    WRITE,
    GET_SIZE,
    SET_SIZE,
    GROW,
    *OPERATIONS,
    POLICY,
    DUPLICATE,
    REPLACE,
)
