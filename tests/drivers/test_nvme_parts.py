"""What the NVMe driver makes of what controllers say."""

from __future__ import annotations

import struct

import pytest

from pinfold.drivers.nvme import CommandFailed, ControllerInfo, NamespaceInfo
from pinfold.drivers.nvme.controller import Capabilities
from pinfold.errors import NotFound, NotSupported, Status


def controller(**fields: int) -> bytearray:
    data = bytearray(4096)
    data[4:72] = b"serial".ljust(20) + b"model 1".ljust(40) + b"1.0\0".ljust(8)
    data[512], data[513] = 0x66, 0x44
    for name, value in fields.items():
        data[int(name[1:])] = value
    return data


def test_a_controller_describes_itself() -> None:
    """Source: NVM Express Base Specification 1.4, section 5.15.2.2."""
    data = controller(b77=5, b525=1, b0=0x36, b1=0x1B)
    struct.pack_into("<I", data, 516, 300)
    assert ControllerInfo.parse(bytes(data), version=0x10302, smallest_page=8192) == ControllerInfo(
        serial="serial",
        model="model 1",
        firmware="1.0",
        version=(1, 3, 2),
        vendor=0x1B36,
        namespaces=300,
        max_transfer=8192 << 5,
        volatile_cache=True,
    )


def test_no_limit_and_no_cache() -> None:
    found = ControllerInfo.parse(bytes(controller()), version=0x10000, smallest_page=4096)
    assert found.max_transfer is None
    assert not found.volatile_cache


@pytest.mark.parametrize("fields", [{"b512": 0x77}, {"b513": 0x55}, {"b512": 0x55}])
def test_entries_of_other_sizes(fields: dict[str, int]) -> None:
    """Larger ones are needed, or 64 bytes are too many."""
    with pytest.raises(NotSupported, match="queue entries"):
        ControllerInfo.parse(bytes(controller(**fields)), version=0, smallest_page=4096)


def test_entries_may_be_larger_too() -> None:
    data = controller(b512=0x86, b513=0x54)
    assert ControllerInfo.parse(bytes(data), version=0, smallest_page=4096).serial == "serial"


def namespace(blocks: int, selected: int, *formats: tuple[int, int]) -> bytes:
    data = bytearray(4096)
    struct.pack_into("<Q", data, 0, blocks)
    data[26] = selected
    for at, (metadata, shift) in enumerate(formats):
        struct.pack_into("<HBB", data, 128 + 4 * at, metadata, shift, 0)
    return bytes(data)


def test_a_namespace_has_one_of_its_formats() -> None:
    """Source: section 5.15.2.1. The upper bits of FLBAS are about metadata."""
    found = NamespaceInfo.parse(3, namespace(100, 0x11, (8, 9), (0, 12)))
    assert found == NamespaceInfo(3, 100, 4096)
    assert found.size == 409600
    with pytest.raises(NotSupported, match="8 bytes of metadata"):
        NamespaceInfo.parse(3, namespace(100, 0, (8, 9), (0, 12)))


def test_a_namespace_that_is_not_active() -> None:
    """Section 5.15.2.1: it reads as zeros."""
    with pytest.raises(NotFound, match="no active namespace 3"):
        NamespaceInfo.parse(3, bytes(4096))


def test_capabilities() -> None:
    """Source: section 3.1.1."""
    value = 0x3FF | 0x1E << 24 | 2 << 32 | 1 << 37 | 1 << 48 | 4 << 52
    assert Capabilities.parse(value) == Capabilities(
        max_entries=1024,
        ready_seconds=15.0,
        doorbell_stride=16,
        nvm=True,
        smallest_page=8192,
        largest_page=65536,
    )
    assert not Capabilities.parse(0).nvm


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0x0002, "invalid field in command (generic command status, 0x02)"),
        (0x0103, "abort command limit exceeded (command specific status, 0x03)"),
        (0x0281, "unrecovered read error (media and data integrity error, 0x81)"),
        (0x0300, "unknown code (path related status, 0x00)"),
        (0x0477, "unknown code (reserved status type 4, 0x77)"),
        (0x07C0, "unknown code (vendor specific status, 0xc0)"),
    ],
)
def test_a_status_in_words(status: int, words: str) -> None:
    """Source: section 4.6.1."""
    error = CommandFailed("write", status, (0x10, 8))
    assert error.reason == words
    assert str(error) == f"write of 8 blocks at 0x10: {words}"
    assert (error.status_type << 8 | error.status_code, error.retry) == (status, True)
    assert error.status is Status.IO


def test_do_not_retry_and_the_bits_beside_it() -> None:
    """More, and the retry delay, are no part of the code."""
    error = CommandFailed("flush", 0x7880)
    assert (error.status_type, error.status_code, error.retry) == (0, 0x80, False)
    assert str(error) == "flush: LBA out of range (generic command status, 0x80)"


def test_a_data_transfer_error_has_a_remedy() -> None:
    assert "fault log" in str(CommandFailed("read", 0x0004, (0, 1)))
