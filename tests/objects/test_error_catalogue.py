"""Every documented error of zx_bti_pin, zx_pmt_unpin and zx_vmar_map, provoked.

Source: the ERRORS sections of the three calls' pages. The rows are in tests/catalogue.py.
"""

from __future__ import annotations

import pytest

from pinfold.errors import PinfoldError, Status
from tests.catalogue import CASES, ROWS
from tests.stage import Case, Stage

DOCUMENTED = {
    "zx_bti_pin": {
        Status.BAD_HANDLE,
        Status.WRONG_TYPE,
        Status.ACCESS_DENIED,
        Status.INVALID_ARGS,
        Status.OUT_OF_RANGE,
        Status.UNAVAILABLE,
        Status.NO_MEMORY,
    },
    "zx_pmt_unpin": {Status.BAD_HANDLE, Status.WRONG_TYPE},
    "zx_vmar_map": {
        Status.BAD_HANDLE,
        Status.WRONG_TYPE,
        Status.BAD_STATE,
        Status.INVALID_ARGS,
        Status.ACCESS_DENIED,
        Status.ALREADY_EXISTS,
        Status.NOT_SUPPORTED,
        Status.BUFFER_TOO_SMALL,
        Status.NO_MEMORY,
    },
}
"""What the pages list. Rows may add statuses that only the kernel's source shows."""


def provoke(case: Case, stage: Stage) -> PinfoldError:
    act = case.arrange(stage)
    before = stage.standing()
    with pytest.raises(case.error) as caught:
        act()
    assert stage.standing() == before, "the failed call left something behind"
    return caught.value


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_documented_error_is_raised_and_leaves_nothing_behind(case: Case) -> None:
    """The exact class with the documented status; every fact there, and printed."""
    with Stage(case.max_pinned) as stage:
        error = provoke(case, stage)

    assert type(error) is case.error
    assert error.status is case.status
    for fact in case.facts:
        assert getattr(error, fact) is not None, f"the error does not say {fact}"
    text = str(error)
    for name, value in error.facts():
        shown = f"{value:#x}" if isinstance(value, int) else str(value)
        assert f"{name} {shown}" in text
    if case.remedy:
        assert error.remedy
        assert text.endswith(error.remedy)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same_stage_fails_the_same_way_again(case: Case) -> None:
    """A failure changes nothing, so making the call once more says the same thing.

    Only what the case declares to vary may differ.
    """
    with Stage(case.max_pinned) as stage:
        act = case.arrange(stage)
        told = []
        for _ in range(2):
            with pytest.raises(case.error) as caught:
                act()
            told.append({k: v for k, v in caught.value.facts() if k not in case.varies})
    assert told[0] == told[1]


@pytest.mark.parametrize("call", DOCUMENTED)
def test_no_documented_status_is_without_a_row(call: str) -> None:
    """The catalogue is total over the pages."""
    assert DOCUMENTED[call] <= {row.status for row in ROWS if row.call == call}


def test_no_two_rows_say_the_same() -> None:
    said = [(row.call, row.when) for row in ROWS]
    assert len(set(said)) == len(said)
