"""Handles to try Magenta's calls on, by number, and calls that are expected to succeed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import pinfold as pf
from pinfold.dialects import Out, mx
from pinfold.dialects.calling import face, number_of
from pinfold.dialects.mx.records import TOPICS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Strict = Literal["docs", "kernel"] | None

PAGE = mx.PAGE_SIZE
READ, WRITE = mx.MX_VM_FLAG_PERM_READ, mx.MX_VM_FLAG_PERM_WRITE
EXECUTE = mx.MX_VM_FLAG_PERM_EXECUTE
CAN_ALL = (
    mx.MX_VM_FLAG_CAN_MAP_READ
    | mx.MX_VM_FLAG_CAN_MAP_WRITE
    | mx.MX_VM_FLAG_CAN_MAP_EXECUTE
    | mx.MX_VM_FLAG_CAN_MAP_SPECIFIC
)


def named(status: int) -> str:
    """The status without its prefix: ``OK``, ``BAD_HANDLE``."""
    return mx.mx_status_get_string(status).removeprefix("MX_").removeprefix("ERR_")


def ok(call: Callable[..., int], *args: Any) -> Any:
    """What a call returns through its last parameter; it is to succeed."""
    out = Out()
    assert mx.mx_status_get_string(call(*args, out)) == "MX_OK"
    return out.value


def fine(call: Callable[..., int], *args: Any) -> None:
    """A call without output is to succeed."""
    assert mx.mx_status_get_string(call(*args)) == "MX_OK"


def vmo(size: int = 4 * PAGE, *, committed: bool = True) -> int:
    """A memory object, of which every page has memory."""
    made: int = ok(mx.mx_vmo_create, size, 0)
    if committed:
        fine(mx.mx_vmo_op_range, made, mx.MX_VMO_OP_COMMIT, 0, size, None, 0)
    return made


def contiguous(size: int = 3 * PAGE) -> int:
    """A memory object that is contiguous."""
    made: int = ok(mx.mx_vmo_create_contiguous, mx.root_resource(), size, 0)
    return made


def iommu(bus: str = "stub") -> int:
    """An IOMMU."""
    if bus == "stub":
        kind = mx.MX_IOMMU_TYPE_DUMMY
        made: int = ok(mx.mx_iommu_create, mx.root_resource(), kind, b"\0", 1)
        return made
    return number_of(pf.open_bus(bus))


def bti(bus: str = "stub") -> int:
    """A device's authority."""
    made: int = ok(mx.mx_bti_create, iommu(bus), 0x10)
    return made


def region(
    size: int = 16 * PAGE, flags: int = CAN_ALL, offset: int = 0, *, parent: int | None = None
) -> int:
    """A region in which anything may be mapped, in the root region."""
    made, address = Out(), Out()
    where = mx.mx_vmar_root_self() if parent is None else parent
    fine(mx.mx_vmar_allocate, where, offset, size, flags, made, address)
    assert isinstance(made.value, int)
    return made.value


def resource() -> int:
    """The root resource, by a number of its own."""
    return twin(mx.root_resource())


def process() -> int:
    """The current process."""
    return mx.mx_process_self()


ALL: dict[str, Callable[[], int]] = {
    "vmo": lambda: vmo(PAGE),
    "region": lambda: region(PAGE),
    "iommu": iommu,
    "bti": bti,
    "root": resource,
    "process": process,
}
"""A maker for every type of object that there is here."""


def closed() -> int:
    """A number that was a handle."""
    number = twin(mx.mx_process_self())
    fine(mx.mx_handle_close, number)
    return number


def twin(number: int) -> int:
    """Another handle to the same object."""
    made: int = ok(mx.mx_handle_duplicate, number, mx.MX_RIGHT_SAME_RIGHTS)
    return made


def rights_of(number: int) -> int:
    """What a handle may do, as its holder is told."""
    found: int = info(number, mx.MX_INFO_HANDLE_BASIC).rights
    return found


def without(right: int, number: int) -> int:
    """The handle in another's place that lacks a right."""
    rights = rights_of(number)
    assert rights & right == right
    made: int = ok(mx.mx_handle_replace, number, rights & ~right)
    return made


def info(number: int, topic: int) -> Any:
    """What a topic says of an object; all records of a topic that gives several."""
    counts = Out()
    layout, many = TOPICS[topic]
    if not many:
        buffer = bytearray(layout.size)
        fine(mx.mx_object_get_info, number, topic, buffer, len(buffer), None, None)
        return mx.unpack(topic, buffer)
    fine(mx.mx_object_get_info, number, topic, b"", 0, None, counts)
    buffer = bytearray(layout.size * counts.value)
    fine(mx.mx_object_get_info, number, topic, buffer, len(buffer), None, None)
    return mx.unpack(topic, buffer)


# Pins ---------------------------------------------------------------------------------------------


def attempt(
    bti: int, vmo: int, offset: int = 0, size: int = PAGE, perms: int = READ, room: int = 64
) -> tuple[str, NDArray[np.uint64]]:
    """The status of a pin, and the addresses that it gave."""
    addrs, actual = np.zeros(room, np.uint64), Out()
    found = named(mx.mx_bti_pin(bti, vmo, offset, size, perms, addrs, room, actual))
    if actual.value is None:
        assert not addrs.any()
        return found, addrs[:0]
    assert not addrs[actual.value :].any()
    return found, addrs[: actual.value]


def pin(
    bti: int, vmo: int, offset: int = 0, size: int = PAGE, perms: int = READ
) -> NDArray[np.uint64]:
    """The addresses of a pin that is to succeed."""
    found, addrs = attempt(bti, vmo, offset, size, perms)
    assert found == "OK"
    return addrs


def unpin(bti: int, addrs: NDArray[np.uint64]) -> str:
    """The status of an unpin."""
    return named(mx.mx_bti_unpin(bti, addrs, len(addrs)))


def decommit(vmo: int, offset: int = 0, size: int = PAGE) -> str:
    """The status of a decommit."""
    return named(mx.mx_vmo_op_range(vmo, mx.MX_VMO_OP_DECOMMIT, offset, size, None, 0))


def counts(vmo: int, pages: int) -> list[int]:
    """How often each page of an object is pinned."""
    target: Any = face(vmo).object
    return [target.pages.pin_count(page) for page in range(pages)]
