"""A process could end while an object of it was half made.

The handle was in its table before the object was what it was to be. `Process.exit` of another
thread closed it in between; then contiguous memory entered its run into the physical map for a
descriptor that was closed: a device's write went into whatever file had the number by then. And a
physical object kept its hold on device memory for good: no real window could ever be put there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.errors import PinfoldError
from pinfold.memory.locks import KernelLock
from pinfold.objects.object import ObjectType
from pinfold.testing import HostState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = pf.PAGE_SIZE
DEVICE = 0x8000_0000


@pytest.fixture
def memory() -> Iterator[int]:
    """A file of the caller's."""
    fd = os.memfd_create("outside", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4 * PAGE)
    yield fd
    os.close(fd)


@pytest.fixture
def ending(kernel: pf.Kernel, monkeypatch: pytest.MonkeyPatch) -> pf.Process:
    """A process that ends as soon as it has a handle: whenever the kernel's lock is let go."""
    made = pf.Process(kernel, name="ending")
    original: Any = KernelLock.__exit__

    def let_go(lock: KernelLock, *reason: Any) -> None:
        original(lock, *reason)
        if lock is kernel.lock and made.alive and made.handles:
            made.exit()

    monkeypatch.setattr(KernelLock, "__exit__", let_go)
    return made


def made_or_refused(make: Callable[[], object]) -> None:
    """Either is right: the process has ended, and its handles with it."""
    try:
        make()
    except PinfoldError:
        return


def contiguous_address(bti: pf.Bti) -> int:
    """Where the next run of a page goes."""
    with pf.Vmo.contiguous(bti, PAGE) as vmo, bti.pin(vmo, perms=pf.Perm.READ) as pmt:
        return int(pmt.addrs[0])


def test_no_run_of_a_contiguous_object_is_left(
    kernel: pf.Kernel, process: pf.Process, ending: pf.Process
) -> None:
    """Nothing is at its physical address, so no device writes to a closed descriptor."""
    with pf.open_bus("stub", process=process) as bus, bus.initiator(1) as bti:
        address = contiguous_address(bti)
        before = HostState.now()
        made_or_refused(lambda: pf.Vmo.contiguous(bti, PAGE, process=ending))
        assert not ending.alive
        with kernel.physmap.lock:
            assert kernel.physmap.find(address) is None
        assert contiguous_address(bti) == address
        assert kernel.objects(ObjectType.VMO) == []
        assert before.difference(HostState.now()) == []


def test_no_hold_on_device_memory_is_left(
    kernel: pf.Kernel, process: pf.Process, ending: pf.Process, memory: int
) -> None:
    """When its last user has gone, another window may be put at the addresses."""
    with pf.Resource(DEVICE, PAGE, process=process) as resource:
        made_or_refused(lambda: pf.Vmo.physical(resource, DEVICE, PAGE, process=ending))
        assert not ending.alive
        assert kernel.devices.simulated.users == 1
    assert kernel.devices.simulated.users == 0
    assert kernel.objects(ObjectType.VMO) == []
    with pf.Resource(DEVICE, PAGE, fd=memory, process=process):
        pass


def test_a_window_of_an_ended_process_is_given_back(
    kernel: pf.Kernel, process: pf.Process, ending: pf.Process, memory: int
) -> None:
    """The same for a part of a real window: the addresses are free as soon as the window is."""
    with pf.Resource(DEVICE, PAGE, fd=memory, process=process) as resource:
        made_or_refused(lambda: pf.Vmo.physical(resource, DEVICE, PAGE, process=ending))
    with kernel.physmap.lock:
        assert kernel.physmap.find(DEVICE) is None
    with pf.Resource(DEVICE, PAGE, fd=memory, process=process):
        pass


def test_nothing_is_left_of_an_object_that_was_made_for_a_process_that_had_ended(
    kernel: pf.Kernel, process: pf.Process
) -> None:
    """The other order: it ends before the handle is in its table."""
    gone = pf.Process(kernel, name="gone")
    gone.exit()
    with (
        pf.open_bus("stub", process=process) as bus,
        bus.initiator(1) as bti,
        pf.Resource(DEVICE, PAGE, process=process) as resource,
    ):
        address = contiguous_address(bti)
        with pf.Vmo.physical(resource, DEVICE, PAGE):
            pass  # what is simulated is there from now on
        before = HostState.now()
        users = kernel.devices.simulated.users
        with pytest.raises(PinfoldError):
            pf.Vmo.contiguous(bti, PAGE, process=gone)
        with pytest.raises(PinfoldError):
            pf.Vmo.physical(resource, DEVICE, PAGE, process=gone)
        assert kernel.devices.simulated.users == users
        assert before.difference(HostState.now()) == []
        assert contiguous_address(bti) == address
