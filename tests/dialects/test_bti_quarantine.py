"""zx_pmt_unpin, zx_bti_release_quarantine, and every way into quarantine.

Source: zx_pmt_unpin, zx_bti_release_quarantine; Zircon's kernel and its tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.dialects import Out, zx
from pinfold.errors import DmaFault

from . import things
from .pins import READ, RW, attempt, intel_bti, pin, quarantined
from .refused import name_of
from .things import PAGE, info, ok, without

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("process")


def counts(bti: int) -> tuple[int, int]:
    """(pmo_count, quarantine_count) of a BTI."""
    found = info(bti, zx.ZX_INFO_BTI)
    return found.pmo_count, found.quarantine_count


def close(*numbers: int) -> None:
    """Close handles that are open."""
    for number in numbers:
        assert zx.zx_handle_close(number) == zx.ZX_OK


def array(*numbers: int) -> bytes:
    """What zx_handle_close_many wants."""
    return b"".join(number.to_bytes(4, "little") for number in numbers)


# zx_pmt_unpin -------------------------------------------------------------------------------------


def test_unpin_lets_the_pages_go() -> None:
    """Source: zx_pmt_unpin. The token is gone, and the counts are what they were."""
    bti, vmo = things.bti(), things.vmo(PAGE, zx.ZX_VMO_RESIZABLE)
    token = pin(bti, vmo)
    assert counts(bti) == (1, 0)
    assert name_of(zx.zx_vmo_set_size(vmo, 0)) == "BAD_STATE"
    assert zx.zx_pmt_unpin(token) == zx.ZX_OK
    assert counts(bti) == (0, 0)
    assert name_of(zx.zx_pmt_unpin(token)) == "BAD_HANDLE"
    assert zx.zx_vmo_set_size(vmo, 0) == zx.ZX_OK


@pytest.mark.parametrize("number", [lambda: 0, things.closed, lambda: 0xFFFF_FFFF])
def test_unpin_of_nothing(number: Callable[[], int]) -> None:
    """Source: zx_pmt_unpin BAD_HANDLE."""
    assert name_of(zx.zx_pmt_unpin(number())) == "BAD_HANDLE"


@pytest.mark.parametrize("kind", [kind for kind in things.ALL if kind != "pmt"])
def test_unpin_of_something_else_closes_it(kind: str) -> None:
    """Source: Zircon's kernel, which takes the handle out of the table before it looks at it."""
    number = things.ALL[kind]()
    assert name_of(zx.zx_pmt_unpin(number)) == "WRONG_TYPE"
    assert name_of(zx.zx_handle_check_valid(number)) == "NOT_FOUND"


def test_unpin_needs_no_right() -> None:
    """Source: zx_pmt_unpin, RIGHTS."""
    bti = things.bti()
    token = ok(zx.zx_handle_replace, pin(bti, things.vmo()), zx.ZX_RIGHT_NONE)
    assert counts(bti) == (1, 0)
    assert zx.zx_pmt_unpin(token) == zx.ZX_OK


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_unpin_of_no_handle_value(value: int) -> None:
    """Source: dialects: C could not have passed it."""
    with pytest.raises(OverflowError):
        zx.zx_pmt_unpin(value)


def test_a_token_has_one_handle() -> None:
    """Source: Zircon: no DUPLICATE; a replacement that is granted is no end of it."""
    bti = things.bti()
    token = pin(bti, things.vmo())
    found = zx.zx_handle_duplicate(token, zx.ZX_RIGHT_SAME_RIGHTS, Out())
    assert name_of(found) == "ACCESS_DENIED"
    again = ok(zx.zx_handle_replace, token, zx.ZX_RIGHT_SAME_RIGHTS)
    assert name_of(zx.zx_pmt_unpin(token)) == "BAD_HANDLE"
    assert counts(bti) == (1, 0)
    assert zx.zx_pmt_unpin(again) == zx.ZX_OK


def test_a_token_can_be_unpinned_when_its_bti_is_closed(kernel: pf.Kernel) -> None:
    """Source: Zircon: the BTI lives on in its tokens; with the last of them all is freed."""
    bti, vmo = things.bti(), things.vmo()
    tokens = [pin(bti, vmo), pin(bti, vmo)]
    close(bti, vmo)
    for token in tokens:
        assert len(kernel.objects(pf.objects.object.ObjectType.BTI)) == 1
        assert zx.zx_pmt_unpin(token) == zx.ZX_OK
    assert kernel.objects(pf.objects.object.ObjectType.BTI) == []
    assert kernel.leaks == []


# Ways into quarantine -----------------------------------------------------------------------------


def by_close(token: int) -> None:
    """The last handle is closed."""
    close(token)


def by_close_many(token: int) -> None:
    """Closed among others, one of which is bad."""
    others = things.vmo(), things.closed()
    found = zx.zx_handle_close_many(array(others[1], token, others[0], token), 4)
    assert name_of(found) == "BAD_HANDLE"


def by_replace(token: int) -> None:
    """A replacement with rights that a token cannot have."""
    out = Out()
    assert name_of(zx.zx_handle_replace(token, zx.ZX_RIGHT_READ, out)) == "INVALID_ARGS"
    assert out.value is None


def by_replace_without_a_place(token: int) -> None:
    """The result of a replacement cannot be returned."""
    found = zx.zx_handle_replace(token, zx.ZX_RIGHT_SAME_RIGHTS, None)
    assert name_of(found) == "INVALID_ARGS"


WAYS = [by_close, by_close_many, by_replace, by_replace_without_a_place]


@pytest.mark.parametrize("make", [things.bti, intel_bti], ids=["stub", "Intel"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_dropped_token_is_quarantined(
    way: Callable[[int], None], make: Callable[[], int]
) -> None:
    """Source: zx_info_bti_t: fresh 0/0, a pin 1/0, dropped 1/1, released 0/0."""
    bti, vmo = make(), things.vmo(PAGE, zx.ZX_VMO_RESIZABLE)
    assert counts(bti) == (0, 0)
    token = pin(bti, vmo)
    assert counts(bti) == (1, 0)
    way(token)
    assert name_of(zx.zx_handle_check_valid(token)) == "NOT_FOUND"
    assert counts(bti) == (1, 1)
    # The pages are held, and nothing else is pinned through this BTI.
    assert name_of(zx.zx_vmo_set_size(vmo, 0)) == "BAD_STATE"
    assert attempt(bti, vmo, 1) == "BAD_STATE"
    assert zx.zx_bti_release_quarantine(bti) == zx.ZX_OK
    assert counts(bti) == (0, 0)
    assert attempt(bti, vmo, 1) == "OK"
    assert zx.zx_vmo_set_size(vmo, 0) == zx.ZX_OK


@pytest.mark.parametrize("held", [True, False], ids=["the BTI is elsewhere too", "nobody has it"])
def test_a_process_that_dies_leaves_its_pins_in_quarantine(
    held: bool,  # noqa: FBT001 - a column of the table
    kernel: pf.Kernel,
    process: pf.Process,
) -> None:
    """Source: Zircon: whoever else has the BTI sees them and can release them; else they leak."""
    driver = pf.Process(kernel)
    with driver:
        bti, vmo = things.bti(), things.vmo()
        tokens = [pin(bti, vmo), pin(bti, vmo)]
        assert zx.zx_pmt_unpin(tokens.pop()) == zx.ZX_OK
        target: Any = driver.handles[bti].object
    with kernel.lock:
        entry = process.add(target, zx.ZX_DEFAULT_BTI_RIGHTS) if held else None
    driver.exit()
    assert kernel.statistics().ledger.pins == 1
    if entry is not None:
        assert kernel.leaks == []
        assert counts(entry.value) == (1, 1)
        assert zx.zx_bti_release_quarantine(entry.value) == zx.ZX_OK
        assert kernel.statistics().ledger.pins == 0
    else:
        assert [leak.size for leak in kernel.leaks] == [PAGE]
        assert len(target.pins) == 1


def test_the_device_is_shut_out_at_once_where_the_bus_translates() -> None:
    """Source: Zircon: on the stub there is nothing to revoke."""
    for make, reached in ((intel_bti, False), (things.bti, True)):
        bti, vmo, addrs = make(), things.vmo(), bytearray(8)
        token = ok(zx.zx_bti_pin, bti, RW, vmo, 0, PAGE, addrs, 1)
        target: Any = pf.current_process().handles[bti].object
        port, at = target.space.master(), int.from_bytes(addrs, "little")
        port.write(at, b"x")
        close(token)
        if reached:
            port.write(at, b"y")
        else:
            with pytest.raises(DmaFault):
                port.write(at, b"y")
        read = bytearray(1)
        assert zx.zx_vmo_read(vmo, read, 0, 1) == zx.ZX_OK
        assert bytes(read) == (b"y" if reached else b"x")
        assert zx.zx_bti_release_quarantine(bti) == zx.ZX_OK


def test_other_btis_and_live_tokens_go_on() -> None:
    """Source: Zircon: quarantine is the BTI's, not the IOMMU's."""
    iommu, vmo = things.iommu(), things.vmo()
    one, two = ok(zx.zx_bti_create, iommu, 0, 1), ok(zx.zx_bti_create, iommu, 0, 1)
    live, dropped = pin(one, vmo), pin(one, vmo)
    close(dropped)
    assert counts(one) == (2, 1)
    assert counts(two) == (0, 0)
    assert attempt(two, vmo, 1) == "OK"
    assert zx.zx_pmt_unpin(live) == zx.ZX_OK
    assert counts(one) == (1, 1)
    assert zx.zx_bti_release_quarantine(one) == zx.ZX_OK


@pytest.mark.parametrize("end", ["unpin", "quarantine"])
def test_a_pinned_child_stays_its_parents(end: str) -> None:
    """Source: ZX_VMO_ZERO_CHILDREN: a pin, or a quarantined one, holds the child alive."""
    bti, parent = things.bti(), things.vmo()
    child = ok(zx.zx_vmo_create_child, parent, zx.ZX_VMO_CHILD_SNAPSHOT, 0, 4 * PAGE)
    token = pin(bti, child)
    close(child)

    def childless() -> bool:
        signal, seen = zx.ZX_VMO_ZERO_CHILDREN, Out()
        return zx.zx_object_wait_one(parent, signal, 0, seen) == zx.ZX_OK

    assert not childless()
    if end == "unpin":
        assert zx.zx_pmt_unpin(token) == zx.ZX_OK
    else:
        close(token)
        assert not childless()
        assert zx.zx_bti_release_quarantine(bti) == zx.ZX_OK
    assert childless()


# zx_bti_release_quarantine ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "found"),
    [
        (lambda: 0, "BAD_HANDLE"),
        (things.closed, "BAD_HANDLE"),
        (things.vmo, "WRONG_TYPE"),
        (things.iommu, "WRONG_TYPE"),
        (lambda: without(zx.ZX_RIGHT_WRITE, things.vmo()), "WRONG_TYPE"),
        (lambda: without(zx.ZX_RIGHT_WRITE, things.bti()), "ACCESS_DENIED"),
        (lambda: without(zx.ZX_RIGHT_WRITE, quarantined()), "ACCESS_DENIED"),
        (things.bti, "OK"),
        (lambda: without(zx.ZX_RIGHT_READ | zx.ZX_RIGHT_MAP, quarantined()), "OK"),
    ],
)
def test_release_asks_for_write(number: Callable[[], int], found: str) -> None:
    """Source: zx_bti_release_quarantine. With nothing in quarantine it is no error."""
    assert name_of(zx.zx_bti_release_quarantine(number())) == found


def test_release_frees_every_token_and_its_memory(kernel: pf.Kernel) -> None:
    """Source: zx_bti_release_quarantine: the pages and what holds the VMO."""
    bti, vmo = things.bti(), things.vmo(8 * PAGE)
    tokens = [pin(bti, vmo, size=size) for size in (PAGE, 3 * PAGE, 8 * PAGE)]
    close(*tokens, vmo)
    assert counts(bti) == (3, 3)
    assert kernel.statistics().ledger.pinned_bytes == 8 * PAGE
    assert zx.zx_bti_release_quarantine(bti) == zx.ZX_OK
    assert counts(bti) == (0, 0)
    assert kernel.statistics().ledger.pinned_bytes == 0
    assert kernel.objects(pf.objects.object.ObjectType.VMO) == []


# Closing a BTI ------------------------------------------------------------------------------------


def test_a_bti_that_is_closed_with_quarantined_tokens_leaks_them(kernel: pf.Kernel) -> None:
    """Source: Zircon: no call can reach them any more; the leak is on record."""
    bti, vmo = things.bti(), things.vmo()
    held = pin(bti, vmo, size=2 * PAGE)
    close(held, bti)
    assert [(leak.offset, leak.size) for leak in kernel.leaks] == [(0, 2 * PAGE)]
    assert name_of(zx.zx_vmo_op_range(vmo, zx.ZX_VMO_OP_DECOMMIT, 0, PAGE, None, 0)) == "BAD_STATE"


def test_a_token_that_is_dropped_after_its_bti_leaks(kernel: pf.Kernel) -> None:
    """Source: Zircon. Those that are unpinned do not."""
    bti, vmo = things.bti(), things.vmo()
    kept, dropped = pin(bti, vmo, options=READ), pin(bti, vmo, offset=PAGE)
    close(bti)
    assert kernel.leaks == []
    close(dropped)
    assert [leak.offset for leak in kernel.leaks] == [PAGE]
    assert zx.zx_pmt_unpin(kept) == zx.ZX_OK
    assert len(kernel.leaks) == 1
