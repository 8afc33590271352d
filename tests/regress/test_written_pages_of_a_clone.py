"""What others than Magenta's calls had written of a clone was still taken for borrowed.

A device, a store through memory that was protected to writing by Zircon's call or by Python, pages
that were moved in, and a part of a page that was cleared: the bytes were the clone's own, and a pin
of Magenta's said NOT_FOUND of the page.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.dialects import mx, zx
from pinfold.dialects.calling import face
from pinfold.errors import NoMemory
from pinfold.memory.mapped import change_protection
from tests.dialects.mx import things
from tests.dialects.mx.things import PAGE, READ, attempt, fine, ok

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("process")

RW = zx.ZX_VM_PERM_READ | zx.ZX_VM_PERM_WRITE
PAGES = 4


def clone_of(source: int | None = None) -> int:
    if source is None:
        source = things.vmo(PAGES * PAGE)
        fine(mx.mx_vmo_write, source, b"p" * (PAGES * PAGE), 0, PAGES * PAGE, mx.Out())
    made: int = ok(mx.mx_vmo_clone, source, mx.MX_VMO_CLONE_COPY_ON_WRITE, 0, PAGES * PAGE)
    return made


def pinnable(vmo: int) -> list[int]:
    """The pages that have memory of the object's own."""
    return [page for page in range(PAGES) if attempt(things.bti(), vmo, page * PAGE)[0] == "OK"]


def by_a_device(clone: int) -> None:
    token, addrs = mx.Out(), bytearray(8)
    options = zx.ZX_BTI_PERM_READ | zx.ZX_BTI_PERM_WRITE
    with pf.open_bus("stub") as bus, bus.initiator(7) as bti:
        fine(zx.zx_bti_pin, bti.value, options, clone, PAGE, PAGE, addrs, 1, token)
        bti.master().write(int.from_bytes(addrs, "little"), b"device")
        fine(zx.zx_pmt_unpin, token.value)


def by_a_device_that_locks(clone: int) -> None:
    """The pin takes the way round by `fill`, and not that by the books."""
    with pf.open_bus("sim", anchor=pf.Anchor.MLOCK) as bus, bus.initiator(1) as bti:
        memory: Any = face(clone)
        bti.pin(memory, PAGE, PAGE, perms=pf.Perm.WRITE).unpin()


def by_zircons_protect(clone: int) -> None:
    root = mx.mx_vmar_root_self()
    at = ok(mx.mx_vmar_map, root, 0, clone, 0, PAGES * PAGE, READ)
    fine(zx.zx_vmar_protect, root, RW, at + PAGE, PAGE)
    ctypes.memset(at + PAGE, 1, 1)


def by_pythons_protect(clone: int) -> None:
    root, memory = pf.Vmar.root(), face(clone)
    mapping = root.map(memory, pf.VmOption.PERM_READ, vmo_offset=PAGE, size=2 * PAGE)
    root.protect(mapping.address, PAGE, pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE)
    mapping.view(0, PAGE)[0] = 1


def by_magentas_protect(clone: int) -> None:
    root = mx.mx_vmar_root_self()
    at = ok(mx.mx_vmar_map, root, 0, clone, 0, 2 * PAGE, READ)
    fine(mx.mx_vmar_unmap, root, at, PAGE)
    fine(mx.mx_vmar_protect, root, at + PAGE, PAGE, RW)


def by_moving_pages_in(clone: int) -> None:
    fine(zx.zx_vmo_transfer_data, clone, 0, PAGE, PAGE, things.vmo(PAGE), 0)


def by_clearing_a_part(clone: int) -> None:
    fine(zx.zx_vmo_op_range, clone, zx.ZX_VMO_OP_ZERO, PAGE + 9, 100, None, 0)


ROUTES = [
    by_a_device,
    by_a_device_that_locks,
    by_zircons_protect,
    by_pythons_protect,
    by_magentas_protect,
    by_moving_pages_in,
    by_clearing_a_part,
]


@pytest.mark.parametrize("written", ROUTES)
def test_what_is_written_is_the_clones_own(written: Callable[[int], None]) -> None:
    """And the pages beside it are not."""
    clone = clone_of()
    assert pinnable(clone) == []
    written(clone)
    assert pinnable(clone) == [1]


def test_what_is_cut_within_a_page_is_its_own() -> None:
    """The rest of the page is cleared: it is not the source's any more."""
    clone = clone_of()
    fine(mx.mx_vmo_set_size, clone, PAGE + 50)
    assert attempt(things.bti(), clone, PAGE, 50)[0] == "OK"
    assert attempt(things.bti(), clone, 0, PAGE)[0] == "NOT_FOUND"


def decommitted_by_magenta(clone: int) -> None:
    assert things.decommit(clone, PAGE) == "OK"


def decommitted_by_zircon(clone: int) -> None:
    fine(zx.zx_vmo_op_range, clone, zx.ZX_VMO_OP_DECOMMIT, PAGE, PAGE, None, 0)


def cut_off(clone: int) -> None:
    fine(mx.mx_vmo_set_size, clone, PAGE)
    fine(mx.mx_vmo_set_size, clone, PAGES * PAGE)


@pytest.mark.parametrize("given", [decommitted_by_magenta, decommitted_by_zircon, cut_off])
def test_what_is_given_back_is_not_borrowed_any_more(given: Callable[[int], None]) -> None:
    """It reads as zeros, and has memory again when it is read through a mapping."""
    source = things.vmo(PAGES * PAGE)
    fine(mx.mx_vmo_write, source, b"p" * (2 * PAGE), 0, 2 * PAGE, mx.Out())
    clone = clone_of(source)
    fine(mx.mx_handle_close, source)  # Zircon's decommit wants no relatives
    given(clone)
    assert pinnable(clone) == []
    at = ok(mx.mx_vmar_map, mx.mx_vmar_root_self(), 0, clone, 0, 2 * PAGE, READ)
    assert ctypes.string_at(at, 2 * PAGE) == b"p" * PAGE + bytes(PAGE)
    assert pinnable(clone) == [1]


def test_a_protect_that_ends_halfway(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has become writable by then is the clone's own, and the rest is not."""
    clone, root = clone_of(), mx.mx_vmar_root_self()
    region = things.region(PAGES * PAGE, parent=root)
    flags = READ | mx.MX_VM_FLAG_SPECIFIC
    at = ok(mx.mx_vmar_map, region, 0, clone, 0, 2 * PAGE, flags)
    ok(mx.mx_vmar_map, region, 2 * PAGE, clone, 2 * PAGE, 2 * PAGE, flags)
    change, calls = change_protection, list[int]()

    def refuse_the_second(low: int, high: int, former: int, prot: int) -> None:
        calls.append(low)
        if len(calls) == 2:
            raise NoMemory("out of mappings")
        change(low, high, former, prot)

    monkeypatch.setattr("pinfold.memory.regions.change_protection", refuse_the_second)
    assert things.named(mx.mx_vmar_protect(region, at, PAGES * PAGE, RW)) == "NO_MEMORY"
    assert pinnable(clone) == [0, 1]
