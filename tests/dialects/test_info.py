"""zx_object_get_info: who may ask what, and where the answer goes.

Source: zx_object_get_info; Zircon's kernel for the order of checks: the topic, the handle, its
type, its rights, and only then the buffer.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

import pinfold as pf
from pinfold.dialects import Out, zx
from pinfold.dialects.zx.records import TOPICS
from pinfold.errors import BufferTooSmall, NotSupported

from . import things
from .faulty import Call, Fault, attempts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INSPECT = zx.ZX_RIGHT_INSPECT
TABLE = INSPECT | zx.ZX_RIGHT_MANAGE_PROCESS | zx.ZX_RIGHT_MANAGE_THREAD


class Asked(NamedTuple):
    """A topic, an object that has it, one that has not, and the rights that it takes."""

    make: Callable[[], int]
    other: Callable[[], int] | None
    rights: int


def owner() -> int:
    """A process that has memory to list."""
    things.vmo()
    return things.process()


ASKED = {
    "HANDLE_BASIC": Asked(things.vmo, None, 0),
    "HANDLE_COUNT": Asked(things.vmo, None, INSPECT),
    "VMAR": Asked(things.region, things.vmo, INSPECT),
    "BTI": Asked(things.bti, things.iommu, INSPECT),
    "RESOURCE": Asked(things.resource, things.process, INSPECT),
    "VMO": Asked(things.vmo, things.region, 0),
    "VMO_V1": Asked(things.vmo, things.bti, 0),
    "VMO_V2": Asked(things.vmo, things.pmt, 0),
    "VMO_V3": Asked(things.vmo, things.resource, 0),
    "VMAR_MAPS": Asked(things.region, things.process, INSPECT),
    "PROCESS_HANDLE_STATS": Asked(things.process, things.vmo, INSPECT),
    "HANDLE_TABLE": Asked(things.process, things.region, TABLE),
    "PROCESS_MAPS": Asked(things.process, things.region, INSPECT),
    "PROCESS_MAPS_V1": Asked(things.process, things.vmo, INSPECT),
    "PROCESS_MAPS_V2": Asked(things.process, things.bti, INSPECT),
    "PROCESS_VMOS": Asked(owner, things.vmo, INSPECT),
    "PROCESS_VMOS_V1": Asked(owner, things.iommu, INSPECT),
    "PROCESS_VMOS_V2": Asked(owner, things.pmt, INSPECT),
    "PROCESS_VMOS_V3": Asked(owner, things.resource, INSPECT),
}


def topic_of(name: str) -> int:
    found = getattr(zx, f"ZX_INFO_{name}")
    assert isinstance(found, int)
    return found


UNKNOWN = {
    "no topic": zx.ZX_INFO_NONE,
    "an unknown topic": 0x0FFF_FFFF,
    "a version to come": 0xF000_0017,
    "a topic of what is not here": zx.ZX_INFO_SOCKET,
}
CLAIMED = 1 << 20
"""Bytes: more room than any record here takes."""


def bits(rights: int) -> Iterator[int]:
    return (1 << at for at in range(32) if rights >> at & 1)


def call_of(name: str) -> Call:
    """A topic with everything that can be wrong, in the order in which it is found out."""
    asked, topic = ASKED[name], topic_of(name)
    faults = []
    if name == "VMO":  # which topic it would have been makes no difference
        faults += [
            Fault(what, "topic", partial(int, number), "NOT_SUPPORTED")
            for what, number in UNKNOWN.items()
        ]
    faults += [
        Fault("no handle", "handle", lambda: 0, "BAD_HANDLE"),
        Fault("a closed handle", "handle", things.closed, "BAD_HANDLE"),
    ]
    other = asked.other
    if other is not None:
        faults += [
            Fault("another type", "handle", other, "WRONG_TYPE"),
            Fault("another type, no right", "handle", lambda: bare(other), "WRONG_TYPE"),
        ]
    faults += [
        Fault(
            f"without {right:#x}",
            "handle",
            partial(lambda right: things.without(right, asked.make()), right),
            "ACCESS_DENIED",
        )
        for right in bits(asked.rights)
    ]
    if not TOPICS[topic].many:
        short = TOPICS[topic].layout.size - 1
        faults.append(Fault("no room", "buffer_size", lambda: short, "BUFFER_TOO_SMALL"))
        faults.append(Fault("no room at all", "buffer_size", lambda: 0, "BUFFER_TOO_SMALL"))
    faults += [
        Fault("NULL", "buffer", lambda: None, "INVALID_ARGS"),
        Fault("a short buffer", "buffer", lambda: bytearray(CLAIMED - 1), "INVALID_ARGS"),
        Fault("a read-only buffer", "buffer", lambda: bytes(CLAIMED), "INVALID_ARGS"),
    ]
    good: dict[str, Callable[[], Any]] = {
        "handle": asked.make,
        "topic": lambda: topic,
        "buffer": lambda: bytearray(CLAIMED),
        "buffer_size": lambda: CLAIMED,
        "actual": Out,
        "avail": Out,
    }
    return Call(zx.zx_object_get_info, good, tuple(faults), name)


def bare(make: Callable[[], int]) -> int:
    """A handle without any right."""
    made: int = things.ok(zx.zx_handle_replace, make(), zx.ZX_RIGHT_NONE)
    return made


CALLS = [call_of(name) for name in ASKED]


def test_every_topic_is_tried() -> None:
    assert {topic_of(name) for name in ASKED} == set(TOPICS)


@pytest.mark.parametrize(("call", "faults"), attempts(CALLS))
@pytest.mark.usefixtures("process")
def test_the_first_fault_decides(call: Call, faults: tuple[Fault, ...]) -> None:
    """Source: the kernel's order of checks; conformance list, 14.

    No count is written, and nothing of the buffer, but for the counts of a record that had no room.
    """
    found, args = call.attempt(*faults)
    assert found == f"ZX_ERR_{faults[0].status}"
    assert not args["buffer"] or not any(args["buffer"])
    short = found == "ZX_ERR_BUFFER_TOO_SMALL"
    assert args["actual"].value == (0 if short else None)
    assert args["avail"].value == (1 if short else None)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
@pytest.mark.usefixtures("process")
def test_without_a_fault_it_succeeds(call: Call) -> None:
    found, args = call.attempt()
    assert found == "ZX_OK"
    assert args["actual"].value == args["avail"].value > 0


# HANDLE_VALID -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", things.ALL)
@pytest.mark.usefixtures("process")
def test_handle_valid_asks_for_no_right_and_touches_nothing(kind: str) -> None:
    """Source: ZX_INFO_HANDLE_VALID."""
    number = bare(things.ALL[kind])
    counts = Out(), Out()
    for buffer, size in ((None, 0), (None, 100), (b"", 0), (bytearray(4), 2**64 - 1)):
        found = zx.zx_object_get_info(number, zx.ZX_INFO_HANDLE_VALID, buffer, size, *counts)
        assert found == zx.ZX_OK
    assert [count.value for count in counts] == [None, None]
    assert zx.zx_handle_close(number) == zx.ZX_OK
    for gone in (number, 0, 7):
        found = zx.zx_object_get_info(gone, zx.ZX_INFO_HANDLE_VALID, None, 0, *counts)
        assert found == zx.ZX_ERR_BAD_HANDLE


# Room ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outs", ["both", "actual", "avail", "neither"])
@pytest.mark.usefixtures("process")
def test_counts_are_optional(outs: str) -> None:
    """Source: zx_object_get_info; the status does not depend on them."""
    number, size = things.vmo(), zx.zx_info_handle_basic_t.size
    actual = Out() if outs in ("both", "actual") else None
    avail = Out() if outs in ("both", "avail") else None
    for room, expected, count in ((size, zx.ZX_OK, 1), (size - 1, zx.ZX_ERR_BUFFER_TOO_SMALL, 0)):
        found = zx.zx_object_get_info(
            number, zx.ZX_INFO_HANDLE_BASIC, bytearray(room), room, actual, avail
        )
        assert found == expected
        assert actual is None or actual.value == count
        assert avail is None or avail.value == 1


SINGLE = [name for name in ASKED if not TOPICS[topic_of(name)].many]
MANY = [name for name in ASKED if TOPICS[topic_of(name)].many]


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.usefixtures("process")
def test_one_record_is_written_and_not_a_byte_more(name: str) -> None:
    size = TOPICS[topic_of(name)].layout.size
    number = ASKED[name].make()
    buffer = bytearray(b"\xee" * (size + 8))
    found = zx.zx_object_get_info(number, topic_of(name), buffer, size + 8, None, None)
    assert found == zx.ZX_OK
    assert buffer[size:] == b"\xee" * 8
    exact = np.zeros(size, np.uint8)
    assert zx.zx_object_get_info(number, topic_of(name), exact, size, None, None) == zx.ZX_OK
    assert bytes(exact) == bytes(buffer[:size])


@pytest.mark.parametrize("name", MANY)
@pytest.mark.usefixtures("process")
def test_as_many_records_are_written_as_there_is_room_for(name: str) -> None:
    """Source: zx_object_get_info: never BUFFER_TOO_SMALL; ``avail`` says how many there are."""
    number, topic = ASKED[name].make(), topic_of(name)
    kept = things.vmo()
    for at in range(3):
        address = Out()
        region = number if name == "VMAR_MAPS" else zx.zx_vmar_root_self()
        assert zx.zx_vmar_map(region, 0, 0, kept, 0, (at + 1) * things.PAGE, address) == zx.ZX_OK
    size = TOPICS[topic].layout.size
    counts = Out(), Out()
    whole = bytearray(size * 64)
    assert zx.zx_object_get_info(number, topic, whole, len(whole), *counts) == zx.ZX_OK
    there = counts[1].value
    assert counts[0].value == there >= 2
    assert not any(whole[size * there :])
    for room in range(0, size * (there + 1), size // 2):
        buffer = bytearray(b"\xee" * (room + 4))
        written = min(room // size, there)
        assert zx.zx_object_get_info(number, topic, buffer, room, *counts) == zx.ZX_OK
        assert (counts[0].value, counts[1].value) == (written, there)
        assert buffer[: written * size] == whole[: written * size]
        assert buffer[written * size :] == b"\xee" * (room + 4 - written * size)


@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("buffer", [None, b"", bytearray(3)])
@pytest.mark.usefixtures("process")
def test_no_room_is_no_error_where_there_are_several(name: str, buffer: Any) -> None:
    """And the buffer is not looked at: NULL will do."""
    number, counts = ASKED[name].make(), (Out(), Out())
    size = TOPICS[topic_of(name)].layout.size - 1
    assert zx.zx_object_get_info(number, topic_of(name), buffer, size, *counts) == zx.ZX_OK
    assert counts[0].value == 0
    assert counts[1].value > 0


@pytest.mark.usefixtures("process")
def test_the_handle_table_says_its_length_to_who_asks_for_that_alone() -> None:
    """Source: Zircon's kernel: without a buffer and ``avail``, ``actual`` is the whole number."""
    number, actual, avail = things.process(), Out(), Out()
    topic = zx.ZX_INFO_HANDLE_TABLE
    assert zx.zx_object_get_info(number, topic, None, 0, actual, None) == zx.ZX_OK
    assert zx.zx_object_get_info(number, topic, b"", 0, None, avail) == zx.ZX_OK
    assert actual.value == avail.value > 0


# unpack -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("process")
def test_unpack_gives_one_record_or_a_list_of_them() -> None:
    number, counts = things.process(), (Out(), Out())
    topic, size = zx.ZX_INFO_HANDLE_TABLE, zx.zx_info_handle_extended_t.size
    buffer = bytearray(size * 8)
    assert zx.zx_object_get_info(number, topic, buffer, len(buffer), *counts) == zx.ZX_OK
    written = counts[0].value
    records = zx.unpack(topic, buffer, written)
    assert len(records) == written
    assert records == zx.unpack(topic, buffer[: written * size])
    assert len(zx.unpack(topic, buffer)) == 8
    assert zx.unpack(topic, b"") == []
    assert records[0] == zx.zx_info_handle_extended_t.unpack(buffer)
    assert zx.zx_info_handle_extended_t.pack(records[0]) == bytes(buffer[:size])


def test_unpack_takes_a_structure_by_its_name() -> None:
    state = zx.unpack("zx_vmo_lock_state_t", np.arange(4, dtype=np.uint64))
    assert (state.offset, state.size, state.discarded_offset, state.discarded_size) == (0, 1, 2, 3)


REFUSED: list[tuple[Any, Any, int | None, type[Exception]]] = [
    (zx.ZX_INFO_HANDLE_VALID, b"", None, NotSupported),
    (0x0FFF_FFFF, b"", None, NotSupported),
    ("zx_info_no_t", b"", None, NotSupported),
    (zx.ZX_INFO_VMO, bytes(175), None, BufferTooSmall),
    (zx.ZX_INFO_HANDLE_TABLE, bytes(79), 2, BufferTooSmall),
    ("zx_vmo_lock_state_t", bytes(31), None, BufferTooSmall),
    (zx.ZX_INFO_VMO, None, None, TypeError),
    (zx.ZX_INFO_HANDLE_TABLE, None, None, TypeError),
    (zx.ZX_INFO_VMO, "text", None, TypeError),
]


@pytest.mark.parametrize(("topic", "buffer", "count", "error"), REFUSED)
def test_unpack_refuses_what_it_has_no_record_for(
    topic: Any, buffer: Any, count: int | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        zx.unpack(topic, buffer, count)


NAMES = ["", "buffer", "x" * 31, "größer", "\udcff\udc80"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_comes_out_as_it_went_in(name: str) -> None:
    """Whatever its bytes are: those that are no UTF-8 as well."""
    layout = zx.zx_info_resource_t
    raw = layout.pack(layout.record(1, 2, 3, 4, name))
    assert layout.unpack(raw).name == name
    assert raw[layout.offsets["name"] :] == name.encode(errors="surrogateescape").ljust(32, b"\0")


def test_a_name_that_is_too_long_leaves_room_for_its_nul() -> None:
    layout = zx.zx_info_resource_t
    raw = layout.pack(layout.record(1, 2, 3, 4, "y" * 40))
    assert raw[layout.offsets["name"] :] == b"y" * 31 + b"\0"


def test_a_layout_says_what_it_is() -> None:
    assert repr(zx.zx_info_vmo_t) == "<Layout zx_info_vmo_t, 176 bytes>"
    assert zx.zx_info_vmo_t.align == 8
    with pytest.raises(BufferTooSmall):
        zx.zx_info_vmo_t.unpack(bytes(200), 25)
    with pytest.raises(BufferTooSmall):
        zx.zx_info_vmo_t.unpack(bytes(200), -1)


def test_a_process_that_ended_has_no_address_space(process: pf.Process) -> None:
    """Source: Zircon's kernel, BAD_STATE of a destroyed address space."""
    other = pf.Process(process.kernel)
    with other:
        number = zx.zx_process_self()
        entry = other.handles[number]
    with process.kernel.lock:
        number = process.add(other, entry.rights).value
    other.exit()
    for name in ("PROCESS_MAPS", "PROCESS_VMOS"):
        buffer, counts = bytearray(200), (Out(), Out())
        found = zx.zx_object_get_info(number, topic_of(name), buffer, 200, *counts)
        assert found == zx.ZX_ERR_BAD_STATE
        assert [count.value for count in counts] == [None, None]
