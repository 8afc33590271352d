# The commands that are with a controller, and what became of those that are back.
#
# Source: NVM Express Base Specification 1.4, sections 4.3 (PRPs), 6.8, 6.9 and 6.15 (flush, read,
# write).
#
# A PRP list is in memory before its command is submitted, in a page that goes with the command's
# identifier: so no list is overwritten while its command is outstanding.
#
# A ticket is drawn, THEN noted by whoever is to wait, THEN the command is submitted. Swapped, an
# exception just after the doorbell (Ctrl-C, say) would leave a command that nobody knows to be
# under way, and that would move bytes into memory which has gone on to other uses.
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pinfold.drivers.nvme import commands, prps
from pinfold.drivers.nvme.commands import Completion
from pinfold.drivers.nvme.queues import Command
from pinfold.drivers.nvme.status import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pinfold.drivers.nvme.controller import Controller
    from pinfold.drivers.nvme.identify import NamespaceInfo
    from pinfold.drivers.nvme.queues import QueuePair
    from pinfold.objects.pmt import Pmt
    from pinfold.objects.vmo import Vmo


class Request(NamedTuple):
    """One command, checked. It keeps its pin until it is done: dropping that harms nobody."""

    opcode: int
    lba: int = 0
    blocks: int = 0
    pmt: Pmt | None = None
    """Where its data lies; None for a flush, which has none."""
    offset: int = 0
    """Bytes into the pin."""


class Note(NamedTuple):
    """What is kept of a command that is under way."""

    ticket: int
    request: Request


class Requests:
    """Commands about one namespace, by tickets.

    Args:
      memory: where the lists lie, from ``lists`` on.
      addresses: the device's, of every ``page`` bytes of ``memory``.
      max_transfer: bytes in one command at most.
    """

    def __init__(
        self,
        controller: Controller,
        queue: QueuePair[Note],
        namespace: NamespaceInfo,
        memory: Vmo,
        *,
        lists: int,
        addresses: Sequence[int],
        page: int,
        max_transfer: int,
    ) -> None:
        self._controller = controller
        self._queue = queue
        self._namespace = namespace
        self._memory = memory
        self._lists = lists
        self._addresses = addresses
        self._page = page
        self.max_transfer = max_transfer
        self.done: dict[int, Completion] = {}
        """Completed, and not asked for yet, in the order of completion."""
        self._forgotten: set[int] = set()
        self._drawn = 0
        self.submitted = self.completed = self.failures = 0
        self.moved = {commands.READ: 0, commands.WRITE: 0, commands.FLUSH: 0}
        """Bytes, by opcode."""

    def __len__(self) -> int:
        """Commands that are with the controller."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """True when another one does not fit."""
        return self._queue.full

    @property
    def awaited(self) -> int:
        """How many of them somebody will ask about."""
        return sum(note.ticket not in self._forgotten for note in self._queue.notes)

    def uses(self, pmt: Pmt) -> bool:
        """True while one of them moves bytes of this pin, whoever waits for it, or nobody."""
        return any(note.request.pmt is pmt for note in self._queue.notes)

    def forget(self, tickets: set[int]) -> None:
        """Nobody will ask about these: with the controller, back from it, or never issued."""
        self._forgotten |= tickets
        for ticket in tickets:
            self.done.pop(ticket, None)

    def draw(self) -> int:
        """The ticket of a command that is to be issued."""
        self._drawn += 1
        return self._drawn

    def issue(self, ticket: int, request: Request) -> None:
        """Submit one command, for which there is room."""
        first = second = 0
        if request.pmt is not None:
            size = request.blocks * self._namespace.block_size
            pages = prps.entries(request.pmt, request.offset, size, self._page)
            first = int(pages[0])
            if len(pages) == 2:
                second = int(pages[1])
            elif len(pages) > 2:
                at = self._lists + self._queue.next_identifier * self._page
                self._memory.write(pages[1:].astype("<u8").view("u1"), at)
                second = self._addresses[at // self._page]
        self.submitted += 1
        command = Command(
            request.opcode,
            self._namespace.number,
            first,
            second,
            request.lba & 0xFFFFFFFF,  # SLBA
            request.lba >> 32,
            max(request.blocks - 1, 0),  # NLB, which counts from 0
        )
        self._queue.submit(command, Note(ticket, request))

    def collect(self) -> None:
        """Take in what has completed; where nothing has, see whether the controller is well.

        Raises:
          DeviceFailed: it is not.
        """
        found = self._queue.take()
        if not found:
            self._controller.check()
        for (ticket, request), status in found:
            name = commands.IO_NAMES[request.opcode]
            error = None
            self.completed += 1
            if not status:
                self.moved[request.opcode] += request.blocks * self._namespace.block_size
            else:
                self.failures += 1
                about = None if request.pmt is None else (request.lba, request.blocks)
                error = CommandFailed(name, status, about)
            if ticket in self._forgotten:
                self._forgotten.discard(ticket)
            else:
                self.done[ticket] = Completion(ticket, name, request.lba, request.blocks, error)
