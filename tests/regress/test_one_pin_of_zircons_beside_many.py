"""One pin of Zircon's made every pin of Magenta's look at all pins of the device.

Eight thousand of them, and a pin took ten times as long: whether a page is bound was found out by
going through them, to find the one that is not listed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.dialects import Out, zx
from pinfold.dialects.calling import number_of
from tests.dialects.mx import things
from tests.dialects.mx.things import PAGE, attempt, fine, pin, unpin

from .test_many_protections import work_of

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = 2000


@pytest.fixture
def bti(process: pf.Process) -> Iterator[int]:
    """A device that both systems' calls may use."""
    del process
    with pf.open_bus("stub") as bus:
        number = number_of(bus.initiator(7))
        yield number
        fine(zx.zx_handle_close, number)


def pin_by_zircon(bti: int, vmo: int, page: int) -> int:
    token, options = Out(), zx.ZX_BTI_PERM_READ
    fine(zx.zx_bti_pin, bti, options, vmo, page * PAGE, PAGE, bytearray(8), 1, token)
    assert isinstance(token.value, int)
    return token.value


def test_the_work_of_a_pin_does_not_grow_with_the_pins(bti: int) -> None:
    vmo = things.vmo((MANY + 8) * PAGE)
    token = pin_by_zircon(bti, vmo, 0)
    for page in range(1, 4):
        pin(bti, vmo, page * PAGE)
    few = work_of(lambda: pin(bti, vmo, 4 * PAGE))
    for page in range(5, MANY):
        pin(bti, vmo, page * PAGE)
    assert work_of(lambda: pin(bti, vmo, MANY * PAGE)) < 2 * few
    assert attempt(bti, vmo)[0] == "ALREADY_BOUND"
    fine(zx.zx_pmt_unpin, token)


def test_pins_of_zircons_come_and_go(bti: int) -> None:
    """Each is known for as long as it is there, whatever was asked before and after."""
    vmo = things.vmo(8 * PAGE)
    pin(bti, vmo, 7 * PAGE)
    first = pin_by_zircon(bti, vmo, 0)
    second = pin_by_zircon(bti, vmo, 1)
    assert [attempt(bti, vmo, p * PAGE)[0] for p in (0, 1)] == ["ALREADY_BOUND"] * 2
    addrs = pin(bti, vmo, 2 * PAGE)
    third = pin_by_zircon(bti, vmo, 3)
    fine(zx.zx_pmt_unpin, first)
    assert unpin(bti, addrs) == "OK"
    found = [attempt(bti, vmo, p * PAGE)[0] for p in range(4)]
    assert found == ["OK", "ALREADY_BOUND", "OK", "ALREADY_BOUND"]
    fine(zx.zx_pmt_unpin, second)
    fine(zx.zx_pmt_unpin, third)
    found = [attempt(bti, vmo, p * PAGE)[0] for p in range(4)]
    assert found == ["ALREADY_BOUND", "OK", "ALREADY_BOUND", "OK"]
