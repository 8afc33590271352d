# Memory of either space for a device: what is counted as pinned is granted through a Bti.
#
# Source: AIX d_map_page, d_map_list, d_unmap_page, d_unmap_list.
#
# On AIX mapping pins nothing: that is the driver's business, and pages that it has not pinned are
# refused. Here the grant holds them all the same, by a token of its own, as every grant does: a
# driver that unpins what a device still reaches has a bug, and nobody's memory is written for it.
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pinfold.errors import (
    BadState,
    InvalidArgs,
    NoMemory,
    NotFound,
    NotPinned,
    PinfoldError,
    Unavailable,
)
from pinfold.memory.hosterrors import each_tried, noted
from pinfold.memory.ranges import RangeCounts
from pinfold.objects.vmo import Vmo
from pinfold.rights import Right
from pinfold.units import DevVa

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pinfold.memory.pages import Pages
    from pinfold.objects.addresses import Stretch
    from pinfold.objects.bti import Bti
    from pinfold.objects.cross_memory import Described
    from pinfold.objects.pmt import Pmt

_WRITE = int(Right.WRITE)
_ALL = int(Right.MAP | Right.READ | Right.WRITE)


class Run(NamedTuple):
    """Bytes that follow one another, as a device has them."""

    address: DevVa
    size: int


def granted(bti: Bti, found: list[Stretch], perms: int, keep: object = None) -> list[Pmt]:
    """A token for each stretch: the device may do ``perms`` with it. All of them, or none.

    Args:
      keep: lives for as long as one of them does, in quarantine as well.

    Raises:
      InvalidArgs: the device is of another kernel.
      As `Bti.pin`.
    """
    kernel = bti.object.kernel
    if any(stretch.vmo.kernel is not kernel for stretch in found):
        raise InvalidArgs("the device belongs to another kernel", remedy="make both in one")
    tokens: list[Pmt] = []
    try:
        for stretch in found:  # no comprehension: what is made before one fails is taken back
            tokens.append(_token(bti, stretch, perms))
            if keep is not None:
                tokens[-1].object.keep = keep
    except BaseException as error:
        take_back(tokens, error)
        raise
    return tokens


def take_back(tokens: list[Pmt], error: BaseException) -> None:
    """Undo what was granted, because of ``error``; what cannot be is in quarantine."""
    for token in reversed(tokens):
        with noted("take a grant back", error):
            token.unpin()


def _token(bti: Bti, stretch: Stretch, perms: int) -> Pmt:
    process, target = bti._entry.process, stretch.vmo
    rights = _ALL
    if target.immutable or not target.pages.backing.writable:  # whatever its mapping allows
        rights &= ~_WRITE
    with process.kernel.lock:
        vmo = Vmo.wrap(process.add(target, rights))
    try:
        return bti.pin(vmo, stretch.offset, stretch.stop - stretch.start, perms=perms)
    finally:
        vmo.close()


class Granted(NamedTuple):
    """What one call has granted."""

    tokens: list[Pmt]
    found: list[Stretch]


class Item(NamedTuple):
    """One buffer of a list."""

    memory: Described
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

    __slots__ = ("__weakref__", "_grants", "_reach", "bti", "enabled")

    def __init__(self, bti: Bti) -> None:
        """Nothing is granted yet.

        Raises:
          BadHandle: ``bti`` is closed.
          WrongType: it is no Bti.
        """
        self._grants: dict[int, list[Granted]] = {}
        self._reach: dict[Pages, RangeCounts] = {}
        """How many grants each page is in."""
        self.enabled = True
        self.bti = bti
        kernel = bti.object.kernel
        with kernel.lock:
            kernel.device_maps.add(self)

    @property
    def live(self) -> int:
        """Grants that have not been taken back."""
        return sum(map(len, self._grants.values()))

    def map(
        self, memory: Described, address: int, size: int, perms: int, *, check: bool = True
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
        found = self.check(Item(memory, address, size), perms, check=check)
        tokens = granted(self.bti, found, perms, memory.keep)
        try:
            runs = _runs(tokens, found, address, size)
            self._enter(runs[0].address, Granted(tokens, found))
        except BaseException as error:
            take_back(tokens, error)
            raise
        return runs

    def _enter(self, address: int, grant: Granted) -> None:
        with self.bti._entry.process.kernel.lock:
            for stretch in grant.found:
                counts = self._reach.setdefault(stretch.vmo.pages, RangeCounts())
                counts.raise_(stretch.first, stretch.last)
            self._grants.setdefault(address, []).append(grant)

    def _strike(self, grant: Granted) -> None:
        for stretch in grant.found:
            pages = stretch.vmo.pages
            self._reach[pages].lower(stretch.first, stretch.last)
            if not self._reach[pages]:
                del self._reach[pages]

    def check(self, item: Item, perms: int, *, check: bool = True) -> list[Stretch]:
        """What is behind a buffer, if `map` may grant it. Raises as `map`; grants nothing."""
        if not self.enabled:
            raise BadState("mapping is disabled for this device", remedy="enable it first")
        address, size, space = item.address, item.size, item.memory.space
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
                runs = self.map(item.memory, item.address, item.size, perms, check=check)
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
                done.granted.remove((address, size))
                try:
                    self.unmap(address)
                except PinfoldError as error:  # it is in quarantine; what is kept is good
                    done.error = Unavailable("a grant could not be taken back")
                    done.error.__cause__ = error
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
        with self.bti._entry.process.kernel.lock:
            grants = self._grants.get(address)
            if not grants:
                raise NotFound("nothing is mapped at that device address", asked=address)
            grant = grants.pop()
            if not grants:
                del self._grants[address]
            self._strike(grant)
        _end([grant])

    def clear(self) -> int:
        """Take back every grant, and allow no more; how many there were.

        Raises:
          As `unmap`: the rest is taken back.
        """
        with self.bti._entry.process.kernel.lock:
            self.enabled = False
            left = [grant for grants in self._grants.values() for grant in grants]
            self._grants.clear()
            self._reach.clear()
        _end(left)
        return len(left)

    def reaches(self, stretch: Stretch) -> bool:
        """True when the device has a page of it. Called with the kernel's lock held."""
        counts = self._reach.get(stretch.vmo.pages)
        return counts is not None and any(counts.runs(stretch.first, stretch.last))


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


def _end(grants: list[Granted]) -> None:
    """Take grants back that are in no book any more; the first refusal is raised in the end."""
    each_tried(token.unpin for grant in reversed(grants) for token in reversed(grant.tokens))


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
