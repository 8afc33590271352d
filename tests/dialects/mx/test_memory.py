"""What Magenta's calls do with memory: sizes to the byte, short transfers, ranges, clones.

Source: the mx_vmo_* pages of August 2017, and that kernel where they are silent.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.dialects import Out, mx
from pinfold.dialects.calling import face, number_of
from pinfold.objects.memory_object import MAX_SIZE

from . import things
from .things import PAGE, Strict, decommit, fine, named, ok

pytestmark = pytest.mark.usefixtures("process")


def size_of(vmo: int) -> int:
    return int(ok(mx.mx_vmo_get_size, vmo))


def read(vmo: int, offset: int, size: int) -> tuple[str, bytes]:
    data, actual = bytearray(size), Out()
    found = named(mx.mx_vmo_read(vmo, data, offset, size, actual))
    if actual.value is None:
        assert not any(data)
        return found, b""
    return found, bytes(data[: actual.value])


def write(vmo: int, offset: int, data: bytes) -> int:
    return int(ok(mx.mx_vmo_write, vmo, data, offset, len(data)))


@pytest.mark.parametrize("size", [0, 1, 5000, PAGE, 3 * PAGE + 1])
def test_a_size_is_kept_to_the_byte(size: int) -> None:
    vmo = things.vmo(size, committed=False)
    assert size_of(vmo) == size
    fine(mx.mx_vmo_set_size, vmo, size + 1)
    assert size_of(vmo) == size + 1
    fine(mx.mx_vmo_set_size, vmo, 0)
    assert size_of(vmo) == 0


def test_transfers_end_where_the_object_does() -> None:
    """Source: mx_vmo_read, mx_vmo_write: they say how many bytes there were."""
    vmo = things.vmo(5000)
    assert write(vmo, 4990, b"0123456789abcdef") == 10
    assert read(vmo, 4980, 100) == ("OK", bytes(10) + b"0123456789")
    assert read(vmo, 4999, 1) == ("OK", b"9")
    assert read(vmo, 5001, 0)[0] == "OUT_OF_RANGE"
    fine(mx.mx_vmo_set_size, vmo, 4995)
    fine(mx.mx_vmo_set_size, vmo, 3 * PAGE)
    assert read(vmo, 4990, 10) == ("OK", b"01234" + bytes(5))


def test_long_transfers(process: pf.Process) -> None:
    """In pieces, all of it, and trimmed at the end of the object."""
    size = (1 << 20) + 77
    vmo = things.vmo(size, committed=False)
    data = np.random.default_rng(1).integers(0, 256, size + 50, np.uint8).tobytes()
    assert write(vmo, 0, data) == size
    assert read(vmo, 0, size + 50) == ("OK", data[:size])
    assert read(vmo, 12345, size) == ("OK", data[12345:size])
    assert process.kernel.statistics().objects == len(process.kernel.objects())


def test_reading_commits_nothing_and_writing_what_it_touches() -> None:
    vmo = things.vmo(4 * PAGE, committed=False)
    target: Any = face(vmo).object
    assert read(vmo, 0, 4 * PAGE) == ("OK", bytes(4 * PAGE))
    assert target.attributed(0, 4 * PAGE) == 0
    write(vmo, PAGE - 1, b"xy")
    assert target.attributed(0, 4 * PAGE) == 2 * PAGE


def test_ranges_are_rounded_out_and_trimmed() -> None:
    """Source: mx_vmo_op_range; no right is needed."""
    vmo = things.without(mx.MX_RIGHT_WRITE, things.vmo(3 * PAGE + 5, committed=False))
    bare = things.without(mx.MX_RIGHT_READ, vmo)
    target: Any = face(bare).object
    op = mx.MX_VMO_OP_COMMIT
    fine(mx.mx_vmo_op_range, bare, op, 3 * PAGE + 5, 1 << 40, None, 0)
    assert target.attributed(0, 4 * PAGE) == 0
    fine(mx.mx_vmo_op_range, bare, op, 2 * PAGE + 1, 1 << 40, None, 0)
    assert target.attributed(0, 4 * PAGE) == 2 * PAGE
    fine(mx.mx_vmo_op_range, bare, op, 0, 1, None, 0)
    assert target.attributed(0, 4 * PAGE) == 3 * PAGE
    assert decommit(bare, 2 * PAGE + 9, PAGE) == "OK"
    assert target.attributed(0, 4 * PAGE) == PAGE
    for op in (mx.MX_VMO_OP_LOCK, mx.MX_VMO_OP_UNLOCK):
        assert named(mx.mx_vmo_op_range(bare, op, 0, 1, None, 0)) == "NOT_SUPPORTED"
    for op in (0, 10, 0xFFFFFFFF):
        assert named(mx.mx_vmo_op_range(bare, op, 0, 1, None, 0)) == "INVALID_ARGS"
        assert named(mx.mx_vmo_op_range(0, op, 0, 1, None, 0)) == "BAD_HANDLE"


def test_physical_addresses_are_looked_up() -> None:
    """Source: LOOKUP; they are what the stub bus gives, and device memory has its own."""
    vmo = things.vmo(3 * PAGE)
    found = np.zeros(4, np.uint64)
    fine(mx.mx_vmo_op_range, vmo, mx.MX_VMO_OP_LOOKUP, 1, 3 * PAGE - 1, found, found.nbytes)
    assert list(found[:3]) == list(things.pin(things.bti(), vmo, 0, 3 * PAGE))
    assert not found[3]
    device = ok(mx.mx_vmo_create_physical, mx.root_resource(), 0xC000_0000, 2 * PAGE)
    fine(mx.mx_vmo_op_range, device, mx.MX_VMO_OP_LOOKUP, 0, 2 * PAGE, found, 16)
    assert list(found[:2]) == [0xC000_0000, 0xC000_0000 + PAGE]
    look = mx.MX_VMO_OP_LOOKUP
    for offset, size, room, expected in (
        (0, 0, 0, "INVALID_ARGS"),
        (0, 3 * PAGE, 0, "OUT_OF_RANGE"),
        (0, PAGE, 7, "BUFFER_TOO_SMALL"),
    ):
        assert named(mx.mx_vmo_op_range(device, look, offset, size, found, room)) == expected


def test_a_clone_shows_what_was_there(process: pf.Process) -> None:
    """Source: mx_vmo_clone: beyond the parent it is zeros, and its writes are its own."""
    vmo = things.vmo(2 * PAGE)
    write(vmo, 0, b"parent")
    clone = ok(mx.mx_vmo_clone, vmo, mx.MX_VMO_CLONE_COPY_ON_WRITE, 0, 3 * PAGE + 7)
    assert size_of(clone) == 3 * PAGE + 7
    assert read(clone, 0, 6) == ("OK", b"parent")
    write(clone, 0, b"child")
    assert read(vmo, 0, 6) == ("OK", b"parent")
    assert read(clone, 2 * PAGE, 4) == ("OK", bytes(4))
    record = next(r for r in _vmos_of(process) if r.koid == face(clone).koid)
    assert record.flags & mx.MX_INFO_VMO_IS_COW_CLONE
    assert (record.committed_bytes, record.parent_koid) == (PAGE, face(vmo).koid)
    fine(mx.mx_vmo_op_range, clone, mx.MX_VMO_OP_COMMIT, 0, 4 * PAGE, None, 0)
    record = next(r for r in _vmos_of(process) if r.koid == face(clone).koid)
    assert record.committed_bytes == 4 * PAGE


def _vmos_of(process: pf.Process) -> Any:
    other, out = pf.Process(process.kernel), Out()
    fine(mx.handle_transfer, things.process(), other, out)
    with other:
        found = things.info(out.value, mx.MX_INFO_PROCESS_VMOS)
    other.exit()
    return found


def test_a_clone_of_what_is_pinned_or_contiguous() -> None:
    """Magenta allows both, where Zircon allows neither."""
    vmo, bti = things.vmo(2 * PAGE), things.bti()
    addrs = things.pin(bti, vmo)
    for source in (vmo, things.contiguous(2 * PAGE)):
        write(source, 5, b"seen")
        clone = ok(mx.mx_vmo_clone, source, mx.MX_VMO_CLONE_COPY_ON_WRITE, 0, PAGE)
        assert read(clone, 5, 4) == ("OK", b"seen")
        assert things.attempt(bti, clone)[0] == "NOT_FOUND"
    assert things.unpin(bti, addrs) == "OK"


def test_rights_of_a_clone() -> None:
    """Source: those of the source, the property rights, and WRITE."""
    missing = mx.MX_RIGHT_WRITE | mx.MX_RIGHT_GET_PROPERTY | mx.MX_RIGHT_MAP
    vmo = things.without(missing, things.vmo(PAGE))
    clone = ok(mx.mx_vmo_clone, vmo, mx.MX_VMO_CLONE_COPY_ON_WRITE, 0, PAGE)
    assert things.rights_of(clone) == mx.MX_DEFAULT_VMO_RIGHTS & ~mx.MX_RIGHT_MAP


def test_contiguous_memory_within_its_last_page() -> None:
    """Bytes of its last page may go and come; whole pages may not."""
    vmo = things.contiguous(PAGE + 1)
    assert size_of(vmo) == 2 * PAGE
    fine(mx.mx_vmo_set_size, vmo, PAGE + 1)
    assert size_of(vmo) == PAGE + 1
    assert read(vmo, PAGE, 9) == ("OK", bytes(1))
    assert named(mx.mx_vmo_set_size(vmo, PAGE)) == "BAD_STATE"
    assert named(mx.mx_vmo_set_size(vmo, 2 * PAGE + 1)) == "NOT_SUPPORTED"


def test_device_memory_under_the_root_and_under_its_own_resource(process: pf.Process) -> None:
    """Source: mx_vmo_create_physical: rounded up, and the root stands for every address."""
    base = 0xC000_0000
    mmio = number_of(pf.Resource(base, 2 * PAGE))
    for resource in (mmio, mx.root_resource()):
        device = ok(mx.mx_vmo_create_physical, resource, base, PAGE + 1)
        assert size_of(device) == 2 * PAGE
        assert things.rights_of(device) == mx.MX_DEFAULT_VMO_RIGHTS
        fine(mx.mx_vmo_set_cache_policy, device, mx.MX_CACHE_POLICY_WRITE_COMBINING)
        assert read(device, 0, 1)[0] == "NOT_SUPPORTED"
        at = ok(mx.mx_vmar_map, mx.mx_vmar_root_self(), 0, device, 0, PAGE, 3)
        assert named(mx.mx_vmo_set_cache_policy(device, 0)) == "BAD_STATE"
        fine(mx.mx_vmar_unmap, mx.mx_vmar_root_self(), at, PAGE)
    assert process.kernel.statistics().leaks == 0


def test_limits_of_sizes() -> None:
    """What no file can hold is INVALID_ARGS when it is made, and OUT_OF_RANGE later."""
    out = Out()
    assert named(mx.mx_vmo_create(MAX_SIZE + 1, 0, out)) == "INVALID_ARGS"
    vmo = things.vmo(MAX_SIZE, committed=False)
    assert size_of(vmo) == MAX_SIZE
    assert named(mx.mx_vmo_set_size(vmo, MAX_SIZE + 1)) == "OUT_OF_RANGE"
    assert read(vmo, MAX_SIZE - 1, 2) == ("OK", bytes(1))


def test_the_end_of_an_object(strict: Strict) -> None:
    """Source: the page says OUT_OF_RANGE of a range that begins there, the kernel 0 bytes."""
    end = ("OK", b"") if strict == "kernel" else ("OUT_OF_RANGE", b"")
    for size in (0, 5000):
        vmo = things.vmo(size, committed=False)
        for length in (0, 3):
            assert read(vmo, size, length) == end
            actual = Out()
            found = named(mx.mx_vmo_write(vmo, b"abc", size, length, actual))
            assert (found, actual.value) == (end[0], 0 if end[0] == "OK" else None)
        assert read(vmo, size + 1, 0)[0] == "OUT_OF_RANGE"


def test_a_buffer_that_cannot_be_accessed() -> None:
    """Source: a bad pointer is INVALID_ARGS, never a fault."""
    root, vmo = mx.mx_vmar_root_self(), things.vmo(PAGE)
    for size in (PAGE, 100 * PAGE):
        source = things.vmo(size)
        at = ok(mx.mx_vmar_map, root, 0, source, 0, size, 0)
        bad = (ctypes.c_ubyte * size).from_address(at)
        other = things.vmo(size)
        assert named(mx.mx_vmo_read(other, bad, 0, size, Out())) == "INVALID_ARGS"
        assert named(mx.mx_vmo_write(other, bad, 0, size, Out())) == "INVALID_ARGS"
        fine(mx.mx_vmar_unmap, root, at, size)
    assert read(vmo, 0, 1) == ("OK", bytes(1))
