# The controller's side of submission and completion queues.
#
# Source: NVM Express Base Specification 1.4, sections 4.1, 4.6, 5.3 to 5.6.
from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pinfold.devices.nvme.commands import COMMAND, Command, Refused, Status

if TYPE_CHECKING:
    from pinfold.bus import BusMaster

_COMPLETION: Final = struct.Struct("<IIHHHH")


@dataclass(slots=True)
class CompletionQueue:
    """Where the controller writes and the host reads."""

    number: int
    base: int
    entries: int
    vector: int | None
    """The interrupt of a completion; None for none."""
    head: int = 0
    tail: int = 0
    phase: int = 1
    users: set[int] = field(default_factory=set)
    """Submission queues that complete to it."""

    @property
    def full(self) -> bool:
        """True when the host has to read first."""
        return (self.tail + 1) % self.entries == self.head

    def post(
        self, master: BusMaster, source: SubmissionQueue, identifier: int, status: int, result: int
    ) -> None:
        """Write an entry. Raises DmaFault: nothing was written."""
        entry = _COMPLETION.pack(
            result, 0, source.head, source.number, identifier, status << 1 | self.phase
        )
        master.write(self.base + self.tail * _COMPLETION.size, entry)
        self.tail += 1
        if self.tail == self.entries:
            self.tail = 0
            self.phase ^= 1


@dataclass(slots=True)
class SubmissionQueue:
    """Where the host writes and the controller reads."""

    number: int
    base: int
    entries: int
    completions: CompletionQueue
    head: int = 0
    tail: int = 0

    def fetch(self, master: BusMaster) -> Command | None:
        """The next command, if there is one. Raises DmaFault: it is still the next."""
        if self.head == self.tail:
            return None
        entry = master.read(self.base + self.head * COMMAND.size, COMMAND.size)
        self.head = (self.head + 1) % self.entries
        return Command.parse(entry)


class Queues:
    """All queues of a controller that runs. Number 0 is the admin queues'.

    Args:
      most: I/O queues of each kind.
      entries: in a queue, at most.
    """

    def __init__(self, most: int, entries: int) -> None:
        self.most = most
        self._entries = entries
        self.submissions: dict[int, SubmissionQueue] = {}
        self.completions: dict[int, CompletionQueue] = {}

    def add_admin(
        self, submission: int, submissions: int, completion: int, completions: int
    ) -> None:
        """The two that no command makes: where each lies, and its entries."""
        self.completions[0] = CompletionQueue(0, completion, completions, 0)
        self.submissions[0] = SubmissionQueue(0, submission, submissions, self.completions[0])

    def add_completion(self, number: int, base: int, entries: int, vector: int | None) -> None:
        """Section 5.3. Raises Refused."""
        self._check(number, entries, self.completions)
        if vector is not None and vector > self.most:  # a vector for each, and the admin one
            raise Refused(Status.INVALID_INTERRUPT_VECTOR)
        self.completions[number] = CompletionQueue(number, base, entries, vector)

    def add_submission(self, number: int, base: int, entries: int, completion: int) -> None:
        """Section 5.4. Raises Refused."""
        self._check(number, entries, self.submissions)
        if not completion or completion not in self.completions:
            raise Refused(Status.INVALID_COMPLETION_QUEUE)
        target = self.completions[completion]
        target.users.add(number)
        self.submissions[number] = SubmissionQueue(number, base, entries, target)

    def remove_completion(self, number: int) -> None:
        """Section 5.5. Raises Refused."""
        if not number or number not in self.completions:
            raise Refused(Status.INVALID_QUEUE_IDENTIFIER)
        if self.completions[number].users:
            raise Refused(Status.INVALID_QUEUE_DELETION)
        del self.completions[number]

    def remove_submission(self, number: int) -> None:
        """Section 5.6. Raises Refused."""
        if not number or number not in self.submissions:
            raise Refused(Status.INVALID_QUEUE_IDENTIFIER)
        self.submissions.pop(number).completions.users.discard(number)

    def ring(self, doorbell: int, value: int) -> bool:
        """Take a doorbell, counted from the first; False where there is none, or no such slot.

        Source: sections 3.1.24 and 3.1.25.
        """
        number, of_completion = divmod(doorbell, 2)
        if of_completion:
            completions = self.completions.get(number)
            if completions is None or value >= completions.entries:
                return False
            completions.head = value
        else:
            submissions = self.submissions.get(number)
            if submissions is None or value >= submissions.entries:
                return False
            submissions.tail = value
        return True

    def _check(
        self,
        number: int,
        entries: int,
        there: dict[int, SubmissionQueue] | dict[int, CompletionQueue],
    ) -> None:
        if number > self.most or number in there:  # 0 is there always
            raise Refused(Status.INVALID_QUEUE_IDENTIFIER)
        if not 2 <= entries <= self._entries:
            raise Refused(Status.INVALID_QUEUE_SIZE)
