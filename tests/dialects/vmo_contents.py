"""What is wrong with reading, writing and resizing a memory object, in Zircon's order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pinfold.dialects import zx
from pinfold.objects.memory_object import MAX_SIZE
from pinfold.units import UINT64_MAX

from .orders import Fault, Order
from .settings import PAGE, SIZE
from .vmo_making import NULL, handle_faults, lacks

if TYPE_CHECKING:
    from collections.abc import Callable

DEVICE_MEMORY: Final = Fault("device memory", "NOT_SUPPORTED", {"vmo.kind": "physical"})
DISCARDED: Final = Fault("discarded", "NOT_FOUND", {"vmo.discardable": True, "vmo.discarded": True})


def _bytes(name: str, call: Callable[..., int], right: str, *, pairs: int) -> Order:
    """Reading and writing differ in the right, and in what is done to the buffer."""
    return Order(
        name,
        call,
        {"handle": "vmo", "buffer": "buffer", "offset": "u64", "length": "u64"},
        {"vmo.kind": "plain", "buffer": PAGE, "offset": PAGE, "length": PAGE},
        (
            *handle_faults("vmo"),
            lacks("vmo", right),
            DEVICE_MEMORY,
            Fault("beyond 64 bits", "OUT_OF_RANGE", {"offset": UINT64_MAX, "length": PAGE}),
            Fault("not cached", "BAD_STATE", {"vmo.policy": 1}),
            Fault("beyond the object", "OUT_OF_RANGE", {"offset": SIZE, "length": PAGE}),
            Fault("longer than the object", "OUT_OF_RANGE", {"offset": PAGE, "length": SIZE}),
            Fault("empty, and beyond", "OUT_OF_RANGE", {"offset": SIZE + 1, "length": 0}),
            DISCARDED,
            Fault("a NULL buffer", "NOT_FOUND", {"buffer": "null"}),
            Fault("a short buffer", "NOT_FOUND", {"buffer": PAGE - 1, "length": PAGE}),
        ),
        pairs,
    )


READ: Final = _bytes("zx_vmo_read", zx.zx_vmo_read, "READ", pairs=61)
WRITE: Final = _bytes("zx_vmo_write", zx.zx_vmo_write, "WRITE", pairs=61)

READ_ONLY: Final = Order(
    "zx_vmo_read into what cannot be written",
    zx.zx_vmo_read,
    {"handle": "vmo", "buffer": "buffer", "offset": "u64", "length": "u64"},
    {"vmo.kind": "plain", "buffer": PAGE, "offset": 0, "length": PAGE},
    (
        lacks("vmo", "READ"),
        Fault("not cached", "BAD_STATE", {"vmo.policy": 2}),
        DISCARDED,
        Fault("a read-only buffer", "NOT_FOUND", {"buffer": "read-only"}),
    ),
    pairs=5,
)

_ASKS: Final = {"handle": "vmo", "out": "out"}
_SETS: Final = {"handle": "vmo", "size": "u64"}

GET_SIZE: Final = Order(
    "zx_vmo_get_size",
    zx.zx_vmo_get_size,
    _ASKS,
    {"vmo.kind": "plain", "vmo.lacks": int(zx.ZX_RIGHT_READ | zx.ZX_RIGHT_GET_PROPERTY)},
    (*handle_faults("vmo"), NULL),
    pairs=3,
)

GET_STREAM_SIZE: Final = Order(
    "zx_vmo_get_stream_size",
    zx.zx_vmo_get_stream_size,
    _ASKS,
    {"vmo.kind": "plain", "vmo.lacks": int(zx.ZX_RIGHT_READ | zx.ZX_RIGHT_GET_PROPERTY)},
    (*handle_faults("vmo"), NULL),
    pairs=3,
)

_FIXED_KINDS: Final = tuple(
    Fault(kind, "UNAVAILABLE", {"vmo.kind": kind, "vmo.resizable": False})
    for kind in ("contiguous", "physical", "slice of contiguous", "slice of physical")
)

SET_SIZE: Final = Order(
    "zx_vmo_set_size",
    zx.zx_vmo_set_size,
    _SETS,
    {"vmo.kind": "plain", "vmo.resizable": True, "size": PAGE + 1},
    (
        *handle_faults("vmo"),
        lacks("vmo", "WRITE"),
        Fault(
            "vmo: no RESIZE",
            "ACCESS_DENIED",
            {"vmo.as": "open", "vmo.resizable": True, "vmo.lacks": int(zx.ZX_RIGHT_RESIZE)},
        ),
        *_FIXED_KINDS,
        Fault("whole pages beyond 64 bits", "OUT_OF_RANGE", {"size": UINT64_MAX}),
        Fault("of one size", "UNAVAILABLE", {"vmo.kind": "plain", "vmo.resizable": False}),
        Fault("a slice", "UNAVAILABLE", {"vmo.kind": "slice", "vmo.resizable": False}),
        Fault("larger than can be", "OUT_OF_RANGE", {"size": MAX_SIZE + 1}),
        Fault("a pinned page is cut off", "BAD_STATE", {"vmo.pinned": 2, "size": PAGE + 1}),
        Fault(
            "beyond 64 bits of the ancestor",
            "INVALID_ARGS",
            {"vmo.kind": "far", "vmo.resizable": True, "size": 16 * PAGE},
        ),
    ),
    pairs=62,
)

SET_STREAM_SIZE: Final = Order(
    "zx_vmo_set_stream_size",
    zx.zx_vmo_set_stream_size,
    _SETS,
    {"vmo.kind": "plain", "size": PAGE + 1},
    (
        *handle_faults("vmo"),
        lacks("vmo", "WRITE"),
        *(
            Fault(kind, "NOT_SUPPORTED", {"vmo.kind": kind})
            for kind in ("contiguous", "physical", "slice of contiguous", "slice of physical")
        ),
        Fault("more than the object", "OUT_OF_RANGE", {"size": SIZE + 1}),
        Fault("not cached, and in a page", "BAD_STATE", {"vmo.policy": 1, "size": PAGE + 1}),
    ),
    pairs=32,
)

ORDERS: Final = (
    READ,
    WRITE,
    READ_ONLY,
    GET_SIZE,
    GET_STREAM_SIZE,
    SET_SIZE,
    SET_STREAM_SIZE,
)
