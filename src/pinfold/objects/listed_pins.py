# The pins of one device that no handle names: found by the device addresses that they gave.
#
# Source: mx_bti_pin and mx_bti_unpin: the array of addresses is all that a caller has of a pin.
#
# Equal arrays can be listed more than once: on a bus that does not translate, a page that is pinned
# twice has the same address twice. The oldest goes first, and two of them take two unpins.
#
# Lock: every method is called with the kernel's lock held.
from __future__ import annotations

from typing import TYPE_CHECKING

from pinfold.errors import InvalidArgs
from pinfold.memory.ranges import RangeCounts
from pinfold.units import PAGE_SHIFT

if TYPE_CHECKING:
    from pinfold.memory.pages import Pages
    from pinfold.objects.pmt import PmtObject


class ListedPins(dict[int, bytes]):
    """The pins of one device authority that have no handle: their addresses, by koid.

    A dict, so that the end of every other pin finds out fast that none is listed.
    """

    __slots__ = ("_by_addresses", "_pages")

    def __init__(self) -> None:
        super().__init__()
        self._by_addresses: dict[bytes, dict[int, PmtObject]] = {}  # oldest first
        self._pages: dict[Pages, RangeCounts] = {}

    def tokens(self) -> list[PmtObject]:
        """All of them."""
        return [token for same in self._by_addresses.values() for token in same.values()]

    def add(self, token: PmtObject, addresses: bytes) -> None:
        """List a pin under the addresses that it gave: native 64-bit numbers, one after another."""
        self[token.koid] = addresses
        self._by_addresses.setdefault(addresses, {})[token.koid] = token
        counts = self._pages.setdefault(token.pinned.pages, RangeCounts())
        counts.raise_(*_pages_of(token))

    def oldest(self, addresses: bytes) -> PmtObject:
        """The oldest pin that gave exactly these addresses and that nobody is ending.

        Raises:
          InvalidArgs: there is none.
        """
        for token in self._by_addresses.get(addresses, {}).values():
            if not token.leaving:
                return token
        raise InvalidArgs(
            "no pin of this device gave these addresses",
            asked=len(addresses) // 8,
            remedy="give the whole array that the pin filled, as often as it was pinned",
        )

    def lowest(self, pages: Pages, first: int, last: int) -> int | None:
        """The first page of a range that one of them holds."""
        counts = self._pages.get(pages)
        found = None if counts is None else next(iter(counts.runs(first, last)), None)
        return None if found is None else found[0]

    def remove(self, token: PmtObject) -> None:
        """Strike out a pin that has ended, if it is listed."""
        addresses = self.pop(token.koid, None)
        if addresses is None:
            return
        same = self._by_addresses[addresses]
        del same[token.koid]
        if not same:
            del self._by_addresses[addresses]
        counts = self._pages[token.pinned.pages]
        counts.lower(*_pages_of(token))
        if not counts:
            del self._pages[token.pinned.pages]


def _pages_of(token: PmtObject) -> tuple[int, int]:
    pinned = token.pinned
    return pinned.start >> PAGE_SHIFT, (pinned.start + pinned.size) >> PAGE_SHIFT
