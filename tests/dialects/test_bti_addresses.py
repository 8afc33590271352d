"""zx_bti_pin: the addresses that it gives, and what it does.

Source: zx_bti_pin; Zircon's kernel and its tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.dialects import Out, zx
from pinfold.errors import DmaFault
from pinfold.units import MIB

from . import things
from .pins import (
    COMPRESS,
    CONTIGUOUS,
    EXECUTE,
    MOST_ADDRESSES,
    READ,
    REGISTERS,
    WRITE,
    attempt,
    contiguous,
    device_memory,
    intel_bti,
    pin,
)
from .things import PAGE, info, ok

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("process")


# Addresses ----------------------------------------------------------------------------------------


BTIS: dict[str, tuple[Callable[[], int], int]] = {
    "stub": (things.bti, PAGE),
    "Intel": (intel_bti, MIB),
}
VMOS: dict[str, Callable[[int], int]] = {
    "plain": things.vmo,
    "contiguous": contiguous,
    "physical": device_memory,
}


@pytest.mark.parametrize("size", [PAGE, 3 * PAGE, MIB, MIB + PAGE, 3 * MIB - PAGE])
@pytest.mark.parametrize("form", [0, COMPRESS, CONTIGUOUS])
@pytest.mark.parametrize("kind", VMOS)
@pytest.mark.parametrize("where", BTIS)
def test_how_many_addresses_there_are_and_where(
    where: str, kind: str, form: int, size: int
) -> None:
    """Source: zx_bti_pin: size / PAGE_SIZE, ceil(size / minimum-contiguity), or one."""
    made, contiguity = BTIS[where]
    bti, vmo = made(), VMOS[kind](size)
    assert info(bti, zx.ZX_INFO_BTI).minimum_contiguity == contiguity
    if form == CONTIGUOUS and kind == "plain":
        assert attempt(bti, vmo, 1, options=READ | form, size=size) == "INVALID_ARGS"
        return
    step = {0: PAGE, COMPRESS: contiguity, CONTIGUOUS: size}[form]
    count = -(-size // step)
    for wrong in {count - 1, count + 1, size // PAGE, 1} - {count}:
        assert attempt(bti, vmo, wrong, options=READ | form, size=size) == "INVALID_ARGS"
    addrs, pmt = np.zeros(count + 1, np.uint64), Out()
    assert zx.zx_bti_pin(bti, READ | form, vmo, 0, size, addrs, count, pmt) == zx.ZX_OK
    assert addrs[:count].all()
    assert not addrs[count]  # what lies behind the last is not touched
    assert not (addrs[:count] % (contiguity if form == COMPRESS else PAGE)).any()
    if where == "Intel" or kind != "plain":
        assert (np.diff(addrs[:count]) == step).all()
    elif count > 1:
        assert (np.diff(addrs[:count]) != PAGE).all()  # scattered, to catch who assumes otherwise
    assert zx.zx_pmt_unpin(pmt.value) == zx.ZX_OK


def test_a_physical_vmo_is_where_it_says_on_a_stub() -> None:
    """Source: zx_bti_pin: base and offset."""
    vmo = device_memory(4 * PAGE)
    addrs, pmt = bytearray(8), Out()
    args = (things.bti(), READ | CONTIGUOUS, vmo, PAGE, 2 * PAGE, addrs, 1, pmt)
    assert zx.zx_bti_pin(*args) == zx.ZX_OK
    assert int.from_bytes(addrs, "little") == REGISTERS + PAGE


def test_the_same_page_has_the_same_address_on_a_stub() -> None:
    """Source: Zircon's stub: pins are independent, addresses are the pages'."""
    bti, other, vmo = things.bti(), things.bti(), things.vmo()
    found = []
    for which, offset, count in ((bti, 0, 4), (bti, PAGE, 2), (other, 0, 4)):
        addrs = np.zeros(count, np.uint64)
        ok(zx.zx_bti_pin, which, READ, vmo, offset, count * PAGE, addrs, count)
        found.append(addrs.tolist())
    assert found[1] == found[0][1:3]
    assert found[2] == found[0]


@pytest.mark.parametrize(
    "addrs",
    [
        bytearray(16),
        memoryview(bytearray(24)),
        np.zeros(2, np.uint64),
        np.zeros((1, 2), np.int64),
        np.zeros(4, np.uint32),
        bytearray(1000),
    ],
    ids=["bytearray", "memoryview", "uint64", "two dimensions", "uint32", "longer"],
)
def test_any_writable_buffer_takes_addresses(addrs: Any) -> None:
    """Source: dialects: native 64-bit unsigned numbers."""
    vmo = contiguous(2 * PAGE)
    ok(zx.zx_bti_pin, things.bti(), READ, vmo, 0, 2 * PAGE, addrs, 2)
    first, second = np.frombuffer(addrs, np.uint64)[:2].tolist()
    assert second == first + PAGE
    assert not bytes(memoryview(addrs).cast("B"))[16:].strip(b"\0")


def test_as_many_addresses_as_one_pin_may_have() -> None:
    """Source: Zircon from 2021 on: 64 pages of addresses."""
    size = MOST_ADDRESSES * PAGE
    bti = intel_bti()
    vmo = things.vmo(size + PAGE)
    addrs, pmt = np.zeros(MOST_ADDRESSES + 1, np.uint64), Out()
    assert attempt(bti, vmo, MOST_ADDRESSES + 1, size=size + PAGE) == "INVALID_ARGS"
    many = (bti, READ | COMPRESS, vmo, 0, size, addrs, size // MIB, pmt)
    assert zx.zx_bti_pin(*many) == zx.ZX_OK
    assert zx.zx_pmt_unpin(pmt.value) == zx.ZX_OK


# What a pin does ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", range(1, 8))
def test_what_the_device_may_do(options: int) -> None:
    """Source: zx_bti_pin. A bus that translates permits what the options say, and no more."""
    bti, vmo, addrs = intel_bti(), things.vmo(), bytearray(8)
    assert zx.zx_vmo_write(vmo, b"hello", 0, 5) == zx.ZX_OK
    pmt = ok(zx.zx_bti_pin, bti, options, vmo, 0, PAGE, addrs, 1)
    device: Any = pf.current_process().handles[bti].object
    port, at = device.space.master(), int.from_bytes(addrs, "little")
    acts: dict[int, Callable[[], object]] = {
        READ: lambda: port.read(at, 5),
        WRITE: lambda: port.write(at, b"HELLO"),
        EXECUTE: lambda: port.fetch(at, 5),
    }
    for permission, act in acts.items():
        if options & permission:
            act()
        else:
            with pytest.raises(DmaFault):
                act()
    read = bytearray(5)
    assert zx.zx_vmo_read(vmo, read, 0, 5) == zx.ZX_OK
    assert bytes(read) == (b"HELLO" if options & WRITE else b"hello")
    assert zx.zx_pmt_unpin(pmt) == zx.ZX_OK
    with pytest.raises(DmaFault):
        port.read(at, 1)


def test_a_pin_keeps_the_memory_when_every_handle_is_gone(kernel: pf.Kernel) -> None:
    """Source: zx_bti_pin: the PMT holds the VMO; it can be unpinned when the BTI is closed."""
    bti, vmo, addrs = intel_bti(), things.vmo(), bytearray(8)
    assert zx.zx_vmo_write(vmo, b"kept", 0, 4) == zx.ZX_OK
    pmt = ok(zx.zx_bti_pin, bti, READ, vmo, 0, PAGE, addrs, 1)
    device: Any = pf.current_process().handles[bti].object
    port = device.space.master()
    for number in (vmo, bti):
        assert zx.zx_handle_close(number) == zx.ZX_OK
    assert port.read(int.from_bytes(addrs, "little"), 4) == b"kept"
    assert zx.zx_pmt_unpin(pmt) == zx.ZX_OK
    assert kernel.statistics().ledger.pins == 0
    assert kernel.leaks == []


def test_absent_pages_are_committed() -> None:
    """Source: zx_bti_pin. Those beyond the range are not."""
    vmo = things.vmo(4 * PAGE)
    assert info(vmo, zx.ZX_INFO_VMO).committed_bytes == 0
    pin(things.bti(), vmo, offset=PAGE, size=2 * PAGE)
    assert info(vmo, zx.ZX_INFO_VMO).committed_bytes == 2 * PAGE
