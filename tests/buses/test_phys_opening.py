"""Opening the phys bus: what it needs, and what it says where that is missing."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys

import pytest

import pinfold as pf
from pinfold.errors import (
    AccessDenied,
    HostError,
    InvalidArgs,
    NoMemory,
    NotSupported,
    PinfoldError,
)
from pinfold.testing import HostState
from tests.buses.phys_machine import (
    FailCall,
    needs_phys,
)
from tests.programs import run

READ = pf.Perm.READ


def test_without_the_capability_it_is_refused_and_says_so() -> None:
    """Frames would read as 0, and address 0 would be the device's."""
    found = run(
        """
        from pinfold.testing import HostCalls, HostState
        give_up_privileges()
        with pf.Process(pf.Kernel()), HostCalls() as seen:
            before = HostState.now()
            try:
                pf.open_bus("phys")
            except AccessDenied as error:
                left = before.difference(HostState.now())
                print(json.dumps([str(error), error.remedy, left, "io_uring_setup" in seen.names]))
        """
    )
    assert "phys bus needs CAP_SYS_ADMIN, which this process lacks" in found[0]
    assert "CAP_SYS_ADMIN" in found[1]
    assert found[2:] == [[], False]


@needs_phys
def test_a_capability_that_shows_no_frames_is_not_enough() -> None:
    """Root of a user namespace has every capability, and the kernel hides frames from it."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-Ur", "true"], check=False).returncode:
        pytest.skip("this process may make no user namespace")
    program = "import pinfold as pf\nwith pf.Process(pf.Kernel()): pf.open_bus('phys')"
    done = subprocess.run(
        [unshare, "-Ur", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "AccessDenied" in done.stderr
    assert "hides them although the process has CAP_SYS_ADMIN" in done.stderr


@needs_phys
@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        (errno.ENOSYS, NotSupported, "CONFIG_IO_URING"),
        (errno.EPERM, AccessDenied, "io_uring_disabled"),
        (errno.EMFILE, NoMemory, "RLIMIT_NOFILE"),
        (errno.EIO, HostError, "make an io_uring"),
    ],
)
def test_without_io_uring_it_says_what_is_missing(
    process: pf.Process, code: int, error: type[PinfoldError], words: str
) -> None:
    with FailCall("io_uring_setup", code), pytest.raises(error, match=words):
        pf.open_bus("phys")


@needs_phys
def test_an_old_table_is_not_enough(process: pf.Process) -> None:
    """Linux before 5.19 has no sparse tables, and says EINVAL."""
    before = HostState.now()
    with FailCall("io_uring_register", errno.EINVAL), pytest.raises(NotSupported, match=r"5\.19"):
        pf.open_bus("phys")
    assert before.difference(HostState.now()) == []


@needs_phys
@pytest.mark.parametrize("slots", [0, (1 << 14) + 1])
def test_a_table_has_so_many_slots(process: pf.Process, slots: int) -> None:
    with pytest.raises(InvalidArgs, match="slots"):
        pf.open_bus("phys", slots=slots)


@needs_phys
def test_it_does_not_say_that_it_isolates(phys_bus: pf.Iommu, phys: pf.Bti) -> None:
    """What a program may ask before it trusts a device with addresses."""
    assert not phys_bus.limits.isolates
    assert phys_bus.limits.real_frames
    assert phys_bus.limits.anchor is pf.Anchor.IO_URING
    assert phys_bus.limits.max_grants == 1 << 14
    assert phys_bus.bus.name == "phys"
    assert len(phys_bus.faults) == 0
    with pytest.raises(NotSupported, match="program the device"):
        phys.master()
    with pytest.raises(NotSupported, match="does not know its devices"):
        phys.device()
    for bits in (0, 65):
        with pytest.raises(InvalidArgs):
            phys_bus.bus.attach(1, address_bits=bits)
