"""Every call of Magenta's: each documented error alone, and each pair of errors at once.

Source: the mx_* pages for the errors, the kernel of August 2017 for which of two is found first.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.dialects.orders import (
    Fault,
    Order,
    attempts,
    check_misfit,
    check_pairs,
    check_refusal,
    check_success,
    misfits,
)

from . import bti_table, vmar_table, vmo_table

ORDERS = (*bti_table.ORDERS, *vmo_table.ORDERS, *vmar_table.ORDERS)
SUCCEEDING = tuple(order for order in ORDERS if order is not bti_table.UNPIN)
"""An unpin needs the addresses of a pin: see test_pins.py."""


@pytest.mark.parametrize("order", SUCCEEDING, ids=str)
def test_the_call_works_as_it_is(order: Order) -> None:
    """So that what the faults give is theirs."""
    check_success(order)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_no_pair_of_faults_is_left_out(order: Order) -> None:
    """Those that cannot be there at once have a reason, and the others are as many as known."""
    check_pairs(order)


@pytest.mark.parametrize(("order", "faults"), attempts(ORDERS))
def test_the_first_fault_decides(order: Order, faults: tuple[Fault, ...]) -> None:
    """Nothing has changed afterwards, and nothing was given."""
    check_refusal(order, faults)


@pytest.mark.parametrize(("order", "name", "value", "error"), misfits(ORDERS))
def test_what_c_could_not_pass(
    order: Order, name: str, value: object, error: type[Exception]
) -> None:
    """Python's own errors, before anything is looked up."""
    check_misfit(order, name, value, error)


def test_names_are_told_apart() -> None:
    """A table that is there twice under one name hides one of the two."""
    assert max(Counter(map(str, ORDERS)).values()) == 1
