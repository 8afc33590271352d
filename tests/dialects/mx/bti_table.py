"""What is wrong with the calls on devices, in Magenta's order.

Source: mx_bti_pin, mx_bti_unpin for the errors; the kernel of the draft for which is found first.
"""

from __future__ import annotations

from typing import Final

from pinfold.dialects import mx
from tests.dialects.orders import Also, Fault

from .settings import RW
from .tables import U64, lacks, no_handle, order, other, refused, required
from .things import PAGE

PIN: Final = order(
    "mx_bti_pin",
    mx.mx_bti_pin,
    {
        "bti": "bti",
        "vmo": "vmo",
        "offset": "u64",
        "size": "u64",
        "perms": "u32",
        "addrs": "buffer",
        "addrs_len": "u32",
        "actual_addrs_len": "out",
    },
    {
        "bti.kind": "bti",
        "vmo.kind": "plain",
        "offset": 0,
        "size": PAGE + 1,
        "perms": RW,
        "addrs": 16,
        "addrs_len": 2,
    },
    (
        refused("unaligned", "INVALID_ARGS", offset=1),
        *required("bti", "MAP", barren="iommu", rich="vmo"),
        *no_handle("vmo"),
        other("vmo", "bti"),
        other("vmo", "iommu"),
        lacks("vmo", "MAP"),
        lacks("vmo", "READ"),
        lacks("vmo", "WRITE"),
        lacks("vmo", "EXECUTE", perms=Also(4)),
        refused("an unknown permission", "INVALID_ARGS", perms=Also(8)),
        refused("the highest bit", "INVALID_ARGS", perms=Also(1 << 31)),
        Fault("a pin that is stuck", "BAD_STATE", {"bti.as": "open", "bti.stuck": True}),
        Fault("device memory", "NOT_SUPPORTED", {"vmo.as": "open", "vmo.kind": "physical"}),
        refused("a byte too many", "OUT_OF_RANGE", size=3 * PAGE + 101),
        refused("beyond the object", "OUT_OF_RANGE", offset=8 * PAGE),
        refused("overflow", "OUT_OF_RANGE", offset=U64 + 1 - PAGE),
        Fault("a hole", "NOT_FOUND", {"vmo.as": "open", "vmo.hole": 0}),
        Fault("a clone", "NOT_FOUND", {"vmo.as": "open", "vmo.kind": "clone"}),
        Fault("pinned by this BTI", "ALREADY_BOUND", {"vmo.as": "open", "vmo.bound": 1}),
        Fault("pinned 31 times", "UNAVAILABLE", {"vmo.as": "open", "vmo.full": 1}),
        refused("permits nothing", "INVALID_ARGS", perms=0),
        refused("no bytes", "INVALID_ARGS", size=0),
        refused("room for one", "BUFFER_TOO_SMALL", addrs_len=1),
        refused("room for none", "BUFFER_TOO_SMALL", addrs_len=0),
        refused("addrs NULL", "INVALID_ARGS", addrs="null"),
        refused("addrs read-only", "INVALID_ARGS", addrs="read-only"),
        refused("addrs a byte short", "INVALID_ARGS", addrs=15),
        refused("no room for the number", "INVALID_ARGS", actual_addrs_len=False),
    ),
    unlike={
        (f"vmo: no {right}", "permits nothing"): "a pin that permits nothing asks for no right"
        for right in ("READ", "WRITE")
    },
)

UNPIN: Final = order(
    "mx_bti_unpin",
    mx.mx_bti_unpin,
    {"bti": "bti", "addrs": "buffer", "addrs_len": "u32"},
    {"bti.kind": "bti", "addrs": 8, "addrs_len": 1},
    (
        *required("bti", "MAP", barren="iommu", rich="vmo"),
        refused("addrs NULL", "INVALID_ARGS", addrs="null"),
        refused("addrs a byte short", "INVALID_ARGS", addrs=7),
        refused("no such pin", "INVALID_ARGS", addrs_len=1),
        refused("no addresses", "INVALID_ARGS", addrs_len=0),
    ),
)

IOMMU: Final = order(
    "mx_iommu_create",
    mx.mx_iommu_create,
    {"rsrc": "rsrc", "type": "u32", "desc": "buffer", "desc_len": "u32", "out": "out"},
    {"rsrc.kind": "root", "type": 0, "desc": 1, "desc_len": 1},
    (
        *no_handle("rsrc"),
        other("rsrc", "vmo"),
        Fault("device memory", "ACCESS_DENIED", {"rsrc.as": "open", "rsrc.kind": "mmio"}),
        refused("a descriptor too long", "INVALID_ARGS", desc_len=4097, desc=4097),
        refused("no descriptor", "INVALID_ARGS", desc="null"),
        refused("an Intel IOMMU", "NOT_SUPPORTED", type=1),
        refused("no such type", "NOT_SUPPORTED", type=U64 >> 32),
        refused("two bytes", "INVALID_ARGS", desc_len=2, desc=2),
        refused("no bytes", "INVALID_ARGS", desc_len=0),
        refused("NULL", "INVALID_ARGS", out=False),
    ),
)

BTI: Final = order(
    "mx_bti_create",
    mx.mx_bti_create,
    {"iommu": "iommu", "bti_id": "u64", "out": "out"},
    {"iommu.kind": "iommu", "bti_id": 7},
    (
        *no_handle("iommu"),
        other("iommu", "bti"),
        refused("NULL", "INVALID_ARGS", out=False),
    ),
)

ORDERS: Final = (PIN, UNPIN, IOMMU, BTI)
