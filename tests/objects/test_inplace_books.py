"""pin(): the kernels' ledgers, refusals, dropped pins and forked children."""

from __future__ import annotations

import mmap

import pytest

import pinfold as pf
from pinfold.errors import HostError, LimitReached, NotFound
from pinfold.host import calls, mm
from pinfold.units import HostVa, page_up
from tests.memory.locking import intercepted, locked, refuse
from tests.programs import run

PAGE = pf.PAGE_SIZE

pytestmark = pytest.mark.usefixtures("process")  # which checks at the end that nothing is left


def pages_of(size: int, first: int = 0) -> memoryview:
    """``size`` bytes of mapped memory that share no page with anything else."""
    return memoryview(mmap.mmap(-1, page_up(first + size)))[first : first + size]


# The kernel's ledger -----------------------------------------------------------------------------


def test_the_ledger_has_whole_pages_and_a_shared_one_once(kernel: pf.Kernel) -> None:
    memory = pages_of(3 * PAGE)
    with pf.pin(memory[: PAGE + 10]), pf.pin(memory[PAGE + 20 :]) as second:
        found = kernel.statistics().ledger
        assert (found.pins, found.pinned_bytes) == (2, 3 * PAGE)
        assert found.requested_bytes == 4 * PAGE
        owners = kernel.ledger.owners()
        assert [(row.pins, row.size) for row in owners] == [(2, 4 * PAGE)]
        record = kernel.ledger.records()[1]
        assert (record.offset, record.size) == (second.pages.start, 2 * PAGE)
    assert kernel.statistics().ledger.pinned_bytes == 0


def test_max_pinned_is_a_limit_on_pins_in_place_too() -> None:
    """Nothing is locked, nothing is charged, and the message says who holds what there was."""
    small = pf.Kernel(max_pinned=4 * PAGE)
    memory = pages_of(8 * PAGE)
    before = locked()
    with pf.Process(small, name="small"), pf.pin(memory[: 3 * PAGE]):
        with pytest.raises(LimitReached) as caught:
            pf.pin(memory[2 * PAGE : 5 * PAGE])
        facts = dict(caught.value.facts())
        assert (facts["asked"], facts["available"]) == (2 * PAGE, PAGE)
        assert "'small'" in str(facts["holder"])
        assert locked() - before == 3 * PAGE
        with pf.pin(memory[2 * PAGE : 4 * PAGE]):  # a page of it is charged already
            assert small.statistics().ledger.pinned_bytes == 4 * PAGE
    assert small.statistics().ledger.pins == 0


def test_pins_in_place_and_pins_of_devices_share_one_limit(vmo: pf.Vmo) -> None:
    small = pf.Kernel(max_pinned=4 * PAGE)
    del vmo
    with (
        pf.Process(small),
        pf.open_bus("sim") as bus,
        bus.initiator(1) as bti,
        pf.Vmo(3 * PAGE) as mine,
        bti.pin(mine, perms=pf.Perm.READ),
        pytest.raises(LimitReached),
    ):
        pf.pin(pages_of(2 * PAGE))


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_each_kernel_is_charged_for_its_own_pins(
    first_ends_first: bool,  # noqa: FBT001 - a test's parameter
) -> None:
    """The lock is the process's and taken once; the books are the kernels' and know only theirs."""
    kernels = [pf.Kernel(), pf.Kernel()]
    memory, pins = pages_of(2 * PAGE), []
    before = locked()
    for each in kernels:
        with pf.Process(each):
            pins.append(pf.pin(memory))
    assert locked() - before == 2 * PAGE
    assert [k.statistics().ledger.pinned_bytes for k in kernels] == [2 * PAGE, 2 * PAGE]
    first = 0 if first_ends_first else 1
    pins[first].unpin()
    assert kernels[first].statistics().ledger.pinned_bytes == 0
    assert kernels[1 - first].statistics().ledger.pinned_bytes == 2 * PAGE
    assert locked() - before == 2 * PAGE
    pins[1 - first].unpin()
    assert kernels[1 - first].statistics().ledger.pinned_bytes == 0
    assert locked() == before


# Failure -----------------------------------------------------------------------------------------


def test_a_refused_lock_leaves_no_trace(kernel: pf.Kernel) -> None:
    """All or nothing: no charge, no count, and the buffer is lent no longer."""
    growing = bytearray(PAGE)
    before = locked()
    with intercepted(refuse("mlock")), pytest.raises(LimitReached):
        pf.pin(growing)
    assert locked() == before
    assert kernel.statistics().ledger.pins == 0
    assert kernel.statistics().ledger.pinned_bytes == 0
    growing.extend(b"x")
    pf.pin(growing).unpin()


def test_memory_that_is_not_there_is_refused(kernel: pf.Kernel) -> None:
    """A buffer that lies about its memory, as one over an unmapped address does."""
    start = mm.reserve(3 * PAGE)
    mm.unmap(HostVa(start + PAGE), PAGE)
    before = locked()
    with pytest.raises(HostError):
        pf.pin(calls.buffer_at(start, PAGE))
    with pytest.raises(NotFound) as caught:
        pf.pin(calls.buffer_at(start + PAGE, PAGE))
    assert caught.value.asked == start + PAGE
    assert locked() == before
    assert kernel.statistics().ledger.pins == 0
    mm.unmap(start, PAGE)
    mm.unmap(HostVa(start + 2 * PAGE), PAGE)


def test_a_refused_unpin_can_be_tried_again(kernel: pf.Kernel) -> None:
    """After HostError it is still pinned: locked, counted, charged and lent."""
    before = locked()
    held = pf.pin(pages_of(2 * PAGE))
    with intercepted(refuse("munlock")), pytest.raises(HostError):
        held.unpin()
    assert held.pinned
    assert locked() - before == 2 * PAGE
    assert kernel.statistics().ledger.pinned_bytes == 2 * PAGE
    held.unpin()
    assert locked() == before


def test_rlimit_memlock_is_named() -> None:
    """Source: mlock(2), ENOMEM over the limit."""
    found = run(
        """
        give_up_privileges(memlock=4 * PAGE_SIZE)
        buffer = bytearray(16 * PAGE_SIZE)
        try:
            pf.pin(buffer)
        except LimitReached as error:
            print(json.dumps([told(error), locked()]))
        """
    )
    said, after = found
    assert said["limit"] == 4 * PAGE
    assert "RLIMIT_MEMLOCK" in said["text"]
    assert after == 0


# Dropped, and forked -----------------------------------------------------------------------------


def test_a_dropped_pin_warns_and_lets_go(kernel: pf.Kernel) -> None:
    """No device is involved, so there is nothing that a quarantine would wait for."""
    before = locked()
    mapping = mmap.mmap(-1, 2 * PAGE)
    with pytest.warns(ResourceWarning, match="mmap of .* dropped while pinned, at .*test_inplace"):
        pf.pin(mapping)
    assert locked() == before
    assert kernel.statistics().ledger.pins == 0
    mapping.close()  # BufferError if it were still lent


def test_a_pin_dropped_where_warnings_are_errors_lets_go_all_the_same() -> None:
    """The filter turns the warning into an exception inside the finaliser."""
    found = run(
        """
        warnings.simplefilter("error", ResourceWarning)
        sys.unraisablehook = lambda unraisable: None
        pf.pin(bytearray(3 * PAGE_SIZE))
        print(json.dumps([locked(), pf.default_kernel().statistics().ledger.pins]))
        """
    )
    assert found == [0, 0]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_pin_dropped_inside_another_pin_does_not_wait_for_itself(kernel: pf.Kernel) -> None:
    """The garbage collector may run on the thread that holds either lock."""
    before = locked()
    dropped = [pf.pin(pages_of(PAGE)), pf.pin(pages_of(PAGE))]
    inside_table = list[int]()

    def collect(name: str) -> None:
        if name == "mlock" and dropped:
            dropped.pop()
            inside_table.append(kernel.statistics().ledger.pins)

    with intercepted(collect):
        outer = pf.pin(pages_of(PAGE))
    with outer:
        assert inside_table == [2]
        with kernel.lock:
            dropped.pop()
            assert kernel.ledger.statistics().pins == 2  # left for the end of the block
        assert kernel.ledger.statistics().pins == 1
        assert locked() - before == PAGE
    assert locked() == before


def test_a_forked_child_neither_unlocks_nor_warns_nor_may_unpin() -> None:
    """Source: mlock(2): locks are not inherited. The pin is the parent's to end."""
    found = run(
        """
        kept, dropped = pf.pin(bytearray(4 * PAGE_SIZE)), pf.pin(bytearray(PAGE_SIZE))
        mine = locked()
        there, here = os.pipe()
        child = os.fork()
        if not child:
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                del dropped
                gc.collect()
                outcome = [len(seen)]
            try:
                kept.unpin()
            except WrongProcess:
                outcome.append("wrong process")
            own = pf.pin(bytearray(PAGE_SIZE))
            outcome += [locked() == own.pages.size, own.unpin(), locked()]
            os.write(here, json.dumps(outcome).encode())
            os._exit(0)
        os.close(here)
        seen = json.loads(os.read(there, 1000))
        status = os.waitpid(child, 0)[1]
        gc.collect()
        same = locked() == mine
        kept.unpin()
        dropped.unpin()
        print(json.dumps([seen, status, same, locked()]))
        """
    )
    assert found == [[0, "wrong process", True, None, 0], 0, True, 0]
