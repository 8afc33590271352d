"""How a grant of the phys bus ends: by an unpin, in quarantine, with the bus, in a forked child.

And what a failure of each call leaves.
"""

from __future__ import annotations

import errno
import gc
from typing import Any

import pytest

import pinfold as pf
from pinfold.buses.phys import PhysBus
from pinfold.errors import (
    BadState,
    HostError,
    InvalidArgs,
    PinfoldError,
    Unavailable,
)
from pinfold.testing import FailFrom, FailNth, HostCalls, HostState, check_books
from tests.buses.phys_machine import (
    PAGE,
    RW,
    needs_phys,
    pinned,
    settles_at,
)
from tests.programs import run

READ = pf.Perm.READ


@needs_phys
def test_a_pin_that_was_dropped_is_held_in_place_until_it_is_released(
    phys_bus: pf.Iommu, phys: pf.Bti
) -> None:
    """Revoking shuts nobody out here: the device may be writing there yet."""
    before = pinned()
    with pf.Vmo(4 * PAGE) as vmo:
        pmt = phys.pin(vmo, perms=RW)
        token = pmt.object
        pmt.close()
        assert token.state is pf.PmtState.QUARANTINED
        assert pinned() == before + 4 * PAGE
        assert phys.release_quarantine() == 1
        assert pinned() == before
        check_books(phys_bus.kernel)


@needs_phys
def test_revoking_twice_is_allowed_and_a_foreign_grant_is_not(phys: pf.Bti) -> None:
    before = pinned()
    with pf.Vmo(PAGE) as vmo:
        pmt = phys.pin(vmo, perms=READ)
        space, grant = phys.object.space, pmt.object.grant
        assert space.live_grants() == [grant]
        space.revoke(grant)
        assert (space.live_grants(), pinned()) == ([], before)
        space.revoke(grant)
        pmt.unpin()
        with (
            pf.open_bus("stub") as stub,
            stub.initiator(1) as bti,
            bti.pin(vmo, perms=READ) as other,
            pytest.raises(InvalidArgs, match="another bus"),
        ):
            space.revoke(other.object.grant)


@needs_phys
def test_what_the_kernel_does_not_let_go_stays_held_and_is_tried_again(phys: pf.Bti) -> None:
    before = pinned()
    with pf.Vmo(PAGE) as vmo:
        pmt = phys.pin(vmo, perms=READ)
        token = pmt.object
        with FailNth(1, errno.EIO), pytest.raises(HostError, match="unregister"):
            pmt.unpin()
        assert token.state is pf.PmtState.STUCK
        assert pinned() == before + PAGE
        assert vmo.pin_count() == 1
        assert phys.release_quarantine() == 1
        assert (pinned(), vmo.pin_count()) == (before, 0)


@needs_phys
def test_closing_the_bus_lets_everything_go(process: pf.Process) -> None:
    """Twice is once, and afterwards it grants nothing."""
    before = pinned()
    with pf.Vmo(4 * PAGE) as vmo, pf.open_bus("phys") as iommu, iommu.initiator(1) as bti:
        pmt = bti.pin(vmo, perms=READ)
        bus = iommu.bus
        assert isinstance(bus, PhysBus)
        bus.close()
        assert settles_at(before)
        bus.close()
        pmt.unpin()
        with pytest.raises(BadState, match="closed"):
            bti.pin(vmo, perms=READ)
        with pytest.raises(BadState, match="closed"):
            bus.attach(2)


@needs_phys
def test_a_finaliser_inside_a_grant_leaves_its_work_for_later(phys: pf.Bti) -> None:
    """The collector may drop a pin while this very thread has the bus's lock."""
    before = pinned()
    bus: Any = phys.object.iommu.bus
    with pf.Vmo(PAGE) as vmo:
        pmt = phys.pin(vmo, perms=READ)
        token = pmt.object
        listed: Any = token.grant
        with bus.locked():
            with pytest.raises(Unavailable):
                phys.object.space.revoke(listed)
            with pytest.raises(Unavailable):
                phys.object.space.close()
            done: list[str] = []
            phys.object.space.notify_idle(lambda: done.append("settled"))
            phys.object.space.live_grants()
            assert done == []
        assert done == ["settled"]
        pmt.unpin()
        assert pinned() == before


@needs_phys
def test_a_forked_child_has_no_part_in_it() -> None:
    """Its copy of the ring would keep the pages held when the parent lets them go."""
    found = run(
        """
        def rings():
            fds = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                   if os.path.lexists(f"/proc/self/fd/{n}")]
            with open("/proc/self/maps") as maps:
                return sum("io_uring" in fd for fd in fds), maps.read().count("io_uring")

        with pf.Process(pf.Kernel()), pf.open_bus("phys") as bus:
            with bus.initiator(1) as bti, pf.Vmo(4 * PAGE_SIZE) as vmo:
                pmt = bti.pin(vmo, perms=1)
                mine = rings()
                reader, writer = os.pipe()
                child = os.fork()
                if not child:
                    said = [rings(), list(pmt.addrs[:0])]
                    for act in (lambda: bti.pin(vmo, perms=1), bti.object.space.live_grants):
                        try:
                            act()
                        except WrongProcess as error:
                            said.append(type(error).__name__)
                    os.write(writer, json.dumps(said).encode())
                    os._exit(0)
                os.waitpid(child, 0)
                held = probe.process_memory().pinned
                pmt.unpin()
                left = probe.process_memory().pinned
                print(json.dumps([mine, json.loads(os.read(reader, 4096)), held, left]))
        """
    )
    assert found == [[1, 3], [[0, 0], [], "WrongProcess", "WrongProcess"], 4 * PAGE, 0]


@needs_phys
def test_whatever_call_of_opening_fails_nothing_is_left(process: pf.Process) -> None:
    before, held = HostState.now(), pinned()
    with HostCalls() as seen:
        bus = pf.open_bus("phys")
    bus.close()
    assert "io_uring_setup" in seen.names
    for n in range(1, len(seen.names) + 1):
        for code in (errno.ENOMEM, errno.EIO):
            with FailNth(n, code), pytest.raises(PinfoldError):
                pf.open_bus("phys")
            gc.collect()
            assert before.difference(HostState.now()) == [], seen.names[n - 1]
            assert settles_at(held)


def grant_calls(phys: pf.Bti, vmo: pf.Vmo) -> list[str]:
    with HostCalls() as seen:
        pmt = phys.pin(vmo, perms=READ)
    pmt.unpin()
    return seen.names


@needs_phys
def test_whatever_call_of_a_pin_fails_nothing_is_held(phys_bus: pf.Iommu, phys: pf.Bti) -> None:
    """And the same pin works afterwards."""
    with pf.Vmo(8 * PAGE) as vmo:
        names = grant_calls(phys, vmo)
    assert {"io_uring_register", "open", "pread", "mmap", "madvise"} <= set(names)
    before, state = pinned(), HostState.now()
    for n in range(1, len(names) + 1):
        for code in (errno.ENOMEM, errno.EIO, errno.EFAULT):
            with pf.Vmo(8 * PAGE) as vmo:
                with FailNth(n, code), pytest.raises(PinfoldError) as caught:
                    phys.pin(vmo, perms=READ)
                where = f"{names[n - 1]}: {caught.value!r}"
                assert pinned() == before, where
                assert phys.object.space.live_grants() == [], where
                assert vmo.pin_count() == 0, where
                assert not getattr(caught.value, "__notes__", []), where
                check_books(phys_bus.kernel)
                phys.pin(vmo, perms=READ).unpin()
            assert state.difference(HostState.now()) == [], where


@needs_phys
def test_when_undoing_fails_as_well_no_address_is_given_and_the_next_grant_settles_it(
    phys_bus: pf.Iommu, phys: pf.Bti
) -> None:
    """The pages stay held for nobody, until the kernel is willing."""
    with pf.Vmo(8 * PAGE) as vmo:
        before, names = pinned(), grant_calls(phys, vmo)
        at = names.index("open") + 1
        with FailFrom(at, errno.EIO), pytest.raises(HostError, match="pagemap") as caught:
            phys.pin(vmo, perms=READ)
        assert any("unregister" in note for note in caught.value.__notes__)
        assert pinned() == before + 8 * PAGE
        assert phys.object.space.live_grants() == []
        check_books(phys_bus.kernel)
        with phys.pin(vmo, 0, PAGE, perms=READ):
            assert pinned() == before + PAGE
        assert pinned() == before


@needs_phys
def test_hidden_frames_are_an_error_and_nothing_stays_held() -> None:
    """Privileges that were given up after opening: never address 0."""
    found = run(
        """
        with pf.Process(pf.Kernel()), pf.open_bus("phys") as bus:
            with bus.initiator(1) as bti, pf.Vmo(4 * PAGE_SIZE) as vmo:
                give_up_privileges()
                ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
                try:
                    bti.pin(vmo, perms=1)
                except AccessDenied as error:
                    print(json.dumps([str(error), probe.process_memory().pinned]))
        """
    )
    assert "hides page frame numbers" in found[0]
    assert found[1] == 0
