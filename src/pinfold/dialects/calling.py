# How a flat call is made from Python: output parameters, C integers, buffers, handles as numbers.
#
# The dialects translate, and decide nothing. A number becomes the Python handle that the table has
# for it (its face), the object does the checks in its own order, and its error becomes a status. So
# that the object's order of checks stays in force, a number that names nothing is looked up to a
# closed handle: it is the object that says so, when its turn comes.
#
# An argument that C could not have passed is Python's own error, raised before anything is done:
# OverflowError for an integer that does not fit, TypeError for what is no integer, no buffer or no
# `Out`. What C could have passed and the system could not have used, NULL, read-only memory or a
# length beyond the end of the buffer, is an inaccessible pointer: a status, when its turn comes.
#
# The conversions are on the path of every call, eight times in a pin: they are short on purpose.
#
# Lock: the kernel's, only to make the face of a handle that Python code opened.
from __future__ import annotations

from functools import wraps
from inspect import signature
from operator import index
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from pinfold.buffers import holds_objects
from pinfold.errors import BadHandle, InvalidArgs, PinfoldError, WrongType
from pinfold.objects.bti import Bti
from pinfold.objects.handle import Handle, HandleEntry
from pinfold.objects.iommu import Iommu
from pinfold.objects.object import KernelObject, ObjectType
from pinfold.objects.pmt import Pmt
from pinfold.objects.process import Process, current_process
from pinfold.objects.resource import Resource
from pinfold.objects.vmar import Vmar
from pinfold.objects.vmo import Vmo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pinfold.errors import Status

P = ParamSpec("P")
H = TypeVar("H", bound="Handle[Any]")

_I63: Final = 1 << 63
_EMPTY: Final = memoryview(b"")


class Out:
    """The slot that an output pointer points to: ``value`` is None until a call has written it.

    A call writes it when it succeeds, and not before.
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None

    def __repr__(self) -> str:
        return f"Out({self.value!r})"


# Arguments ----------------------------------------------------------------------------------------


def u32(value: int) -> int:
    """An unsigned 32-bit argument.

    Raises:
      OverflowError: it does not fit.
      TypeError: it is no integer. Python's bools are integers, and numpy's integers are.
    """
    value = index(value)
    if value >> 32:
        raise OverflowError(f"{value:#x} is no unsigned 32-bit number")
    return value


def u64(value: int) -> int:
    """An unsigned 64-bit argument. Errors as `u32`."""
    value = index(value)
    if value >> 64:
        raise OverflowError(f"{value:#x} is no unsigned 64-bit number")
    return value


def i32(value: int) -> int:
    """A signed 32-bit argument. Errors as `u32`."""
    value = index(value)
    if (value + (1 << 31)) >> 32:
        raise OverflowError(f"{value:#x} is no signed 32-bit number")
    return value


def i64(value: int) -> int:
    """A signed 64-bit argument. Errors as `u32`."""
    value = index(value)
    if (value + _I63) >> 64:
        raise OverflowError(f"{value:#x} is no signed 64-bit number")
    return value


def slot(out: Out | None) -> Out | None:
    """An output parameter; None is the NULL pointer.

    Raises:
      TypeError: it is neither.
    """
    if out is not None and not isinstance(out, Out):
        raise TypeError(f"an output parameter is an Out or None, not a {type(out).__name__}")
    return out


def pointed(buffer: Any) -> memoryview | None:
    """The bytes of a buffer argument; None for the NULL pointer.

    Raises:
      TypeError: it has no buffer, or not one in C order without gaps, or one of Python objects.
    """
    if buffer is None:
        return None
    try:
        view = memoryview(buffer)
    except (ValueError, BufferError) as error:  # numpy's dates, or a view that was released
        raise TypeError(f"this {type(buffer).__name__} lends no buffer") from error
    if not view.c_contiguous or holds_objects(view):
        raise TypeError("a buffer has bytes, next to each other in C order, and no Python objects")
    if view.nbytes:
        return view.cast("B")
    return _EMPTY if view.readonly else memoryview(bytearray())


def readable(view: memoryview | None, size: int) -> memoryview | None:
    """The first ``size`` bytes of what `pointed` gave, to be read.

    None where they are not all there: for C an inaccessible pointer, whose status depends on the
    call. Of no bytes any pointer will do.
    """
    if not size:
        return _EMPTY
    if view is None or size > len(view):
        return None
    return view[:size]


def writable(view: memoryview | None, size: int) -> memoryview | None:
    """The first ``size`` bytes of what `pointed` gave, to be written.

    None where they are not all there, or read-only; see `readable`.
    """
    if not size:
        return _EMPTY
    if view is None or size > len(view) or view.readonly:
        return None
    return view[:size]


def filled(out: Out | None, value: object) -> None:
    """Write an output parameter that the call cannot do without.

    Raises:
      InvalidArgs: it is the NULL pointer.
    """
    if out is None:
        raise InvalidArgs("the output pointer is NULL", remedy="pass an Out()")
    out.value = value


# Handles ------------------------------------------------------------------------------------------

_FACES: Final[Mapping[ObjectType, type[Handle[Any]]]] = {
    ObjectType.VMO: Vmo,
    ObjectType.VMAR: Vmar,
    ObjectType.BTI: Bti,
    ObjectType.PMT: Pmt,
    ObjectType.IOMMU: Iommu,
    ObjectType.RESOURCE: Resource,
}


def face(number: int, process: Process | None = None) -> Handle[Any]:
    """What the current process has under ``number``; a closed handle where it has nothing."""
    process = process or current_process()
    entry = process.handles.get(number)
    if entry is None:
        return _nothing(process)
    found = entry.face
    return _new_face(entry) if found is None else found


def _new_face(entry: HandleEntry) -> Handle[Any]:
    """The face of a row that Python code made, or that another thread is looking up as well.

    Under the kernel's lock: the face is the one handle that does not close its row when it is
    dropped, so there must not be two. A finaliser may hold the lock already.
    """
    lock = entry.process.kernel.lock
    if lock.held_here:
        return _wrapped(entry)
    with lock:
        return _wrapped(entry)


def _wrapped(entry: HandleEntry) -> Handle[Any]:
    found = entry.face
    if found is None:
        target = entry.object
        kind = _FACES.get(target.object_type, Handle) if target is not None else Handle
        found = entry.face = kind.wrap(entry)
    return found


def handle_of(number: int, kind: type[H]) -> H:
    """The handle under ``number``, which is to be of one kind.

    Raises:
      BadHandle: there is none.
      WrongType: it is of another kind.
    """
    found = face(number)
    if isinstance(found, kind):
        return found
    if found.closed:
        raise _bad_handle(number)
    raise WrongType(f"{found!r} is not a {kind.__name__}", asked=number)


def open_handle(number: int) -> Handle[KernelObject]:
    """The handle under ``number``, of whatever kind; for calls that any object takes.

    Raises:
      BadHandle: there is none.
    """
    found = face(number)
    if found.closed:
        raise _bad_handle(number)
    return found


def close(number: int) -> None:
    """Take a number's row out of the table; of two threads that close it, one has closed it.

    Raises:
      BadHandle: there is no such row.
    """
    entry = current_process().handles.get(number)
    if entry is None:
        raise _bad_handle(number)
    lock = entry.process.kernel.lock
    if lock.held_here:  # a finaliser inside pinfold: see Handle.close
        lock.later(entry)
        return
    with lock:
        if entry.object is None:
            raise _bad_handle(number)
        entry.close_locked()


def number_of(handle: Handle[Any]) -> int:
    """Leave a handle to the table: from here on only its number names it."""
    entry = handle._entry
    former = entry.face
    entry.face = handle
    if former is not None and former is not handle:  # what was made of the number meanwhile
        former._entry = _nothing(entry.process)._entry  # or its end would close the row
    return entry.value


def give(out: Out | None, handle: Handle[Any]) -> None:
    """Return a handle through an output parameter.

    Raises:
      InvalidArgs: it is the NULL pointer; the handle is closed again.
    """
    if out is None:
        handle.close()
        raise InvalidArgs("the output pointer is NULL", remedy="pass an Out()")
    out.value = number_of(handle)


def moved(number: int, process: Process) -> Handle[KernelObject]:
    """Take a handle out of the current process and give it to another; see `Handle.move_to`.

    Raises:
      TypeError: ``process`` is no `Process`.
      BadHandle: there is no such handle.
      As `Handle.move_to`.
    """
    if not isinstance(process, Process):
        raise TypeError(f"a handle is moved to a Process, not to a {type(process).__name__}")
    return open_handle(number).move_to(process)


def over_bus(bus: Any) -> Iommu:
    """A handle of the current process over an open bus, or another one to the `Iommu` of one.

    Raises:
      As `Iommu` and `Iommu.shared_with`.
    """
    process = current_process()
    return bus.shared_with(process) if isinstance(bus, Iommu) else Iommu(bus, process=process)


def _bad_handle(number: int) -> BadHandle:
    return BadHandle("no handle has this number", asked=number)


def _nothing(process: Process) -> Handle[Any]:
    """A closed handle, of the process whose kernel's lock is taken to find that out."""
    entry = HandleEntry.__new__(HandleEntry)
    entry.value, entry.object, entry.rights = 0, None, 0
    entry.process, entry.face = process, None
    return Handle.wrap(entry)


# Statuses -----------------------------------------------------------------------------------------


def syscalls(
    statuses: Mapping[Status, int], *, no_memory: int | None = None
) -> Callable[[Callable[P, int | None]], Callable[P, int]]:
    """The decorator of a dialect's calls: pinfold's errors become its statuses.

    A call that returns None has succeeded: 0.

    Args:
      no_memory: what to return where Python itself has no memory; else that is raised.
    """

    def syscall(function: Callable[P, int | None]) -> Callable[P, int]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                return function(*args, **kwargs) or 0
            except PinfoldError as error:
                return statuses[error.status]
            except MemoryError:
                if no_memory is None:
                    raise
                return no_memory

        # What `help` shows: the function returns nothing, the call a status.
        call.__annotations__ = {**function.__annotations__, "return": "int"}
        call.__signature__ = signature(function).replace(return_annotation="int")  # type: ignore[attr-defined]  # what inspect looks for
        return call

    return syscall
