"""What is wrong with an operation on a range of a memory object, in Zircon's order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pinfold.dialects import zx
from pinfold.units import UINT64_MAX

from .orders import Also, Fault, Order
from .settings import PAGE, SIZE
from .vmo_contents import DEVICE_MEMORY, DISCARDED
from .vmo_making import handle_faults, lacks

if TYPE_CHECKING:
    from collections.abc import Mapping

_ARGS: Final = {
    "handle": "vmo",
    "op": "u32",
    "offset": "u64",
    "size": "u64",
    "buffer": "buffer",
    "buffer_size": "u64",
}
_BEYOND: Final = (
    Fault("beyond 64 bits", "OUT_OF_RANGE", {"offset": UINT64_MAX - PAGE + 1, "size": SIZE}),
    Fault("beyond the object", "OUT_OF_RANGE", {"offset": SIZE, "size": PAGE}),
    Fault("longer than the object", "OUT_OF_RANGE", {"offset": PAGE, "size": SIZE}),
    Fault("longer than 64 bits", "OUT_OF_RANGE", {"offset": PAGE, "size": UINT64_MAX}),
)
_EMPTY_BEYOND: Final = Fault("empty, and beyond", "OUT_OF_RANGE", {"offset": SIZE + 1, "size": 0})
_EITHER: Final = Fault(
    "vmo: neither READ nor WRITE",
    "ACCESS_DENIED",
    {"vmo.as": "open", "vmo.lacks": Also(zx.ZX_RIGHT_READ | zx.ZX_RIGHT_WRITE)},
)
_NOT_ALL: Final = (
    Fault("not from the start", "OUT_OF_RANGE", {"offset": PAGE, "size": SIZE}),
    Fault("not to the end", "OUT_OF_RANGE", {"offset": 0, "size": SIZE - PAGE}),
    Fault("beyond the end", "OUT_OF_RANGE", {"offset": 0, "size": SIZE + PAGE}),
)
_PLAIN: Final = Fault("not discardable", "NOT_SUPPORTED", {"vmo.discardable": False})


def _order(
    name: str, op: int, fields: Mapping[str, Any], *faults: Fault, pairs: int, **more: Any
) -> Order:
    usual = {"vmo.kind": "plain", "op": op, "offset": 0, "size": SIZE}
    usual |= {"buffer": "null", "buffer_size": 0}
    return Order(
        f"zx_vmo_op_range {name}",
        zx.zx_vmo_op_range,
        _ARGS,
        usual | dict(fields),
        (*handle_faults("vmo"), *faults),
        pairs,
        **more,
    )


UNKNOWN: Final = _order(
    "of no such operation",
    zx.ZX_VMO_OP_COMMIT,
    {"vmo.lacks": int(zx.ZX_RIGHT_READ)},
    *(Fault(f"operation {op:#x}", "INVALID_ARGS", {"op": op}) for op in (0, 5, 15, 1 << 31)),
    pairs=12,
)

COMMIT: Final = _order(
    "COMMIT",
    zx.ZX_VMO_OP_COMMIT,
    {},
    lacks("vmo", "WRITE"),
    DEVICE_MEMORY,
    *_BEYOND,
    _EMPTY_BEYOND,
    DISCARDED,
    pairs=38,
)

DECOMMIT: Final = _order(
    "DECOMMIT",
    zx.ZX_VMO_OP_DECOMMIT,
    {},
    lacks("vmo", "WRITE"),
    DEVICE_MEMORY,
    Fault("contiguous", "NOT_SUPPORTED", {"vmo.kind": "contiguous"}),
    Fault("a slice of contiguous", "NOT_SUPPORTED", {"vmo.kind": "slice of contiguous"}),
    *_BEYOND,
    Fault("beyond the slice", "OUT_OF_RANGE", {"vmo.kind": "slice", "size": SIZE + PAGE}),
    _EMPTY_BEYOND,
    Fault("a snapshot", "NOT_SUPPORTED", {"vmo.kind": "snapshot"}),
    Fault("it has a snapshot", "NOT_SUPPORTED", {"vmo.child": "snapshot"}),
    Fault("an unaligned offset", "INVALID_ARGS", {"offset": 1, "size": PAGE}),
    Fault("an unaligned size", "INVALID_ARGS", {"offset": 0, "size": PAGE - 1}),
    Fault("pinned", "BAD_STATE", {"vmo.pinned": 0}),
    pairs=105,
)

LOCK: Final = _order(
    "LOCK",
    zx.ZX_VMO_OP_LOCK,
    {"vmo.discardable": True, "buffer": 32, "buffer_size": 32},
    _EITHER,
    _PLAIN,
    *_NOT_ALL,
    Fault("no room", "INVALID_ARGS", {"buffer_size": 31}),
    Fault("a NULL buffer", "INVALID_ARGS", {"buffer": "null"}),
    Fault("a buffer shorter than it says", "INVALID_ARGS", {"buffer": 31}),
    Fault("a read-only buffer", "INVALID_ARGS", {"buffer": "read-only"}),
    pairs=54,
)

TRY_LOCK: Final = _order(
    "TRY_LOCK",
    zx.ZX_VMO_OP_TRY_LOCK,
    {"vmo.discardable": True},
    _EITHER,
    _PLAIN,
    *_NOT_ALL,
    Fault("discarded", "UNAVAILABLE", {"vmo.discarded": True, "vmo.discardable": True}),
    pairs=26,
)

UNLOCK: Final = _order(
    "UNLOCK",
    zx.ZX_VMO_OP_UNLOCK,
    {"vmo.discardable": True, "vmo.locks": 1},
    _EITHER,
    Fault("not discardable", "NOT_SUPPORTED", {"vmo.discardable": False, "vmo.locks": 0}),
    *_NOT_ALL,
    Fault("not locked", "BAD_STATE", {"vmo.locks": 0}),
    pairs=27,
)


def _cache(name: str, op: int, right: str, *first: Fault, pairs: int) -> Order:
    return _order(
        name,
        op,
        {},
        *first,
        lacks("vmo", right),
        DEVICE_MEMORY,
        Fault("empty", "INVALID_ARGS", {"size": 0, "offset": 2 * SIZE}),
        *_BEYOND,
        pairs=pairs,
    )


SYNC: Final = _cache("CACHE_SYNC", zx.ZX_VMO_OP_CACHE_SYNC, "READ", pairs=29)
CLEAN: Final = _cache("CACHE_CLEAN", zx.ZX_VMO_OP_CACHE_CLEAN, "READ", pairs=29)
CLEAN_INVALIDATE: Final = _cache(
    "CACHE_CLEAN_INVALIDATE", zx.ZX_VMO_OP_CACHE_CLEAN_INVALIDATE, "READ", pairs=29
)
INVALIDATE: Final = _cache(
    "CACHE_INVALIDATE",
    zx.ZX_VMO_OP_CACHE_INVALIDATE,
    "WRITE",
    Fault("no debug calls", "NOT_SUPPORTED", {"kernel.debug": False}),
    pairs=39,
)

ZERO: Final = _order(
    "ZERO",
    zx.ZX_VMO_OP_ZERO,
    {"offset": 1, "size": PAGE},
    lacks("vmo", "WRITE"),
    DEVICE_MEMORY,
    *_BEYOND,
    Fault("not cached, and in a page", "BAD_STATE", {"vmo.policy": 1, "offset": 1}),
    Fault("contiguous and not cached", "BAD_STATE", {"vmo.policy": 1, "vmo.kind": "contiguous"}),
    pairs=38,
)

PREFETCH: Final = _order(
    "PREFETCH",
    zx.ZX_VMO_OP_PREFETCH,
    {},
    lacks("vmo", "READ"),
    *_BEYOND,
    _EMPTY_BEYOND,
    pairs=20,
)

_ANY: Final = {"vmo.kind": "physical", "offset": UINT64_MAX, "size": UINT64_MAX}
"""Hints are for pagers: without a right, beyond every object, of device memory, they are fine."""

HINTS: Final = tuple(
    _order(name, getattr(zx, f"ZX_VMO_OP_{name}"), _ANY | {"vmo.lacks": 0xFFFF_FFFF}, pairs=0)
    for name in ("DONT_NEED", "ALWAYS_NEED")
)

ORDERS: Final = (
    UNKNOWN,
    COMMIT,
    DECOMMIT,
    LOCK,
    TRY_LOCK,
    UNLOCK,
    SYNC,
    CLEAN,
    CLEAN_INVALIDATE,
    INVALIDATE,
    ZERO,
    PREFETCH,
    *HINTS,
)
