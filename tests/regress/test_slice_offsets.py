"""What was said of a pin through a slice spoke in the offsets of the parent's pages.

The ledger, the record of a leak, the statistics of a token and the message of a refusal named a
range that the slice does not have: whoever looked for the pin, or for the page to unpin, looked in
the wrong place.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.errors import BadState
from pinfold.memory.ledger import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = pf.PAGE_SIZE
READ = pf.Perm.READ

pytestmark = pytest.mark.usefixtures("process")


@pytest.fixture
def parent() -> Iterator[pf.Vmo]:
    """Eight pages."""
    with pf.Vmo(8 * PAGE, name="parent") as made:
        yield made


@pytest.fixture(params=[False, True], ids=["slice", "slice of a slice"])
def part(request: pytest.FixtureRequest, parent: pf.Vmo) -> Iterator[pf.Vmo]:
    """Pages 4 and 5 of the parent, as an object of their own."""
    if request.param:
        with (
            parent.child(pf.VmoChild.SLICE, 3 * PAGE, 5 * PAGE) as middle,
            middle.child(pf.VmoChild.SLICE, PAGE, 2 * PAGE) as made,
        ):
            made.rename("part")
            yield made
    else:
        with parent.child(pf.VmoChild.SLICE, 4 * PAGE, 2 * PAGE) as made:
            made.rename("part")
            yield made


def test_the_ledger_and_the_token_speak_of_the_slice(part: pf.Vmo, bti: pf.Bti) -> None:
    with bti.pin(part, PAGE, PAGE, perms=READ) as pmt:
        (record,) = part.kernel.ledger.records()
        assert (record.offset, record.size) == (PAGE, PAGE)
        assert "part" in record.what
        assert f"[{PAGE:#x}, {2 * PAGE:#x})" in describe(record)
        assert pmt.statistics().offset == PAGE
        assert part.pin_count(PAGE) == 1
        assert part.pin_count(0) == 0


def test_the_parent_still_counts_its_own_pages(parent: pf.Vmo, part: pf.Vmo, bti: pf.Bti) -> None:
    """The pin is of page 5 of the parent, and a refusal of the parent says so."""
    with bti.pin(part, PAGE, PAGE, perms=READ):
        assert parent.pin_count(5 * PAGE) == 1
        with pytest.raises(BadState, match=rf"the page at {5 * PAGE:#x}"):
            parent.decommit()


REFUSALS: dict[str, Callable[[pf.Vmo, pf.Vmo], object]] = {
    "decommit": lambda part, _: part.decommit(PAGE, PAGE),
    "decommit all": lambda part, _: part.decommit(),
    "transfer to": lambda part, other: part.transfer(other, offset=PAGE, size=PAGE),
    "transfer from": lambda part, other: other.transfer(part, source_offset=PAGE, size=PAGE),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_names_the_page_of_the_slice(part: pf.Vmo, bti: pf.Bti, name: str) -> None:
    with (
        pf.Vmo(PAGE) as other,
        bti.pin(part, PAGE, PAGE, perms=READ),
        pytest.raises(BadState, match=rf"the page at {PAGE:#x}\b"),
    ):
        REFUSALS[name](part, other)


def test_a_leak_is_on_record_with_the_offset_of_the_slice(
    kernel: pf.Kernel, parent: pf.Vmo, part: pf.Vmo, caplog: pytest.LogCaptureFixture
) -> None:
    """And so is the warning that names it."""
    del parent
    with pf.open_bus("sim") as bus, caplog.at_level(logging.WARNING, logger="pinfold"):
        bti = bus.initiator(1)
        bti.pin(part, PAGE, PAGE, perms=READ).close()
        bti.close()
    (leak,) = kernel.leaks
    assert (leak.offset, leak.size) == (PAGE, PAGE)
    assert "part" in leak.what
    assert f"[{PAGE:#x}, {2 * PAGE:#x})" in caplog.text
