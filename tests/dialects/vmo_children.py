"""What is wrong with making a child of a memory object, in Zircon's order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pinfold.dialects import zx
from pinfold.units import UINT64_MAX

from .orders import Also, Fault, Order
from .settings import PAGE, SIZE
from .vmo_making import NULL, handle_faults, lacks

if TYPE_CHECKING:
    from collections.abc import Mapping

_SNAPSHOTS: Final = ("SNAPSHOT", "SNAPSHOT_AT_LEAST_ON_WRITE", "SNAPSHOT_MODIFIED")
_ARGS: Final = {"handle": "vmo", "options": "u32", "offset": "u64", "size": "u64", "out": "out"}
_LARGEST: Final = UINT64_MAX // (32 * PAGE) * (32 * PAGE)
_AT_ALL: Final = (
    Fault("whole pages beyond 64 bits", "OUT_OF_RANGE", {"size": UINT64_MAX}),
    Fault("NO_WRITE and RESIZABLE", "INVALID_ARGS", {"options": Also(0x24)}),
    *handle_faults("vmo"),
    lacks("vmo", "DUPLICATE"),
    lacks("vmo", "READ"),
)
"""Of every kind, and found first."""

_DISCARDABLE: Final = Fault("discardable", "NOT_SUPPORTED", {"vmo.discardable": True})
_UNALIGNED: Final = Fault("unaligned", "INVALID_ARGS", {"offset": 1})
_TOO_LARGE: Final = Fault("larger than can be", "OUT_OF_RANGE", {"size": _LARGEST + 1})
_UNCACHED: Final = Fault("not cached", "BAD_STATE", {"vmo.policy": 3})
_UNKNOWN: Final = Fault("a bit that is no option", "INVALID_ARGS", {"options": Also(0x200)})


def _kind(name: str) -> int:
    found: int = getattr(zx, f"ZX_VMO_CHILD_{name}")
    return found


def _order(
    name: str,
    options: int,
    fields: Mapping[str, Any],
    *faults: Fault,
    pairs: int,
    unlike: Mapping[tuple[str, str], str] | None = None,
) -> Order:
    return Order(
        f"zx_vmo_create_child {name}",
        zx.zx_vmo_create_child,
        _ARGS,
        {"vmo.kind": "plain", "options": options, "offset": 0, "size": SIZE} | dict(fields),
        (*_AT_ALL, *faults),
        pairs,
        unlike or {},
    )


NOTHING: Final = _order(
    "no kind",
    0,
    {"options": _kind("SLICE")},
    _DISCARDABLE,
    Fault("no kind", "INVALID_ARGS", {"options": 0}),
    pairs=26,
)
"""Without a kind nothing succeeds: a slice does, and the kind is what is taken away."""

SLICE: Final = _order(
    "SLICE",
    _kind("SLICE"),
    {},
    _DISCARDABLE,
    _UNKNOWN,
    Fault("a reference as well", "INVALID_ARGS", {"options": Also(_kind("REFERENCE"))}),
    Fault("a snapshot as well", "INVALID_ARGS", {"options": Also(_kind("SNAPSHOT"))}),
    Fault("RESIZABLE", "INVALID_ARGS", {"options": Also(_kind("RESIZABLE"))}),
    _UNALIGNED,
    _TOO_LARGE,
    Fault("more than the parent", "INVALID_ARGS", {"size": SIZE + 1}),
    Fault("beyond the parent", "INVALID_ARGS", {"offset": PAGE}),
    Fault("beyond 64 bits", "INVALID_ARGS", {"offset": UINT64_MAX - PAGE + 1}),
    Fault("resizable", "NOT_SUPPORTED", {"vmo.resizable": True}),
    _UNCACHED,
    NULL,
    pairs=173,
    unlike={
        ("a reference as well", "RESIZABLE"): "both together ask for a right: ACCESS_DENIED",
    },
)

SLICE_OF_SLICE: Final = _order(
    "SLICE of a slice",
    _kind("SLICE"),
    {"vmo.kind": "slice"},
    _UNKNOWN,
    _UNALIGNED,
    _TOO_LARGE,
    Fault("more than the inner slice", "INVALID_ARGS", {"size": SIZE + 1}),
    Fault("beyond the inner slice", "INVALID_ARGS", {"offset": PAGE}),
    NULL,
    pairs=65,
)

SLICE_OF_DEVICE: Final = _order(
    "SLICE of device memory",
    _kind("SLICE"),
    {"vmo.kind": "physical"},
    _UNKNOWN,
    _UNALIGNED,
    _TOO_LARGE,
    Fault("more than the parent", "INVALID_ARGS", {"size": SIZE + 1}),
    Fault("beyond the parent", "INVALID_ARGS", {"offset": PAGE}),
    NULL,
    pairs=65,
)

SLICE_OF_CONTIGUOUS: Final = _order(
    "SLICE of contiguous memory that is not cached",
    _kind("SLICE"),
    {"vmo.kind": "contiguous", "vmo.policy": 1},
    _UNKNOWN,
    _UNALIGNED,
    _TOO_LARGE,
    Fault("more than the parent", "INVALID_ARGS", {"size": SIZE + 1}),
    NULL,
    pairs=54,
)

REFERENCE: Final = _order(
    "REFERENCE",
    _kind("REFERENCE"),
    {"size": 0},
    Fault(
        "RESIZABLE, and the handle has no RESIZE",
        "ACCESS_DENIED",
        {"vmo.as": "open", "options": Also(_kind("RESIZABLE"))},
    ),
    _DISCARDABLE,
    _UNKNOWN,
    Fault("a snapshot as well", "INVALID_ARGS", {"options": Also(_kind("SNAPSHOT_MODIFIED"))}),
    Fault("device memory", "NOT_SUPPORTED", {"vmo.kind": "physical"}),
    Fault("an offset", "INVALID_ARGS", {"offset": PAGE}),
    Fault("a size", "INVALID_ARGS", {"size": SIZE}),
    Fault("a slice", "NOT_SUPPORTED", {"vmo.kind": "slice"}),
    Fault("contiguous", "NOT_SUPPORTED", {"vmo.kind": "contiguous"}),
    _UNCACHED,
    NULL,
    pairs=132,
)

RESIZABLE_REFERENCE: Final = _order(
    "REFERENCE, RESIZABLE",
    _kind("REFERENCE") | _kind("RESIZABLE"),
    {"size": 0, "vmo.resizable": True},
    lacks("vmo", "RESIZE"),
    _DISCARDABLE,
    _UNKNOWN,
    Fault("an offset", "INVALID_ARGS", {"offset": PAGE}),
    Fault("a size", "INVALID_ARGS", {"size": SIZE}),
    _UNCACHED,
    NULL,
    pairs=77,
)


def _snapshot(name: str) -> Order:
    other = next(kind for kind in _SNAPSHOTS if kind != name)
    return _order(
        name,
        _kind(name),
        {},
        _DISCARDABLE,
        _UNKNOWN,
        Fault("two kinds of snapshot", "INVALID_ARGS", {"options": Also(_kind(other))}),
        Fault("device memory", "NOT_SUPPORTED", {"vmo.kind": "physical"}),
        Fault("contiguous", "INVALID_ARGS", {"vmo.kind": "contiguous"}),
        Fault("a slice of contiguous", "INVALID_ARGS", {"vmo.kind": "slice of contiguous"}),
        _UNALIGNED,
        _TOO_LARGE,
        Fault("beyond 64 bits", "OUT_OF_RANGE", {"offset": UINT64_MAX - PAGE + 1, "size": SIZE}),
        Fault("beyond the slice", "OUT_OF_RANGE", {"vmo.kind": "slice", "size": SIZE + 1}),
        _UNCACHED,
        Fault(
            "beyond 64 bits of the ancestor",
            "INVALID_ARGS",
            {"vmo.kind": "far", "offset": 14 * PAGE, "size": SIZE},
        ),
        Fault("a slice", "NOT_SUPPORTED", {"vmo.kind": "slice"}),
        Fault("pinned", "BAD_STATE", {"vmo.pinned": 3}),
        NULL,
        pairs=187,
    )


ORDERS: Final = (
    NOTHING,
    SLICE,
    SLICE_OF_SLICE,
    SLICE_OF_DEVICE,
    SLICE_OF_CONTIGUOUS,
    REFERENCE,
    RESIZABLE_REFERENCE,
    *map(_snapshot, _SNAPSHOTS),
)
