"""Magenta's pins found themselves bound already on a bus whose grants hold the pages.

The second look for a page that the device has pinned was made when the pin's own token was in the
books.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.errors import AlreadyBound
from pinfold.objects.magenta import pins

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.usefixtures("process")
PAGE = pf.PAGE_SIZE
READ = int(pf.Perm.READ)


def test_a_pin_of_magentas_through_io_uring() -> None:
    """And the page is bound afterwards, as it is to be."""
    given: list[int] = []

    def write(addresses: NDArray[Any]) -> None:
        given.extend(addresses.tolist())

    with pf.open_bus("io_uring") as bus, bus.initiator(1) as bti, pf.Vmo(PAGE) as vmo:
        vmo.write(b"x")
        assert pins.pin(bti, vmo, 0, PAGE, READ, 1, write) == 1
        assert bti.master().read(given[0], 1) == b"x"
        with pytest.raises(AlreadyBound):
            pins.pin(bti, vmo, 0, PAGE, READ, 1, write)
        assert vmo.pin_count() == 1
