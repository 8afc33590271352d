# The words of the cases as numbers and bytes: statuses, options, rights, data.
#
# A word leaves out its prefix, which is known from where it stands. Every number comes from the
# dialect under test, so that a name it does not export is found missing here.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pinfold.dialects import zx

from .expressions import Unknown, number

if TYPE_CHECKING:
    from collections.abc import Mapping

EVENTPAIR_PEER_CLOSED: Final = 0x4
"""ZX_EVENTPAIR_PEER_CLOSED: of events, which the dialect does not have."""

FAULTS: Final = frozenset({"ACCESS_DENIED", "NOT_FOUND", "OUT_OF_RANGE"})
"""What a load or store that Linux refuses may be called: it has one kind of fault, EFAULT."""


def constant(name: str) -> int:
    """A number of the dialect.

    Raises:
      Unknown: it has none of that name.
    """
    value = getattr(zx, name, None)
    if not isinstance(value, int):
        raise Unknown(f"the dialect has no number {name}")
    return value


def status(name: str) -> int:
    """A status, written without ZX_ERR_; OK is ZX_OK."""
    return constant("ZX_OK" if name == "OK" else f"ZX_ERR_{name}")


_STATUS_NAMES: Final[dict[int, str]] = {}


def status_name(value: int) -> str:
    """How the cases write a status."""
    if not _STATUS_NAMES:
        _STATUS_NAMES[constant("ZX_OK")] = "OK"
        for name in dir(zx):
            if name.startswith("ZX_ERR_"):
                _STATUS_NAMES[constant(name)] = name.removeprefix("ZX_ERR_")
    return _STATUS_NAMES.get(value, f"status {value}")


def union(words: Any, prefix: str) -> int:
    """Options: a list of names without their prefix, and of ``RAW:x`` for the bits x themselves."""
    if not isinstance(words, list):
        raise Unknown(f"{words!r} is no list of options")
    bits = 0
    for word in words:
        raw = word.removeprefix("RAW:")
        bits |= number(raw, {}) if raw != word else constant(prefix + word)
    return bits


def names(bits: int, prefix: str, among: tuple[str, ...]) -> list[str]:
    """The inverse: which of the names ``among`` a number is made of.

    Raises:
      Unknown: it has a bit that none of them stands for.
    """
    found = [word for word in among if bits & constant(prefix + word)]
    if union(found, prefix) != bits:
        raise Unknown(f"{bits:#x} is no union of {prefix}{{{', '.join(among)}}}")
    return found


def signals(words: Any) -> int:
    """The signals that a wait is for."""
    if words == ["EVENTPAIR_PEER_CLOSED"]:
        return EVENTPAIR_PEER_CLOSED
    return union(words, "ZX_")


def deadline(word: int | str) -> int:
    """A point in time: the first one, the last one, or a number of nanoseconds."""
    if word in ("INFINITE", "INFINITE_PAST"):
        return constant(f"ZX_TIME_{word}")
    return number(word, {})


def data(word: Any, symbols: Mapping[str, Any]) -> bytes:
    """Bytes in one of their forms: {u8}, {u32}, {u64}, {ascii} or {fill, length}."""
    match word:
        case {"u8": int(value), **rest} if not rest:
            return value.to_bytes(1, "little")
        case {"u32": int(value), **rest} if not rest:
            return value.to_bytes(4, "little")
        case {"u64": int(value), **rest} if not rest:
            return value.to_bytes(8, "little")
        case {"ascii": str(text), **rest} if not rest:
            return text.encode("ascii")
        case {"fill": int(value), "length": length, **rest} if not rest:
            return bytes([value]) * number(length, symbols)
    raise Unknown(f"{word!r} is no form of bytes")
