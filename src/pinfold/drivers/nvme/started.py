# An NVMe controller that runs: the driver's own memory, its queues, its start and its end.
#
# Source: NVM Express Base Specification 1.4; a section stands beside each step. The numbers in this
# package are written out here and again in the model; see `drivers/edu.py` for why.
#
# One pin holds everything that the controller fetches by itself:
#
#   admin queues | I/O queues | scratch, for Identify and for bytes | a page for each PRP list
#
# No queue is longer than a page, so each lies in one piece on every bus, whatever the bus scatters.
#
# The order of the end is its safety: shutdown is notified and the controller disabled, THEN the
# memory is unpinned, THEN closed. A controller that does not stop keeps it: the pin goes to the
# Bti's quarantine.
from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any, Final

from pinfold.drivers.driver import Driver
from pinfold.drivers.nvme import commands, prps
from pinfold.drivers.nvme.controller import Controller
from pinfold.drivers.nvme.identify import IDENTIFY_SIZE, ControllerInfo, NamespaceInfo
from pinfold.drivers.nvme.queues import COMMAND, Command, QueuePair
from pinfold.drivers.nvme.requests import Requests
from pinfold.drivers.nvme.status import CommandFailed
from pinfold.errors import InvalidArgs, NotSupported
from pinfold.objects.vmo import Vmo
from pinfold.rights import Perm
from pinfold.units import PAGE_SIZE, page_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.drivers.mmio import Mmio
    from pinfold.objects.bti import Bti

_QUEUE: Final = 1
"""The number of the I/O queues."""
_SCRATCH_PAGES: Final = 16


class Started(Driver):
    """One controller, started, with one I/O queue of each kind. `NvmeDriver` has the arguments.

    Attributes:
      controller, namespace: what they say of themselves.
    """

    controller: ControllerInfo
    namespace: NamespaceInfo
    _requests: Requests

    def __init__(
        self,
        registers: Mmio,
        bti: Bti,
        *,
        namespace: int,
        depth: int,
        polls: int,
        wait: Callable[[], None] | None,
    ) -> None:
        super().__init__(registers, address_bits=64, polls=polls, wait=wait)
        self._bti = bti
        self._controller = Controller(registers, self._until)
        can = self._controller.capabilities
        if not can.nvm:
            raise NotSupported("the controller has no NVM command set")
        # The controller's pages are ours, or smaller ones of which ours are made (section 3.1.5).
        self._page = page = min(PAGE_SIZE, can.largest_page)
        if page < can.smallest_page:
            raise NotSupported(
                "the controller's smallest page is larger than the host's",
                asked=can.smallest_page,
                available=PAGE_SIZE,
            )
        deepest = page // COMMAND.size - 1
        if not 1 <= depth <= deepest:
            raise InvalidArgs("no such depth", asked=depth, limit=deepest)
        namespace = index(namespace)
        if not 1 <= namespace <= commands.LAST_NAMESPACE:
            raise InvalidArgs(
                "no namespace has such a number", asked=namespace, limit=commands.LAST_NAMESPACE
            )
        self._entries = min(depth + 1, can.max_entries)
        # Whoever had it before us may have left it running (section 7.6.1, the first step).
        self._controller.disable()
        self._scratch = 4 * page
        self._scratch_size = _SCRATCH_PAGES * PAGE_SIZE
        self._lists = self._scratch + self._scratch_size
        size = page_up(self._lists + (self._entries - 1) * page)
        self._memory = Vmo(size, name="nvme-driver")
        try:
            self._pin = bti.pin(self._memory, perms=Perm.READ | Perm.WRITE)
        except BaseException:
            self._memory.close()
            raise
        try:
            self._addresses = [int(at) for at in prps.entries(self._pin, 0, size, page)]
            self._admin_queue: QueuePair[None] = self._pair(0, 0)
            self._start(namespace)
        except BaseException:
            self.close()
            raise

    def _pair(self, number: int, first: int) -> QueuePair[Any]:
        """Two queues in the pages ``first`` and the next."""
        return QueuePair(
            self._controller,
            number,
            self._entries,
            self._memory,
            submission=first * self._page,
            completion=(first + 1) * self._page,
        )

    def _start(self, namespace: int) -> None:
        """Section 7.6.1."""
        submission, completion = self._addresses[:2]
        self._controller.enable(submission, completion, self._entries, self._page)
        self.controller = ControllerInfo.parse(
            self._identify(commands.CONTROLLER, 0),
            version=self._controller.version,
            smallest_page=self._controller.capabilities.smallest_page,
        )
        self.namespace = NamespaceInfo.parse(
            namespace, self._identify(commands.NAMESPACE, namespace)
        )
        block = self.namespace.block_size
        most = min(commands.MOST_BLOCKS * block, prps.longest(self._page))
        most = min(most, self.controller.max_transfer or most)
        if block > min(most, self._scratch_size):
            raise NotSupported("a block is more than one command moves", asked=block, limit=most)
        # One queue of each kind, which is what every controller grants (section 5.21.1.7).
        self._admin(Command(commands.SET_FEATURES, dword10=commands.NUMBER_OF_QUEUES))
        which = (self._entries - 1) << 16 | _QUEUE
        self._admin(  # without interrupts (section 5.3)
            Command(
                commands.CREATE_COMPLETION_QUEUE,
                prp1=self._addresses[3],
                dword10=which,
                dword11=commands.CONTIGUOUS,
            )
        )
        self._admin(  # what it is to complete to exists by now (section 5.4)
            Command(
                commands.CREATE_SUBMISSION_QUEUE,
                prp1=self._addresses[2],
                dword10=which,
                dword11=_QUEUE << 16 | commands.CONTIGUOUS,
            )
        )
        self._requests = Requests(
            self._controller,
            self._pair(_QUEUE, 2),
            self.namespace,
            self._memory,
            lists=self._lists,
            addresses=self._addresses,
            page=self._page,
            max_transfer=most,
        )

    def _identify(self, what: int, namespace: int) -> bytes:
        """Section 5.15. The structure begins a page, and takes one or two: no list is needed."""
        second = self._addresses[5] if self._page < IDENTIFY_SIZE else 0
        self._admin(Command(commands.IDENTIFY, namespace, self._addresses[4], second, dword10=what))
        return self._memory.read(self._scratch, IDENTIFY_SIZE)

    def _admin(self, command: Command) -> None:
        """One admin command, from its submission to its completion."""
        name = commands.ADMIN_NAMES[command.opcode]
        self._admin_queue.submit(command, None)
        statuses: list[int] = []

        def done() -> bool:
            statuses.extend(status for _, status in self._admin_queue.take())
            if not statuses:
                self._controller.check()
            return bool(statuses)

        self._until(done, name)
        if statuses[0]:
            raise CommandFailed(name, statuses[0])

    def close(self) -> None:
        """Shut the controller down, disable it, unpin the driver's memory and close it.

        What is outstanding is dropped: wait for it first where it matters. Afterwards the device
        reaches no memory, and the caller's pins can be unpinned. Twice is once.

        Raises:
          DeviceTimeout: the controller did not stop, or has not become ready and so may not be
            stopped; the memory is in the Bti's quarantine then:
            reset the device, then `Bti.release_quarantine`. Or it stopped without confirming its
            shutdown: all is given back, but what it cached may be lost.
          DeviceFailed: it is gone; the memory is in quarantine.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._controller.shut_down()
        finally:
            # Disabled, THEN unpin: until then it may write completions, and whatever it fetches
            # from a queue that has become somebody else's memory is a command to it.
            self._release(self._memory, self._pin, self._controller.disable)
