"""Transfers as records: what is accepted, and what becomes of what is not."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np
import pytest

from pinfold.errors import DmaFault, HostError, InvalidArgs, NoSpace
from pinfold.transfers import TRANSFER, Outcome, Outcomes, transfers


def outcomes(moved: list[int], errors: list[int]) -> Outcomes:
    return Outcomes(np.array(moved, dtype=np.int64), np.array(errors, dtype=np.int32), {})


def test_tuples_and_arrays_are_the_same() -> None:
    """Source: the docstring."""
    rows = [(True, 1 << 63, 4096, 0), (False, (1 << 64) - 1, 0, (1 << 63) - 1)]
    found = transfers(iter(rows))
    assert found.dtype == TRANSFER
    assert [tuple(row) for row in found.tolist()] == rows
    assert transfers(found).tolist() == found.tolist()


def test_the_numbers_of_numpy_are_numbers() -> None:
    """uint64 and int64 mixed would be a float64, which has no bits left for a page."""
    high = np.uint64(2**63 + 1)
    found = transfers([(np.bool_(1), high, np.int64(4096), np.int32(1))])  # type: ignore[list-item]
    assert found.tolist() == [(True, 2**63 + 1, 4096, 1)]


def test_it_is_a_copy() -> None:
    """What was checked stays so, whatever the caller does with his own."""
    mine = np.zeros(1, dtype=TRANSFER)
    found = transfers(mine)
    mine["write"] = True
    mine["address"] = 7
    assert found.tolist() == [(False, 0, 0, 0)]


def test_none_is_none() -> None:
    """An empty batch is one."""
    assert len(transfers([])) == 0
    assert transfers([]).dtype == TRANSFER


@pytest.mark.parametrize(
    "wrong",
    [
        [(False, -1, 1, 0)],
        [(False, 1 << 64, 1, 0)],
        [(False, 0, -1, 0)],
        [(False, 0, 1 << 64, 0)],
        [(False, 0, 1, -1)],
        [(False, 0, 1, 1 << 64)],
        [(False, 0, 1)],
        [(False, 0, 1, 2, 3)],
        [(False, 0.5, 1, 0)],
        [(False, "0", 1, 0)],
        [7],
        np.zeros(3),
        np.zeros((2, 2), dtype=TRANSFER),
        np.zeros((), dtype=TRANSFER),
        np.zeros(1, dtype=TRANSFER.newbyteorder()),
    ],
)
def test_what_is_no_transfer(wrong: Any) -> None:
    """Source: the docstring, Raises."""
    with pytest.raises(InvalidArgs):
        transfers(wrong)


@pytest.mark.parametrize(
    ("size", "at"),
    [
        (1, (1 << 63) - 1),
        (0, 1 << 63),
        (1, (1 << 64) - 1),
        ((1 << 64) - 1, 1),
        ((1 << 63) + 1, 0),
        ((1 << 63), 0),
        ((1 << 64) - 1, (1 << 64) - 1),
    ],
)
def test_no_file_is_so_long(size: int, at: int) -> None:
    """Sums of 64 bits wrap around: what ends below where it began is refused all the same."""
    with pytest.raises(InvalidArgs) as caught:
        transfers([(False, 0, 1, 0), (False, 0, size, at)])
    assert (caught.value.asked, caught.value.limit) == (at + size, (1 << 63) - 1)
    array = np.zeros(1, dtype=TRANSFER)
    array["size"], array["at"] = size, at
    with pytest.raises(InvalidArgs):
        transfers(array)


def test_outcomes_are_a_sequence() -> None:
    """Source: `Outcomes`."""
    found = outcomes([4096, 10, 0], [0, 0, errno.EIO])
    assert len(found) == 3
    assert found[0] == Outcome(4096, 0, None)
    assert found[-1] == Outcome(0, errno.EIO, None)
    assert found[1:] == [found[1], found[2]]
    assert list(found) == [found[0], found[1], found[2]]
    for wrong in (3, -4):
        with pytest.raises(IndexError):
            found[wrong]
    assert found.bytes_moved == 4106
    assert not found.ok
    assert outcomes([1], [0]).ok
    assert outcomes([], []).ok


def test_the_first_that_failed_is_raised() -> None:
    """Each reaction has its class."""
    outcomes([1, 2], [0, 0]).raise_first()
    with pytest.raises(HostError) as caught:
        outcomes([1, 0, 0], [0, errno.EIO, errno.ENOSPC]).raise_first()
    assert caught.value.errno == errno.EIO
    assert "transfer 1 of 3" in str(caught.value)
    for full in (errno.ENOSPC, errno.EDQUOT):
        with pytest.raises(NoSpace):
            outcomes([0], [full]).raise_first()
    with pytest.raises(HostError) as caught:  # memory that has gone: no device's fault
        outcomes([0], [errno.EFAULT]).raise_first()
    assert not isinstance(caught.value, DmaFault)
