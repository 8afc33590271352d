"""What this machine and this process can do, against other ways of asking."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from pinfold.host import abi, calls, mm, probe
from pinfold.testing import FailNth
from pinfold.units import PAGE_SIZE, HostVa
from tests.programs import run

PRIVATE = abi.MAP_PRIVATE | abi.MAP_ANONYMOUS


def test_locked_and_mapped_bytes_are_counted() -> None:
    before = probe.process_memory()
    address = HostVa(calls.mmap(0, 8 * PAGE_SIZE, 3, PRIVATE, -1, 0))
    mm.lock(address, 3 * PAGE_SIZE)
    after = probe.process_memory()
    assert after.locked - before.locked == 3 * PAGE_SIZE
    assert after.size - before.size == 8 * PAGE_SIZE
    assert after.pinned == before.pinned
    mm.unmap(address, 8 * PAGE_SIZE)
    assert probe.process_memory().locked == before.locked


def test_available_memory_is_part_of_the_machines() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE
    assert 0 < probe.available_memory() <= total


def test_limits_are_those_of_the_process() -> None:
    """None stands for no limit."""
    for ours, number in (
        (probe.memlock_limit(), resource.RLIMIT_MEMLOCK),
        (probe.address_space_limit(), resource.RLIMIT_AS),
    ):
        soft = resource.getrlimit(number)[0]
        assert ours == (None if soft == resource.RLIM_INFINITY else soft)


def test_the_map_count_limit_is_the_sysctl() -> None:
    assert probe.max_map_count() == int(Path("/proc/sys/vm/max_map_count").read_text())


def test_privileges_that_were_given_up_are_not_there() -> None:
    found = run(
        """
        give_up_privileges(memlock=PAGE_SIZE)
        print(json.dumps([probe.may_exceed_memlock(), probe.may_see_frames(),
                          probe.memlock_limit()]))
        """
    )
    assert found == [False, False, PAGE_SIZE]


@pytest.mark.skipif(os.geteuid() != 0, reason="not root")
def test_the_capability_is_what_exempts_from_the_limit() -> None:
    """CAP_IPC_LOCK in CapEff, and a lock above the limit: both or neither."""
    found = run(
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (PAGE_SIZE, hard))
        try:
            mm.lock(area(4), 4 * PAGE_SIZE)
            print(json.dumps([probe.may_exceed_memlock(), True]))
        except OSError:
            print(json.dumps([probe.may_exceed_memlock(), False]))
        """
    )
    assert found[0] == found[1]


def test_mapped_ranges_are_clipped_and_neighbours_merge() -> None:
    edge = mm.reserve(10 * PAGE_SIZE)
    mm.protect(HostVa(edge + 2 * PAGE_SIZE), PAGE_SIZE, abi.PROT_READ)
    mm.unmap(HostVa(edge + 5 * PAGE_SIZE), 2 * PAGE_SIZE)
    found = probe.mapped_ranges(edge + PAGE_SIZE, edge + 9 * PAGE_SIZE)
    assert [((a - edge) // PAGE_SIZE, (b - edge) // PAGE_SIZE) for a, b in found] == [
        (1, 5),
        (7, 9),
    ]
    mm.unmap(edge, 10 * PAGE_SIZE)
    assert probe.mapped_ranges(edge, edge + 10 * PAGE_SIZE) == []


def test_mapped_ranges_are_right_where_the_list_is_long() -> None:
    """Longer than one read, so that lines are cut in two."""
    size = 2000 * PAGE_SIZE
    edge = mm.reserve(size)
    for page in range(0, 2000, 2):
        mm.protect(HostVa(edge + page * PAGE_SIZE), PAGE_SIZE, abi.PROT_READ)
    mm.unmap(HostVa(edge + 1500 * PAGE_SIZE), PAGE_SIZE)
    assert probe.mapped_ranges(edge, edge + size) == [
        (edge, edge + 1500 * PAGE_SIZE),
        (edge + 1501 * PAGE_SIZE, edge + size),
    ]
    mm.unmap(edge, size)


@pytest.mark.parametrize(
    "ask",
    [
        probe.process_memory,
        probe.available_memory,
        probe.may_exceed_memlock,
        probe.max_map_count,
        lambda: probe.mapped_ranges(0, PAGE_SIZE),
    ],
)
def test_a_refused_read_closes_the_file(ask: object) -> None:
    assert callable(ask)
    with FailNth(2) as seen, pytest.raises(OSError, match="Cannot allocate"):
        ask()
    assert seen.names == ["open", "pread", "close"]
