"""What is wrong with the calls on regions, in Magenta's order.

Source: mx_vmar_map and the pages beside it for the errors; the kernel of August 2017 for which is
found first.
"""

from __future__ import annotations

from typing import Final

from pinfold.dialects import mx
from tests.dialects.orders import Also, Fault

from .settings import CHILD, MAPPED, READ_ONLY, REGION, RW, TAKEN
from .tables import U64, lacks, no_handle, order, other, refused
from .things import CAN_ALL, EXECUTE, PAGE, READ, WRITE

SPECIFIC, OVER = mx.MX_VM_FLAG_SPECIFIC, mx.MX_VM_FLAG_SPECIFIC_OVERWRITE
CAN_CHOOSE = mx.MX_VM_FLAG_CAN_MAP_SPECIFIC
NO_WRITE: Final = CAN_ALL & ~mx.MX_VM_FLAG_CAN_MAP_WRITE

DEAD: Final = Fault("destroyed", "BAD_STATE", {"vmar.as": "open", "vmar.dead": True})
BOUND: Final = Fault(
    "a region that lets nobody choose",
    "ACCESS_DENIED",
    {"vmar.as": "open", "vmar.can": CAN_ALL & ~CAN_CHOOSE},
)
FORBIDS: Final = Fault(
    "a region without CAN_MAP_WRITE", "ACCESS_DENIED", {"vmar.as": "open", "vmar.can": NO_WRITE}
)

REGION_ONLY: Final = (*no_handle("vmar"), other("vmar", "vmo"), other("vmar", "iommu"))


MAP_ARGS: Final = {
    "vmar": "vmar",
    "vmar_offset": "u64",
    "vmo": "vmo",
    "vmo_offset": "u64",
    "len": "u64",
    "map_flags": "u32",
    "mapped_addr": "out",
}
MAP_GOOD: Final = {
    "vmar.kind": "region",
    "vmo.kind": "plain",
    "vmar_offset": 0,
    "vmo_offset": PAGE,
    "len": 2 * PAGE - 1,
    "map_flags": RW,
}
EARLY: Final = (
    *REGION_ONLY,
    *no_handle("vmo"),
    other("vmo", "region"),
    lacks("vmo", "MAP"),
    refused("a CAN_MAP flag", "INVALID_ARGS", map_flags=Also(mx.MX_VM_FLAG_CAN_MAP_READ)),
    lacks("vmar", "WRITE"),
    lacks("vmo", "READ"),
    lacks("vmo", "WRITE"),
    refused("COMPACT", "INVALID_ARGS", map_flags=Also(mx.MX_VM_FLAG_COMPACT)),
    refused("CAN_MAP_SPECIFIC", "INVALID_ARGS", map_flags=Also(CAN_CHOOSE)),
    refused("REQUIRE_NON_RESIZABLE of Zircon's", "INVALID_ARGS", map_flags=Also(1 << 11)),
    refused("ALLOW_FAULTS of Zircon's", "INVALID_ARGS", map_flags=Also(1 << 12)),
    refused("an alignment of Zircon's", "INVALID_ARGS", map_flags=Also(12 << 24)),
    refused("memory unaligned", "INVALID_ARGS", vmo_offset=1),
    refused("memory overflows", "INVALID_ARGS", vmo_offset=U64 + 1 - PAGE),
    DEAD,
    refused("no bytes", "INVALID_ARGS", len=0),
    refused("so many that they wrap", "INVALID_ARGS", len=U64),
    FORBIDS,
)
LAST: Final = refused("NULL", "INVALID_ARGS", mapped_addr=False)

MAP: Final = order(
    "mx_vmar_map",
    mx.mx_vmar_map,
    MAP_ARGS,
    MAP_GOOD,
    (
        *EARLY,
        refused("an offset without SPECIFIC", "INVALID_ARGS", vmar_offset=PAGE),
        refused("more than the region", "INVALID_ARGS", len=REGION + 1),
        refused("no gap so large", "NO_MEMORY", len=REGION - PAGE),
        Fault("no gap", "NO_MEMORY", {"vmar.as": "open", "vmar.filled": True}),
        LAST,
    ),
)

MAP_SPECIFIC: Final = order(
    "mx_vmar_map SPECIFIC",
    mx.mx_vmar_map,
    MAP_ARGS,
    MAP_GOOD | {"map_flags": RW | SPECIFIC},
    (
        *EARLY,
        BOUND,
        refused("beyond the region", "INVALID_ARGS", vmar_offset=REGION),
        refused("leaves the region", "INVALID_ARGS", vmar_offset=REGION - PAGE),
        refused("overflows", "INVALID_ARGS", vmar_offset=U64 + 1 - PAGE),
        refused("unaligned", "INVALID_ARGS", vmar_offset=1),
        refused("over a mapping", "NO_MEMORY", vmar_offset=(MAPPED - 1) * PAGE),
        refused("over a region", "NO_MEMORY", vmar_offset=CHILD * PAGE),
        LAST,
    ),
)

MAP_OVER: Final = order(
    "mx_vmar_map SPECIFIC_OVERWRITE",
    mx.mx_vmar_map,
    MAP_ARGS,
    MAP_GOOD | {"map_flags": RW | OVER, "vmar_offset": MAPPED * PAGE},
    (
        *EARLY,
        BOUND,
        refused("leaves the region", "INVALID_ARGS", vmar_offset=REGION - PAGE),
        refused("unaligned", "INVALID_ARGS", vmar_offset=1),
        refused("over a region", "INVALID_ARGS", vmar_offset=(CHILD - 1) * PAGE),
    ),
)

WITHOUT_READ: Final = order(
    "mx_vmar_map without READ",
    mx.mx_vmar_map,
    MAP_ARGS,
    MAP_GOOD | {"map_flags": READ},
    (
        *REGION_ONLY,
        lacks("vmo", "MAP"),
        refused("WRITE alone", "INVALID_ARGS", map_flags=WRITE),
        refused("EXECUTE alone", "INVALID_ARGS", map_flags=EXECUTE),
        lacks("vmo", "READ"),
        lacks("vmar", "READ"),
        DEAD,
        LAST,
    ),
)

ALLOCATE_ARGS: Final = {
    "parent_vmar": "vmar",
    "offset": "u64",
    "size": "u64",
    "map_flags": "u32",
    "child_vmar": "out",
    "child_addr": "out",
}
ALLOCATE_GOOD: Final = {
    "vmar.kind": "region",
    "offset": 0,
    "size": 2 * PAGE,
    "map_flags": mx.MX_VM_FLAG_CAN_MAP_WRITE,
}
ALLOCATE_EARLY: Final = (
    *no_handle("vmar"),
    lacks("vmar", "WRITE"),
    other("vmar", "bti", "ACCESS_DENIED"),
    other("vmar", "vmo"),
    *(
        refused(name, "INVALID_ARGS", map_flags=Also(getattr(mx, f"MX_VM_FLAG_{name}")))
        for name in ("PERM_READ", "PERM_WRITE", "PERM_EXECUTE", "SPECIFIC_OVERWRITE", "MAP_RANGE")
    ),
    refused("an upper limit of Zircon's", "INVALID_ARGS", map_flags=Also(1 << 13)),
    refused("an alignment of Zircon's", "INVALID_ARGS", map_flags=Also(12 << 24)),
    refused("no whole pages", "INVALID_ARGS", size=PAGE + 1),
    DEAD,
    refused("no bytes", "INVALID_ARGS", size=0),
    FORBIDS,
)
ALLOCATE_LAST: Final = (
    refused("NULL for the handle", "INVALID_ARGS", child_vmar=False),
    refused("NULL for the address", "INVALID_ARGS", child_addr=False),
)

ALLOCATE: Final = order(
    "mx_vmar_allocate",
    mx.mx_vmar_allocate,
    ALLOCATE_ARGS,
    ALLOCATE_GOOD,
    (
        *ALLOCATE_EARLY,
        refused("an offset without SPECIFIC", "INVALID_ARGS", offset=PAGE),
        refused("more than the parent", "INVALID_ARGS", size=REGION + PAGE),
        refused("no gap so large", "NO_MEMORY", size=REGION - PAGE),
        Fault("no gap", "NO_MEMORY", {"vmar.as": "open", "vmar.filled": True}),
        *ALLOCATE_LAST,
    ),
)

ALLOCATE_SPECIFIC: Final = order(
    "mx_vmar_allocate SPECIFIC",
    mx.mx_vmar_allocate,
    ALLOCATE_ARGS,
    ALLOCATE_GOOD | {"map_flags": mx.MX_VM_FLAG_CAN_MAP_WRITE | SPECIFIC},
    (
        *ALLOCATE_EARLY,
        BOUND,
        refused("leaves the parent", "INVALID_ARGS", offset=REGION - PAGE),
        refused("unaligned", "INVALID_ARGS", offset=1),
        refused("over a mapping", "NO_MEMORY", offset=MAPPED * PAGE),
        *ALLOCATE_LAST,
    ),
)

RANGE: Final = {"vmar": "vmar", "addr": "address", "len": "u64"}
OF_RANGE: Final = (
    refused("unaligned", "INVALID_ARGS", addr=MAPPED * PAGE + 1),
    refused("no bytes", "INVALID_ARGS", len=0),
    refused("so many that they wrap", "INVALID_ARGS", len=U64),
    DEAD,
    refused("below the region", "INVALID_ARGS", addr=-PAGE),
    refused("beyond the region", "INVALID_ARGS", addr=REGION),
)

UNMAP: Final = order(
    "mx_vmar_unmap",
    mx.mx_vmar_unmap,
    RANGE,
    {"vmar.kind": "region", "addr": MAPPED * PAGE, "len": PAGE - 1},
    (
        *REGION_ONLY,
        *OF_RANGE,
        refused("a part of a region", "INVALID_ARGS", addr=(CHILD + 1) * PAGE),
        refused("nothing there", "NOT_FOUND", addr=0),
    ),
)

PROTECT: Final = order(
    "mx_vmar_protect",
    mx.mx_vmar_protect,
    RANGE | {"prot": "u32"},
    {"vmar.kind": "region", "addr": MAPPED * PAGE, "len": 2 * PAGE - 1, "prot": RW},
    (
        *no_handle("vmar"),
        lacks("vmar", "READ"),
        lacks("vmar", "WRITE"),
        other("vmar", "iommu", "ACCESS_DENIED"),
        other("vmar", "vmo"),
        refused("another flag", "INVALID_ARGS", prot=Also(SPECIFIC)),
        *OF_RANGE,
        refused("a hole", "NOT_FOUND", addr=0),
        refused("a region", "INVALID_ARGS", addr=CHILD * PAGE),
        refused("mapped to be read only", "ACCESS_DENIED", addr=READ_ONLY * PAGE),
        refused("a hole at the end", "NOT_FOUND", len=3 * PAGE),
    ),
    unlike={("a hole", "a hole at the end"): "the first hole is found first"},
)

PROTECT_WITHOUT_READ: Final = order(
    "mx_vmar_protect without READ",
    mx.mx_vmar_protect,
    RANGE | {"prot": "u32"},
    {"vmar.kind": "region", "addr": MAPPED * PAGE, "len": PAGE, "prot": 0},
    (
        *no_handle("vmar"),
        refused("WRITE alone", "INVALID_ARGS", prot=WRITE),
        refused("EXECUTE alone", "INVALID_ARGS", prot=EXECUTE),
        DEAD,
        refused("next to a mapping", "NOT_FOUND", addr=TAKEN * PAGE),
    ),
)

DESTROY: Final = order(
    "mx_vmar_destroy",
    mx.mx_vmar_destroy,
    {"vmar": "vmar"},
    {"vmar.kind": "region"},
    (*REGION_ONLY, DEAD),
)

ORDERS: Final = (
    MAP,
    MAP_SPECIFIC,
    MAP_OVER,
    WITHOUT_READ,
    ALLOCATE,
    ALLOCATE_SPECIFIC,
    UNMAP,
    PROTECT,
    PROTECT_WITHOUT_READ,
    DESTROY,
)
