# What the NVMe driver and its callers exchange, and the numbers of its commands.
#
# Source: NVM Express Base Specification 1.4, sections 5 (admin commands) and 6 (NVM commands).
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pinfold.drivers.nvme.status import CommandFailed

# Section 5.
CREATE_SUBMISSION_QUEUE: Final = 0x01
CREATE_COMPLETION_QUEUE: Final = 0x05
IDENTIFY: Final = 0x06
SET_FEATURES: Final = 0x09

# Section 6.
FLUSH: Final = 0x00
WRITE: Final = 0x01
READ: Final = 0x02

ADMIN_NAMES: Final = {
    CREATE_SUBMISSION_QUEUE: "create I/O submission queue",
    CREATE_COMPLETION_QUEUE: "create I/O completion queue",
    IDENTIFY: "identify",
    SET_FEATURES: "set features",
}
IO_NAMES: Final = {FLUSH: "flush", WRITE: "write", READ: "read"}

NAMESPACE: Final = 0x00
CONTROLLER: Final = 0x01
"""CNS of Identify, section 5.15.1."""
NUMBER_OF_QUEUES: Final = 0x07
"""A feature, section 5.21.1.7."""
LAST_NAMESPACE: Final = 0xFFFFFFFE
"""0 is no namespace, and the number above this one is all of them (section 6.1)."""
MOST_BLOCKS: Final = 1 << 16
"""In one command: NLB has 16 bits and counts from 0 (section 6.9)."""
CONTIGUOUS: Final = 0x1
"""Of a queue: it lies in one piece (PC, sections 5.3 and 5.4)."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What became of one submitted command."""

    ticket: int
    """What submitting it returned."""
    command: str
    """``read``, ``write`` or ``flush``."""
    lba: int
    blocks: int
    error: CommandFailed | None
    """None where it was carried out."""


@dataclass(frozen=True, slots=True)
class NvmeDriverStatistics:
    """What a driver has done since it was made; admin commands are not counted."""

    depth: int
    """Commands that can be outstanding at once."""
    max_transfer: int
    """Bytes in one command at most."""
    outstanding: int
    submitted: int
    completed: int
    """Those that failed included."""
    failures: int
    bytes_read: int
    bytes_written: int
    """By commands that were carried out."""
    polls: int
