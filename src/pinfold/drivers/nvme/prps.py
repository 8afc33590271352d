# Physical region pages: how a command says where its data lies.
#
# Source: NVM Express Base Specification 1.4, section 4.3.
#
# One entry a page. The first may begin anywhere in its page, at a multiple of four bytes; the
# others begin their pages. One or two entries lie in the command; from three on the second is the
# address of a list of all but the first. A list here is one page at most, so it never goes on in
# another: the driver makes its commands no longer than that, 2 MiB of data where a page is 4 KiB.
from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pinfold.objects.pmt import Pmt

ENTRY_SIZE: Final = 8
ALIGNMENT: Final = 4
"""What an offset into a page is a multiple of."""


def longest(page: int) -> int:
    """Bytes that the entries of one list cover, wherever they begin."""
    return page * (page // ENTRY_SIZE)


def entries(pmt: Pmt, offset: int, size: int, page: int) -> NDArray[np.uint64]:
    """The entries for ``size`` bytes at ``offset`` of a pin.

    Args:
      offset, size: bytes; in the pin, and ``size`` > 0.
      page: the controller's; a whole number of them make a page of the pin.

    Raises:
      BadHandle: the pin is gone.
    """
    inside = offset % page
    offsets = np.arange(offset - inside, offset + size, page, dtype=np.int64)
    step = pmt.object.step  # bytes from one address to the next: more than a page in some forms
    found: NDArray[np.uint64] = pmt.addrs[offsets // step] + (offsets % step).astype(np.uint64)
    found[0] += np.uint64(inside)
    return found
