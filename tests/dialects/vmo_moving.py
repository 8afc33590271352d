"""What is wrong with a cache policy, an executable handle or moved pages, in Zircon's order."""

from __future__ import annotations

from typing import Final

from pinfold.dialects import zx
from pinfold.units import UINT64_MAX

from .orders import Fault, Order
from .settings import PAGE, SIZE
from .vmo_making import NULL, handle_faults, lacks

_CHILDREN: Final = ("slice", "reference", "snapshot")

CACHE_POLICY: Final = Order(
    "zx_vmo_set_cache_policy",
    zx.zx_vmo_set_cache_policy,
    {"handle": "vmo", "policy": "u32"},
    {"vmo.kind": "plain", "policy": zx.ZX_CACHE_POLICY_WRITE_COMBINING},
    (
        Fault("a bit beyond the mask", "INVALID_ARGS", {"policy": 4}),
        Fault("many bits beyond it", "INVALID_ARGS", {"policy": 1 << 31}),
        *handle_faults("vmo"),
        lacks("vmo", "MAP"),
        Fault("pinned", "BAD_STATE", {"vmo.pinned": 0}),
        Fault("mapped", "BAD_STATE", {"vmo.mapped": True}),
        *(Fault(f"it has a {kind}", "BAD_STATE", {"vmo.child": kind}) for kind in _CHILDREN),
        *(Fault(f"a {kind}", "BAD_STATE", {"vmo.kind": kind}) for kind in _CHILDREN),
        Fault("discardable", "BAD_STATE", {"vmo.discardable": True}),
    ),
    pairs=84,
)

SAME_POLICY: Final = Order(
    "zx_vmo_set_cache_policy to CACHED, which it is",
    zx.zx_vmo_set_cache_policy,
    {"handle": "vmo", "policy": "u32"},
    {"vmo.kind": "plain", "vmo.discardable": True, "policy": 0},
    (
        lacks("vmo", "MAP"),
        Fault("pinned", "BAD_STATE", {"vmo.pinned": 0}),
        Fault("mapped", "BAD_STATE", {"vmo.mapped": True}),
    ),
    pairs=3,
)

DEVICE_POLICY: Final = Order(
    "zx_vmo_set_cache_policy of device memory, pinned",
    zx.zx_vmo_set_cache_policy,
    {"handle": "vmo", "policy": "u32"},
    {"vmo.kind": "physical", "vmo.pinned": 0, "policy": 3},
    (
        Fault("a bit beyond the mask", "INVALID_ARGS", {"policy": 7}),
        lacks("vmo", "MAP"),
        Fault("mapped", "BAD_STATE", {"vmo.mapped": True}),
        Fault("it has a slice", "BAD_STATE", {"vmo.child": "slice", "vmo.kind": "physical"}),
        Fault("a slice", "BAD_STATE", {"vmo.kind": "slice of physical"}),
    ),
    pairs=9,
)

SAME_DEVICE_POLICY: Final = Order(
    "zx_vmo_set_cache_policy of device memory, the same",
    zx.zx_vmo_set_cache_policy,
    {"handle": "vmo", "policy": "u32"},
    {"vmo.kind": "slice of physical", "vmo.mapped": True, "policy": 1},
    (*handle_faults("vmo"), lacks("vmo", "MAP"), Fault("another", "BAD_STATE", {"policy": 2})),
    pairs=4,
)

EXECUTABLE: Final = Order(
    "zx_vmo_replace_as_executable",
    zx.zx_vmo_replace_as_executable,
    {"handle": "vmo", "vmex": "vmex", "out": "out"},
    {"vmo.kind": "plain", "vmo.lacks": 0xFFFF_FFFF, "vmex.kind": "vmex", "vmex.lacks": 0xFFFF},
    (
        Fault("vmo: no handle", "BAD_HANDLE", {"vmo.as": "none"}),
        Fault("vmo: a closed handle", "BAD_HANDLE", {"vmo.as": "closed"}),
        Fault("vmo: another type", "BAD_HANDLE", {"vmo.as": "bti"}),
        Fault("vmex: a closed handle", "BAD_HANDLE", {"vmex.as": "closed"}),
        Fault("vmex: another type", "WRONG_TYPE", {"vmex.as": "bti"}),
        Fault("vmex: another kind", "WRONG_TYPE", {"vmex.kind": "mmio", "vmex.as": "open"}),
        Fault("vmex: another base", "OUT_OF_RANGE", {"vmex.kind": "hypervisor", "vmex.as": "open"}),
        NULL,
    ),
    pairs=19,
    consumes=frozenset({"handle"}),
)

AMBIENT_EXECUTABLE: Final = Order(
    "zx_vmo_replace_as_executable by the job's policy",
    zx.zx_vmo_replace_as_executable,
    {"handle": "vmo", "vmex": "vmex", "out": "out"},
    {"vmo.kind": "plain", "vmex.as": "none"},
    (
        Fault("vmo: no handle", "BAD_HANDLE", {"vmo.as": "none"}),
        Fault("vmo: a closed handle", "BAD_HANDLE", {"vmo.as": "closed"}),
        Fault("vmo: another type", "BAD_HANDLE", {"vmo.as": "bti"}),
        NULL,
    ),
    pairs=3,
    consumes=frozenset({"handle"}),
)


def _side(handle: str, offset: str) -> tuple[Fault, ...]:
    """What is found out about one of the two objects, the source first."""
    kind = f"{handle}.kind"
    return (
        Fault(f"{handle}: device memory", "NOT_SUPPORTED", {kind: "physical"}),
        Fault(f"{handle}: contiguous", "NOT_SUPPORTED", {kind: "contiguous"}),
        Fault(f"{handle}: a slice of contiguous", "NOT_SUPPORTED", {kind: "slice of contiguous"}),
        Fault(f"{handle}: beyond the object", "OUT_OF_RANGE", {offset: SIZE}),
        Fault(f"{handle}: beyond 64 bits", "OUT_OF_RANGE", {offset: UINT64_MAX - PAGE + 1}),
        Fault(f"{handle}: pinned", "BAD_STATE", {f"{handle}.pinned": 1}),
    )


TRANSFER: Final = Order(
    "zx_vmo_transfer_data",
    zx.zx_vmo_transfer_data,
    {
        "dst_vmo": "dst",
        "options": "u32",
        "offset": "u64",
        "length": "u64",
        "src_vmo": "src",
        "src_offset": "u64",
    },
    {
        "dst.kind": "plain",
        "options": 0,
        "offset": 0,
        "length": 2 * PAGE,
        "src.kind": "plain",
        "src_offset": 0,
    },
    (
        Fault("options", "INVALID_ARGS", {"options": 1}),
        Fault("an unaligned offset", "INVALID_ARGS", {"offset": 1}),
        Fault("an unaligned length", "INVALID_ARGS", {"length": PAGE + 1}),
        Fault("an unaligned offset in the source", "INVALID_ARGS", {"src_offset": 1}),
        *handle_faults("dst"),
        lacks("dst", "WRITE"),
        *handle_faults("src"),
        lacks("src", "READ"),
        lacks("src", "WRITE"),
        *_side("src", "src_offset"),
        *_side("dst", "offset"),
    ),
    pairs=273,
)

ORDERS: Final = (
    CACHE_POLICY,
    SAME_POLICY,
    DEVICE_POLICY,
    SAME_DEVICE_POLICY,
    EXECUTABLE,
    AMBIENT_EXECUTABLE,
    TRANSFER,
)
