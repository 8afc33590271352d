# The properties of objects: a name, and how much of a memory object holds something.
#
# Source: zx_object_get_property, zx_object_set_property; Zircon's kernel for the order of checks.
# A buffer that ends before it should is found out when it is read or written, after all else.
from __future__ import annotations

from sys import byteorder
from typing import TYPE_CHECKING, Any, Final

from pinfold.dialects.calling import open_handle, pointed, readable, u32, u64, writable
from pinfold.dialects.zx import numbers as zx
from pinfold.dialects.zx.status import syscall
from pinfold.errors import BufferTooSmall, InvalidArgs, NotSupported, WrongType
from pinfold.objects.vmo import Vmo

if TYPE_CHECKING:
    from pinfold.objects.handle import Handle

_U64: Final = 8


@syscall
def zx_object_get_property(
    handle: int,
    property: int,  # noqa: A002 - the page's name
    value: Any,
    value_size: int,
) -> None:
    """Read a property: ``zx_object_get_property(zx_handle_t, uint32_t, void*, size_t)``.

    ZX_PROP_NAME has 32 bytes, the last of them 0; ZX_PROP_VMO_CONTENT_SIZE has 8, a native unsigned
    number: the stream size in bytes. What lies behind them in the buffer is not touched. After an
    error none of it is.

    Args:
      value_size: bytes that there is room for.

    Errors, in this order:
      INVALID_ARGS: ``value`` is NULL.
      BAD_HANDLE: the number names nothing.
      ACCESS_DENIED: the handle lacks GET_PROPERTY.
      NOT_SUPPORTED: there is no such property.
      BUFFER_TOO_SMALL: ``value_size`` has no room for it.
      WRONG_TYPE: the object has no name, or is no memory object.
      INVALID_ARGS: ``value`` is read-only, or shorter than ``value_size``.
    """
    number, prop = u32(handle), u32(property)
    view, room = _there(value), u64(value_size)
    found = open_handle(number)
    target = found._require(zx.ZX_RIGHT_GET_PROPERTY)
    if prop == zx.ZX_PROP_NAME:
        _check_room(room, zx.ZX_MAX_NAME_LEN)
        if not target.has_name:
            raise WrongType(f"{target} has no name", asked=number)
        name = target.name.encode(errors="surrogateescape")[: zx.ZX_MAX_NAME_LEN - 1]
        raw = name.ljust(zx.ZX_MAX_NAME_LEN, b"\0")
    elif prop == zx.ZX_PROP_VMO_CONTENT_SIZE:
        _check_room(room, _U64)
        raw = _as_vmo(found).stream_size.to_bytes(_U64, byteorder)
    else:
        raise NotSupported("there is no such property", asked=prop)
    if writable(view, room) is None:
        raise InvalidArgs("the buffer cannot be written so far", asked=room)
    view[: len(raw)] = raw


@syscall
def zx_object_set_property(
    handle: int,
    property: int,  # noqa: A002 - the page's name
    value: Any,
    value_size: int,
) -> None:
    """Set a property: ``zx_object_set_property(zx_handle_t, uint32_t, const void*, size_t)``.

    ZX_PROP_NAME: 31 bytes are kept, up to the first NUL, and no more are read. The name is the
    object's, through whatever handle.

    ZX_PROP_VMO_CONTENT_SIZE: a native unsigned number of 8 bytes, the stream size in bytes. One
    beyond the end of the object is kept as it is; a smaller one is zx_vmo_set_stream_size's.

    After an error the property is as it was; after NO_MEMORY, bytes beyond the former stream size
    may have been cleared.

    Args:
      value_size: bytes of ``value``.

    Errors, in this order:
      INVALID_ARGS: ``value`` is NULL.
      BAD_HANDLE: the number names nothing.
      ACCESS_DENIED: the handle lacks SET_PROPERTY.
      NOT_SUPPORTED: there is no such property.

    Of ZX_PROP_NAME, then:
      INVALID_ARGS: ``value`` is shorter than ``value_size`` and than 31 bytes.
      WRONG_TYPE: the object has no name.

    Of ZX_PROP_VMO_CONTENT_SIZE, then:
      ACCESS_DENIED: the handle lacks WRITE.
      BUFFER_TOO_SMALL: ``value_size`` is less than 8.
      WRONG_TYPE: the object is no memory object.
      INVALID_ARGS: ``value`` is shorter than ``value_size``.
      NOT_SUPPORTED: contiguous or device memory.
      BAD_STATE: a Python view shows what a mapping would hide; not cached, and a part of a page
        would have to be cleared.
      NO_MEMORY: the host is out of mappings.
    """
    number, prop = u32(handle), u32(property)
    view, size = _there(value), u64(value_size)
    found = open_handle(number)
    found._require(zx.ZX_RIGHT_SET_PROPERTY)
    if prop == zx.ZX_PROP_NAME:
        found.rename(bytes(_given(view, min(size, zx.ZX_MAX_NAME_LEN - 1))))
    elif prop == zx.ZX_PROP_VMO_CONTENT_SIZE:
        found._require(zx.ZX_RIGHT_WRITE)
        _check_room(size, _U64)
        vmo = _as_vmo(found)
        vmo.set_content_size(int.from_bytes(_given(view, size)[:_U64], byteorder))
    else:
        raise NotSupported("there is no such property", asked=prop)


def _there(value: Any) -> memoryview:
    view = pointed(value)
    if view is None:
        raise InvalidArgs("the value is NULL", remedy="pass a buffer")
    return view


def _given(view: memoryview, size: int) -> memoryview:
    given = readable(view, size)
    if given is None:
        raise InvalidArgs("the buffer is shorter than it is said to be", asked=size)
    return given


def _check_room(room: int, needed: int) -> None:
    if room < needed:
        raise BufferTooSmall("no room for the property", asked=needed, available=room)


def _as_vmo(handle: Handle[Any]) -> Vmo:
    if not isinstance(handle, Vmo):
        raise WrongType(f"{handle!r} is not a Vmo")
    return handle
