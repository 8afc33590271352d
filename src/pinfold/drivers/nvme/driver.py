# A driver for NVMe controllers: for `pinfold.devices.nvme`, QEMU's `nvme` and hardware alike.
#
# Source: NVM Express Base Specification 1.4; a section stands beside each step, here and in the
# other files of this package: `started` has the start and the end, `requests` the commands under
# way, `queues`, `prps`, `controller` and `identify` what their names say.
#
# The driver polls; it makes no use of interrupts, and `wait` is the caller's way to be patient.
#
# What it cannot see: some controllers report success for a command whose data went to an address
# that the IOMMU refused; QEMU's does. So it takes pins of its own device only, and only such as
# permit the transfer. Where a pin may end while a command is under way, look at the fault log.
#
# One caller at a time.
from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Final

from pinfold.drivers.mmio import POLLS
from pinfold.drivers.nvme import commands, prps
from pinfold.drivers.nvme.commands import Completion, NvmeDriverStatistics
from pinfold.drivers.nvme.requests import Request
from pinfold.drivers.nvme.started import Started
from pinfold.errors import AccessDenied, InvalidArgs, LimitReached, OutOfRange, WrongType
from pinfold.objects.pmt import Pmt
from pinfold.rights import Perm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pinfold.drivers.mmio import Mmio
    from pinfold.drivers.nvme.status import CommandFailed
    from pinfold.objects.bti import Bti

DEPTH: Final = 31
"""Commands outstanding at once, unless told otherwise."""


class NvmeDriver(Started):
    """One NVMe controller, reset and started, and one namespace of it.

    Args:
      registers: the controller's BAR 0.
      bti: its authority to reach memory; the driver's own memory is pinned through it.
      namespace: which one, 1 to 2^32 - 2.
      depth: commands outstanding at once, 1 to as many as keep a queue within a page (63 where a
        page is 4 KiB). A controller with shorter queues makes it fewer: see `statistics`.
      polls: how often to look for the end of anything.
      wait: called between two looks. A controller may take seconds to become ready: pass a sleep.

    Attributes:
      controller: a `ControllerInfo`.
      namespace: a `NamespaceInfo`.

    Raises:
      InvalidArgs: ``namespace`` or ``depth`` is not as above.
      NotSupported: the controller's smallest page is larger than the host's, it has no NVM command
        set, or the namespace's blocks carry metadata.
      NotFound: the namespace is not active. CommandFailed: there can be none of that number, or
        the controller refused another step of its start.
      DeviceTimeout: the controller does not become ready, does not answer, or does not stop.
      DeviceFailed: it reports a fatal status, or is gone.
      What `Bti.pin` raises.

    After an error the controller is disabled and nothing stays pinned. One that does not stop, or
    that does not become ready and so may not be stopped, keeps what was pinned, in the Bti's
    quarantine: reset the device, then `Bti.release_quarantine`.
    """

    def __init__(
        self,
        registers: Mmio,
        bti: Bti,
        *,
        namespace: int = 1,
        depth: int = DEPTH,
        polls: int = POLLS,
        wait: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(registers, bti, namespace=namespace, depth=depth, polls=polls, wait=wait)

    # Whole transfers ----------------------------------------------------------------------------

    def read(self, pmt: Pmt, lba: int, blocks: int, *, offset: int = 0) -> None:
        """Read blocks into pinned memory, and wait for them.

        As many commands as it takes, several at a time.

        Args:
          pmt: a pin of this device's, which permits WRITE: it is the device that writes.
          lba: the first block.
          blocks: how many; > 0.
          offset: bytes into the pin; a multiple of 4.

        Raises:
          InvalidArgs: ``blocks`` is not > 0, ``offset`` is not as above, or the pin is another
            device's.
          OutOfRange: the blocks leave the namespace, or the bytes the pin (``.limit``).
          AccessDenied: the pin does not permit it.
          CommandFailed: the controller reports an error, the one with the lowest LBA (``.lba``,
            ``.blocks``). Other commands of this call may have been carried out; none is under way.
          DeviceTimeout: it did not finish. The pin is still the device's: `close` this driver
            before you unpin. So after anything else that interrupts this call, Ctrl-C say.
          DeviceFailed: it reports a fatal status, or is gone; as before.
          BadState: this driver is closed.

        No success that some controllers report is proof: see the top of this module.
        """
        self._transfer(commands.READ, pmt, lba, blocks, offset)

    def write(self, pmt: Pmt, lba: int, blocks: int, *, offset: int = 0) -> None:
        """Write blocks from pinned memory, and wait for them. They are safe after a `flush`.

        Args and Raises: as `read`, but that the pin permits READ.
        """
        self._transfer(commands.WRITE, pmt, lba, blocks, offset)

    def flush(self) -> None:
        """Have the controller write out what it caches of this namespace (section 6.8).

        What is outstanding meanwhile is not covered.

        Raises: CommandFailed, DeviceTimeout, DeviceFailed, BadState, as `read`.
        """
        self._run(iter([Request(commands.FLUSH)]))

    def load(self, lba: int, blocks: int) -> bytes:
        """The contents of blocks, by way of memory of the driver's own.

        Raises: as `read`.
        """
        self._check_blocks(lba, blocks)
        self._own_scratch()
        block = self.namespace.block_size
        parts = []
        for first, count in self._scratchfuls(lba, blocks):
            self.read(self._pin, first, count, offset=self._scratch)
            parts.append(self._memory.read(self._scratch, count * block))
        return b"".join(parts)

    def store(self, lba: int, data: bytes | bytearray | memoryview) -> None:
        """Write ``data``, whole blocks, by way of memory of the driver's own.

        Raises:
          InvalidArgs: ``data`` is not whole blocks, at least one.
          Others: as `write`.
        """
        view = memoryview(data).cast("B")
        block = self.namespace.block_size
        if not len(view) or len(view) % block:
            raise InvalidArgs("data is stored in whole blocks", asked=len(view), limit=block)
        self._check_blocks(lba, len(view) // block)
        self._own_scratch()
        for first, count in self._scratchfuls(lba, len(view) // block):
            at = (first - lba) * block
            self._memory.write(view[at : at + count * block], self._scratch)
            self.write(self._pin, first, count, offset=self._scratch)

    def _scratchfuls(self, lba: int, blocks: int) -> Iterator[tuple[int, int]]:
        most = self._scratch_size // self.namespace.block_size
        for first in range(lba, lba + blocks, most):
            yield first, min(most, lba + blocks - first)

    def _own_scratch(self) -> None:
        """Wait for what an earlier call gave up on: it may still move bytes of the scratch."""
        self._refuse_if_closed()
        if not self._requests.uses(self._pin):
            return

        def quiet() -> bool:
            self._requests.collect()
            return not self._requests.uses(self._pin)

        self._until(quiet, "an earlier transfer")

    def _transfer(self, opcode: int, pmt: Pmt, lba: int, blocks: int, offset: int) -> None:
        self._refuse_if_closed()
        lba, blocks, offset = index(lba), index(blocks), index(offset)  # numpy's integers wrap
        self._check_blocks(lba, blocks)
        block = self.namespace.block_size
        self._check_pin(opcode, pmt, offset, blocks * block)
        most = self._requests.max_transfer // block
        self._run(
            Request(opcode, lba + at, min(most, blocks - at), pmt, offset + at * block)
            for at in range(0, blocks, most)
        )

    def _run(self, work: Iterator[Request]) -> None:
        """Submit it as slots come free, and wait for all of it."""
        requests = self._requests
        pending: set[int] = set()
        failed: list[CommandFailed] = []

        def settle() -> bool:
            """Take what is ours of what has completed; True when there was any."""
            requests.collect()
            ours = pending & requests.done.keys()
            found = [requests.done.pop(ticket) for ticket in ours]
            pending.difference_update(ours)
            failed.extend(done.error for done in found if done.error is not None)
            return bool(ours)

        def room() -> bool:
            settle()
            return not requests.full

        self._refuse_if_closed()
        try:
            for request in work:
                if requests.full:
                    self._until(room, "room in the queue")
                if failed:
                    break
                ticket = requests.draw()
                pending.add(ticket)  # before it is under way: see the top of `requests`
                requests.issue(ticket, request)
            while pending:
                self._until(settle, f"a {commands.IO_NAMES[request.opcode]}")
        except BaseException:
            requests.forget(pending)
            raise
        if failed:
            raise min(failed, key=lambda error: error.lba or 0)

    # Several at a time --------------------------------------------------------------------------

    def submit_read(self, pmt: Pmt, lba: int, blocks: int, *, offset: int = 0) -> int:
        """Hand one read to the controller and return at once; `reap` says what became of it.

        Commands that are outstanding together are carried out in any order. The pin is the device's
        until its completion has been reaped or this driver closed.

        Args: as `read`; one command moves ``statistics().max_transfer`` bytes at most.

        Returns:
          A ticket, by which the `Completion` is known.

        Raises:
          LimitReached: as many commands as fit are outstanding.
          InvalidArgs: it is more than one command moves (``.limit``).
          InvalidArgs, OutOfRange, AccessDenied, DeviceFailed, BadState: as `read`.
        """
        return self._submit(commands.READ, pmt, lba, blocks, offset)

    def submit_write(self, pmt: Pmt, lba: int, blocks: int, *, offset: int = 0) -> int:
        """Hand one write to the controller. As `submit_read`, but that the pin permits READ."""
        return self._submit(commands.WRITE, pmt, lba, blocks, offset)

    def submit_flush(self) -> int:
        """Hand a flush to the controller; it covers writes whose completions have been reaped.

        Raises: LimitReached, DeviceFailed, BadState: as `submit_read`.
        """
        self._make_room()
        return self._issue(Request(commands.FLUSH))

    def reap(self, minimum: int = 0) -> list[Completion]:
        """What has completed since the last time, in the order of completion.

        Args:
          minimum: wait for so many. 0 looks once and does not wait.

        Raises:
          InvalidArgs: ``minimum`` is more than is outstanding and not reaped.
          DeviceTimeout: there were fewer; nothing is lost, the next call has them.
          DeviceFailed, BadState: as `read`.
        """
        self._refuse_if_closed()
        requests = self._requests
        there = len(requests.done) + requests.awaited
        if not 0 <= minimum <= there:
            raise InvalidArgs("not so many are outstanding", asked=minimum, available=there)

        def enough() -> bool:
            requests.collect()
            return len(requests.done) >= minimum

        if not enough():
            self._until(enough, f"{minimum} completions")
        found = list(requests.done.values())
        requests.done.clear()
        return found

    def _submit(self, opcode: int, pmt: Pmt, lba: int, blocks: int, offset: int) -> int:
        self._make_room()
        lba, blocks, offset = index(lba), index(blocks), index(offset)
        self._check_blocks(lba, blocks)
        size = blocks * self.namespace.block_size
        self._check_pin(opcode, pmt, offset, size)
        if size > self._requests.max_transfer:
            raise InvalidArgs(
                "it is more than one command moves",
                asked=size,
                limit=self._requests.max_transfer,
                remedy="submit it in parts, or use read() and write(), which do",
            )
        return self._issue(Request(opcode, lba, blocks, pmt, offset))

    def _issue(self, request: Request) -> int:
        """Submit one command, which `reap` will tell of; its ticket."""
        ticket = self._requests.draw()
        self._requests.issue(ticket, request)
        return ticket

    def _make_room(self) -> None:
        self._refuse_if_closed()
        if self._requests.full:
            self._requests.collect()
        if self._requests.full:
            raise LimitReached(
                "the queue has no room for another command",
                asked=1,
                available=0,
                limit=self._entries - 1,
                remedy="reap() first, or give the driver more depth",
            )

    # Checks -------------------------------------------------------------------------------------

    def _check_blocks(self, lba: int, blocks: int) -> None:
        if lba < 0 or blocks <= 0:
            raise InvalidArgs(f"{blocks} blocks at {lba} are no range of blocks")
        if lba + blocks > self.namespace.blocks:
            raise OutOfRange(
                "the blocks leave the namespace", asked=lba + blocks, limit=self.namespace.blocks
            )

    def _check_pin(self, opcode: int, pmt: Pmt, offset: int, size: int) -> None:
        if not isinstance(pmt, Pmt):
            raise WrongType(f"data lies in a Pmt, not in a {type(pmt).__name__}")
        target = pmt.object
        if target.bti is not self._bti.object:
            raise InvalidArgs(
                "the pin is another device's, and its addresses mean nothing to this one",
                remedy="pin through the Bti that the driver was given",
            )
        needed = Perm.WRITE if opcode == commands.READ else Perm.READ
        if not target.grant.perms & needed:
            raise AccessDenied(
                f"a {commands.IO_NAMES[opcode]} has the device {needed.name} memory, which the pin "
                "does not permit",
                remedy=f"pin with perms {needed.name}",
            )
        if offset < 0 or offset % prps.ALIGNMENT:  # section 4.3
            raise InvalidArgs(
                "an offset is a multiple of four bytes", asked=offset, limit=prps.ALIGNMENT
            )
        if offset + size > pmt.size:
            raise OutOfRange("the range leaves the pin", asked=offset + size, limit=pmt.size)

    def statistics(self) -> NvmeDriverStatistics:
        """What was done so far, as a frozen record."""
        requests = self._requests
        return NvmeDriverStatistics(
            depth=self._entries - 1,
            max_transfer=requests.max_transfer,
            outstanding=len(requests),
            submitted=requests.submitted,
            completed=requests.completed,
            failures=requests.failures,
            bytes_read=requests.moved[commands.READ],
            bytes_written=requests.moved[commands.WRITE],
            polls=self._polled,
        )
