# What a topic of an object_get_info gives: how records are handed out, and taken apart.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pinfold.dialects.calling import pointed, writable
from pinfold.errors import BufferTooSmall, InvalidArgs, NotSupported

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pinfold.dialects.calling import Out
    from pinfold.dialects.layout import Layout


class Topic(NamedTuple):
    """What a topic gives."""

    layout: Layout[Any]
    many: bool = False
    """True where it gives as many records as there are, or as there is room for."""


def handed_out(
    topic: Topic,
    records: Sequence[Any],
    view: memoryview | None,
    room: int,
    actual: Out | None,
    avail: Out | None,
    *,
    asks_first: bool = False,
) -> None:
    """Write the records that there is room for, and say how many there are.

    Args:
      asks_first: where nothing can be written, ``actual`` gets the number that there are.

    Raises:
      InvalidArgs: a record is to be written, and the buffer is NULL, read-only or shorter than
        ``room``; nothing is written.
      BufferTooSmall: there is no room for the one record; the counts are written all the same.
    """
    layout, there = topic.layout, len(records)
    written = min(there, room // layout.size)
    if written:
        if view is None or writable(view, room) is None:
            raise InvalidArgs("the buffer cannot be written so far", asked=room)
        view[: written * layout.size] = b"".join(map(layout.pack, records[:written]))
    elif asks_first:
        written = there
    if actual is not None:
        actual.value = written
    if avail is not None:
        avail.value = there
    if not (topic.many or written):
        raise BufferTooSmall(f"no room for a {layout.name}", asked=layout.size, available=room)


def unpacked(
    topics: Mapping[int, Topic],
    structures: Mapping[str, Layout[Any]],
    topic: int | str,
    buffer: Any,
    count: int | None,
) -> Any:
    """What a call has written to a buffer, with names; see `unpack` of a dialect."""
    if isinstance(topic, str):
        found = Topic(structures[topic]) if topic in structures else None
    else:
        found = topics.get(topic)
    if found is None:
        raise NotSupported(f"{topic!r} has no record", remedy="use a topic of object_get_info")
    layout = found.layout
    if not found.many:
        return layout.unpack(buffer)
    view = pointed(buffer)
    if view is None:
        raise TypeError(f"None is no buffer to take a {layout.name} from")
    there = len(view) // layout.size
    if count is not None and count > there:
        raise BufferTooSmall("the buffer has not so many records", asked=count, available=there)
    wanted = there if count is None else count
    return [layout.unpack(view, at * layout.size) for at in range(wanted)]
