# Handles, and waiting for what an object says of itself.
#
# Source: zx_handle_close, zx_handle_close_many, zx_handle_duplicate, zx_handle_replace,
# zx_handle_check_valid, zx_object_wait_one; zircon/process.h for what a program has from the start.
#
# Where the pages leave it open: zx_handle_replace without a place for the result has consumed the
# handle by the time it fails, as it has in every other failure.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pinfold.dialects.calling import (
    close,
    give,
    i64,
    moved,
    number_of,
    open_handle,
    pointed,
    readable,
    slot,
    u32,
    u64,
)
from pinfold.dialects.zx import numbers as zx
from pinfold.dialects.zx.status import syscall
from pinfold.errors import Canceled, InvalidArgs, PinfoldError, TimedOut
from pinfold.objects.process import Process, current_process

if TYPE_CHECKING:
    from pinfold.dialects.calling import Out

_HANDLE_BYTES: Final = 4


@syscall
def zx_handle_close(handle: int) -> None:
    """Close a handle: ``zx_handle_close(zx_handle_t)``. ZX_HANDLE_INVALID is no error.

    What is mapped or pinned stays so. A token of pinned memory goes to quarantine.

    Errors, in this order:
      BAD_HANDLE: the number names nothing.
    """
    number = u32(handle)
    if number:
        close(number)


@syscall
def zx_handle_close_many(handles: Any, num_handles: int) -> None:
    """Close many handles: ``zx_handle_close_many(const zx_handle_t*, size_t)``.

    In order; ZX_HANDLE_INVALID is skipped.

    Args:
      handles: a buffer of native 32-bit unsigned numbers.
      num_handles: how many of them; not bytes.

    Errors, in this order:
      INVALID_ARGS: NULL, or an array shorter than that; nothing was closed.
      BAD_HANDLE: a number names nothing, or was there before; all the others are closed.
    """
    view, count = pointed(handles), u64(num_handles)
    array = readable(view, count * _HANDLE_BYTES)
    if array is None:
        raise InvalidArgs("there are not so many handles", asked=count)
    failed: PinfoldError | None = None
    for number in array.cast("I"):
        if number:
            try:
                close(number)
            except PinfoldError as error:  # raised below: the others are closed all the same
                failed = failed or error
    if failed is not None:
        raise failed


@syscall
def zx_handle_duplicate(handle: int, rights: int, out: Out | None) -> None:
    """Another handle to the same object:
    ``zx_handle_duplicate(zx_handle_t, zx_rights_t, zx_handle_t*)``.

    After an error there is no new handle, and the old one is as it was.

    Errors, in this order:
      BAD_HANDLE: the number names nothing.
      ACCESS_DENIED: the handle lacks DUPLICATE.
      INVALID_ARGS: ``rights`` is neither ZX_RIGHT_SAME_RIGHTS nor a part of the handle's; then
        ``out`` is NULL.
    """
    number, rights = u32(handle), u32(rights)
    slot(out)
    give(out, open_handle(number).duplicate(rights))


@syscall
def zx_handle_replace(handle: int, rights: int, out: Out | None) -> None:
    """A new number, and perhaps fewer rights, in a handle's place:
    ``zx_handle_replace(zx_handle_t, zx_rights_t, zx_handle_t*)``.

    The old number is gone after every failure but the first, and there is no new one. A token of
    pinned memory whose replacement fails goes to quarantine.

    Errors, in this order:
      BAD_HANDLE: the number names nothing.
      INVALID_ARGS: ``rights`` is neither ZX_RIGHT_SAME_RIGHTS nor a part of the handle's; then
        ``out`` is NULL.
    """
    number, rights = u32(handle), u32(rights)
    slot(out)
    give(out, open_handle(number).replace(rights))


@syscall
def zx_handle_check_valid(handle: int) -> int:
    """Whether a number names a handle: ``zx_handle_check_valid(zx_handle_t)``.

    Its shape is looked at first. Nothing changes.

    Errors, in this order:
      INVALID_ARGS: ZX_HANDLE_INVALID.
      OUT_OF_RANGE: one of the bits is 0 that are 1 in every handle.
      NOT_FOUND: it names nothing.
    """
    number = u32(handle)
    if number == zx.ZX_HANDLE_INVALID:
        return zx.ZX_ERR_INVALID_ARGS
    if ~number & zx.ZX_HANDLE_FIXED_BITS_MASK:
        return zx.ZX_ERR_OUT_OF_RANGE
    return zx.ZX_OK if number in current_process().handles else zx.ZX_ERR_NOT_FOUND


@syscall
def zx_object_wait_one(handle: int, signals: int, deadline: int, observed: Out | None) -> None:
    """Wait until an object asserts one of some signals, or the deadline comes:
    ``zx_object_wait_one(zx_handle_t, zx_signals_t, zx_time_t, zx_signals_t*)``.

    It changes nothing. Only memory objects have a signal here: ZX_VMO_ZERO_CHILDREN.

    Args:
      deadline: nanoseconds of ZX_CLOCK_MONOTONIC, which is `time.monotonic_ns` here; one that has
        passed asks and does not wait, ZX_TIME_INFINITE waits for ever.
      observed: gets all its signals at that moment; after TIMED_OUT and CANCELED as well. NULL is
        no error.

    Errors, in this order:
      BAD_HANDLE: the number names nothing.
      ACCESS_DENIED: the handle lacks WAIT.
      CANCELED: the handle was closed meanwhile.
      TIMED_OUT: the deadline came first.
    """
    number, signals, when = u32(handle), u32(signals), i64(deadline)
    slot(observed)
    found = open_handle(number)
    try:
        state = found.wait(signals, None if when == zx.ZX_TIME_INFINITE else when)
    except (TimedOut, Canceled) as error:
        if observed is not None:
            seen: Any = error.available
            observed.value = int(seen)
        raise
    if observed is not None:
        observed.value = int(state)


# What Zircon does by other calls ------------------------------------------------------------------


@syscall
def handle_transfer(handle: int, process: Process, out: Out | None) -> None:
    """Move a handle to another process, as writing it to a channel and reading it there would.

    After an error, except the last, the handle stays where it was.

    Args:
      process: of the same kernel; a `Process`, not a number.
      out: gets the number that names it there.

    Errors, in this order:
      BAD_HANDLE: the number names nothing.
      ACCESS_DENIED: the handle lacks TRANSFER.
      INVALID_ARGS: the process is of another kernel.
      BAD_STATE: the process has ended.
      INVALID_ARGS: ``out`` is NULL; the handle is closed in both processes.
    """
    number, out = u32(handle), slot(out)
    give(out, moved(number, process))


# What a program has from the start ----------------------------------------------------------------


def zx_process_self() -> int:
    """A handle to the current process: ``zx_handle_t zx_process_self(void)``.

    The process keeps it: it is the same each time, unless it was closed.

    Raises:
      BadState: the process has ended. As in C there is no status to return.
    """
    return number_of(current_process().self_handle)


def zx_vmar_root_self() -> int:
    """A handle to the root region of the current process: ``zx_handle_t zx_vmar_root_self(void)``.

    The process keeps it, as that of `zx_process_self`. The address space is reserved when it is
    first asked for.

    Raises:
      BadState: the process has ended. As in C there is no status to return.
      NoMemory: the address space cannot be reserved; the next call tries again.
    """
    return number_of(current_process().root)
