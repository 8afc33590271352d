"""The archive that the guest's kernel unpacks, read by another program and byte by byte."""

from __future__ import annotations

import pytest

from tests.rig import initramfs
from tests.rig.tools import RigError, output


def test_an_entry_is_laid_out_as_the_kernel_documents_it() -> None:
    """Source: buffer-format.rst: 6 + 13 * 8 digits, the name, then the data, each to 4 bytes."""
    made = initramfs.Cpio()
    made.add("init", 0o100755, b"hello")
    header = b"070701" + b"00000001" + b"000081ed" + b"00000000" * 2 + b"00000001" + b"00000000"
    header += b"00000005" + b"00000000" * 4 + b"00000005" + b"00000000"
    assert made.ended().startswith(header + b"init\0\0" + b"hello\0\0\0" + b"070701")


def test_another_program_finds_everything_once_and_parents_first() -> None:
    try:
        archive = initramfs.archive({"virtio": b"1", "vfio_pci": b"2"})
    except RigError as missing:
        pytest.skip(str(missing))
    listed = output("busybox", "cpio", "-t", given=archive).decode().split()
    assert len(listed) == len(set(listed))
    assert listed.index("modules") < listed.index("modules/virtio.ko")
    assert {"init", "bin/busybox", "dev/console", "modules/vfio_pci.ko"} < set(listed)
    order = output("busybox", "cpio", "-i", "--to-stdout", "modules.list", given=archive)
    assert order.split() == [b"virtio", b"vfio_pci"]
