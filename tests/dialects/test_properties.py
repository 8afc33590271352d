"""zx_object_get_property, zx_object_set_property.

Source: their pages; Zircon's kernel for the order of checks, which a buffer that ends too early
comes last in, but for a name.
"""

from __future__ import annotations

from sys import byteorder
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pinfold.dialects import Out, zx

from . import things
from .faulty import Call, Fault, attempts, check
from .things import PAGE, info, ok

if TYPE_CHECKING:
    from collections.abc import Callable

    import pinfold as pf

pytestmark = pytest.mark.usefixtures("process")

NAME, SIZE = zx.ZX_PROP_NAME, zx.ZX_PROP_VMO_CONTENT_SIZE
UNKNOWN = zx.ZX_PROP_SOCKET_RX_THRESHOLD
NUMBER = (PAGE + 5).to_bytes(8, byteorder)


def without(right: int) -> Callable[[], int]:
    return lambda: things.without(right, things.vmo())


def neither() -> int:
    """A device's authority whose handle has lost WRITE: that is found out before its type."""
    return things.without(zx.ZX_RIGHT_WRITE, things.bti())


def get(prop: int, room: int) -> Call:
    """Reading a property, with everything that can be wrong with it."""
    other = things.process if prop == NAME else things.bti
    return Call(
        zx.zx_object_get_property,
        {
            "handle": things.vmo,
            "property": lambda: prop,
            "value": lambda: bytearray(40),
            "value_size": lambda: 40,
        },
        (
            Fault("NULL", "value", lambda: None, "INVALID_ARGS"),
            Fault("no handle", "handle", lambda: 0, "BAD_HANDLE"),
            Fault("a closed handle", "handle", things.closed, "BAD_HANDLE"),
            Fault("no right", "handle", without(zx.ZX_RIGHT_GET_PROPERTY), "ACCESS_DENIED"),
            Fault("a region", "handle", things.region, "ACCESS_DENIED"),
            Fault("a token", "handle", things.pmt, "ACCESS_DENIED"),
            Fault("a resource", "handle", things.resource, "ACCESS_DENIED"),
            Fault("an IOMMU", "handle", things.iommu, "ACCESS_DENIED"),
            Fault("no such property", "property", lambda: UNKNOWN, "NOT_SUPPORTED"),
            Fault("no room", "value_size", lambda: room - 1, "BUFFER_TOO_SMALL"),
            Fault("no room at all", "value_size", lambda: 0, "BUFFER_TOO_SMALL"),
            Fault("another type", "handle", other, "WRONG_TYPE"),
            Fault("a short buffer", "value", lambda: bytearray(39), "INVALID_ARGS"),
            Fault("a read-only buffer", "value", lambda: bytes(40), "INVALID_ARGS"),
        ),
        "get name" if prop == NAME else "get content size",
    )


def set_(prop: int) -> Call:
    """Setting a property, with everything that can be wrong with it."""
    denied = [
        Fault("NULL", "value", lambda: None, "INVALID_ARGS"),
        Fault("no handle", "handle", lambda: 0, "BAD_HANDLE"),
        Fault("a closed handle", "handle", things.closed, "BAD_HANDLE"),
        Fault("no right", "handle", without(zx.ZX_RIGHT_SET_PROPERTY), "ACCESS_DENIED"),
        Fault("a region", "handle", things.region, "ACCESS_DENIED"),
        Fault("no such property", "property", lambda: UNKNOWN, "NOT_SUPPORTED"),
    ]
    of_a_name = [
        Fault("a short buffer", "value", lambda: b"na", "INVALID_ARGS"),
        Fault("a longer name", "value_size", lambda: 2**64 - 1, "INVALID_ARGS"),
        Fault("another type", "handle", things.process, "WRONG_TYPE"),
    ]
    of_a_size = [
        Fault("without WRITE", "handle", without(zx.ZX_RIGHT_WRITE), "ACCESS_DENIED"),
        Fault("another type without WRITE", "handle", neither, "ACCESS_DENIED"),
        Fault("a short number", "value_size", lambda: 7, "BUFFER_TOO_SMALL"),
        Fault("no number", "value_size", lambda: 0, "BUFFER_TOO_SMALL"),
        Fault("another type", "handle", things.bti, "WRONG_TYPE"),
        Fault("a short buffer", "value", lambda: NUMBER[:7], "INVALID_ARGS"),
        Fault("a longer number", "value_size", lambda: 9, "INVALID_ARGS"),
        Fault("contiguous memory", "handle", things.contiguous, "NOT_SUPPORTED"),
    ]
    value = b"name" if prop == NAME else NUMBER
    return Call(
        zx.zx_object_set_property,
        {
            "handle": things.vmo,
            "property": lambda: prop,
            "value": lambda: value,
            "value_size": lambda: len(value),
        },
        (*denied, *(of_a_name if prop == NAME else of_a_size)),
        "set name" if prop == NAME else "set content size",
    )


CALLS = (get(NAME, 32), get(SIZE, 8), set_(NAME), set_(SIZE))


@pytest.mark.parametrize(("call", "faults"), attempts(CALLS))
def test_the_first_fault_decides(call: Call, faults: tuple[Fault, ...]) -> None:
    """Source: the kernel's order of checks; the buffer is untouched."""
    args = check(call, faults)
    if call.function is zx.zx_object_get_property:
        assert not args["value"] or not any(args["value"])


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_without_a_fault_it_succeeds(call: Call) -> None:
    assert call.attempt()[0] == "ZX_OK"


# Names --------------------------------------------------------------------------------------------

NAMES = [
    (b"", b""),
    (b"\0", b""),
    (b"v", b"v"),
    (b"two\0words", b"two"),
    (b"x" * 31, b"x" * 31),
    (b"x" * 32, b"x" * 31),
    (b"x" * 31 + b"\0", b"x" * 31),
    (b"y" * 1000, b"y" * 31),
    (b"\xff\xfe no text", b"\xff\xfe no text"),
    ("größe".encode(), "größe".encode()),
    (b"x" * 30 + "ö".encode(), b"x" * 30 + "ö".encode()[:1]),
]


@pytest.mark.parametrize("make", [things.vmo, things.bti], ids=["vmo", "bti"])
@pytest.mark.parametrize(("given", "kept"), NAMES)
def test_a_name_keeps_31_bytes_up_to_its_nul(
    make: Callable[[], int], given: bytes, kept: bytes
) -> None:
    """Source: ZX_PROP_NAME. It is cut and never refused; 32 bytes are written, padded with NULs."""
    number = make()
    assert zx.zx_object_set_property(number, NAME, b"before", 6) == zx.ZX_OK
    assert zx.zx_object_set_property(number, NAME, given, len(given)) == zx.ZX_OK
    buffer = np.full(40, 0xEE, np.uint8)
    assert zx.zx_object_get_property(number, NAME, buffer, 40) == zx.ZX_OK
    assert bytes(buffer) == kept.ljust(32, b"\0") + b"\xee" * 8


def test_a_name_is_as_long_as_it_is_said_to_be() -> None:
    number, buffer = things.vmo(), bytearray(32)
    assert zx.zx_object_set_property(number, NAME, b"longer", 4) == zx.ZX_OK
    assert zx.zx_object_get_property(number, NAME, buffer, 32) == zx.ZX_OK
    assert buffer.rstrip(b"\0") == b"long"
    assert zx.zx_object_set_property(number, NAME, b"", 0) == zx.ZX_OK
    assert zx.zx_object_get_property(number, NAME, buffer, 32) == zx.ZX_OK
    assert buffer == bytes(32)


def test_a_name_is_the_objects_and_no_handles(process: pf.Process) -> None:
    """Every handle to it shows it, and so does what Python has. Source: ZX_PROP_NAME."""
    number = things.vmo()
    other = ok(zx.zx_handle_duplicate, number, zx.ZX_RIGHT_SAME_RIGHTS)
    assert zx.zx_object_set_property(number, NAME, b"shared", 6) == zx.ZX_OK
    buffer = bytearray(32)
    assert zx.zx_object_get_property(other, NAME, buffer, 32) == zx.ZX_OK
    assert buffer.rstrip(b"\0") == b"shared"
    assert info(other, zx.ZX_INFO_VMO).name == "shared"
    target = process.handles[number].object
    assert target is not None
    assert target.name == "shared"


# Content size -------------------------------------------------------------------------------------


def content_size(number: int) -> int:
    buffer = bytearray(8)
    assert zx.zx_object_get_property(number, SIZE, buffer, 8) == zx.ZX_OK
    return int.from_bytes(buffer, byteorder)


SIZES = [0, 1, PAGE - 1, PAGE, PAGE + 1, 4 * PAGE, 4 * PAGE + 1, 2**64 - 1]


@pytest.mark.parametrize("size", SIZES)
def test_a_content_size_is_kept_whatever_it_is(size: int) -> None:
    """Source: ZX_PROP_VMO_CONTENT_SIZE; beyond the end of the object as well, as it always was."""
    number, out = things.vmo(4 * PAGE - 7), Out()
    assert content_size(number) == 4 * PAGE - 7
    raw = size.to_bytes(8, byteorder)
    assert zx.zx_object_set_property(number, SIZE, raw, 8) == zx.ZX_OK
    assert content_size(number) == size
    assert zx.zx_vmo_get_stream_size(number, out) == zx.ZX_OK
    assert out.value == size
    assert info(number, zx.ZX_INFO_VMO).size_bytes == 4 * PAGE


ZEROED: list[tuple[int, int]] = [(0, 0), (5, 5), (PAGE + 1, PAGE + 1), (2 * PAGE, 2 * PAGE)]


@pytest.mark.parametrize(("size", "left"), [*ZEROED, (2 * PAGE + 1, 2 * PAGE)])
def test_what_lies_beyond_the_content_is_zeroed(size: int, left: int) -> None:
    """Source: zx_vmo_set_stream_size; a size beyond the end zeroes nothing."""
    number = things.vmo(2 * PAGE)
    assert zx.zx_vmo_write(number, b"\xff" * (2 * PAGE), 0, 2 * PAGE) == zx.ZX_OK
    raw = size.to_bytes(8, byteorder)
    assert zx.zx_object_set_property(number, SIZE, raw, 8) == zx.ZX_OK
    buffer = bytearray(2 * PAGE)
    assert zx.zx_vmo_read(number, buffer, 0, 2 * PAGE) == zx.ZX_OK
    assert buffer == b"\xff" * left + bytes(2 * PAGE - left)


def test_a_content_size_needs_no_right_to_resize() -> None:
    """Source: the kernel: SET_PROPERTY and WRITE, on any memory that has a stream."""
    number = things.vmo(PAGE, zx.ZX_VMO_RESIZABLE)
    rights = zx.ZX_RIGHT_SET_PROPERTY | zx.ZX_RIGHT_GET_PROPERTY | zx.ZX_RIGHT_WRITE
    narrow = ok(zx.zx_handle_replace, number, rights)
    assert zx.zx_object_set_property(narrow, SIZE, bytes(8), 8) == zx.ZX_OK
    assert content_size(narrow) == 0


UNUSED: list[tuple[Any, int]] = [(bytearray(40), 8), (np.zeros(5, np.uint64), 40)]


@pytest.mark.parametrize(("buffer", "size"), UNUSED)
def test_only_eight_bytes_of_a_content_size_are_touched(buffer: Any, size: int) -> None:
    number = things.vmo(3 * PAGE)
    view = memoryview(buffer).cast("B")
    view[:] = b"\xee" * 40
    assert zx.zx_object_get_property(number, SIZE, buffer, size) == zx.ZX_OK
    assert bytes(view) == (3 * PAGE).to_bytes(8, byteorder) + b"\xee" * 32


def test_contiguous_memory_has_no_content_size() -> None:
    """It reads as 0. Source: zx_vmo_get_stream_size."""
    assert content_size(things.contiguous()) == 0
