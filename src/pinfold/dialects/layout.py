# How a C structure lies in memory, and its bytes from and to a record with names.
#
# Each structure is written down once, as a record: a frozen dataclass with C's field names, in C's
# order, whose annotations say what C has there. `Layout` finds the offsets by C's rules on an LP64
# machine: a field begins at a multiple of its width, the whole ends at a multiple of the widest.
#
# Names are bytes in C and usually UTF-8. They are decoded so that encoding gives the same bytes
# again, whatever they were; what lies behind the first NUL is no part of a name.
from __future__ import annotations

import struct
from dataclasses import fields
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Generic,
    NamedTuple,
    TypeVar,
    get_type_hints,
)

from pinfold.dialects.calling import pointed
from pinfold.errors import BufferTooSmall

if TYPE_CHECKING:
    from collections.abc import Iterator

R = TypeVar("R")

Bool = Annotated[bool, "?"]
U8 = Annotated[int, "B"]
U16 = Annotated[int, "H"]
U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q"]


class _Field(NamedTuple):
    """One field of a structure: what `struct` calls it, and how many values that makes."""

    name: str
    code: str
    width: int
    values: int
    inner: Layout[Any] | None
    room: int
    """Bytes, NUL included, of a name; 0 for what is none."""


class Layout(Generic[R]):
    """A C structure: its size, where its fields are, and how to read and write it.

    Attributes:
      name: the structure's, in C.
      record: the class of its records.
      size: bytes, ``sizeof``.
      align: bytes; what its address is a multiple of.
      offsets: of each field, in bytes.
      code: what `struct` calls it inside another structure.
      values: how many values that makes.
    """

    __slots__ = (
        "_fields", "_struct", "align", "code", "name", "offsets", "record", "size", "values",
    )  # fmt: skip

    def __init__(self, name: str, record: type[R]) -> None:
        self.name = name
        self.record = record
        hints = get_type_hints(record, include_extras=True)
        members: Any = record  # a dataclass, which a type variable cannot say
        self._fields = [_field(member.name, hints[member.name]) for member in fields(members)]
        self.offsets: dict[str, int] = {}
        self.align = max(field.width for field in self._fields)
        code = "="
        for field in self._fields:
            at = struct.calcsize(code)
            gap = -at % field.width
            self.offsets[field.name] = at + gap
            code += f"{gap}x{field.code}"
        code += f"{-struct.calcsize(code) % self.align}x"
        self._struct = struct.Struct(code)
        self.size = self._struct.size
        self.code = code[1:]
        self.values = sum(field.values for field in self._fields)
        _LAYOUTS[record] = self

    def pack(self, record: R) -> bytes:
        """The bytes of a record; padding is zeros, and a name is cut to what leaves a NUL."""
        return self._struct.pack(*self.flat(record))

    def unpack(self, buffer: Any, at: int = 0) -> R:
        """The record whose bytes begin at ``at``.

        Raises:
          TypeError: it is no buffer.
          BufferTooSmall: the buffer ends before the structure does.
        """
        view = pointed(buffer)
        if view is None:
            raise TypeError(f"None is no buffer to take a {self.name} from")
        if at < 0 or at + self.size > len(view):
            raise BufferTooSmall(
                f"the buffer has no whole {self.name} at {at}",
                asked=self.size,
                available=max(len(view) - at, 0),
            )
        return self.built(iter(self._struct.unpack_from(view, at)))

    def flat(self, record: R) -> Iterator[Any]:
        """The values that `struct` takes for a record, those of the records in it included."""
        for field in self._fields:
            value = getattr(record, field.name)
            if field.inner is not None:
                yield from field.inner.flat(value)
            elif field.values > 1:
                yield from value
            elif field.room:
                yield value.encode(errors="surrogateescape")[: field.room - 1]
            else:
                yield value

    def built(self, values: Iterator[Any]) -> R:
        """The record of such values, which are used up."""
        made: dict[str, Any] = {}
        for field in self._fields:
            if field.inner is not None:
                made[field.name] = field.inner.built(values)
            elif field.values > 1:
                made[field.name] = tuple(next(values) for _ in range(field.values))
            elif field.room:
                raw = next(values).partition(b"\0")[0]
                made[field.name] = raw.decode(errors="surrogateescape")
            else:
                made[field.name] = next(values)
        return self.record(**made)

    def __repr__(self) -> str:
        return f"<Layout {self.name}, {self.size} bytes>"


_LAYOUTS: Final[dict[Any, Layout[Any]]] = {}
"""By record, for structures inside structures."""


def _field(name: str, hint: Any) -> _Field:
    inner = _LAYOUTS.get(hint)
    if inner is not None:
        return _Field(name, inner.code, inner.align, inner.values, inner, 0)
    code = hint.__metadata__[0]
    count, letter = int(code[:-1] or 1), code[-1]
    room = count if hint.__origin__ is str else 0
    values = 1 if letter == "s" else count
    return _Field(name, code, struct.calcsize(f"={letter}"), values, None, room)
