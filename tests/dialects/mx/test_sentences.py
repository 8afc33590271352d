"""What a mapping and a pin of Magenta's let through, and no more: sentence by sentence.

Source: mx_bti_pin, mx_vmar_map, mx_vmo_clone.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.dialects import Out, mx, zx
from pinfold.dialects.calling import face, number_of
from pinfold.errors import DmaFault
from pinfold.objects.memory_object import MAX_SIZE
from tests.objects.vmar.world import resident_in_tables

from . import things
from .things import CAN_ALL, EXECUTE, PAGE, READ, WRITE, fine, named, ok

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RW = READ | WRITE
SPECIFIC, OVER = mx.MX_VM_FLAG_SPECIFIC, mx.MX_VM_FLAG_SPECIFIC_OVERWRITE
KNOWN = RW | EXECUTE | SPECIFIC | OVER | mx.MX_VM_FLAG_MAP_RANGE

pytestmark = pytest.mark.usefixtures("process")


def base_of(region: int) -> int:
    base: int = things.info(region, mx.MX_INFO_VMAR).base
    return base


# mx_bti_pin ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchor", [pf.Anchor.NONE, pf.Anchor.MLOCK])
@pytest.mark.parametrize("perms", range(1, 8))
def test_the_device_may_do_what_perms_say(perms: int, anchor: pf.Anchor) -> None:
    """And no more, on a bus that tells them apart; whether or not the host locks the pages."""
    bus = pf.open_bus("sim", anchor=anchor)
    bti, vmo = ok(mx.mx_bti_create, number_of(bus), 1), things.vmo(PAGE)
    fine(mx.mx_vmo_write, vmo, b"memory", 0, 6, Out())
    (address,) = things.pin(bti, vmo, 0, PAGE, perms)
    device: Any = face(bti)
    (token,) = device.pins()
    assert token.grant.perms == perms
    master = device.master()
    tries: dict[int, Callable[[], object]] = {
        READ: lambda: master.read(int(address), 6),
        WRITE: lambda: master.write(int(address), b"device"),
    }
    for perm, attempt in tries.items():
        if perms & perm:
            attempt()
        else:
            with pytest.raises(DmaFault):
                attempt()
    found = bytearray(6)
    fine(mx.mx_vmo_read, vmo, found, 0, 6, Out())
    assert bytes(found) == (b"device" if perms & WRITE else b"memory")


# mx_vmar_map --------------------------------------------------------------------------------------


def test_an_offset_counts_from_the_region() -> None:
    """Not from the root, nor from where the last one is."""
    region, vmo = things.region(offset=0), things.vmo(PAGE)
    for flag, page in ((SPECIFIC, 3), (SPECIFIC, 1), (OVER, 3), (OVER, 5)):
        at = ok(mx.mx_vmar_map, region, page * PAGE, vmo, 0, PAGE, RW | flag)
        assert at == base_of(region) + page * PAGE


def test_without_a_flag_it_is_placed() -> None:
    """Wherever there is room in the region, and never where something is."""
    region, vmo = things.region(8 * PAGE), things.vmo(2 * PAGE)
    ok(mx.mx_vmar_map, region, 2 * PAGE, vmo, 0, 2 * PAGE, READ | SPECIFIC)
    placed = {ok(mx.mx_vmar_map, region, 0, vmo, 0, 2 * PAGE, READ) for _ in range(3)}
    assert placed == {base_of(region) + page * PAGE for page in (0, 4, 6)}
    found = mx.mx_vmar_map(region, 0, vmo, 0, 2 * PAGE, READ, Out())
    assert named(found) == "NO_MEMORY"


@pytest.mark.parametrize("perm", [READ, WRITE, EXECUTE])
def test_the_region_has_to_allow_it(perm: int) -> None:
    """Whatever the handles may do; without the permission it can be mapped."""
    region, vmo = things.region(), things.vmo(PAGE)
    target: Any = face(region).object
    target.options = CAN_ALL & ~(perm << 7)
    other = READ if perm != READ else 0
    assert named(mx.mx_vmar_map(region, 0, vmo, 0, PAGE, READ | perm, Out())) == "ACCESS_DENIED"
    ok(mx.mx_vmar_map, region, 0, vmo, 0, PAGE, other)


@pytest.mark.parametrize("perm", [READ, WRITE, EXECUTE])
@pytest.mark.parametrize("handle", ["vmar", "vmo"])
def test_both_handles_have_to_allow_it(perm: int, handle: str) -> None:
    """Now, and for as long as the mapping is there, through whatever handle it is protected."""
    region, vmo = things.region(), things.vmo(PAGE)
    lesser = {"vmar": things.twin(region), "vmo": things.twin(vmo)}
    whole = {"vmar": region, "vmo": vmo}
    lesser[handle] = things.without(perm << 2, lesser[handle])
    used = whole | {handle: lesser[handle]}
    flags = READ | perm
    found = mx.mx_vmar_map(used["vmar"], 0, used["vmo"], 0, PAGE, flags, Out())
    assert named(found) == "ACCESS_DENIED"
    less = READ if perm != READ else 0
    at = ok(mx.mx_vmar_map, used["vmar"], 0, used["vmo"], 0, PAGE, less)
    assert named(mx.mx_vmar_protect(region, at, PAGE, flags)) == "ACCESS_DENIED"
    fine(mx.mx_vmar_protect, region, at, PAGE, less)


@pytest.mark.parametrize("bit", [b for b in range(32) if not KNOWN >> b & 1])
def test_no_other_flag_is_taken(bit: int) -> None:
    region, vmo, out = things.region(), things.vmo(PAGE), Out()
    assert named(mx.mx_vmar_map(region, 0, vmo, 0, PAGE, READ | 1 << bit, out)) == "INVALID_ARGS"
    assert out.value is None


@pytest.mark.parametrize("flags", [mx.MX_VM_FLAG_MAP_RANGE, 0])
def test_what_is_backed_is_in_the_tables(flags: int) -> None:
    """With MAP_RANGE, and before anybody touches it; what is not backed is not, in either case."""
    vmo = things.vmo(4 * PAGE)
    assert things.decommit(vmo, PAGE, PAGE) == "OK"
    at = ok(mx.mx_vmar_map, mx.mx_vmar_root_self(), 0, vmo, 0, 6 * PAGE, READ | flags)
    found = [resident_in_tables(at + page * PAGE) for page in range(6)]
    entered = bool(flags)
    assert found == [entered, False, entered, entered, False, False]


def test_an_object_larger_than_the_address_space() -> None:
    """A part of it is mapped; its size is more than any region has."""
    vmo, root = things.vmo(MAX_SIZE, committed=False), mx.mx_vmar_root_self()
    size = ok(mx.mx_vmo_get_size, vmo)
    assert size > things.info(root, mx.MX_INFO_VMAR).len
    assert named(mx.mx_vmar_map(root, 0, vmo, 0, size, READ, Out())) == "INVALID_ARGS"
    ok(mx.mx_vmar_map, root, 0, vmo, size - PAGE, PAGE, READ)


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads that take turns as often as Python can have them."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("eager_threads")
def test_nobody_sees_a_mapping_half_replaced(process: pf.Process) -> None:
    """A protect beside it always finds something mapped."""
    region, vmo = things.region(), things.vmo(2 * PAGE)
    at = ok(mx.mx_vmar_map, region, 0, vmo, 0, 2 * PAGE, READ | OVER)
    done, found = threading.Event(), set[str]()

    def protect() -> None:
        with process:
            while not done.is_set():
                found.add(named(mx.mx_vmar_protect(region, at, 2 * PAGE, READ)))

    thread = threading.Thread(target=protect)
    thread.start()
    for _ in range(300):
        ok(mx.mx_vmar_map, region, 0, vmo, 0, 2 * PAGE, READ | OVER)
    done.set()
    thread.join()
    assert found == {"OK"}


# mx_vmo_clone -------------------------------------------------------------------------------------


def test_a_clone_has_no_right_that_magenta_lacks() -> None:
    """Whatever the handle has that it is made through."""
    source = ok(zx.zx_vmo_create, PAGE, zx.ZX_VMO_RESIZABLE)
    assert int(face(source).rights) & ~mx.MX_DEFAULT_VMO_RIGHTS
    clone = ok(mx.mx_vmo_clone, source, mx.MX_VMO_CLONE_COPY_ON_WRITE, 0, PAGE)
    rights = int(face(clone).rights)
    assert rights == int(face(source).rights) & mx.MX_DEFAULT_VMO_RIGHTS
