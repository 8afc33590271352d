"""What the zx_vmo calls give when they succeed, and what a refusal leaves of a handle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.dialects import Out, zx
from pinfold.dialects.calling import number_of
from pinfold.objects.memory_object import MAX_SIZE

from .settings import DEVICE
from .things import PAGE, bti, closed, contiguous, info, ok, vmo, without

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 4 * PAGE

pytestmark = pytest.mark.usefixtures("process")


def rights(number: int) -> int:
    found: int = info(number, zx.ZX_INFO_HANDLE_BASIC).rights
    return found


def signals(number: int) -> int:
    observed = Out()
    zx.zx_object_wait_one(number, 0, 0, observed)
    assert isinstance(observed.value, int)
    return observed.value


def op(number: int, name: str, offset: int = 0, size: int = SIZE) -> int:
    found = getattr(zx, f"ZX_VMO_OP_{name}")
    return zx.zx_vmo_op_range(number, found, offset, size, None, 0)


def read(number: int, offset: int = 0, length: int = SIZE) -> bytes:
    buffer = bytearray(length)
    assert zx.zx_vmo_read(number, buffer, offset, length) == zx.ZX_OK
    return bytes(buffer)


def written(number: int) -> int:
    assert zx.zx_vmo_write(number, bytes(range(256)) * (SIZE // 256), 0, SIZE) == zx.ZX_OK
    return number


def committed(number: int) -> int:
    found: int = info(number, zx.ZX_INFO_VMO).committed_bytes
    return found


# Making -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "options", "rounded", "given"),
    [
        (0, 0, 0, 0xD0EF),
        (1, 0, PAGE, 0xD0EF),
        (PAGE, zx.ZX_VMO_RESIZABLE, PAGE, 0x40D0EF),
        (PAGE + 1, zx.ZX_VMO_DISCARDABLE, 2 * PAGE, 0xD0EF),
        (3, zx.ZX_VMO_RESIZABLE | zx.ZX_VMO_DISCARDABLE, PAGE, 0x40D0EF),
        (5, zx.ZX_VMO_UNBOUNDED, MAX_SIZE, 0xD0EF),
        (MAX_SIZE, 0, MAX_SIZE, 0xD0EF),
    ],
)
def test_a_fresh_object(size: int, options: int, rounded: int, given: int) -> None:
    """Source: zx_vmo_create: whole pages, the exact size as stream size, nothing committed."""
    made = ok(zx.zx_vmo_create, size, options)
    assert ok(zx.zx_vmo_get_size, made) == rounded
    assert ok(zx.zx_vmo_get_stream_size, made) == size
    assert rights(made) == given
    assert committed(made) == 0
    assert signals(made) == zx.ZX_VMO_ZERO_CHILDREN


@pytest.mark.parametrize("log2", [0, PAGE.bit_length() - 1, 16, 20])
def test_contiguous_memory_lies_in_one_run(log2: int) -> None:
    """Source: zx_vmo_create_contiguous: committed, zero, aligned as asked; without EXECUTE."""
    device = bti()
    made = ok(zx.zx_vmo_create_contiguous, device, 3 * PAGE, log2)
    addrs = np.zeros(3, "u8")
    pin = (zx.ZX_BTI_PERM_READ, made, 0, 3 * PAGE, addrs, 3)
    pmt = ok(zx.zx_bti_pin, device, *pin)
    assert np.diff(addrs).tolist() == [PAGE, PAGE]
    assert addrs[0] % (1 << log2) == 0
    assert read(made, 0, 3 * PAGE) == bytes(3 * PAGE)
    assert committed(made) == 3 * PAGE
    assert ok(zx.zx_vmo_get_stream_size, made) == 0
    assert rights(made) == 0xD0EF
    assert zx.zx_pmt_unpin(pmt) == zx.ZX_OK


def test_contiguous_memory_does_not_ask_about_quarantine() -> None:
    """Source: zx_vmo_create_contiguous in Zircon's kernel."""
    device = bti()
    addrs = bytearray(8)
    pmt = ok(zx.zx_bti_pin, device, zx.ZX_BTI_PERM_READ, vmo(), 0, PAGE, addrs, 1)
    assert zx.zx_handle_close(pmt) == zx.ZX_OK
    ok(zx.zx_vmo_create_contiguous, device, PAGE, 0)
    assert zx.zx_bti_release_quarantine(device) == zx.ZX_OK


def test_device_memory_has_no_size_to_change_and_no_right_to_execute() -> None:
    """Source: zx_vmo_create_physical in Zircon's kernel; its page says EXECUTE."""
    bar = number_of(pf.Resource(DEVICE, 4 * PAGE))
    made = ok(zx.zx_vmo_create_physical, bar, DEVICE, 2 * PAGE)
    assert rights(made) == 0xD0EF
    assert ok(zx.zx_vmo_get_size, made) == 2 * PAGE
    assert ok(zx.zx_vmo_get_stream_size, made) == 0
    assert info(made, zx.ZX_INFO_VMO).cache_policy == zx.ZX_CACHE_POLICY_UNCACHED


# Bytes --------------------------------------------------------------------------------------------


def test_bytes_go_in_and_out() -> None:
    """Source: zx_vmo_write, zx_vmo_read: as many as the length says, of a longer buffer too."""
    made = vmo()
    assert zx.zx_vmo_write(made, b"0123456789", PAGE - 3, 6) == zx.ZX_OK
    buffer = bytearray(b"-" * 10)
    assert zx.zx_vmo_read(made, buffer, PAGE - 4, 8) == zx.ZX_OK
    assert buffer == b"\0" + b"012345" + b"\0" + b"--"
    assert committed(made) == 2 * PAGE


@pytest.mark.parametrize("call", [zx.zx_vmo_read, zx.zx_vmo_write], ids=["read", "write"])
def test_no_bytes_need_no_buffer(call: Callable[..., int]) -> None:
    """Source: zx_vmo_read: up to the end of the object, whatever the pointer is."""
    made = vmo()
    assert call(made, None, SIZE, 0) == zx.ZX_OK
    assert call(made, b"", 0, 0) == zx.ZX_OK
    assert call(made, None, SIZE + 1, 0) == zx.ZX_ERR_OUT_OF_RANGE


def test_buffers_and_numbers_of_numpy() -> None:
    """numpy's integers are integers, and do not wrap; its arrays are buffers."""
    made = vmo()
    number: Any = np.uint32(made)
    eight: Any = np.uint64(8)
    before: Any = np.int64(-1)
    far: Any = np.uint64(2**64 - 1)
    assert zx.zx_vmo_write(number, np.arange(4, dtype="<u4"), eight, 2 * eight) == zx.ZX_OK
    found = np.zeros(4, "<u4")
    assert zx.zx_vmo_read(made, found, 8, 16) == zx.ZX_OK
    assert found.tolist() == [0, 1, 2, 3]
    with pytest.raises(OverflowError):
        zx.zx_vmo_read(made, found, before, 1)
    assert zx.zx_vmo_read(made, found, far, far) == zx.ZX_ERR_OUT_OF_RANGE
    with pytest.raises(TypeError):
        zx.zx_vmo_read(made, np.zeros((4, 4), "<u4")[:, 1], 0, 16)


@pytest.mark.parametrize(
    "call",
    [zx.zx_vmo_get_size, zx.zx_vmo_get_stream_size, zx.zx_vmo_create],
    ids=lambda c: c.__name__,
)
def test_python_s_own_errors_come_before_any_status(call: Callable[..., int]) -> None:
    """A closed handle is looked at when all of the arguments are numbers."""
    args = (-1, 0) if call is zx.zx_vmo_create else (closed(),)
    with pytest.raises((OverflowError, TypeError)):
        call(*args, "not an Out")


# Sizes --------------------------------------------------------------------------------------------


def test_set_size() -> None:
    """Source: zx_vmo_set_size: rounded up; exact as stream size; the tail of the page is zeroed."""
    made = written(vmo(options=zx.ZX_VMO_RESIZABLE))
    assert zx.zx_vmo_set_size(made, PAGE + 3) == zx.ZX_OK
    assert ok(zx.zx_vmo_get_size, made) == 2 * PAGE
    assert ok(zx.zx_vmo_get_stream_size, made) == PAGE + 3
    assert read(made, PAGE, 8) == b"\x00\x01\x02\0\0\0\0\0"
    assert zx.zx_vmo_set_size(made, SIZE) == zx.ZX_OK
    assert read(made, 2 * PAGE, 2 * PAGE) == bytes(2 * PAGE)


def test_set_stream_size() -> None:
    """Source: zx_vmo_set_stream_size: from the smaller of the two on, all is zeroed."""
    made = written(vmo(SIZE - 1))
    assert zx.zx_vmo_set_stream_size(made, SIZE - 1) == zx.ZX_OK
    assert read(made, SIZE - 1, 1) != b"\0", "the same size changes nothing"
    assert zx.zx_vmo_set_stream_size(made, SIZE) == zx.ZX_OK
    assert read(made, SIZE - 1, 1) == b"\0"
    assert zx.zx_vmo_set_stream_size(made, 5) == zx.ZX_OK
    assert read(made) == bytes(range(5)) + bytes(SIZE - 5)
    assert ok(zx.zx_vmo_get_stream_size, made) == 5
    assert ok(zx.zx_vmo_get_size, made) == SIZE


# Operations ---------------------------------------------------------------------------------------


def test_commit_of_no_bytes_inside_a_page_commits_it() -> None:
    """Source: Zircon's kernel rounds outwards before it looks whether anything is left."""
    made = vmo()
    assert op(made, "COMMIT", PAGE, 0) == zx.ZX_OK
    assert committed(made) == 0
    assert op(made, "COMMIT", PAGE + 1, 0) == zx.ZX_OK
    assert committed(made) == PAGE
    assert op(made, "COMMIT", SIZE, 0) == zx.ZX_OK


def test_ranges_at_exactly_the_end() -> None:
    """Source: zx_vmo_op_range in Zircon's kernel: nothing, at the end, lies in the object."""
    made = vmo()
    for name in ("COMMIT", "DECOMMIT", "PREFETCH", "ZERO"):
        assert op(made, name, SIZE, 0) == zx.ZX_OK
    for name in ("COMMIT", "DECOMMIT", "PREFETCH"):
        assert op(made, name, SIZE + PAGE, 0) == zx.ZX_ERR_OUT_OF_RANGE
    assert op(made, "ZERO", SIZE + PAGE, 0) == zx.ZX_OK, "of no bytes no range is looked at"


def test_decommit_gives_back_and_zero_as_well() -> None:
    """Source: zx_vmo_op_range, DECOMMIT, ZERO."""
    made = written(vmo())
    assert op(made, "DECOMMIT", PAGE, PAGE) == zx.ZX_OK
    assert committed(made) == 3 * PAGE
    assert op(made, "ZERO", 3, 2 * PAGE) == zx.ZX_OK
    assert read(made, 0, 2 * PAGE + 4) == b"\0\1\2" + bytes(2 * PAGE) + b"\3"
    assert op(made, "ZERO") == zx.ZX_OK
    assert committed(made) == 0


@pytest.mark.parametrize("name", ["PREFETCH", "DONT_NEED", "ALWAYS_NEED", "CACHE_SYNC"])
def test_what_says_something_of_memory_commits_none(name: str) -> None:
    """Source: zx_vmo_op_range. Anonymous memory has no pager to be asked."""
    made = vmo()
    assert op(made, name) == zx.ZX_OK
    assert committed(made) == 0


def test_operations_on_device_memory() -> None:
    """Source: zx_vmo_op_range: of what has no pages of its own, only hints are taken."""
    bar = number_of(pf.Resource(DEVICE, SIZE))
    made = ok(zx.zx_vmo_create_physical, bar, DEVICE, SIZE)
    names = {name for name in dir(zx) if name.startswith("ZX_VMO_OP_")}
    fine = {"PREFETCH", "DONT_NEED", "ALWAYS_NEED"}
    for name in (name.removeprefix("ZX_VMO_OP_") for name in names):
        expected = zx.ZX_OK if name in fine else zx.ZX_ERR_NOT_SUPPORTED
        assert op(made, name) == expected, name
    assert len(names) == 13
    assert op(made, "PREFETCH", PAGE) == zx.ZX_ERR_OUT_OF_RANGE


def test_locks_count_and_say_what_was_lost(kernel: pf.Kernel) -> None:
    """Source: zx_vmo_op_range, LOCK: zx_vmo_lock_state_t in the buffer, the lost range or zeros."""
    made = written(vmo(options=zx.ZX_VMO_DISCARDABLE))

    def lock() -> tuple[int, int, int, int]:
        buffer = bytearray(b"-" * 40)
        call = zx.zx_vmo_op_range(made, zx.ZX_VMO_OP_LOCK, 0, SIZE, buffer, len(buffer))
        assert call == zx.ZX_OK
        assert buffer[32:] == b"-" * 8
        found = zx.zx_vmo_lock_state_t.unpack(buffer[:32])
        return (found.offset, found.size, found.discarded_offset, found.discarded_size)

    assert lock() == (0, SIZE, 0, 0)
    assert op(made, "TRY_LOCK") == zx.ZX_OK
    assert op(made, "UNLOCK") == zx.ZX_OK
    assert kernel.reclaim() == 0, "it is locked once more"
    assert op(made, "UNLOCK") == zx.ZX_OK
    assert op(made, "UNLOCK") == zx.ZX_ERR_BAD_STATE
    assert kernel.reclaim() == SIZE
    assert info(made, zx.ZX_INFO_VMO).committed_change_events == 1
    assert op(made, "TRY_LOCK") == zx.ZX_ERR_UNAVAILABLE
    assert zx.zx_vmo_write(made, b"x", 0, 1) == zx.ZX_ERR_NOT_FOUND
    assert lock() == (0, SIZE, 0, SIZE)
    assert lock() == (0, SIZE, 0, 0), "what was lost is told once"
    assert read(made) == bytes(SIZE)


def test_the_debug_call_is_there_where_the_kernel_has_debug_calls() -> None:
    """Source: zx_vmo_op_range: CACHE_INVALIDATE may not be there, whatever the rights are."""
    made = vmo()
    assert op(made, "CACHE_INVALIDATE") == zx.ZX_ERR_NOT_SUPPORTED
    assert op(without(zx.ZX_RIGHT_WRITE, made), "CACHE_INVALIDATE") == zx.ZX_ERR_NOT_SUPPORTED
    kernel = pf.Kernel(debug_syscalls=True)
    debugged = pf.Process(kernel)
    with debugged:
        assert op(vmo(), "CACHE_INVALIDATE") == zx.ZX_OK
    debugged.exit()


# Executable ---------------------------------------------------------------------------------------


def test_replace_as_executable_adds_one_right_to_what_there_was() -> None:
    """Source: zx_vmo_replace_as_executable: no right is asked for."""
    old = without(zx.ZX_RIGHT_WRITE | zx.ZX_RIGHT_DUPLICATE, vmo())
    had = rights(old)
    made = ok(zx.zx_vmo_replace_as_executable, old, zx.ZX_HANDLE_INVALID)
    assert rights(made) == had | zx.ZX_RIGHT_EXECUTE
    assert zx.zx_vmo_get_size(old, Out()) == zx.ZX_ERR_BAD_HANDLE


@pytest.mark.parametrize("what", ["vmex closed", "not a VMO", "vmex of another type", "NULL"])
def test_replace_as_executable_takes_the_handle_whatever_happens(what: str) -> None:
    """Source: zx_vmo_replace_as_executable: the handle is invalidated by every failure."""
    given = bti() if what == "not a VMO" else vmo()
    vmex = {"vmex closed": closed, "vmex of another type": vmo}.get(what, lambda: 0)()
    expected = {
        "vmex closed": zx.ZX_ERR_BAD_HANDLE,
        "not a VMO": zx.ZX_ERR_BAD_HANDLE,
        "vmex of another type": zx.ZX_ERR_WRONG_TYPE,
        "NULL": zx.ZX_ERR_INVALID_ARGS,
    }[what]
    out = None if what == "NULL" else Out()
    assert zx.zx_vmo_replace_as_executable(given, vmex, out) == expected
    assert zx.zx_handle_close(given) == zx.ZX_ERR_BAD_HANDLE
    if vmex and what != "vmex closed":
        assert zx.zx_handle_close(vmex) == zx.ZX_OK, "the authority is kept"


def test_an_object_is_no_authority_over_itself() -> None:
    """One number for both: it is looked at before it is taken."""
    made = vmo()
    assert zx.zx_vmo_replace_as_executable(made, made, Out()) == zx.ZX_ERR_WRONG_TYPE
    assert zx.zx_handle_close(made) == zx.ZX_ERR_BAD_HANDLE


# Moving pages -------------------------------------------------------------------------------------


def test_pages_are_moved() -> None:
    """Source: zx_vmo_transfer_data: the source reads as zeros."""
    source, target = written(vmo()), written(vmo())
    assert op(target, "ZERO") == zx.ZX_OK
    assert zx.zx_vmo_transfer_data(target, 0, PAGE, 2 * PAGE, source, 0) == zx.ZX_OK
    page = bytes(range(256)) * (PAGE // 256)
    assert read(target) == bytes(PAGE) + 2 * page + bytes(PAGE)
    assert read(source) == bytes(2 * PAGE) + 2 * page


@pytest.mark.parametrize("make", [vmo, contiguous], ids=["plain", "contiguous"])
def test_moving_pages_onto_themselves_checks_nothing_more(make: Callable[[], int]) -> None:
    """Source: zx_vmo_transfer_data in Zircon's kernel: before the range and the kind."""
    made = make()
    assert zx.zx_vmo_transfer_data(made, 0, 64 * PAGE, PAGE, made, 64 * PAGE) == zx.ZX_OK
    expected = zx.ZX_ERR_OUT_OF_RANGE if make is vmo else zx.ZX_ERR_NOT_SUPPORTED
    assert zx.zx_vmo_transfer_data(made, 0, 64 * PAGE, PAGE, made, 0) == expected


# Children -----------------------------------------------------------------------------------------


def test_a_child_keeps_its_parent_from_signalling() -> None:
    """Source: zx_vmo_create_child: ZERO_CHILDREN is cleared at once, and comes back."""
    made = vmo()
    child = ok(zx.zx_vmo_create_child, made, zx.ZX_VMO_CHILD_SNAPSHOT, 0, SIZE)
    assert signals(made) == 0
    assert signals(child) == zx.ZX_VMO_ZERO_CHILDREN
    assert zx.zx_handle_close(child) == zx.ZX_OK
    assert signals(made) == zx.ZX_VMO_ZERO_CHILDREN


def test_what_a_handle_to_nowhere_would_have_held_is_gone(kernel: pf.Kernel) -> None:
    """A child whose number could not be stored: its parent has none."""
    made = vmo()
    before = kernel.statistics().objects
    call = zx.zx_vmo_create_child(made, zx.ZX_VMO_CHILD_SLICE, 0, PAGE, None)
    assert call == zx.ZX_ERR_INVALID_ARGS
    assert kernel.statistics().objects == before
    assert signals(made) == zx.ZX_VMO_ZERO_CHILDREN
