"""Two things at once, arranged: the second is started when the first is at its worst moment.

Nothing here depends on timing to pass. A thread that ought to be kept out is given a moment to get
in; where it is kept out, as it should be, that moment passes for nothing.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import pytest

import pinfold as pf
from pinfold.errors import BadState
from pinfold.host import calls
from pinfold.memory.backing import Backing
from pinfold.testing import check_books

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = pf.PAGE_SIZE
READ, WRITE = pf.Perm.READ, pf.Perm.WRITE
A_MOMENT = 0.2


class At:
    """Do something once, when the first host call of a name is about to be made."""

    def __init__(self, name: str, act: Callable[[], object]) -> None:
        self.name = name
        self.act: Callable[[], object] | None = act
        self.former: calls.Interceptor | None = None

    def __enter__(self) -> Self:
        self.former = calls.set_interceptor(self.see)
        return self

    def __exit__(self, *_: object) -> None:
        calls.set_interceptor(self.former)
        assert self.act is None, f"{self.name} was never called"

    def see(self, name: str) -> None:
        act = self.act
        if name == self.name and act is not None:
            self.act = None
            act()


def test_a_decommit_in_the_middle_of_a_commit(
    bti: pf.Bti, vmo: pf.Vmo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends after the pages have gone again: the books must not say that they are there."""
    real = Backing.commit

    def commit_then_lose(self: Backing, offset: int, size: int) -> None:
        real(self, offset, size)
        vmo.decommit()

    monkeypatch.setattr(Backing, "commit", commit_then_lose)
    vmo.commit()
    monkeypatch.undo()
    assert vmo.committed_ranges() == []
    with bti.pin(vmo, perms=READ):
        assert vmo.committed_ranges() == [(0, 4 * PAGE)]


@pytest.mark.parametrize("how", ["write", "copy", "long copy"])
def test_unpin_waits_for_the_access_that_is_under_way(
    process: pf.Process, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On return from unpin no byte is moved any more, not even by an access that had begun."""
    size = 1 << 20
    revoked = threading.Event()
    order: list[str] = []
    with (
        pf.open_bus("sim") as bus,
        bus.initiator(1) as bti,
        pf.Vmo(size) as source,
        pf.Vmo(size) as target,
        bti.pin(source, perms=READ) as reading,
        ThreadPoolExecutor(1) as pool,
    ):
        writing = bti.pin(target, perms=WRITE)
        a, b, master = int(reading.addrs[0]), int(writing.addrs[0]), bti.master()
        master.copy(b, a, 1)  # both grants have been reached: nothing is left to be set up
        space: Any = bti.object.space
        translate = space.translate
        pending: list[Future[None]] = []

        def unpin() -> None:
            writing.unpin()
            order.append("revoked")
            revoked.set()

        def slowly(address: int, length: int, access: int) -> Any:
            grant = translate(address, length, access)
            if access == WRITE and not pending:
                pending.append(pool.submit(unpin))
                revoked.wait(A_MOMENT)
                order.append("checked")
            return grant

        monkeypatch.setattr(space, "translate", slowly)
        if how == "write":
            master.write(b, b"x" * 64)
        else:
            master.copy(b, a, size if how == "long copy" else 64)
        pending[0].result()
        assert order == ["checked", "revoked"]


def test_a_process_that_ends_while_it_pins(sim: pf.Iommu, vmo: pf.Vmo, kernel: pf.Kernel) -> None:
    """The grant was made and nobody can hold its token: it is taken back, and the pages let go."""
    bti = sim.initiator(5)
    with pf.Process(kernel, name="short") as short:
        mine = pf.Bti.wrap(short.add(bti.object, int(bti.rights)))
        theirs = pf.Vmo.wrap(short.add(vmo.object, int(vmo.rights)))
        with At("madvise", short.exit), pytest.raises(BadState, match="ended"):
            mine.pin(theirs, perms=READ)
    assert bti.statistics().pins == 0
    assert vmo.pin_count() == 0
    assert bti.object.space.live_grants() == []
    check_books(kernel)
    bti.close()


def test_a_bti_that_is_closed_while_it_pins(sim: pf.Iommu, vmo: pf.Vmo, kernel: pf.Kernel) -> None:
    """Source: Zircon, BAD_STATE if the BTI's last handle vanished concurrently."""
    bti = sim.initiator(5)
    with At("madvise", bti.close), pytest.raises(BadState):
        bti.pin(vmo, perms=READ)
    assert vmo.pin_count() == 0
    check_books(kernel)


def test_memory_whose_last_handle_is_closed_while_it_is_pinned(bti: pf.Bti) -> None:
    """The reservation keeps it: from the first step on nothing takes the pages away."""
    vmo = pf.Vmo(PAGE)
    with At("madvise", vmo.close):
        pmt = bti.pin(vmo, perms=READ)
    assert bti.master().read(pmt.addrs[0], 1) == b"\0"
    pmt.unpin()


def test_pages_cannot_be_taken_back_while_they_are_being_pinned(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """The counts are up before the first page is committed."""

    def take_back() -> None:
        with pytest.raises(BadState):
            vmo.decommit()

    with At("madvise", take_back), bti.pin(vmo, perms=READ):
        pass


def test_a_write_and_a_shrink_at_the_same_time(process: pf.Process) -> None:
    """A write that lands after the cut would make the file longer than its object."""
    with pf.Vmo(4 * PAGE, resizable=True) as vmo, ThreadPoolExecutor(1) as pool:
        pending: list[Future[None]] = []
        shrunk = threading.Event()

        def shrink() -> None:
            vmo.resize(PAGE)
            shrunk.set()

        def start_and_wait() -> None:
            pending.append(pool.submit(shrink))
            shrunk.wait(A_MOMENT)

        with At("pwrite", start_and_wait):
            vmo.write(b"x" * PAGE, 3 * PAGE)
        pending[0].result()
        assert os.fstat(vmo.object.pages.backing.fd).st_size == vmo.size == PAGE
        vmo.resize(4 * PAGE)
        assert vmo.read() == bytes(4 * PAGE)
