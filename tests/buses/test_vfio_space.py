"""The device's address space on the vfio bus, over a container that only takes notes.

What the kernel itself does with a mapping is tried in the guest (tests/vfio). Here is what must
hold around it: when a mapping is refused, when two threads revoke, when a finaliser comes.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING, Any, cast

import pytest

import pinfold as pf
from pinfold.bus import BusLimits
from pinfold.buses.vfio.grant import VfioGrant
from pinfold.buses.vfio.space import VfioSpace
from pinfold.errors import (
    HostError,
    InvalidArgs,
    LimitReached,
    NotSupported,
    OutOfReach,
    Unavailable,
    WrongProcess,
)
from pinfold.faults import FaultLog, FaultReason
from pinfold.memory.locks import Reentered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pinfold.buses.vfio import VfioBus
    from pinfold.memory.pinned import PinnedRange

P = pf.PAGE_SIZE
HUGE = 2 << 20
READ, WRITE = int(pf.Perm.READ), int(pf.Perm.WRITE)
TOP = 16 << 20


class Notes:
    """A container that maps nothing: what it was asked for, and what it is to refuse."""

    def __init__(self) -> None:
        self.live: dict[int, int] = {}
        self.after: Callable[[], None] = lambda: None
        """Called after each: what it raises comes too late."""
        self.before: Callable[[], None] = lambda: None
        """Called before each mapping and unmapping."""

    def map(self, pinned: PinnedRange, iova: int, perms: int) -> None:
        del perms
        self.before()
        assert iova not in self.live
        self.live[iova] = pinned.size
        self.after()

    def unmap(self, iova: int, size: int, *, again: bool = False) -> None:
        self.before()
        assert self.live.pop(iova, size if again else None) == size
        self.after()


class Stage:
    """All of a bus that its space asks for."""

    def __init__(self) -> None:
        self.container = Notes()
        self.limits = BusLimits(
            page_size=P,
            minimum_contiguity=P,
            apertures=(pf.ByteRange(P, TOP), pf.ByteRange(2 * TOP, 3 * TOP)),
            max_grant=None,
            max_grants=None,
            isolates=True,
            anchor=pf.Anchor.VFIO,
        )
        self.page_sizes = (P, HUGE)
        self.numbers = count(1)
        self.faults = FaultLog()
        self.left = 0

    def quiesce(self, space: VfioSpace) -> None:
        del space

    def detach(self, space: VfioSpace) -> None:
        del space
        self.left += 1

    def space(self, address_bits: int = 64) -> VfioSpace:
        return VfioSpace(cast("VfioBus", self), 0x28, address_bits)


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def pinned(process: pf.Process) -> Iterator[Callable[[int], PinnedRange]]:
    """Pinned memory of so many bytes."""
    del process
    with ExitStack() as stack:
        bti = stack.enter_context(stack.enter_context(pf.open_bus("sim")).initiator(1))

        def made(size: int) -> PinnedRange:
            vmo = stack.enter_context(pf.Vmo(size))
            token: Any = stack.enter_context(bti.pin(vmo, perms=pf.Perm.READ))
            return cast("PinnedRange", token.object.pinned)

        yield made


def test_a_refused_mapping_takes_no_address(
    stage: Stage, pinned: Callable[[int], PinnedRange]
) -> None:
    """All or nothing: the address is free again, and nothing is live."""
    space, memory = stage.space(), pinned(P)

    def refuse() -> None:
        raise HostError("map", OSError(5, "no"))

    stage.container.before = refuse
    with pytest.raises(HostError):
        space.grant(memory, READ)
    assert space.live_grants() == []
    stage.container.before = lambda: None
    grant = space.grant(memory, READ)
    assert space.live_grants() == [grant]
    assert stage.container.live == {grant.first: P}
    space.revoke(grant)
    assert stage.container.live == {}


@pytest.mark.parametrize(
    "raised",
    [TimeoutError("an alarm"), MemoryError(), KeyboardInterrupt(), Reentered("a handler's")],
    ids=lambda error: type(error).__name__,
)
def test_an_interruption_after_mapping_keeps_the_address(
    stage: Stage, pinned: Callable[[int], PinnedRange], raised: BaseException
) -> None:
    """The device reaches the pages there: the next grant must lie elsewhere, for ever."""
    space, memory = stage.space(18), pinned(P)  # 18 address bits: it is walked round soon

    def interrupt() -> None:
        raise raised

    stage.container.after = interrupt
    with pytest.raises(type(raised)):
        space.grant(memory, READ)
    stage.container.after = lambda: None
    (taken,) = stage.container.live
    firsts = set()
    for _ in range(100):
        grant = space.grant(memory, READ)
        firsts.add(grant.first)
        space.revoke(grant)
    assert 2 < len(firsts) < 100
    assert taken not in firsts
    assert not space.idle


def test_what_was_put_off_does_not_decide_a_grant(
    stage: Stage, pinned: Callable[[int], PinnedRange]
) -> None:
    """It may raise, and the caller would believe that nothing is granted."""
    space, memory = stage.space(), pinned(P)

    def fail() -> None:
        raise HostError("something else", OSError(5, "no"))

    space.notify_idle(fail)
    grant = space.grant(memory, READ)
    with pytest.raises(HostError, match="something else"):
        space.revoke(grant)
    assert stage.container.live == {}
    assert space.live_grants() == []
    space.revoke(grant)


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), HostError("late", OSError(5, "no"))])
def test_an_interruption_after_unmapping_is_finished_by_the_next(
    stage: Stage, pinned: Callable[[int], PinnedRange], raised: BaseException
) -> None:
    """What is not mapped the second time is gone, and its address is given back."""
    space = stage.space()
    grant = space.grant(pinned(P), READ)

    def interrupt() -> None:
        raise raised

    stage.container.after = interrupt
    with pytest.raises(type(raised)):
        space.revoke(grant)
    assert space.live_grants() == [grant]
    stage.container.after = lambda: None
    space.revoke(grant)
    assert space.live_grants() == []
    assert space.idle


def test_whether_it_is_idle_is_asked_without_its_lock(stage: Stage) -> None:
    """Under the bus's lock, which a finaliser may wait for that has the space's."""
    space = stage.space()
    may_end, has_it = threading.Event(), threading.Event()

    def hold() -> None:
        with space.lock:
            has_it.set()
            assert may_end.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert has_it.wait(30)
    found: list[bool] = []
    asker = threading.Thread(target=lambda: found.append(space.idle))
    asker.start()
    asker.join(10)  # until it has asked; for ever, if it waited for the lock
    answered = list(found)
    may_end.set()
    holder.join()
    asker.join()
    assert answered == [True]


def test_what_is_not_unmapped_is_still_there(
    stage: Stage, pinned: Callable[[int], PinnedRange]
) -> None:
    """Its address is nobody else's, and revoking it is tried again."""
    space = stage.space()
    grant = space.grant(pinned(P), READ)

    def refuse() -> None:
        raise HostError("unmap", OSError(5, "no"))

    stage.container.before = refuse
    with pytest.raises(HostError):
        space.revoke(grant)
    assert space.live_grants() == [grant]
    stage.container.before = lambda: None
    other = space.grant(pinned(P), READ)
    assert other.first != grant.first
    for each in (grant, grant, other):
        space.revoke(each)
    assert space.live_grants() == []


def test_the_second_to_revoke_waits_for_the_first(
    stage: Stage, pinned: Callable[[int], PinnedRange]
) -> None:
    """On return the device is shut out, whoever had begun."""
    space = stage.space()
    grant = space.grant(pinned(P), READ)
    begun, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert may_end.wait(30)

    stage.container.before = slow
    first = threading.Thread(target=space.revoke, args=(grant,))
    first.start()
    assert begun.wait(30)
    ended: list[dict[int, int]] = []

    def revoke_too() -> None:
        space.revoke(grant)
        ended.append(dict(stage.container.live))

    second = threading.Thread(target=revoke_too)
    second.start()
    assert space.live_grants() == [grant]  # others are not held up meanwhile
    assert ended == []
    may_end.set()
    first.join()
    second.join()
    assert ended == [{}]


def test_a_finaliser_inside_a_call_comes_back_later(
    stage: Stage, pinned: Callable[[int], PinnedRange]
) -> None:
    """The collector runs it on the thread that has the lock: it is told so, and called after."""
    space = stage.space()
    other = space.grant(pinned(P), READ)
    settled: list[int] = []

    def finaliser() -> None:
        with pytest.raises(Unavailable):
            space.revoke(grant)
        space.notify_idle(lambda: settled.append(1))

    grant = space.grant(pinned(P), READ)
    assert isinstance(grant, VfioGrant)
    stage.container.before = finaliser
    space.revoke(grant)
    assert settled == [1]
    stage.container.before = lambda: None
    with space.lock:
        with pytest.raises(Unavailable):
            space.revoke(other)
        with pytest.raises(Unavailable):
            space.close()
    space.revoke(other)
    space.close()
    assert stage.left == 1


def test_a_device_that_reaches_less(stage: Stage, pinned: Callable[[int], PinnedRange]) -> None:
    """The extent that it would have got is named; where no device had room, no extent is."""
    narrow, large = stage.space(22), pinned(4 << 20)
    with pytest.raises(OutOfReach) as raised:
        narrow.grant(large, READ)
    extent = raised.value.extent
    assert isinstance(extent, pf.Extent)
    assert (extent.address, extent.size, raised.value.limit) == (4 << 20, 4 << 20, 4 << 20)
    wide, huge = stage.space(), pinned(TOP + P)
    with pytest.raises(LimitReached) as full:
        wide.grant(huge, READ)
    assert not isinstance(full.value, OutOfReach)
    assert full.value.available == TOP
    with pytest.raises(InvalidArgs):
        stage.space(4)


def test_large_grants_lie_on_large_borders_while_they_can(
    stage: Stage, pinned: Callable[[int], PinnedRange]
) -> None:
    space = stage.space(24)
    small = [space.grant(pinned(P), READ)]
    firsts: list[int] = []
    while len(firsts) < 8:
        try:
            firsts.append(space.grant(pinned(HUGE), READ).first)
        except LimitReached:
            break
    assert all(first % HUGE == 0 for first in firsts[:3])
    assert len(firsts) >= 4
    assert small[0].first == P


def test_what_cannot_be_asked_of_it(stage: Stage, pinned: Callable[[int], PinnedRange]) -> None:
    space = stage.space()
    with pytest.raises(NotSupported):
        space.master()
    with pytest.raises(InvalidArgs):
        space.revoke(pf.bus.Grant(pinned(P), READ, pf.Extents.run(P, P)))


def test_why_an_access_was_stopped(stage: Stage, pinned: Callable[[int], PinnedRange]) -> None:
    """As it looks when the log is read: the grant that was meant, and what it permits."""
    space = stage.space()
    grant = space.grant(pinned(2 * P), READ)
    assert space.explain(grant.first + P, WRITE)[0] is FaultReason.NOT_PERMITTED
    assert space.explain(grant.first + 2 * P, READ)[0] is FaultReason.BEYOND_END
    assert space.explain(grant.first + 9 * P, READ)[0] is FaultReason.NOTHING_THERE
    reason, detail, _ = space.explain(grant.first, READ)
    assert (reason, "is now" in detail) == (FaultReason.NOTHING_THERE, True)
    space.revoke(grant)
    reason, _, nearest = space.explain(grant.first, READ)
    assert reason is FaultReason.REVOKED
    assert nearest is not None
    assert "permitted" not in space.explain(grant.first, READ)[1]
    # It never permitted that, so it may have been stopped before, and the line read only now.
    reason, detail, _ = space.explain(grant.first, WRITE)
    assert reason is FaultReason.REVOKED
    assert "it permitted READ, not WRITE, so this may have been before" in detail


def test_a_forked_child_has_no_space(stage: Stage, pinned: Callable[[int], PinnedRange]) -> None:
    space = stage.space()
    grant = space.grant(pinned(P), READ)
    space.abandon()
    for call in (lambda: space.revoke(grant), lambda: space.grant(grant.pinned, READ)):
        with pytest.raises(WrongProcess):
            call()
    assert stage.container.live == {grant.first: P}
