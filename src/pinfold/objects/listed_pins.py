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

    A dict, so that the end of every other pin finds out fast that none is listed. A pin is listed
    as soon as the device reaches its pages, and under no addresses until its caller has them: what
    was never handed over cannot be asked for, and still ends with the authority.
    """

    __slots__ = ("_by_addresses", "_pages", "_seen", "_strangers", "_tokens")

    def __init__(self) -> None:
        super().__init__()
        self._tokens: dict[int, PmtObject] = {}
        self._by_addresses: dict[bytes, dict[int, PmtObject]] = {}  # oldest first
        self._pages: dict[Pages, RangeCounts] = {}
        self._strangers: list[int] = []  # koids: nothing is kept alive by having been seen
        self._seen = 0

    def tokens(self) -> list[PmtObject]:
        """All of them, oldest first."""
        return list(self._tokens.values())

    def add(self, token: PmtObject) -> None:
        """List a pin, for now under no addresses."""
        self[token.koid] = b""
        self._tokens[token.koid] = token
        counts = self._pages.setdefault(token.pinned.pages, RangeCounts())
        counts.raise_(*_pages_of(token))

    def handed_over(self, token: PmtObject, addresses: bytes) -> None:
        """From now on a listed pin is found by what it gave: native 64-bit numbers in a row."""
        self[token.koid] = addresses
        self._by_addresses.setdefault(addresses, {})[token.koid] = token

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

    def strangers(self, pins: dict[int, PmtObject]) -> list[PmtObject]:
        """Those of all pins of the authority that are not listed here: Zircon's calls made them.

        They are few where many are listed, so none is looked at twice for being one. Koids only
        grow: what came since the last time is at the end. A pin of Zircon's is told nothing of
        this, and pays nothing for it.
        """
        if len(pins) == len(self):
            return []
        fresh = []
        for koid in reversed(pins):
            if koid <= self._seen:
                break
            if koid not in self:
                fresh.append(koid)
        self._seen = max(self._seen, next(reversed(pins)))
        self._strangers = [koid for koid in (*self._strangers, *reversed(fresh)) if koid in pins]
        return [pins[koid] for koid in self._strangers]

    def remove(self, token: PmtObject) -> None:
        """Strike out a pin that has ended, if it is listed."""
        addresses = self.pop(token.koid, None)
        if addresses is None:
            return
        del self._tokens[token.koid]
        same = self._by_addresses.get(addresses)
        if same is not None:
            same.pop(token.koid, None)
            if not same:
                del self._by_addresses[addresses]
        counts = self._pages[token.pinned.pages]
        counts.lower(*_pages_of(token))
        if not counts:
            del self._pages[token.pinned.pages]


def _pages_of(token: PmtObject) -> tuple[int, int]:
    pinned = token.pinned
    return pinned.start >> PAGE_SHIFT, (pinned.start + pinned.size) >> PAGE_SHIFT
