"""How a flat call is made: integers, buffers, output parameters, handles as numbers.

Source: the calling convention of the dialects; an inaccessible pointer is C's.
"""

from __future__ import annotations

import ctypes
import enum
import gc
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.dialects import Out, zx
from pinfold.dialects.calling import (
    face,
    filled,
    give,
    handle_of,
    i32,
    i64,
    number_of,
    open_handle,
    pointed,
    readable,
    slot,
    syscalls,
    u32,
    u64,
    writable,
)
from pinfold.errors import BadHandle, InvalidArgs, Status, WrongType

from . import things

if TYPE_CHECKING:
    from collections.abc import Callable


class Number(enum.IntFlag):
    """An integer of another class."""

    SEVEN = 7


LIMITS = [
    (u32, 0, 2**32 - 1),
    (u64, 0, 2**64 - 1),
    (i32, -(2**31), 2**31 - 1),
    (i64, -(2**63), 2**63 - 1),
]


@pytest.mark.parametrize(("convert", "low", "high"), LIMITS)
def test_an_integer_fits_its_c_type_or_overflows(
    convert: Callable[[Any], int], low: int, high: int
) -> None:
    assert convert(low) == low
    assert convert(high) == high
    for beyond in (low - 1, high + 1, -(2**70), 2**70):
        with pytest.raises(OverflowError):
            convert(beyond)


@pytest.mark.parametrize("convert", [u32, u64, i32, i64])
@pytest.mark.parametrize(
    "value", [7, np.uint8(7), np.int64(7), np.uint64(7), Number.SEVEN, True, np.array(7)[()]]
)
def test_every_kind_of_integer_is_one(convert: Callable[[Any], int], value: Any) -> None:
    found = convert(value)
    assert found == int(value)
    assert type(found) is int


@pytest.mark.parametrize("convert", [u32, u64, i32, i64])
@pytest.mark.parametrize("value", [7.0, "7", b"7", None, np.float64(7), np.bool_(True), [7]])  # noqa: FBT003 - a bool is what is tried
def test_what_is_no_integer_is_refused(convert: Callable[[Any], int], value: Any) -> None:
    with pytest.raises(TypeError):
        convert(value)


def test_an_output_parameter_is_an_out_or_null() -> None:
    out = Out()
    assert slot(out) is out
    assert slot(None) is None
    assert out.value is None
    assert repr(out) == "Out(None)"
    wrong: Any
    for wrong in (0, [], bytearray(8), Out):
        with pytest.raises(TypeError):
            slot(wrong)


def test_an_output_parameter_is_written_unless_it_is_null() -> None:
    out = Out()
    filled(out, 3)
    assert out.value == 3
    with pytest.raises(InvalidArgs):
        filled(None, 3)


BUFFERS = {
    "bytes": (b"12345678", False),
    "bytearray": (bytearray(8), True),
    "memoryview": (memoryview(bytearray(8)), True),
    "a part": (memoryview(bytearray(16))[4:12], True),
    "read-only": (memoryview(bytearray(8)).toreadonly(), False),
    "numpy": (np.zeros(1, np.uint64), True),
    "numpy, big-endian": (np.zeros(1, ">u8"), True),
    "numpy, two dimensions": (np.zeros((2, 4), np.uint8), True),
    "numpy, none": (np.zeros((), np.uint64), True),
    "numpy, records": (np.zeros(1, [("a", "u4"), ("b", "u4")]), True),
    "ctypes": ((ctypes.c_uint32 * 2)(), True),
    "a ctypes structure": (ctypes.c_uint64(), True),
}


@pytest.mark.parametrize(("buffer", "writes"), BUFFERS.values(), ids=BUFFERS)
def test_a_buffer_is_its_bytes(buffer: Any, *, writes: bool) -> None:
    """And only those that are asked for."""
    view = pointed(buffer)
    assert view is not None
    assert (view.format, view.ndim, len(view)) == ("B", 1, 8)
    for size in (0, 3, 8):
        read = readable(view, size)
        assert read is not None
        assert len(read) == size
        written = writable(view, size)
        assert (written is not None) is (writes or not size)
        assert written is None or len(written) == size


@pytest.mark.parametrize("size", [9, 2**32, 2**64 - 1])
def test_a_length_beyond_the_end_is_an_inaccessible_pointer(size: int) -> None:
    view = pointed(bytearray(8))
    assert readable(view, size) is None
    assert writable(view, size) is None


def test_null_has_no_bytes_and_any_pointer_will_do_for_none() -> None:
    assert pointed(None) is None
    assert readable(None, 1) is None
    assert writable(None, 1) is None
    for empty in (None, pointed(b""), pointed(bytearray()), pointed(np.zeros((0, 3)))):
        assert readable(empty, 0) is not None
        assert writable(empty, 0) is not None
        assert readable(empty, 1) is None
        assert writable(empty, 1) is None


@pytest.mark.parametrize(
    "wrong",
    [
        7,
        "text",
        [1, 2],
        np.zeros(8, np.uint8)[::2],
        np.zeros((2, 2), order="F"),
        np.zeros(2, "M8[s]"),
        Out(),
    ],
    ids=["an integer", "a string", "a list", "gaps", "columns", "dates", "an Out"],
)
def test_what_has_no_bytes_in_a_row_is_no_buffer(wrong: Any) -> None:
    with pytest.raises(TypeError):
        pointed(wrong)


@pytest.mark.parametrize("kind", things.ALL)
def test_a_number_is_one_handle_for_as_long_as_it_is_open(process: pf.Process, kind: str) -> None:
    number = things.ALL[kind]()
    found = face(number)
    assert found.value == number
    assert face(number) is found
    assert open_handle(number) is found
    assert process.handles[number].face is found
    assert zx.zx_handle_close(number) == zx.ZX_OK
    assert found.closed
    assert face(number).closed
    with pytest.raises(BadHandle):
        open_handle(number)


@pytest.mark.usefixtures("process")
def test_a_number_is_looked_up_as_the_type_that_is_wanted() -> None:
    """A missing handle is told from one of another type."""
    number = things.vmo()
    assert isinstance(handle_of(number, pf.Vmo), pf.Vmo)
    with pytest.raises(WrongType):
        handle_of(number, pf.Vmar)
    with pytest.raises(BadHandle):
        handle_of(0, pf.Vmo)


@pytest.mark.usefixtures("process")
def test_a_dropped_face_closes_nothing_and_a_dropped_handle_does() -> None:
    """The number outlives the Python object that calls go through; Python's own handle does not."""
    number = things.vmo()
    face(number)
    gc.collect()
    assert zx.zx_handle_check_valid(number) == zx.ZX_OK
    made = pf.Vmo(things.PAGE)
    number = made.value
    assert face(number) is not made
    with pytest.warns(ResourceWarning):
        del made
    assert zx.zx_handle_check_valid(number) == zx.ZX_ERR_NOT_FOUND


@pytest.mark.usefixtures("process")
def test_a_handle_is_left_to_the_table_or_closed_again() -> None:
    out = Out()
    give(out, pf.Vmo(things.PAGE))
    assert zx.zx_handle_check_valid(out.value) == zx.ZX_OK
    made = pf.Vmo(things.PAGE)
    with pytest.raises(InvalidArgs):
        give(None, made)
    assert made.closed


def test_threads_that_look_up_one_number_get_one_face(process: pf.Process) -> None:
    """Two would be one too many: the second would close the handle when it is dropped."""
    made = [pf.Vmo(things.PAGE) for _ in range(64)]
    faces: list[set[int]] = [set() for _ in made]
    kept: list[Any] = []
    start = threading.Barrier(4)

    def look_up() -> None:
        start.wait()
        for vmo, seen in zip(made, faces, strict=True):
            found = face(vmo.value, process)
            kept.append(found)
            seen.add(id(found))

    threads = [threading.Thread(target=look_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(seen) for seen in faces] == [1] * len(made)
    for vmo in made:
        vmo.close()


def test_a_number_means_something_in_its_own_process_only(kernel: pf.Kernel) -> None:
    """Source: handle values are those of one handle table."""
    first, second = pf.Process(kernel), pf.Process(kernel)
    with first:
        number = things.vmo()
        with second:
            assert face(number).closed
            assert zx.zx_handle_close(number) == zx.ZX_ERR_BAD_HANDLE
        assert zx.zx_handle_check_valid(number) == zx.ZX_OK
    first.exit()
    second.exit()


def test_a_finaliser_inside_pinfold_may_close_by_number(process: pf.Process) -> None:
    """The collector may run while the thread holds the kernel's lock: it is done right after."""
    number, fresh = things.vmo(), pf.Vmo(things.PAGE)
    with process.kernel.lock:
        assert zx.zx_handle_close(number) == zx.ZX_OK
        assert face(fresh.value).value == fresh.value
    assert zx.zx_handle_check_valid(number) == zx.ZX_ERR_NOT_FOUND
    fresh.close()


def test_an_error_becomes_its_status_and_nothing_else_does() -> None:
    syscall = syscalls(dict.fromkeys(Status, -1) | {Status.BAD_HANDLE: -11})

    @syscall
    def call(error: Exception | None, result: int | None = None) -> int | None:
        if error is not None:
            raise error
        return result

    assert call(None) == 0
    assert call(None, 5) == 5
    assert call(BadHandle("gone")) == -11
    assert call(InvalidArgs("no")) == -1
    for other in (ValueError("theirs"), OverflowError(), TypeError(), KeyboardInterrupt()):
        with pytest.raises(type(other)):
            call(other)  # type: ignore[arg-type]  # one of them is no Exception
    assert call.__name__ == "call"


@pytest.mark.usefixtures("process")
def test_where_a_handle_was_made_is_the_callers_line() -> None:
    """A leak report names the line that made the call, not the dialect's."""
    out = Out()
    assert zx.zx_vmo_create(things.PAGE, 0, out) == zx.ZX_OK
    code, _ = face(out.value)._site
    assert code.co_filename == __file__
    assert number_of(face(out.value)) == out.value


ARGUMENTS: list[tuple[str, tuple[Any, ...], type[Exception]]] = [
    ("zx_handle_close", (-1,), OverflowError),
    ("zx_handle_close", ("1",), TypeError),
    ("zx_handle_close_many", ([1, 2], 2), TypeError),
    ("zx_handle_close_many", (b"", -1), OverflowError),
    ("zx_handle_duplicate", (3, 2**32, Out()), OverflowError),
    ("zx_handle_duplicate", (3, 0, 5), TypeError),
    ("zx_handle_replace", (2**32, 0, Out()), OverflowError),
    ("zx_handle_replace", (3, 0, bytearray(4)), TypeError),
    ("zx_handle_check_valid", (2**32,), OverflowError),
    ("zx_object_wait_one", (3, -1, 0, None), OverflowError),
    ("zx_object_wait_one", (3, 0, 2**63, None), OverflowError),
    ("zx_object_wait_one", (3, 0, 0.5, None), TypeError),
    ("zx_object_wait_one", (3, 0, 0, 0), TypeError),
    ("zx_object_get_info", (3, 2**32, b"", 0, None, None), OverflowError),
    ("zx_object_get_info", (3, 0, 5, 0, None, None), TypeError),
    ("zx_object_get_info", (3, 0, b"", 2**64, None, None), OverflowError),
    ("zx_object_get_info", (3, 0, b"", 0, 0, None), TypeError),
    ("zx_object_get_info", (3, 0, b"", 0, None, 0), TypeError),
    ("zx_object_get_property", (3, 3, "name", 32), TypeError),
    ("zx_object_get_property", (3, -1, b"", 32), OverflowError),
    ("zx_object_set_property", (3, 3, "name", 4), TypeError),
    ("zx_object_set_property", (3, 3, b"name", -1), OverflowError),
]


@pytest.mark.parametrize(("name", "args", "error"), ARGUMENTS)
@pytest.mark.usefixtures("process")
def test_what_c_could_not_have_passed_is_pythons_error(
    name: str, args: tuple[Any, ...], error: type[Exception]
) -> None:
    """Whatever else is wrong: nothing has been looked at by then."""
    with pytest.raises(error):
        getattr(zx, name)(*args)
