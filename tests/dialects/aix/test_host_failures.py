"""Every AIX service, with every host call that it makes refused in turn.

Refused once, and refused from then on, so that undoing fails as well. Either way the service
returns what its page says, the books agree, no counter has changed (an unpin has stopped at a
page), and the same call works when it is made again. Then everything can be undone, and nothing is
left of it. Source: SQLite's malloc tests.
"""

from __future__ import annotations

import errno
import gc
import mmap
import os
import warnings
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.dialects import aix
from pinfold.host import calls, mm, probe, process_vm
from pinfold.objects.addresses import stretches
from pinfold.testing import FailFrom, FailNth, HostCalls, HostState, check_books
from pinfold.units import GIB, HostVa
from tests.memory.locking import locked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

P = pf.PAGE_SIZE
BOTH = pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE
SPAN = 4 * P
"""What is pinned: in system space the last two pages of one object, and the first two of another;
in user space four pages, of which one call may be the second to pin the third."""

_LOW = 64 * GIB  # the lower an address, the less of /proc/self/maps is read to get there
_FIXED_NOREPLACE = 0x100000

PINNING = frozenset({aix.ENOMEM, aix.ENOSPC, aix.EIO})
UNPINNING = frozenset({aix.EIO})
LOOKING = UNPINNING | {aix.ENOMEM}
"""Of what looks at the mappings of the process first."""

XMEM = frozenset({aix.XMEM_FAIL})
MAPPING = frozenset({aix.DMA_NORES, aix.DMA_NOACC})
UNMAPPING = frozenset({aix.DMA_FAIL})


class Stage:
    """Both spaces and what describes them, in a kernel of its own.

    Attributes:
      undone: the host refuses one call only, and not what undoes the others.
    """

    def __init__(self, *, undone: bool) -> None:
        self.undone = undone
        self.kernel = pf.Kernel(seed=5)
        self.process = pf.Process(self.kernel, name="refused")
        self.stack = ExitStack()
        """What a case has left to be done in the end."""
        self._current = ExitStack()
        self._current.enter_context(self.process)
        root = self.process.reserve_root(size=GIB, address=_LOW)
        place = BOTH | pf.VmOption.SPECIFIC
        self.vmos = [pf.Vmo(4 * P, name=name) for name in ("low", "high")]
        for number, vmo in enumerate(self.vmos):
            vmo.write(b"\5" * 4 * P)
            vmo.decommit()
            root.map(vmo, place, offset=(1 + 4 * number) * P)
        self.system = _LOW + 3 * P
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _FIXED_NOREPLACE
        self.memory = HostVa(calls.mmap(_LOW + 2 * GIB, 8 * P, 3, flags, -1, 0))
        self.user = self.memory + 2 * P
        self.in_system, self.in_user = aix.Xmem(), aix.Xmem()
        attach(self.in_system, self.system - P, 6 * P, aix.SYS_ADSPACE)
        attach(self.in_user, self.memory, 8 * P, aix.USER_ADSPACE)
        self.held: dict[str, Any] = {}

    def bti(self, bus: str, anchor: pf.Anchor = pf.Anchor.NONE) -> pf.Bti:
        """A device, which is stopped in the end."""
        options: dict[str, Any] = {} if anchor is pf.Anchor.NONE else {"anchor": anchor}
        opened = self.stack.enter_context(pf.open_bus(bus, **options))
        made = self.stack.enter_context(opened.initiator(1))
        self.stack.callback(made.release_quarantine)
        self.held["bti"] = made
        return made

    def counts(self) -> list[tuple[int, int]]:
        """The pins, short-term and long-term, of the pages of both spans."""
        found = []
        with self.kernel.lock:
            for start in (self.system, self.user):
                for at in range(start, start + SPAN, P):
                    (stretch,) = stretches(self.kernel, at, at + P)
                    found.append(self.kernel.counted.counts(stretch))
        return found

    def standing(self) -> list[Any]:
        """What a refused call leaves as it was."""
        check_books(self.kernel)
        now = self.kernel.statistics()
        ledger = (now.ledger.pins, now.ledger.pinned_bytes, now.ledger.requested_bytes)
        descriptors = [(dp.aspace_id, dp.prexflags) for dp in (self.in_system, self.in_user)]
        held = self.kernel.counted.statistics()
        return [self.counts(), ledger, held, now.objects, now.handles, now.leaks, descriptors]

    def close(self) -> None:
        """The end. Nothing may be pinned any more, and nothing be left."""
        self.stack.close()
        for dp in (self.in_system, self.in_user):
            if dp.aspace_id != aix.XMEM_INVAL:
                assert aix.xmdetach(dp) == aix.XMEM_SUCC
        for vmo in self.vmos:
            if not vmo.closed:
                vmo.close()
        self._current.close()
        self.process.exit()
        mm.unmap(self.memory, 8 * P)
        check_books(self.kernel)
        assert self.kernel.counted.books == {}
        assert self.kernel.statistics().ledger.pins == 0
        assert self.kernel.objects() == []

    def give_up(self) -> None:
        """The end of a test that has failed: the next one finds the addresses free."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            handle = self.held.get("handle")
            ends: list[Callable[[], object]] = [] if handle is None else [handle.clear]
            ends += [self.kernel.counted.release, self.stack.close]
            ends += [partial(aix.xmdetach, dp) for dp in (self.in_system, self.in_user)]
            ends += [vmo.close for vmo in self.vmos]
            for left in (*ends, self._current.close, self.process.exit):
                with suppress(Exception):
                    left()
            mm.unmap(self.memory, 8 * P)


@dataclass(frozen=True)
class Case:
    """A service, on a stage.

    Attributes:
      arrange: makes what has to be there; what it returns is the call.
      refused: what the service may return when the host refuses something.
      undo: what a caller does after the call.
      unpins: where the call takes a pin from the pages of a span, and what takes the rest of them
        after it has stopped: it is given where they begin, and their bytes.
      part: undoes what of the call is documented to be done, though the host refused something.
      partial: it may have done a part when it is refused, and is made again for the rest.
      consumed: there is nothing to make the call again on, once it has been made.
      done: tells the result of a call that succeeds.
    """

    name: str
    arrange: Callable[[Stage], Callable[[], int]]
    refused: frozenset[int]
    undo: Callable[[Stage], object] = lambda _: None
    unpins: tuple[Callable[[Stage], int], Callable[[Stage, int, int], int]] | None = None
    part: Callable[[Stage, int], object] = lambda stage, result: None
    partial: bool = False
    consumed: bool = False
    done: Callable[[int], bool] = lambda result: result == 0

    def __str__(self) -> str:
        return self.name


def attach(dp: aix.Xmem, start: int, size: int, flag: int) -> None:
    assert aix.xmattach(start, size, dp, flag) == aix.XMEM_SUCC


def ok(result: int) -> None:
    assert result == 0


def older(service: Callable[[int, int, int], int], *args: int) -> int:
    """`pinu` and `unpinu` are deprecated, and say so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return service(*args)


# Pins and what undoes them ------------------------------------------------------------------------


def _pair(
    name: str,
    where: Callable[[Stage], int],
    pin: Callable[[Stage, int, int], int],
    unpin: Callable[[Stage, int, int], int],
    pinning: frozenset[int] = PINNING,
) -> list[Case]:
    """A service that pins; the same around a page that is pinned; and what unpins."""

    def around(stage: Stage) -> Callable[[], int]:
        middle = where(stage) + 2 * P
        dp = stage.in_system if middle < stage.user else stage.in_user
        ok(aix.xmempin(middle, P, dp))
        stage.stack.callback(lambda: ok(aix.xmemunpin(middle, P, dp)))
        return lambda: pin(stage, where(stage), SPAN)

    def pinned(stage: Stage) -> Callable[[], int]:
        ok(pin(stage, where(stage), SPAN))
        return lambda: unpin(stage, where(stage), SPAN)

    names = name.split("/")

    def undo(stage: Stage) -> None:
        ok(unpin(stage, where(stage), SPAN))

    return [
        Case(
            f"{names[0]}{names[2]}",
            lambda stage: lambda: pin(stage, where(stage), SPAN),
            pinning,
            undo,
        ),
        Case(f"{names[0]}{names[2]}, around a pin", around, pinning, undo),
        Case(
            f"{names[1]}{names[2]}",
            pinned,
            LOOKING if names[1] == "unpinu" else UNPINNING,
            unpins=(where, unpin),
        ),
    ]


def system(stage: Stage) -> int:
    return stage.system


def user(stage: Stage) -> int:
    return stage.user


def _xlate(where: Callable[[Stage], int]) -> tuple[Callable[..., int], Callable[..., int]]:
    def dp(stage: Stage) -> aix.Xmem:
        return stage.in_system if where is system else stage.in_user

    return (
        lambda stage, start, size: aix.xlate_pin(dp(stage), start, size, aix.B_READ),
        lambda stage, start, size: aix.xlate_unpin(dp(stage), start, size),
    )


XLATING = frozenset({aix.ENOMEM, aix.ENOSPC, aix.XMEM_FAIL})

PAIRS = [
    *_pair(
        "pin/unpin/",
        system,
        lambda _, start, size: aix.pin(start, size),
        lambda _, start, size: aix.unpin(start, size),
    ),
    *_pair(
        "ltpin/ltunpin/",
        system,
        lambda _, start, size: aix.ltpin(start, size),
        lambda _, start, size: aix.ltunpin(start, size),
    ),
    *_pair(
        "pinu/unpinu/, system",
        system,
        lambda _, start, size: older(aix.pinu, start, size, aix.UIO_SYSSPACE),
        lambda _, start, size: older(aix.unpinu, start, size, aix.UIO_SYSSPACE),
    ),
    *_pair(
        "pinu/unpinu/, user",
        user,
        lambda _, start, size: older(aix.pinu, start, size, aix.UIO_USERSPACE),
        lambda _, start, size: older(aix.unpinu, start, size, aix.UIO_USERSPACE),
    ),
    *_pair(
        "xmempin/xmemunpin/, system",
        system,
        lambda stage, start, size: aix.xmempin(start, size, stage.in_system),
        lambda stage, start, size: aix.xmemunpin(start, size, stage.in_system),
    ),
    *_pair(
        "xmempin/xmemunpin/, user",
        user,
        lambda stage, start, size: aix.xmempin(start, size, stage.in_user),
        lambda stage, start, size: aix.xmemunpin(start, size, stage.in_user),
    ),
    *_pair("xlate_pin/xlate_unpin/, system", system, *_xlate(system), XLATING),
    *_pair("xlate_pin/xlate_unpin/, user", user, *_xlate(user), XLATING),
]


@cache
def code() -> int:
    """Some code of the smallest library that this process has."""
    sizes: Counter[str] = Counter()
    found: dict[str, int] = {}
    for line in probe.mappings():
        sizes[line.path] += line.stop - line.start
        if line.executable and line.inode:
            found[line.path] = line.start
    return found[min(found, key=sizes.__getitem__)]


def unpincode(_: Stage) -> Callable[[], int]:
    ok(aix.pincode(code()))
    return lambda: aix.unpincode(code())


# Descriptors --------------------------------------------------------------------------------------


def xmattach(flag: int) -> Callable[[Stage], Callable[[], int]]:
    def arrange(stage: Stage) -> Callable[[], int]:
        dp = stage.held["dp"] = aix.Xmem()
        start = stage.system if flag == aix.SYS_ADSPACE else stage.user
        return lambda: aix.xmattach(start, SPAN, dp, flag)

    return arrange


def xmdetach_of_the_last(stage: Stage) -> Callable[[], int]:
    """Nobody has the objects but the descriptor: they go with it."""
    ok(aix.pin(stage.system, SPAN))
    ok(aix.unpin(stage.system, SPAN))
    for vmo in stage.vmos:
        vmo.close()
    stage.process.root.unmap(_LOW + P, 8 * P)
    return lambda: aix.xmdetach(stage.in_system)


def copy(service: Callable[..., int], *, into_user: bool) -> Callable[[Stage], Callable[[], int]]:
    def arrange(stage: Stage) -> Callable[[], int]:
        size = SPAN - 2
        args = (stage.user + 1, stage.system + 1)
        there, here = bytes(8 * P), bytes(8 * P)
        if into_user:
            there = b"\7" * 8 * P
            for vmo in stage.vmos:
                vmo.write(there[: 4 * P])
        else:
            here = b"\7" * 8 * P
            process_vm.write(os.getpid(), stage.memory, here)
        stage.held["bytes"] = there, here
        if into_user:
            args = (args[1], args[0])
        return lambda: service(*args, size, stage.in_user)  # from, to

    return arrange


def is_free(stage: Stage, _: int) -> None:
    """Whatever the host said of memory that was to go, the descriptor describes none any more."""
    assert stage.in_system.aspace_id == aix.XMEM_INVAL
    assert [vmo for vmo in stage.kernel.objects() if vmo.name in ("low", "high")] == []


def nothing_copied(stage: Stage, _: int) -> None:
    """Not a byte of the target, if what had been written could be put back."""
    if not stage.undone:
        return
    there = b"".join(vmo.read() for vmo in stage.vmos)
    here = process_vm.read(os.getpid(), stage.memory, 8 * P)
    assert (there, here) == stage.held["bytes"]


def xmemdma(stage: Stage) -> Callable[[], int]:
    ok(aix.xmempin(stage.user, SPAN, stage.in_user))
    return lambda: aix.xmemdma(stage.in_user, stage.user + 5, aix.XMEM_ACC_CHK)


def unpin_user(stage: Stage) -> None:
    ok(aix.xmemunpin(stage.user, SPAN, stage.in_user))


def xlate_create(flags: int) -> Callable[[Stage], Callable[[], int]]:
    def arrange(stage: Stage) -> Callable[[], int]:
        ok(aix.xmempin(stage.user, SPAN, stage.in_user))
        return lambda: aix.xlate_create(stage.in_user, stage.user, SPAN, flags)

    return arrange


def remove_and_unpin(stage: Stage) -> None:
    ok(aix.xlate_remove(stage.in_user))
    unpin_user(stage)


def xlate_remove(stage: Stage) -> Callable[[], int]:
    ok(xlate_create(0)(stage)())
    return lambda: aix.xlate_remove(stage.in_user)


DESCRIPTORS = [
    Case(
        "xmattach, system",
        xmattach(aix.SYS_ADSPACE),
        XMEM,
        lambda stage: ok(aix.xmdetach(stage.held["dp"])),
    ),
    Case(
        "xmattach, user",
        xmattach(aix.USER_ADSPACE),
        XMEM,
        lambda stage: ok(aix.xmdetach(stage.held["dp"])),
    ),
    Case("xmdetach", lambda stage: lambda: aix.xmdetach(stage.in_system), XMEM),
    Case("xmdetach of the last", xmdetach_of_the_last, XMEM, part=is_free, consumed=True),
    Case("xmemin", copy(aix.xmemin, into_user=False), XMEM, part=nothing_copied),
    Case("xmemout", copy(aix.xmemout, into_user=True), XMEM, part=nothing_copied),
    Case("xmemdma", xmemdma, XMEM, unpin_user, done=lambda result: result > 0 and result % P == 5),
    Case(
        "xmempsize",
        lambda stage: lambda: aix.xmempsize(stage.in_user, stage.user, SPAN),
        XMEM,
        done=lambda result: result == P,
    ),
    Case("xlate_create", xlate_create(0), XMEM | {aix.ENOMEM}, remove_and_unpin),
    Case(
        "xlate_create, empty", xlate_create(aix.XLATE_ALLOC), XMEM | {aix.ENOMEM}, remove_and_unpin
    ),
    Case("xlate_remove", xlate_remove, XMEM, unpin_user),
]


# Devices ------------------------------------------------------------------------------------------


def pinned_for(
    bus: str, anchor: pf.Anchor
) -> tuple[Callable[[Stage], aix.d_handle_t], Callable[[Stage], None]]:
    """A handle for a device, with both spans pinned; and what undoes the pins."""

    def arrange(stage: Stage) -> aix.d_handle_t:
        ok(aix.pin(stage.system, SPAN))
        ok(aix.xmempin(stage.user, SPAN, stage.in_user))
        handle = aix.d_map_init(stage.bti(bus, anchor), 0, 0, 0)
        assert isinstance(handle, aix.d_handle_t)
        stage.held["handle"] = handle
        return handle

    def undo(stage: Stage) -> None:
        ok(aix.unpin(stage.system, SPAN))
        unpin_user(stage)

    return arrange, undo


def _lists(stage: Stage) -> tuple[aix.Dio, aix.Dio]:
    """A buffer of each space, and room for what they become."""
    vecs = [
        aix.Iovec(stage.system, SPAN, stage.in_system),
        aix.Iovec(stage.user, SPAN, stage.in_user),
    ]
    virtual = aix.Dio(total_iovecs=2, used_iovecs=2, dvec=vecs)
    return virtual, stage.held.setdefault("list", aix.Dio(total_iovecs=16))


def unmap_part(stage: Stage, result: int) -> None:
    """What was mapped before the host refused, which is said to be possible: whole buffers."""
    part = stage.held["list"]
    if result == aix.DMA_NOACC or not part.bytes_done:
        assert part.granted == []
        return
    assert part.bytes_done == SPAN
    ok(aix.d_unmap_list(stage.held["handle"], part))


def _of_a_device(bus: str, anchor: pf.Anchor) -> list[Case]:
    ready, undo_pins = pinned_for(bus, anchor)
    what = f", {bus}{'' if anchor is pf.Anchor.NONE else ' with mlock'}"

    def map_page(stage: Stage) -> Callable[[], int]:
        handle, out = ready(stage), stage.held.setdefault("out", aix.Out())
        return lambda: aix.d_map_page(handle, aix.DMA_READ, stage.system + 5, out, stage.in_system)

    def map_user_page(stage: Stage) -> Callable[[], int]:
        handle, out = ready(stage), stage.held.setdefault("out", aix.Out())
        return lambda: aix.d_map_page(handle, aix.DMA_READ, stage.user, out, stage.in_user)

    def unmap_page(stage: Stage) -> Callable[[], int]:
        ok(map_page(stage)())
        handle, address = stage.held["handle"], stage.held["out"].value
        return lambda: aix.d_unmap_page(handle, address)

    def map_list(stage: Stage) -> Callable[[], int]:
        handle = ready(stage)
        return lambda: aix.d_map_list(handle, aix.DMA_READ, 1, *_lists(stage))

    def unmap_list(stage: Stage) -> Callable[[], int]:
        ok(map_list(stage)())
        return lambda: aix.d_unmap_list(stage.held["handle"], stage.held["list"])

    def clear(stage: Stage) -> Callable[[], int]:
        ok(map_list(stage)())
        return lambda: aix.d_map_clear(stage.held["handle"])

    def then_unmap_page(stage: Stage) -> None:
        ok(aix.d_unmap_page(stage.held["handle"], stage.held["out"].value))
        undo_pins(stage)

    def then_unmap_list(stage: Stage) -> None:
        ok(aix.d_unmap_list(stage.held["handle"], stage.held["list"]))
        undo_pins(stage)

    def last(make: Callable[[Stage], Callable[[], int]]) -> Callable[[Stage], Callable[[], int]]:
        """The driver has unpinned too early, and the grant is all that keeps the pages."""

        def arrange(stage: Stage) -> Callable[[], int]:
            act = make(stage)
            with pytest.warns(aix.DriverBug):
                undo_pins(stage)
            return act

        return arrange

    ends = {
        "d_unmap_page": unmap_page,
        "d_unmap_list": unmap_list,
        "d_map_clear": clear,
    }
    return [
        *(
            Case(f"{name} of the last{what}", last(make), UNMAPPING, consumed=True)
            for name, make in ends.items()
        ),
        Case(f"d_map_page{what}", map_page, MAPPING, then_unmap_page),
        Case(f"d_map_page of user memory{what}", map_user_page, MAPPING, then_unmap_page),
        Case(f"d_unmap_page{what}", unmap_page, UNMAPPING, undo_pins),
        Case(f"d_map_list{what}", map_list, MAPPING, then_unmap_list, part=unmap_part),
        Case(f"d_unmap_list{what}", unmap_list, UNMAPPING, undo_pins),
        Case(f"d_map_clear{what}", clear, UNMAPPING, undo_pins),
    ]


def _granting(bus: str, anchor: pf.Anchor) -> list[Case]:
    """`xlate_pin` of what is for a device."""
    what = f", {bus}{'' if anchor is pf.Anchor.NONE else ' with mlock'}"

    def described(stage: Stage) -> aix.Xmem:
        dp = stage.held["dp"] = aix.Xmem(bti=stage.bti(bus, anchor))
        attach(dp, stage.system, SPAN, aix.SYS_ADSPACE)
        stage.stack.callback(lambda: ok(aix.xmdetach(dp)))
        return dp

    def pin(stage: Stage) -> Callable[[], int]:
        dp = described(stage)
        return lambda: aix.xlate_pin(dp, stage.system, SPAN, aix.B_READ)

    def unpin(stage: Stage) -> Callable[[], int]:
        ok(pin(stage)())
        return lambda: aix.xlate_unpin(stage.held["dp"], stage.system, SPAN)

    return [
        Case(
            f"xlate_pin for a device{what}",
            pin,
            XLATING,
            lambda stage: ok(aix.xlate_unpin(stage.held["dp"], stage.system, SPAN)),
        ),
        Case(
            f"xlate_unpin for a device{what}",
            unpin,
            UNPINNING,
            unpins=(system, lambda stage, at, size: aix.xlate_unpin(stage.held["dp"], at, size)),
        ),
    ]


DEVICES = [
    case
    for bus, anchor in (
        ("sim", pf.Anchor.NONE),
        ("stub", pf.Anchor.NONE),
        ("sim", pf.Anchor.MLOCK),
    )
    for case in (*_of_a_device(bus, anchor), *_granting(bus, anchor))
]

CASES = [
    *PAIRS,
    Case(
        "pincode",
        lambda _: lambda: aix.pincode(code()),
        PINNING,
        lambda _: ok(aix.unpincode(code())),
    ),
    Case("unpincode", unpincode, LOOKING, partial=True),
    *DESCRIPTORS,
    *DEVICES,
]


# Playing them -------------------------------------------------------------------------------------


def play(case: Case, plan: HostCalls, *, undone: bool = True) -> int:
    """A call under a plan: what it returned. Afterwards everything is undone, and nothing is left.

    Args:
      undone: what was refused once could be undone at once, so that all is as it was.
    """
    stage = Stage(undone=undone)
    try:
        found = _play(case, stage, plan)
    except BaseException:
        stage.give_up()
        raise
    stage.close()
    return found


def _play(case: Case, stage: Stage, plan: HostCalls) -> int:
    act = case.arrange(stage)
    counts, before = stage.counts(), stage.standing()
    host = HostState.now() if stage.undone else None
    with plan:
        found = act()
    check_books(stage.kernel)
    where = f"{case}: {plan.refused} of {plan.names}"
    if case.done(found):
        settled(stage)
    elif found not in case.refused:
        raise AssertionError(f"{found} is documented nowhere: {where}")
    elif case.unpins is not None:
        settled(stage)
        assert found != aix.ENOMEM or stage.counts() == counts, where
        finish(case, stage, counts, where)
    else:
        case.part(stage, found)
        assert stage.counts() == counts, where
        if host is not None and not (case.partial or case.consumed):
            assert stage.standing() == before, where
            left = [x for x in host.difference(HostState.now()) if not x.startswith(KEPT)]
            assert left == [], where
        settled(stage)
        again = None if case.consumed else act()
        assert again is None or case.done(again), f"{again} when called again: {where}"
    case.undo(stage)
    return found


KEPT = ("mapping left: ",)
"""The window of a memory object stays with it, for the next call."""


def settled(stage: Stage) -> None:
    """What a driver does after a failure, when the device is quiet."""
    bti = stage.held.get("bti")
    if bti is not None:
        bti.release_quarantine()


def finish(case: Case, stage: Stage, before: list[tuple[int, int]], where: str) -> None:
    """An unpin that failed has stopped at a page; from there on it can be made again."""
    assert case.unpins is not None
    start, unpin = case.unpins[0](stage), case.unpins[1]
    first = 0 if start == stage.system else 4
    now = stage.counts()
    span, had = now[first : first + 4], before[first : first + 4]
    stopped = next((page for page in range(4) if span[page] == had[page]), 4)
    assert span == [(0, 0)] * stopped + had[stopped:], where
    assert stopped < 4, where
    assert now[:first] + now[first + 4 :] == before[:first] + before[first + 4 :], where
    size = SPAN - stopped * P
    assert stage.kernel.counted.statistics().held == size, where
    assert unpin(stage, start + stopped * P, size) == 0, where


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Of a whole sweep: looking at the host costs more than most calls."""
    gc.collect()
    before = HostState.now()
    yield
    gc.collect()
    assert before.difference(HostState.now()) == []


@cache
def host_calls(case: Case) -> list[str]:
    """What the service asks of the host when nothing is refused."""
    plan = HostCalls()
    found = play(case, plan)
    assert case.done(found), found
    return plan.names


def numbers(names: list[str]) -> list[int]:
    """Which calls to refuse: of a file that is read piece by piece, the first pieces and the last.

    Reading /proc/self/maps takes as many reads as this process happens to have mappings.
    """
    return [
        number
        for number, name in enumerate(names, 1)
        if name != "pread"
        or {*names[number - 3 : number - 1], *names[number : number + 1]} != {name}
    ]


CODES = {
    "mlock": (errno.ENOMEM, errno.EAGAIN, errno.EPERM, errno.EIO),
    "open": (errno.EMFILE, errno.ENOMEM, errno.EIO),
    "fallocate": (errno.ENOSPC, errno.EIO),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_whatever_the_host_refuses_once_changes_nothing(case: Case) -> None:
    """Or an unpin has stopped at a page. The same call works afterwards."""
    names, held = host_calls(case), locked()
    for number in numbers(names):
        for code in CODES.get(names[number - 1], (errno.ENOMEM, errno.EIO)):
            play(case, FailNth(number, code))
            assert locked() == held


@pytest.mark.parametrize("case", CASES, ids=str)
def test_whatever_the_host_refuses_from_then_on_can_be_undone_later(case: Case) -> None:
    """Undoing fails, too. No counter has changed all the same, and in the end nothing is left."""
    names, held = host_calls(case), locked()
    for number in numbers(names):
        play(case, FailFrom(number), undone=False)
        assert locked() == held


SILENT = {
    "xmattach, system",
    "xmdetach",
    "xlate_remove",
    *(f"{case.name}" for case in DEVICES if case.name.startswith(("d_unmap", "d_map_clear"))),
} - {
    f"{name} of the last, sim with mlock"
    for name in ("d_unmap_page", "d_unmap_list", "d_map_clear")
}
"""Books only. A device's grant locks nothing that is pinned, until it is the last to hold it."""


def test_what_asks_the_host_for_nothing() -> None:
    """These have nothing that could be refused; every other case has."""
    assert {case.name for case in CASES if not host_calls(case)} == SILENT
