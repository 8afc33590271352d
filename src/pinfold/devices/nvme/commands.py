# A command as the controller sees it, and how it is refused.
#
# Source: NVM Express Base Specification 1.4, sections 4.2 (submission queue entry) and 4.6.1
# (status).
from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

COMMAND: Final = struct.Struct("<BBHIQQQQ6I")

EVERY_NAMESPACE: Final = 0xFFFFFFFF
_DO_NOT_RETRY: Final = 1 << 14


class Status(enum.IntEnum):
    """Status type and code, section 4.6.1.2, as ``type << 8 | code``."""

    INVALID_OPCODE = 0x001
    INVALID_FIELD = 0x002
    DATA_TRANSFER_ERROR = 0x004
    SUBMISSION_QUEUE_DELETED = 0x008
    INVALID_NAMESPACE = 0x00B
    INVALID_PRP_OFFSET = 0x013
    LBA_OUT_OF_RANGE = 0x080
    INVALID_COMPLETION_QUEUE = 0x100
    INVALID_QUEUE_IDENTIFIER = 0x101
    INVALID_QUEUE_SIZE = 0x102
    INVALID_INTERRUPT_VECTOR = 0x108
    INVALID_QUEUE_DELETION = 0x10C
    WRITE_FAULT = 0x280
    UNRECOVERED_READ_ERROR = 0x281

    @property
    def field(self) -> int:
        """The status field of a completion. Only what may go better next time may be retried."""
        may_pass = self in (Status.DATA_TRANSFER_ERROR, Status.SUBMISSION_QUEUE_DELETED)
        return self if may_pass or self >= Status.WRITE_FAULT else self | _DO_NOT_RETRY


class Refused(Exception):
    """A command is completed with an error; never seen outside the controller."""

    def __init__(self, status: Status) -> None:
        self.status = status
        super().__init__(status.name)


class Command(NamedTuple):
    """The fields of a submission queue entry."""

    opcode: int
    flags: int
    identifier: int
    namespace: int
    reserved: int
    metadata: int
    prp1: int
    prp2: int
    dword10: int
    dword11: int
    dword12: int
    dword13: int
    dword14: int
    dword15: int

    @classmethod
    def parse(cls, entry: bytes) -> Command:
        """From its 64 bytes."""
        return cls(*COMMAND.unpack(entry))
