# Handles.
#
# Source: mx_handle_close, mx_handle_duplicate, mx_handle_replace; magenta/process.h for what a
# program has from the start. Rights and their rules are the objects'.
from __future__ import annotations

from typing import TYPE_CHECKING

from pinfold.dialects.calling import close, face, give, moved, number_of, slot, u32
from pinfold.dialects.mx.status import syscall
from pinfold.objects.magenta.rights import duplicated, replaced
from pinfold.objects.process import Process, current_process

if TYPE_CHECKING:
    from pinfold.dialects.calling import Out


@syscall
def mx_handle_close(handle: int) -> None:
    """Close a handle: ``mx_handle_close(mx_handle_t)``. MX_HANDLE_INVALID is no error.

    What is mapped stays so. With the last handle to a BTI its pins end, all of them.

    Errors, in this order:
      BAD_HANDLE: the number names nothing.
      IO: the bus refused to take a pin of the BTI back. The handle is closed, the other pins are
        gone, and the pages of that one stay held, on record in ``Kernel.leaks``.
    """
    number = u32(handle)
    if number:
        close(number)


@syscall
def mx_handle_duplicate(handle: int, rights: int, out: Out | None) -> None:
    """Another handle to the same object:
    ``mx_handle_duplicate(mx_handle_t, mx_rights_t, mx_handle_t*)``.

    After an error there is no new handle, and the old one is as it was.

    Errors, in this order:
      BAD_HANDLE: the number names nothing.
      ACCESS_DENIED: the handle lacks DUPLICATE.
      INVALID_ARGS: ``rights`` is neither MX_RIGHT_SAME_RIGHTS nor a part of the handle's; then
        ``out`` is NULL.
    """
    number, rights, out = u32(handle), u32(rights), slot(out)
    found = face(number)
    give(out, type(found).wrap(duplicated(found, rights)))


@syscall
def mx_handle_replace(handle: int, rights: int, out: Out | None) -> None:
    """A new number, and perhaps fewer rights, in a handle's place:
    ``mx_handle_replace(mx_handle_t, mx_rights_t, mx_handle_t*)``.

    DUPLICATE is not needed. The old number is gone when the call succeeds, and where ``out`` is
    NULL; after the other errors it is as it was.

    Errors, in this order:
      BAD_HANDLE: the number names nothing.
      INVALID_ARGS: ``rights`` is neither MX_RIGHT_SAME_RIGHTS nor a part of the handle's; then
        ``out`` is NULL.
    """
    number, rights, out = u32(handle), u32(rights), slot(out)
    found = face(number)
    give(out, type(found).wrap(replaced(found, rights)))


# What Magenta does by other calls -----------------------------------------------------------------


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


def mx_process_self() -> int:
    """A handle to the current process: ``mx_handle_t mx_process_self(void)``.

    The process keeps it: it is the same each time, unless it was closed.

    Raises:
      BadState: the process has ended. As in C there is no status to return.
    """
    return number_of(current_process().self_handle)


def mx_vmar_root_self() -> int:
    """A handle to the root region of the current process: ``mx_handle_t mx_vmar_root_self(void)``.

    The process keeps it, as that of `mx_process_self`. The address space is reserved when it is
    first asked for.

    Raises:
      BadState: the process has ended. As in C there is no status to return.
      NoMemory: the address space cannot be reserved; the next call tries again.
    """
    return number_of(current_process().root)
