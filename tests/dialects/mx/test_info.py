"""Handles, their rights, and mx_object_get_info.

Source: mx_object_get_info, mx_handle_duplicate, mx_handle_replace; magenta/rights.h.
"""

from __future__ import annotations

from typing import Any

import pytest

import pinfold as pf
from pinfold.dialects import Out, mx, zx
from pinfold.dialects.calling import face, number_of

from . import things
from .things import PAGE, fine, named, ok

MASKS = {
    "vmo": 0x10FF,
    "region": 0x1F,
    "iommu": 0x3,
    "bti": 0x27,
    "root": 0x100F,
    "process": 0x13CF,
}
TYPES = {"vmo": 3, "region": 18, "iommu": 23, "bti": 24, "root": 15, "process": 1}

pytestmark = pytest.mark.usefixtures("process")


@pytest.mark.parametrize("kind", MASKS)
def test_what_a_handle_is_to(kind: str) -> None:
    """The masks are those of Magenta's headers, and Zircon's later rights are not told."""
    number = things.ALL[kind]()
    basic = things.info(number, mx.MX_INFO_HANDLE_BASIC)
    assert (basic.rights, basic.type, basic.related_koid) == (MASKS[kind], TYPES[kind], 0)
    assert basic.koid == face(number).koid
    waitable = bool(MASKS[kind] & mx.MX_RIGHT_SIGNAL)
    assert basic.props == (mx.MX_OBJ_PROP_WAITABLE if waitable else mx.MX_OBJ_PROP_NONE)


@pytest.mark.parametrize("kind", MASKS)
def test_rights_are_compared_as_they_are_told(kind: str) -> None:
    """A right that came later is one that the handle does not have, whatever is behind it."""
    number, mask = things.twin(things.ALL[kind]()), MASKS[kind]
    assert things.rights_of(ok(mx.mx_handle_duplicate, number, mask)) == mask
    for later in (zx.ZX_RIGHT_INSPECT, zx.ZX_RIGHT_WAIT, zx.ZX_RIGHT_OP_CHILDREN):
        out = Out()
        assert named(mx.mx_handle_duplicate(number, mask | later, out)) == "INVALID_ARGS"
        assert named(mx.mx_handle_replace(number, later, out)) == "INVALID_ARGS"
    lesser = ok(mx.mx_handle_replace, number, mx.MX_RIGHT_TRANSFER)
    assert things.rights_of(lesser) == mx.MX_RIGHT_TRANSFER
    assert int(face(lesser).rights) == mx.MX_RIGHT_TRANSFER
    assert named(mx.mx_handle_duplicate(lesser, 0, Out())) == "ACCESS_DENIED"
    again = ok(mx.mx_handle_replace, lesser, mx.MX_RIGHT_SAME_RIGHTS)
    assert named(mx.mx_handle_close(lesser)) == "BAD_HANDLE"
    fine(mx.mx_handle_close, again)


def test_closing() -> None:
    fine(mx.mx_handle_close, mx.MX_HANDLE_INVALID)
    assert named(mx.mx_handle_close(things.closed())) == "BAD_HANDLE"


def test_replacing_without_a_place_for_the_result() -> None:
    """Source: that kernel has taken the handle out of the table by then."""
    vmo = things.vmo()
    assert named(mx.mx_handle_replace(vmo, 0x200, None)) == "INVALID_ARGS"
    assert named(mx.mx_object_get_info(vmo, mx.MX_INFO_HANDLE_VALID, None, 0, None, None)) == "OK"
    assert named(mx.mx_handle_replace(vmo, mx.MX_RIGHT_SAME_RIGHTS, None)) == "INVALID_ARGS"
    assert named(mx.mx_handle_close(vmo)) == "BAD_HANDLE"


def test_what_a_loader_hands_out() -> None:
    """The same handle each time, unless it was closed."""
    for give in (mx.mx_process_self, mx.mx_vmar_root_self, mx.root_resource):
        number = give()
        assert give() == number
        fine(mx.mx_handle_close, number)
        assert give() != number


def test_the_order_of_checks_of_a_topic() -> None:
    """The topic, the handle, its rights, its type; then the buffer."""
    ask, buffer = mx.mx_object_get_info, bytearray(8)
    assert named(ask(0, 99, None, 0, None, None)) == "NOT_SUPPORTED"
    assert named(ask(0, mx.MX_INFO_PROCESS, None, 0, None, None)) == "NOT_SUPPORTED"
    assert named(ask(0, mx.MX_INFO_VMAR, None, 0, None, None)) == "BAD_HANDLE"
    assert named(ask(0, mx.MX_INFO_HANDLE_VALID, None, 0, None, None)) == "BAD_HANDLE"
    assert named(ask(things.vmo(), mx.MX_INFO_VMAR, None, 0, None, None)) == "WRONG_TYPE"
    region = things.region()
    assert named(ask(region, mx.MX_INFO_VMAR, None, 16, None, None)) == "INVALID_ARGS"
    assert named(ask(region, mx.MX_INFO_VMAR, bytes(16), 16, None, None)) == "INVALID_ARGS"
    actual, avail = Out(), Out()
    short = named(ask(region, mx.MX_INFO_VMAR, buffer, 8, actual, avail))
    assert (short, actual.value, avail.value) == ("BUFFER_TOO_SMALL", 0, 1)
    assert not any(buffer)


def test_a_process_does_not_look_at_itself(process: pf.Process) -> None:
    """Source: mx_object_get_info, PROCESS_MAPS. READ is looked at before the type."""
    for topic in (mx.MX_INFO_PROCESS_MAPS, mx.MX_INFO_PROCESS_VMOS):
        ask = mx.mx_object_get_info
        assert named(ask(mx.mx_process_self(), topic, None, 0, None, None)) == "ACCESS_DENIED"
        assert named(ask(things.iommu(), topic, None, 0, None, None)) == "ACCESS_DENIED"
        assert named(ask(things.vmo(), topic, None, 0, None, None)) == "WRONG_TYPE"
        assert named(ask(0, topic, None, 0, None, None)) == "BAD_HANDLE"
        ended, out = pf.Process(process.kernel), Out()
        with ended:
            fine(mx.handle_transfer, things.process(), process, out)
        ended.exit()
        assert named(ask(out.value, topic, None, 0, None, None)) == "BAD_STATE"


def test_what_another_process_has(process: pf.Process) -> None:
    """Its regions and mappings, and its memory through handles and through mappings."""
    other, out = pf.Process(process.kernel, name="other"), Out()
    with other:
        vmo = things.vmo(5000)
        at = ok(mx.mx_vmar_map, mx.mx_vmar_root_self(), 0, vmo, 0, 4 * PAGE, 1)
        koid = face(vmo).koid
        fine(mx.handle_transfer, things.process(), process, out)
    maps = things.info(out.value, mx.MX_INFO_PROCESS_MAPS)
    assert [line.type for line in maps] == [1, 2, 3]
    assert [line.depth for line in maps] == [0, 1, 2]
    run = maps[-1]
    assert (run.base, run.size) == (at, 4 * PAGE)
    mapping = run.u.mapping
    assert (mapping.mmu_flags, mapping.vmo_koid, mapping.committed_pages) == (1, koid, 2)
    vmos = things.info(out.value, mx.MX_INFO_PROCESS_VMOS)
    assert {record.koid for record in vmos} == {koid}
    assert [record.flags & 0x18 for record in vmos] == [8, 16]
    assert [record.handle_rights for record in vmos] == [0x10FF, 0]
    first = vmos[0]
    assert (first.size_bytes, first.committed_bytes, first.num_mappings) == (5000, 2 * PAGE, 1)
    assert first.flags & 1 == mx.MX_INFO_VMO_TYPE_PAGED
    other.exit()


def test_what_a_clone_has_borrowed_is_not_committed(process: pf.Process) -> None:
    """Whichever of the two topics is asked."""
    other, out = pf.Process(process.kernel), Out()
    with other:
        source = things.vmo(4 * PAGE)
        clone = ok(mx.mx_vmo_clone, source, mx.MX_VMO_CLONE_COPY_ON_WRITE, 0, 4 * PAGE)
        fine(mx.mx_vmo_write, clone, b"own", PAGE, 3, Out())
        ok(mx.mx_vmar_map, mx.mx_vmar_root_self(), 0, clone, PAGE, 3 * PAGE, 1)
        ok(mx.mx_vmar_map, mx.mx_vmar_root_self(), 0, clone, 2 * PAGE, 9 * PAGE, 1)
        koid = face(clone).koid
        fine(mx.handle_transfer, things.process(), process, out)
    maps = things.info(out.value, mx.MX_INFO_PROCESS_MAPS)
    mappings = [line.u.mapping for line in maps if line.type == mx.MX_INFO_MAPS_TYPE_MAPPING]
    assert [(run.vmo_koid, run.committed_pages) for run in mappings] == [(koid, 1), (koid, 0)]
    vmos = things.info(out.value, mx.MX_INFO_PROCESS_VMOS)
    assert {vmo.committed_bytes for vmo in vmos if vmo.koid == koid} == {PAGE}
    other.exit()


def test_what_magenta_did_not_have_is_told_as_it_is() -> None:
    """A token of Zircon's has the type that Zircon gives it."""
    bus = pf.open_bus("stub")
    bti, token, options = number_of(bus.initiator(7)), Out(), zx.ZX_BTI_PERM_READ
    fine(zx.zx_bti_pin, bti, options, things.vmo(PAGE), 0, PAGE, bytearray(8), 1, token)
    basic = things.info(token.value, mx.MX_INFO_HANDLE_BASIC)
    assert (basic.type, basic.rights, basic.props) == (26, 0, mx.MX_OBJ_PROP_NONE)
    fine(zx.zx_pmt_unpin, token.value)
    bus.close()


def test_a_device_that_the_iommu_does_not_serve() -> None:
    """INVALID_ARGS: only Zircon's calls make such an IOMMU. NULL is found after it."""
    descriptor = bytes(10) + b"\1" + bytes(5)
    root, kind = zx.root_resource(), zx.ZX_IOMMU_TYPE_INTEL
    iommu = ok(zx.zx_iommu_create, root, kind, descriptor, len(descriptor))
    for out in (Out(), None):
        assert named(mx.mx_bti_create(iommu, 1 << 40, out)) == "INVALID_ARGS"
    assert ok(mx.mx_bti_create, iommu, 0x310)


def test_what_a_resource_stands_for() -> None:
    """Both ends belong to it. Kinds that Magenta did not have are not told."""
    root = things.info(mx.root_resource(), mx.MX_INFO_RESOURCE)
    assert (root.kind, root.low, root.high) == (mx.MX_RSRC_KIND_ROOT, 0, 0)
    kinds = {0: mx.MX_RSRC_KIND_MMIO, 1: mx.MX_RSRC_KIND_IRQ, 2: mx.MX_RSRC_KIND_IOPORT}
    for ours, theirs in kinds.items():
        found = things.info(number_of(pf.Resource(16, 8, kind=ours)), mx.MX_INFO_RESOURCE)
        assert (found.kind, found.low, found.high) == (theirs, 16, 23)
    system = number_of(pf.Resource(1, 1, kind=5))
    ask = mx.mx_object_get_info
    assert named(ask(system, mx.MX_INFO_RESOURCE, None, 0, None, None)) == "NOT_SUPPORTED"


def test_a_handle_of_magentas_lacks_what_zircon_added() -> None:
    """ADR 11: nothing is hidden in it. Zircon's calls find the rights that it has."""
    region, vmo = things.region(), things.vmo()
    assert zx.zx_vmar_destroy(region) == zx.ZX_ERR_ACCESS_DENIED
    assert zx.zx_vmo_set_size(vmo, PAGE) == zx.ZX_ERR_ACCESS_DENIED
    fine(mx.mx_vmo_set_size, vmo, PAGE)
    fine(mx.mx_vmar_destroy, region)


def test_handles_move() -> None:
    """Between processes, by what stands for a message."""
    process = pf.current_process()
    other, out = pf.Process(process.kernel), Out()
    vmo = things.vmo()
    fine(mx.handle_transfer, vmo, other, out)
    assert named(mx.mx_handle_close(vmo)) == "BAD_HANDLE"
    with other:
        assert things.rights_of(out.value) == 0x10FF
    with pytest.raises(TypeError):
        mx.handle_transfer(things.vmo(), 5, out)  # type: ignore[arg-type]  # what is tried here
    stays: Any = things.without(mx.MX_RIGHT_TRANSFER, things.vmo())
    assert named(mx.handle_transfer(stays, other, out)) == "ACCESS_DENIED"
    other.exit()


def test_a_bus_of_the_callers(process: pf.Process) -> None:
    """`iommu_from_bus`: a bus, or a handle to its IOMMU."""
    bus = pf.open_bus("sim")
    one = ok(mx.iommu_from_bus, bus)
    assert things.info(one, mx.MX_INFO_HANDLE_BASIC).type == mx.MX_OBJ_TYPE_IOMMU
    assert named(mx.iommu_from_bus("sim", Out())) == "WRONG_TYPE"
    assert named(mx.iommu_from_bus(bus.bus, Out())) == "ALREADY_EXISTS"
    bus.close()
    assert ok(mx.mx_bti_create, one, 7) in process.handles
