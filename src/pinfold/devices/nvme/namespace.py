# The one namespace: reads, writes and flushes of a medium.
#
# Source: NVM Express Base Specification 1.4, section 6 (NVM command set) and 5.15.2.1.
from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from pinfold.devices.nvme.commands import EVERY_NAMESPACE, Command, Refused, Status
from pinfold.errors import InvalidArgs
from pinfold.units import is_power_of_two

if TYPE_CHECKING:
    from pinfold.devices.nvme.medium import Medium
    from pinfold.devices.nvme.prps import DataPort

NUMBER: Final = 1


class Namespace:
    """Blocks on a medium.

    Args:
      block_size: bytes; a power of two, at least 512.
      max_transfer: bytes in one command at most; None for no limit.
    """

    def __init__(self, medium: Medium, block_size: int, max_transfer: int | None) -> None:
        if block_size < 512 or not is_power_of_two(block_size):
            raise InvalidArgs("a block is a power of two of bytes, 512 or more", asked=block_size)
        if medium.size < block_size:
            raise InvalidArgs("the medium holds no block", asked=block_size, available=medium.size)
        self._medium = medium
        self._block_size = block_size
        self._blocks = medium.size // block_size
        self._max_transfer = max_transfer
        self.bytes_read = self.bytes_written = 0

    def identify(self) -> bytearray:
        """The Identify Namespace data structure."""
        data = bytearray(1 << 12)
        struct.pack_into("<QQQ", data, 0, self._blocks, self._blocks, self._blocks)  # NSZE, ...
        struct.pack_into("<HB", data, 128, 0, self._block_size.bit_length() - 1)  # LBAF0
        return data

    def execute(self, command: Command, port: DataPort) -> None:
        """Carry out one I/O command. Raises Refused, DmaFault."""
        match command.opcode:
            case 0x00:  # Flush, section 6.8
                if command.namespace != EVERY_NAMESPACE:
                    self._check_number(command)
                self.flush()
            case 0x01:  # Write, section 6.15
                offset, size = self._range(command)
                # All of it is there before the first block changes.
                self._write(offset, port.read(command, size))
                self.bytes_written += size
            case 0x02:  # Read, section 6.9
                offset, size = self._range(command)
                port.write(command, self._read(offset, size))
                self.bytes_read += size
            case 0x08:  # Write Zeroes, section 6.17
                offset, size = self._range(command, moves=False)
                self._write(offset, bytes(size))
                self.bytes_written += size
            case _:
                raise Refused(Status.INVALID_OPCODE)

    def flush(self) -> None:
        """Have the medium keep what was written. Raises Refused."""
        try:
            self._medium.flush()
        except OSError as error:
            raise Refused(Status.WRITE_FAULT) from error

    def _range(self, command: Command, *, moves: bool = True) -> tuple[int, int]:
        """Offset and size in bytes. The specification leaves the order of checks open."""
        self._check_number(command)
        first = command.dword11 << 32 | command.dword10
        count = (command.dword12 & 0xFFFF) + 1
        size = count * self._block_size
        if moves and self._max_transfer is not None and size > self._max_transfer:
            raise Refused(Status.INVALID_FIELD)
        if first + count > self._blocks:
            raise Refused(Status.LBA_OUT_OF_RANGE)
        return first * self._block_size, size

    def _check_number(self, command: Command) -> None:
        if command.namespace != NUMBER:
            raise Refused(Status.INVALID_NAMESPACE)

    def _read(self, offset: int, size: int) -> bytes:
        try:
            return self._medium.read(offset, size)
        except OSError as error:
            raise Refused(Status.UNRECOVERED_READ_ERROR) from error

    def _write(self, offset: int, data: bytes) -> None:
        try:
            self._medium.write(offset, data)
        except OSError as error:
            raise Refused(Status.WRITE_FAULT) from error
