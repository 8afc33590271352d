# What a controller says of a command that it did not carry out, in words.
#
# Source: NVM Express Base Specification 1.4, section 4.6.1 (Status Field Definition).
from __future__ import annotations

from typing import ClassVar, Final

from pinfold.errors import PinfoldError, Status

_TYPES: Final = {
    0: "generic command status",
    1: "command specific status",
    2: "media and data integrity error",
    3: "path related status",
    7: "vendor specific status",
}

# Section 4.6.1.2, by type and code.
_CODES: Final = {
    (0, 0x01): "invalid command opcode",
    (0, 0x02): "invalid field in command",
    (0, 0x03): "command identifier conflict",
    (0, 0x04): "data transfer error",
    (0, 0x05): "aborted because power is being lost",
    (0, 0x06): "internal error",
    (0, 0x07): "abort requested",
    (0, 0x08): "aborted because its submission queue was deleted",
    (0, 0x0B): "invalid namespace or format",
    (0, 0x0C): "command sequence error",
    (0, 0x13): "invalid PRP offset",
    (0, 0x15): "operation denied",
    (0, 0x1C): "sanitize failed",
    (0, 0x1D): "sanitize in progress",
    (0, 0x20): "namespace is write protected",
    (0, 0x80): "LBA out of range",
    (0, 0x81): "capacity exceeded",
    (0, 0x82): "namespace not ready",
    (0, 0x83): "reservation conflict",
    (0, 0x84): "format in progress",
    (1, 0x00): "invalid completion queue",
    (1, 0x01): "invalid queue identifier",
    (1, 0x02): "invalid queue size",
    (1, 0x03): "abort command limit exceeded",
    (1, 0x08): "invalid interrupt vector",
    (1, 0x0C): "invalid queue deletion",
    (1, 0x80): "conflicting attributes",
    (1, 0x82): "attempted write to a read-only range",
    (2, 0x80): "write fault",
    (2, 0x81): "unrecovered read error",
    (2, 0x86): "access denied",
    (2, 0x87): "deallocated or unwritten block",
}

_DATA_TRANSFER_ERROR: Final = (0, 0x04)
_DO_NOT_RETRY: Final = 1 << 14


class CommandFailed(PinfoldError, OSError):
    """A controller completed a command with an error. It takes further commands.

    Attributes:
      command: its name: ``read``, ``write``, ``flush``, ``identify``, ...
      lba, blocks: what it was about; None for a command about no blocks.
      status_type, status_code: the controller's, section 4.6.1; `reason` is both in words.
      retry: False where the controller says that the same command will fail again.
    """

    status: ClassVar[Status] = Status.IO

    def __init__(self, command: str, status: int, about: tuple[int, int] | None = None) -> None:
        self.command = command
        self.lba = about[0] if about else None
        self.blocks = about[1] if about else None
        self.status_code = status & 0xFF
        self.status_type = status >> 8 & 0x7
        self.retry = not status & _DO_NOT_RETRY
        code = self.status_type, self.status_code
        kind = _TYPES.get(self.status_type, f"reserved status type {self.status_type}")
        self.reason = f"{_CODES.get(code, 'unknown code')} ({kind}, {self.status_code:#04x})"
        where = f" of {about[1]} blocks at {about[0]:#x}" if about else ""
        remedy = None
        if code == _DATA_TRANSFER_ERROR:
            remedy = "see the bus's fault log for the address that was stopped"
        super().__init__(f"{command}{where}: {self.reason}", remedy=remedy)
