"""Mapped registers, over a memory file in a device's place: widths, the end, a forked child.

That an access is one of its width is a device's to say: tests/vfio/test_device.py.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pinfold.host.registers import MappedRegisters
from pinfold.testing.faults import FailNth
from pinfold.units import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

CHILD = """
import os
from pinfold.host.registers import MappedRegisters
from pinfold.units import PAGE_SIZE
fd = os.memfd_create("registers")
os.ftruncate(fd, PAGE_SIZE)
kept = MappedRegisters(fd, 0, PAGE_SIZE)
child = os.fork()
if not child:
    with open("/proc/self/maps") as lines:
        shown = "memfd:registers" in lines.read()
    kept.abandon()
    os._exit(shown)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture
def fd() -> Iterator[int]:
    """Two pages; the second says where each byte is."""
    made = os.memfd_create("registers")
    os.write(made, bytes(PAGE_SIZE) + bytes(range(256)) * (PAGE_SIZE // 256))
    yield made
    os.close(made)


def shown() -> bool:
    """Whether the file is mapped."""
    with open("/proc/self/maps") as lines:
        return "memfd:registers" in lines.read()


def test_each_width_reads_and_writes(fd: int) -> None:
    registers = MappedRegisters(fd, PAGE_SIZE, PAGE_SIZE)
    for width in (1, 2, 4, 8):
        expected = int.from_bytes(range(8, 8 + width), sys.byteorder)
        assert registers.read(8, width) == expected
        last = PAGE_SIZE - width
        registers.write(last, width, (1 << 8 * width) - 2)
        written = os.pread(fd, width, PAGE_SIZE + last)
        assert int.from_bytes(written, sys.byteorder) == (1 << 8 * width) - 2
    registers.close()


def test_after_close_nothing_is_held_and_nothing_ends_the_process(fd: int) -> None:
    """An access that had begun finds ordinary memory where the device was."""
    registers = MappedRegisters(fd, 0, PAGE_SIZE)
    assert shown()
    registers.close()
    registers.close()
    assert not shown()
    assert registers.read(0, 4) == 0
    registers.write(0, 4, 7)
    assert os.pread(fd, 4, 0) == bytes(4)


@pytest.mark.parametrize("call", [1, 2])
def test_a_refused_mapping_leaves_none(fd: int, call: int) -> None:
    """The mapping itself, and keeping it from a forked child."""
    with FailNth(call, errno.ENOMEM), pytest.raises(OSError, match="memory"):
        MappedRegisters(fd, 0, PAGE_SIZE)
    assert not shown()


def test_a_refused_end_is_over_with_the_object(fd: int) -> None:
    registers = MappedRegisters(fd, 0, PAGE_SIZE)
    with FailNth(1, errno.ENOMEM), pytest.raises(OSError, match="memory"):
        registers.close()
    assert shown()
    del registers
    assert not shown()


def test_a_forked_child_has_no_mapping_and_a_forgotten_one_ends_quietly() -> None:
    """It would keep the device's group busy."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
