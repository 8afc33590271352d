# Memory of either space for a device: what is counted as pinned is granted through a Bti.
#
# Source: AIX d_map_page, d_map_list, d_unmap_page, d_unmap_list.
#
# On AIX mapping pins nothing: that is the driver's business, and pages that it has not pinned are
# refused. Here the grant holds them all the same, by a token of its own, as every grant does: a
# driver that unpins what a device still reaches has a bug, and nobody's memory is written for it.
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pinfold.errors import BadState, NoMemory, NotFound, NotPinned, PinfoldError, Unavailable
from pinfold.memory.hosterrors import noted
from pinfold.objects.vmo import Vmo
from pinfold.rights import Right
from pinfold.units import PAGE_SHIFT, DevVa

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pinfold.objects.addresses import Stretch
    from pinfold.objects.bti import Bti
    from pinfold.objects.pmt import Pmt
    from pinfold.objects.spaces import Space

_ALL = int(Right.MAP | Right.READ | Right.WRITE)


class Run(NamedTuple):
    """Bytes that follow one another, as a device has them."""

    address: DevVa
    size: int


def granted(bti: Bti, found: list[Stretch], perms: int) -> list[Pmt]:
    """A token for each stretch: the device may do ``perms`` with it. All of them, or none.

    Raises:
      As `Bti.pin`.
    """
    tokens: list[Pmt] = []
    try:
        for stretch in found:  # no comprehension: what is made before one fails is taken back
            tokens.append(_token(bti, stretch, perms))  # noqa: PERF401
    except BaseException as error:
        for token in reversed(tokens):
            with noted("take a grant back", error):
                token.unpin()
        raise
    return tokens


def _token(bti: Bti, stretch: Stretch, perms: int) -> Pmt:
    process = bti._entry.process
    with process.kernel.lock:
        vmo = Vmo.wrap(process.add(stretch.vmo, _ALL))
    try:
        return bti.pin(vmo, stretch.offset, stretch.stop - stretch.start, perms=perms)
    finally:
        vmo.close()


class Item(NamedTuple):
    """One buffer of a list."""

    space: Space
    address: int
    size: int


class Mapped:
    """What of a list was granted.

    Attributes:
      runs: the device addresses, in order.
      granted: the first device address and the bytes of each grant.
      stopped: the first item that is not granted as a whole; None where all of them are.
      error: what the bus, or the memory, had against going on; None where the room for runs ended.
    """

    __slots__ = ("error", "granted", "runs", "stopped")

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.granted: list[tuple[int, int]] = []
        self.stopped: int | None = None
        self.error: PinfoldError | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(run.size for run in self.runs)

    def cut(self, size: int) -> None:
        """Leave the runs of the first ``size`` bytes."""
        kept: list[Run] = []
        for run in self.runs:
            if size > 0:
                kept.append(Run(run.address, min(run.size, size)))
            size -= run.size
        self.runs = kept


class DeviceMap:
    """What one device has been granted of the two spaces, by the device addresses it begins at.

    Attributes:
      bti: whose authority it is.
      enabled: more may be mapped.
    """

    __slots__ = ("__weakref__", "_grants", "bti", "enabled")

    def __init__(self, bti: Bti) -> None:
        """Nothing is granted yet.

        Raises:
          BadHandle: ``bti`` is closed.
          WrongType: it is no Bti.
        """
        self._grants: dict[int, list[list[Pmt]]] = {}
        self.enabled = True
        kernel = bti.object.kernel
        self.bti = bti
        kernel.device_maps.add(self)

    @property
    def live(self) -> int:
        """Grants that have not been taken back."""
        return sum(map(len, self._grants.values()))

    def map(
        self, space: Space, address: int, size: int, perms: int, *, check: bool = True
    ) -> list[Run]:
        """Grant a pinned range: the runs of device addresses of its bytes, in order.

        Args:
          check: look at whether the memory allows ``perms``.

        Raises:
          NotPinned: a page of it is not pinned; or mapping is disabled (BadState).
          AccessDenied: a page does not allow ``perms``.
          As `Space.find` and `Bti.pin`.

        After a failure nothing is granted.
        """
        found = self.check(Item(space, address, size), perms, check=check)
        tokens = granted(self.bti, found, perms)
        runs = _runs(tokens, found, address, size)
        self._grants.setdefault(runs[0].address, []).append(tokens)
        return runs

    def check(self, item: Item, perms: int, *, check: bool = True) -> list[Stretch]:
        """What is behind a buffer, if `map` may grant it. Raises as `map`; grants nothing."""
        if not self.enabled:
            raise BadState("mapping is disabled for this device", remedy="enable it first")
        space, address, size = item
        with space.process.kernel.lock:
            found = space.find(address, size)
            for stretch in found:
                held = stretch.vmo.pages.pinned_runs(stretch.first, stretch.last)
                if not held.covers(stretch.first, stretch.last):
                    raise NotPinned("a page is not pinned", asked=address, remedy="pin it first")
        if check:
            space.check_access(address, size, perms)
        return found

    def map_list(
        self, items: Sequence[Item], least: int, room: int, perms: int, *, check: bool = True
    ) -> Mapped:
        """Grant one item after another, as far as there is room for the runs of device addresses.

        Args:
          items: what to grant.
          least: what is granted in the end is a multiple of so many bytes, unless it is all.
          room: so many runs there may be.

        Returns:
          What was granted; and what ended it, if it did not get to the end.

        Raises:
          NotPinned, AccessDenied, NotFound, OutOfRange: of an item, as `map`. Nothing is granted.
        """
        done = Mapped()
        for number, item in enumerate(items):
            try:
                runs = self.map(item.space, item.address, item.size, perms, check=check)
            except (NoMemory, Unavailable, BadState) as error:
                if isinstance(error, NotPinned):
                    self._give_up(done, error)
                    raise
                done.stopped, done.error = number, error
                break
            except BaseException as error:
                self._give_up(done, error)
                raise
            done.granted.append((runs[0].address, item.size))
            done.runs += runs
            if len(done.runs) > room:
                done.stopped = number
                break
        if done.stopped is not None:
            self._trim(done, items, least, room)
        return done

    def _give_up(self, done: Mapped, error: BaseException) -> None:
        """Take back what was granted before ``error``; what cannot be is in quarantine."""
        for address, _ in reversed(done.granted):
            with noted("take a grant back", error):
                self.unmap(address)

    def _trim(self, done: Mapped, items: Sequence[Item], least: int, room: int) -> None:
        """Keep what there is room for, in whole multiples; take back what nothing is kept of."""
        kept = sum(run.size for run in done.runs[:room])
        kept -= kept % least
        done.cut(kept)
        at = 0
        for address, size in list(done.granted):
            if at >= kept:
                self.unmap(address)
                done.granted.remove((address, size))
            at += size
        at = 0
        for number, item in enumerate(items):
            at += item.size
            if at > kept:
                done.stopped = number
                break

    def unmap(self, address: int) -> None:
        """Take back the grant, the latest, whose first byte the device has at ``address``.

        Raises:
          NotFound: there is none.
          HostError, or what the bus raises: the device could not be shut out; what is not taken
            back is in the Bti's quarantine.
        """
        grants = self._grants.get(address)
        if not grants:
            raise NotFound("nothing is mapped at that device address", asked=address)
        tokens = grants.pop()
        if not grants:
            del self._grants[address]
        _take_back(tokens)

    def clear(self) -> int:
        """Take back every grant; how many there were. Errors as `unmap`: the rest is taken back."""
        left = [tokens for grants in self._grants.values() for tokens in grants]
        self._grants.clear()
        _take_back([token for tokens in left for token in tokens])
        return len(left)

    def reaches(self, stretch: Stretch) -> bool:
        """True when the device can reach a page of it."""
        for grants in self._grants.values():
            for token in (token for tokens in grants for token in tokens):
                pinned = token.object.pinned
                first = pinned.start >> PAGE_SHIFT
                last = (pinned.start + pinned.size) >> PAGE_SHIFT
                same = pinned.pages is stretch.vmo.pages
                if same and first < stretch.last and stretch.first < last:
                    return True
        return False


def reached(found: list[Stretch]) -> bool:
    """True when a `DeviceMap` has a page of it; so many pins have ended too early."""
    for stretch in found:
        kernel = stretch.vmo.kernel
        with kernel.lock:
            if not stretch.vmo.pages.pinned_runs(stretch.first, stretch.last):
                continue  # which is nearly always so
            if any(each.reaches(stretch) for each in list(kernel.device_maps)):
                return True
    return False


def _take_back(tokens: list[Pmt]) -> None:
    failed: BaseException | None = None
    for token in reversed(tokens):
        try:
            token.unpin()
        except PinfoldError as error:  # raised below: the others are taken back all the same
            failed = failed or error
    if failed is not None:
        raise failed


def _runs(tokens: list[Pmt], found: list[Stretch], address: int, size: int) -> list[Run]:
    """The device addresses of exactly the bytes asked for, neighbours merged."""
    runs: list[Run] = []
    for token, stretch in zip(tokens, found, strict=True):
        low = max(address - stretch.start, 0)
        high = min(address + size, stretch.stop) - stretch.start
        for extent in token.extents:
            start, stop = max(extent.offset, low), min(extent.offset + extent.size, high)
            if start >= stop:
                continue
            at, length = extent.address + start - extent.offset, stop - start
            if runs and runs[-1].address + runs[-1].size == at:
                at, length = runs[-1].address, runs.pop().size + length
            runs.append(Run(DevVa(at), length))
    return runs
