"""A host of an NVMe controller that says exactly what a test has it say, right or wrong."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pinfold as pf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pinfold.devices.nvme import Nvme

P = pf.PAGE_SIZE
CAP, VS, INTMS, INTMC, CC, CSTS, AQA, ASQ, ACQ = (
    0x00,
    0x08,
    0x0C,
    0x10,
    0x14,
    0x1C,
    0x24,
    0x28,
    0x30,
)
READY, FATAL, SHUTDOWN_COMPLETE = 1, 2, 8
ENTRY_SIZES = 4 << 20 | 6 << 16
CONFIGURATION = ENTRY_SIZES | (pf.PAGE_SIZE.bit_length() - 13) << 7 | 1
DOORBELLS = 0x1000
SLOTS = 8
"""Entries in each queue."""

ADMIN_PAGE, IO_PAGE, DATA = 0, 2, 4
"""Pages of the host's memory: a submission and a completion queue of each kind, then the rest."""

DELETE_SQ, CREATE_SQ, DELETE_CQ, CREATE_CQ, IDENTIFY = 0x00, 0x01, 0x04, 0x05, 0x06
ABORT, SET_FEATURES, GET_FEATURES = 0x08, 0x09, 0x0A
FLUSH, WRITE, READ, WRITE_ZEROES = 0x00, 0x01, 0x02, 0x08

_COMMAND = struct.Struct("<BBHIQQQQ6I")
_COMPLETION = struct.Struct("<IIHHHH")


class Completion(NamedTuple):
    """An entry of a completion queue, taken apart."""

    result: int
    head: int
    queue: int
    identifier: int
    status: int
    """Type and code, without the rest."""
    retry: bool


class Host:
    """Memory that the controller may read and write, with four queues of `SLOTS` entries in it.

    ``memory`` is 64 pages, and ``at(page)`` where the controller finds them.
    """

    def __init__(self, controller: Nvme, memory: pf.Vmo, pmt: pf.Pmt) -> None:
        self.controller = controller
        self.memory = memory
        self.pmt = pmt
        self.identifier = 0
        self._tails = {0: 0, 1: 0}
        self._heads = {0: (0, 1), 1: (0, 1)}

    def at(self, page: int, offset: int = 0) -> int:
        """The device address of a page."""
        return int(self.pmt.addrs[page]) + offset

    def admin_registers(self, submission: int, completion: int, *, slots: int = SLOTS) -> None:
        """Say where the admin queues are."""
        write = self.controller.write32
        write(AQA, (slots - 1) << 16 | (slots - 1))
        for register, address in ((ASQ, submission), (ACQ, completion)):
            write(register, address & 0xFFFFFFFF)
            write(register + 4, address >> 32)

    def enable(self, configuration: int = CONFIGURATION) -> int:
        """Start it; CSTS afterwards."""
        self.controller.write32(CC, configuration)
        self.pass_time()
        return self.controller.read32(CSTS)

    def start(self) -> None:
        """Admin queues, and one I/O queue of each kind."""
        self.admin_registers(self.at(ADMIN_PAGE), self.at(ADMIN_PAGE + 1))
        assert self.enable() == READY
        assert self.admin(CREATE_CQ, prp1=self.at(IO_PAGE + 1), d10=7 << 16 | 1, d11=1).status == 0
        found = self.admin(CREATE_SQ, prp1=self.at(IO_PAGE), d10=7 << 16 | 1, d11=1 << 16 | 1)
        assert found.status == 0

    def pass_time(self) -> None:
        """A few reads of a register, by which the controller counts time."""
        for _ in range(4):
            self.controller.read32(VS)

    def put(
        self,
        queue: int,
        opcode: int,
        *,
        prp1: int = 0,
        prp2: int = 0,
        namespace: int = 1,
        flags: int = 0,
        d10: int = 0,
        d11: int = 0,
        d12: int = 0,
    ) -> int:
        """Write a command into a submission queue; its identifier. Nobody is told."""
        self.identifier += 1
        entry = _COMMAND.pack(
            opcode,
            flags,
            self.identifier,
            namespace,
            0,
            0,
            prp1,
            prp2,
            d10,
            d11,
            d12,
            0,
            0,
            0,
        )
        tail = self._tails[queue]
        self.memory.write(entry, (ADMIN_PAGE if not queue else IO_PAGE) * P + tail * len(entry))
        self._tails[queue] = (tail + 1) % SLOTS
        return self.identifier

    def ring(self, queue: int) -> None:
        """Tell the controller of what was put."""
        self.controller.write32(DOORBELLS + 8 * queue, self._tails[queue])

    def take(self, queue: int, *, acknowledge: bool = True) -> list[Completion]:
        """The completions that are there; with ``acknowledge`` their slots are given back."""
        head, phase = self._heads[queue]
        page = (ADMIN_PAGE if not queue else IO_PAGE) + 1
        found = []
        while True:
            raw = self.memory.read(page * P + head * _COMPLETION.size, _COMPLETION.size)
            result, _, at, source, identifier, last = _COMPLETION.unpack(raw)
            if last & 1 != phase:
                break
            found.append(
                Completion(
                    result, at, source, identifier, last >> 1 & 0x7FF, not last >> 1 & 1 << 14
                )
            )
            head += 1
            if head == SLOTS:
                head, phase = 0, phase ^ 1
        self._heads[queue] = head, phase
        if found and acknowledge:
            self.acknowledge(queue)
        return found

    def acknowledge(self, queue: int) -> None:
        """Give back the slots of what was taken."""
        self.controller.write32(DOORBELLS + 8 * queue + 4, self._heads[queue][0])

    def admin(self, opcode: int, **fields: int) -> Completion:
        """One admin command, to its completion."""
        return self._one(0, opcode, fields)

    def io(self, opcode: int, **fields: int) -> Completion:
        """One I/O command, to its completion."""
        return self._one(1, opcode, fields)

    def _one(self, queue: int, opcode: int, fields: dict[str, int]) -> Completion:
        identifier = self.put(queue, opcode, **fields)
        self.ring(queue)
        self.pass_time()
        [found] = self.take(queue)
        assert (found.identifier, found.queue) == (identifier, queue)
        return found


@contextmanager
def hosting(controller: Nvme, bti: pf.Bti) -> Iterator[Host]:
    """A host with its memory, which has not started the controller."""
    with (
        pf.Vmo(64 * P, name="host") as memory,
        bti.pin(memory, perms=pf.Perm.READ | pf.Perm.WRITE) as pmt,
    ):
        yield Host(controller, memory, pmt)
        controller.reset()
