"""What the tables of Magenta's calls share: an order of checks, and faults of handles.

Source: the handle table of Magenta's kernel. It looks at a handle in two ways, and the tables say
which: "required" has ACCESS_DENIED before WRONG_TYPE, the other way round without rights.
"""

from __future__ import annotations

from typing import Any, Final

from pinfold.dialects import mx
from tests.dialects.orders import Also, Fault, Order

from .settings import arranged, impossible

U64: Final = (1 << 64) - 1

PAIRS: Final[dict[str, int]] = {
    "mx_bti_pin": 442,
    "mx_bti_unpin": 24,
    "mx_iommu_create": 43,
    "mx_bti_create": 3,
    "mx_vmo_create": 5,
    "mx_vmo_clone": 58,
    "mx_vmo_create_contiguous": 51,
    "mx_vmo_create_physical": 39,
    "mx_vmo_read": 60,
    "mx_vmo_write": 49,
    "mx_vmo_get_size": 4,
    "mx_vmo_set_size": 20,
    "mx_vmo_set_size, more": 7,
    "mx_vmo_op_range COMMIT": 10,
    "mx_vmo_op_range DECOMMIT": 15,
    "mx_vmo_op_range LOOKUP": 40,
    "mx_vmo_op_range CACHE_SYNC": 15,
    "mx_vmo_op_range CACHE_INVALIDATE": 15,
    "mx_vmo_op_range CACHE_CLEAN": 15,
    "mx_vmo_op_range CACHE_CLEAN_INVALIDATE": 15,
    "mx_vmo_set_cache_policy": 10,
    "mx_handle_duplicate": 11,
    "mx_handle_replace": 4,
    "mx_vmar_map": 336,
    "mx_vmar_map SPECIFIC": 413,
    "mx_vmar_map SPECIFIC_OVERWRITE": 311,
    "mx_vmar_map without READ": 40,
    "mx_vmar_allocate": 202,
    "mx_vmar_allocate SPECIFIC": 204,
    "mx_vmar_unmap": 45,
    "mx_vmar_protect": 99,
    "mx_vmar_protect without READ": 11,
    "mx_vmar_destroy": 0,
}
"""How many pairs of faults each call can have at once."""


def order(
    name: str,
    function: Any,
    args: dict[str, str],
    fields: dict[str, Any],
    faults: tuple[Fault, ...],
    unlike: dict[tuple[str, str], str] | None = None,
) -> Order:
    """An `Order` of a call of Magenta's."""
    return Order(
        name,
        function,
        args,
        fields,
        faults,
        PAIRS[name],
        unlike or {},
        dialect=mx,
        arranged=arranged,
        impossible=impossible,
    )


def refused(what: str, status: str, **fields: Any) -> Fault:
    """A fault in fields whose names have no dot."""
    return Fault(what, status, fields)


def no_handle(handle: str) -> tuple[Fault, ...]:
    """A number that names nothing."""
    return (
        Fault(f"{handle}: no handle", "BAD_HANDLE", {f"{handle}.as": "none"}),
        Fault(f"{handle}: a closed handle", "BAD_HANDLE", {f"{handle}.as": "closed"}),
    )


def other(handle: str, kind: str, status: str = "WRONG_TYPE") -> Fault:
    """A handle to another type of object."""
    return Fault(f"{handle}: a {kind}", status, {f"{handle}.as": kind})


def lacks(handle: str, right: str, **fields: Any) -> Fault:
    """A handle to the right type of object, without a right."""
    bit = Also(getattr(mx, f"MX_RIGHT_{right}"))
    found = {f"{handle}.as": "open", f"{handle}.lacks": bit, **fields}
    return Fault(f"{handle}: no {right}", "ACCESS_DENIED", found)


def required(handle: str, right: str, *, barren: str, rich: str) -> tuple[Fault, ...]:
    """The look-up with required rights.

    Args:
      barren: another type of object, whose handles lack the right; rich: one whose have it.
    """
    return (
        *no_handle(handle),
        lacks(handle, right),
        other(handle, barren, "ACCESS_DENIED"),
        other(handle, rich),
    )
