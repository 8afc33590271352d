"""A pin that could not be handed over, and whose undo the bus refused, was forgotten.

It was held, and in no list: closing the last handle to the BTI said OK, and the pages stayed held
and granted, though the bus would have taken them back by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pinfold.dialects import mx
from pinfold.dialects.calling import face
from pinfold.objects.pmt import PmtState
from tests.dialects.mx import things
from tests.dialects.mx.test_closing import Refusing
from tests.dialects.mx.things import PAGE, attempt, counts, fine, named, unpin

if TYPE_CHECKING:
    import pinfold as pf


def stuck(bti: int, vmo: int) -> Any:
    """The token of a pin that had no room for its addresses and could not be undone."""
    refusing = Refusing(bti)
    refusing.times = 1
    assert attempt(bti, vmo, 0, 2 * PAGE, room=1)[0] == "IO"
    target: Any = face(bti).object
    (token,) = target.pins.values()
    assert token.state is PmtState.STUCK
    assert counts(vmo, 2) == [1, 1]
    assert attempt(bti, vmo)[0] == "BAD_STATE"
    return refusing


def test_the_end_of_the_device_tries_again(process: pf.Process) -> None:
    """The bus is fine by then: nothing is left."""
    bti, vmo = things.bti(), things.vmo(2 * PAGE)
    stuck(bti, vmo)
    fine(mx.mx_handle_close, bti)
    assert counts(vmo, 2) == [0, 0]
    assert process.kernel.leaks == []


def test_and_says_so_where_it_is_refused_again(process: pf.Process) -> None:
    bti, vmo = things.bti(), things.vmo(2 * PAGE)
    target: Any = face(bti).object
    refusing = stuck(bti, vmo)
    (token,) = target.pins.values()
    refusing.times = 1
    assert named(mx.mx_handle_close(bti)) == "IO"
    assert counts(vmo, 2) == [1, 1]
    assert len(process.kernel.leaks) == 1
    target.withdraw(token)  # so that the process can end
    process.kernel.leaks.clear()


@pytest.mark.usefixtures("process")
def test_no_addresses_name_it() -> None:
    """Nobody was given them: what has equal ones is another pin."""
    bti, vmo = things.bti(), things.vmo(2 * PAGE)
    target: Any = face(bti).object
    stuck(bti, vmo)
    (token,) = target.pins.values()
    would_be = token.grant.extents.addresses(token.step)
    for given in (would_be, would_be[:1].copy(), np.zeros(0, np.uint64)):
        assert unpin(bti, given) == "INVALID_ARGS"
    assert counts(vmo, 2) == [1, 1]
