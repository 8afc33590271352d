# A submission queue and its completion queue.
#
# Source: NVM Express Base Specification 1.4, sections 4.1 (queues), 4.2 (submission queue entry),
# 4.6 (completion queue entry).
#
# Two orders carry its safety:
#
#   submit    the entry is in the queue, THEN the doorbell rings
#   complete  the phase bit has turned, THEN the rest of the entry is read; all of it is read, THEN
#             the doorbell hands the slot back
#
# Each access of the memory takes pinfold's lock and gives it back, which no processor moves a load
# or a store across.
#
# A command identifier is free or outstanding, and there is one fewer of them than slots: a full
# queue has one slot left over (section 4.1.2). So neither queue can run over, and completions may
# come in any order.
from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

from pinfold.drivers.mmio import DeviceFailed

if TYPE_CHECKING:
    from collections.abc import Collection

    from pinfold.drivers.nvme.controller import Controller
    from pinfold.objects.vmo import Vmo

COMMAND: Final = struct.Struct("<BBHIQQQQ6I")
"""Opcode, flags, identifier, namespace, reserved, metadata, PRP1, PRP2, command dwords 10 to 15."""
COMPLETION: Final = struct.Struct("<IIHHHH")
"""Dword 0, reserved, submission queue head, its number, command identifier, phase and status."""
_LAST: Final = struct.Struct("<HH")
_LAST_AT: Final = COMPLETION.size - _LAST.size

Note = TypeVar("Note")


class Command(NamedTuple):
    """What a submission queue entry says, but for its identifier."""

    opcode: int
    namespace: int = 0
    prp1: int = 0
    prp2: int = 0
    dword10: int = 0
    dword11: int = 0
    dword12: int = 0


class QueuePair(Generic[Note]):
    """Two queues of ``entries`` slots each, and who waits for what.

    Args:
      controller: whose doorbells are rung.
      number: of both queues; 0 for the admin queues.
      memory: where they lie; zeros, so that no phase bit is set.
      submission, completion: bytes into ``memory``.
    """

    def __init__(
        self,
        controller: Controller,
        number: int,
        entries: int,
        memory: Vmo,
        *,
        submission: int,
        completion: int,
    ) -> None:
        self._controller = controller
        self._number = number
        self._entries = entries
        self._memory = memory
        self._submission = submission
        self._completion = completion
        self._tail = self._head = 0
        self._phase = 1  # what a new entry has; inverted each time round (section 4.6)
        self._free = list(range(entries - 1))
        self._outstanding: dict[int, Note] = {}

    def __len__(self) -> int:
        """Commands that were submitted and have not completed."""
        return len(self._outstanding)

    @property
    def full(self) -> bool:
        """True when no command identifier is left."""
        return not self._free

    @property
    def notes(self) -> Collection[Note]:
        """Of the commands that were submitted and have not completed."""
        return self._outstanding.values()

    @property
    def next_identifier(self) -> int:
        """The one that `submit` will use. The queue is not full."""
        return self._free[-1]

    def submit(self, command: Command, note: Note) -> None:
        """Hand over one command; ``note`` comes back with its completion."""
        identifier = self.next_identifier
        entry = COMMAND.pack(
            command.opcode,
            0,  # not fused; PRPs, not SGLs
            identifier,
            command.namespace,
            0,
            0,
            command.prp1,
            command.prp2,
            command.dword10,
            command.dword11,
            command.dword12,
            0,
            0,
            0,
        )
        self._memory.write(entry, self._submission + self._tail * COMMAND.size)
        # Noted before the doorbell: whatever is raised from here on, the command counts as one that
        # the controller has. At worst it is waited for without having been rung for, until the next
        # doorbell is.
        self._outstanding[identifier] = note
        del self._free[-1]
        self._tail = (self._tail + 1) % self._entries
        self._controller.ring_submission(self._number, self._tail)  # after the entry: see the top

    def take(self) -> list[tuple[Note, int]]:
        """What has completed: the note and the status of each; 0 is good.

        Raises:
          DeviceFailed: a completion is of no command that is outstanding.
        """
        found = []
        while True:
            at = self._completion + self._head * COMPLETION.size
            _, last = _LAST.unpack(self._memory.read(at + _LAST_AT, _LAST.size))
            if last & 1 != self._phase:
                break
            _, _, _, queue, identifier, last = COMPLETION.unpack(
                self._memory.read(at, COMPLETION.size)
            )
            self._head += 1
            if self._head == self._entries:
                self._head = 0
                self._phase ^= 1
            if queue != self._number or identifier not in self._outstanding:
                raise DeviceFailed(
                    f"a completion of command {identifier} of queue {queue}, which nobody waits "
                    "for",
                    asked=identifier,
                    remedy="close this driver, then make another, which resets the controller",
                )
            found.append((self._outstanding.pop(identifier), last >> 1))
            self._free.append(identifier)
        if found:
            self._controller.ring_completion(self._number, self._head)
        return found
