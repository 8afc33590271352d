"""Handles to try calls on, by number, and calls that are expected to succeed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pinfold as pf
from pinfold.dialects import Out, zx
from pinfold.dialects.calling import number_of
from pinfold.dialects.zx.records import TOPICS

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = zx.ZX_PAGE_SIZE
_REGISTERS = 0xE000_0000  # device memory: there is RAM below 2 GiB


def status(name: str) -> int:
    """The number of a status: ``BAD_HANDLE`` is ZX_ERR_BAD_HANDLE."""
    found = zx.ZX_OK if name == "OK" else getattr(zx, f"ZX_ERR_{name}")
    assert isinstance(found, int)
    return found


def ok(call: Callable[..., int], *args: Any) -> Any:
    """What a call returns through its last parameter; it is to succeed."""
    out = Out()
    assert zx.zx_status_get_string(call(*args, out)) == "ZX_OK"
    return out.value


def closed() -> int:
    """A number that was a handle."""
    number: int = ok(zx.zx_vmo_create, PAGE, 0)
    assert zx.zx_handle_close(number) == zx.ZX_OK
    return number


def vmo(size: int = 4 * PAGE, options: int = 0) -> int:
    """A memory object."""
    made: int = ok(zx.zx_vmo_create, size, options)
    return made


def contiguous() -> int:
    """A memory object that is contiguous."""
    made: int = ok(zx.zx_vmo_create_contiguous, bti(), PAGE, 0)
    return made


def region(size: int = 16 * PAGE) -> int:
    """A region in which anything may be mapped."""
    options = (
        zx.ZX_VM_CAN_MAP_READ
        | zx.ZX_VM_CAN_MAP_WRITE
        | zx.ZX_VM_CAN_MAP_EXECUTE
        | zx.ZX_VM_CAN_MAP_SPECIFIC
    )
    made, address = Out(), Out()
    call = zx.zx_vmar_allocate(zx.zx_vmar_root_self(), options, 0, size, made, address)
    assert call == zx.ZX_OK
    assert isinstance(made.value, int)
    return made.value


def iommu() -> int:
    """An IOMMU that translates nothing."""
    return number_of(pf.open_bus("stub"))


def bti() -> int:
    """A device's authority."""
    made: int = ok(zx.zx_bti_create, iommu(), 0, 0x10)
    return made


def pmt() -> int:
    """A token of a pin."""
    addrs = bytearray(8)
    made: int = ok(zx.zx_bti_pin, bti(), zx.ZX_BTI_PERM_READ, vmo(), 0, PAGE, addrs, 1)
    return made


def resource() -> int:
    """The authority over some device memory."""
    return number_of(pf.Resource(_REGISTERS, 4 * PAGE, name="registers"))


def process() -> int:
    """The current process."""
    return zx.zx_process_self()


ALL: dict[str, Callable[[], int]] = {
    "vmo": vmo,
    "region": region,
    "iommu": iommu,
    "bti": bti,
    "pmt": pmt,
    "resource": resource,
    "process": process,
}
"""A maker for every type of object that there is here."""


def without(right: int, number: int) -> int:
    """The handle in another's place that lacks a right."""
    rights = info(number, zx.ZX_INFO_HANDLE_BASIC).rights
    assert rights & right == right
    made: int = ok(zx.zx_handle_replace, number, rights & ~right)
    return made


def info(number: int, topic: int) -> Any:
    """What a topic says of an object; all records of a topic that gives several."""
    counts = Out()
    layout, many = TOPICS[topic]
    if not many:
        buffer = bytearray(layout.size)
        assert zx.zx_object_get_info(number, topic, buffer, len(buffer), None, None) == zx.ZX_OK
        return zx.unpack(topic, buffer)
    assert zx.zx_object_get_info(number, topic, b"", 0, None, counts) == zx.ZX_OK
    buffer = bytearray(layout.size * counts.value)
    assert zx.zx_object_get_info(number, topic, buffer, len(buffer), None, None) == zx.ZX_OK
    return zx.unpack(topic, buffer)
