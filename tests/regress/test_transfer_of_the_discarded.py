"""Pages could be moved to and from a memory object whose memory had been discarded.

To it: they were there, and nobody could read them; the next lock said that everything was lost.
From it: zeros were moved, over the data of the other object, as if that had been its contents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.dialects import zx
from pinfold.dialects.calling import number_of
from pinfold.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = pf.PAGE_SIZE

pytestmark = pytest.mark.usefixtures("process")


@pytest.fixture
def discarded(kernel: pf.Kernel) -> Iterator[pf.Vmo]:
    """Two pages, of which the memory was taken."""
    with pf.Vmo(2 * PAGE, discardable=True, name="cache") as made:
        made.write(b"gone")
        made.lock_memory()
        made.unlock_memory()
        assert kernel.reclaim() == PAGE
        yield made


@pytest.fixture
def full() -> Iterator[pf.Vmo]:
    """Two pages that hold something."""
    with pf.Vmo(2 * PAGE, name="data") as made:
        made.write(b"precious")
        yield made


def still(full: pf.Vmo, discarded: pf.Vmo) -> None:
    """Nothing was moved: what was there is there, what was lost is lost."""
    assert full.read(0, 8) == b"precious"
    assert full.committed_ranges() == [pf.ByteRange(0, PAGE)]
    assert discarded.committed_ranges() == []
    with pytest.raises(NotFound):
        discarded.read(0, 1)
    assert discarded.lock_memory().discarded_size == 2 * PAGE
    assert discarded.read(0, 4) == bytes(4)
    discarded.unlock_memory()


def test_nothing_is_moved_to_what_was_discarded(discarded: pf.Vmo, full: pf.Vmo) -> None:
    """Source: zx_vmo_transfer_data; Zircon's object of discarded pages."""
    with pytest.raises(NotFound):
        discarded.transfer(full, size=2 * PAGE)
    still(full, discarded)


def test_nothing_is_moved_from_what_was_discarded(discarded: pf.Vmo, full: pf.Vmo) -> None:
    with pytest.raises(NotFound):
        full.transfer(discarded, size=PAGE)
    still(full, discarded)


def test_the_call_says_not_found(discarded: pf.Vmo, full: pf.Vmo) -> None:
    source, target = number_of(full.duplicate()), number_of(discarded.duplicate())
    for to, of in ((target, source), (source, target)):
        found = zx.zx_vmo_transfer_data(to, 0, 0, PAGE, of, 0)
        assert zx.zx_status_get_string(found) == "ZX_ERR_NOT_FOUND"
    still(full, discarded)
    for number in (source, target):
        assert zx.zx_handle_close(number) == zx.ZX_OK


def test_what_was_locked_again_takes_pages(discarded: pf.Vmo, full: pf.Vmo) -> None:
    """It is an object like others from then on."""
    discarded.lock_memory()
    discarded.transfer(full, size=PAGE)
    assert discarded.read(0, 8) == b"precious"
    assert full.committed_ranges() == []
