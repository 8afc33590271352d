# The admin commands.
#
# Source: NVM Express Base Specification 1.4, section 5. Of the mandatory ones, Get Log Page,
# Asynchronous Event Request and most features are left out and refused as unknown: nothing here
# logs anything or has events.
from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from pinfold.devices.nvme.commands import Command, Refused, Status
from pinfold.devices.nvme.namespace import NUMBER, Namespace

if TYPE_CHECKING:
    from pinfold.devices.nvme.prps import DataPort
    from pinfold.devices.nvme.queues import Queues

VERSION: Final = 0x10400
_IDENTIFY_SIZE: Final = 1 << 12
_NUMBER_OF_QUEUES: Final = 0x07
_NOT_ABORTED: Final = 1


class Admin:
    """What the admin queue can ask for.

    Args:
      mdts: log2 of the longest transfer in units of the smallest page; 0 for no limit.
    """

    def __init__(self, namespace: Namespace, *, serial: str, mdts: int) -> None:
        self._namespace = namespace
        self._serial = serial
        self._mdts = mdts

    def execute(self, command: Command, port: DataPort, queues: Queues, entry_sizes: int) -> int:
        """Carry out one command; dword 0 of its completion.

        Args:
          entry_sizes: CC.IOSQES and CC.IOCQES, as they lie in CC.

        Raises: Refused, DmaFault.
        """
        number = command.dword10 & 0xFFFF
        match command.opcode:
            case 0x00:  # section 5.6
                queues.remove_submission(number)
            case 0x01:  # section 5.4
                entries = self._queue(command, port, entry_sizes)
                queues.add_submission(number, command.prp1, entries, command.dword11 >> 16)
            case 0x04:  # section 5.5
                queues.remove_completion(number)
            case 0x05:  # section 5.3
                entries = self._queue(command, port, entry_sizes)
                vector = command.dword11 >> 16 if command.dword11 & 0x2 else None
                queues.add_completion(number, command.prp1, entries, vector)
            case 0x06:
                port.write(command, self._identify(command))
            case 0x08:  # section 5.1: what it would abort is done, or begun
                return _NOT_ABORTED
            case 0x09 | 0x0A:  # sections 5.21 and 5.13
                return self._number_of_queues(command, queues)
            case _:
                raise Refused(Status.INVALID_OPCODE)
        return 0

    def _queue(self, command: Command, port: DataPort, entry_sizes: int) -> int:
        """The entries of a queue that is to be made, its other fields checked."""
        if not command.dword11 & 0x1 or entry_sizes != 4 << 20 | 6 << 16:
            raise Refused(Status.INVALID_FIELD)  # in pieces; or of a size that we do not know
        if command.prp1 % port.page:
            raise Refused(Status.INVALID_PRP_OFFSET)
        return (command.dword10 >> 16) + 1

    def _number_of_queues(self, command: Command, queues: Queues) -> int:
        """Section 5.21.1.7. Whatever is asked for, all that there are is granted."""
        if command.dword10 & 0xFF != _NUMBER_OF_QUEUES:
            raise Refused(Status.INVALID_FIELD)
        if command.opcode == 0x09 and 0xFFFF in (command.dword11 & 0xFFFF, command.dword11 >> 16):
            raise Refused(Status.INVALID_FIELD)
        return (queues.most - 1) << 16 | (queues.most - 1)

    def _identify(self, command: Command) -> bytes:
        """Section 5.15."""
        match command.dword10 & 0xFF:
            case 0x00:
                if command.namespace != NUMBER:
                    raise Refused(Status.INVALID_NAMESPACE)
                return bytes(self._namespace.identify())
            case 0x01:
                return bytes(self._identify_controller())
            case 0x02:  # the active namespaces above the one that is named
                if command.namespace >= 0xFFFFFFFE:
                    raise Refused(Status.INVALID_NAMESPACE)
                found = [NUMBER] if command.namespace < NUMBER else []
                return struct.pack(f"<{len(found)}I", *found).ljust(_IDENTIFY_SIZE, b"\0")
        raise Refused(Status.INVALID_FIELD)

    def _identify_controller(self) -> bytearray:
        """Section 5.15.2.2."""
        data = bytearray(_IDENTIFY_SIZE)
        data[4:72] = b" " * 68  # text is padded with spaces
        for at, longest, text in ((4, 20, self._serial), (24, 40, "pinfold disk"), (64, 8, "1")):
            data[at : at + longest] = text.encode("ascii")[:longest].ljust(longest)
        data[77] = self._mdts
        data[80:84] = VERSION.to_bytes(4, "little")
        data[111] = 1  # CNTRLTYPE: an I/O controller
        data[512] = 0x66  # SQES
        data[513] = 0x44  # CQES
        struct.pack_into("<I", data, 516, NUMBER)  # NN
        data[520] = 0x08  # ONCS: Write Zeroes
        data[525] = 0x01  # VWC: what is written is safe after a flush
        return data
