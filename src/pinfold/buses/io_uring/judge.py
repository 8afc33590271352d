# What a transfer was stopped for: the grant that its address meant, and the record of the fault.
#
# With the space's lock held, all of it: the table must not change meanwhile.
from __future__ import annotations

from typing import TYPE_CHECKING

from pinfold.faults import FaultReason

if TYPE_CHECKING:
    from pinfold.buses.diagnosis import Diagnosis
    from pinfold.buses.io_uring.batch import Batch
    from pinfold.buses.io_uring.grant import UringGrant
    from pinfold.buses.io_uring.table import Table


class Judge:
    """Tells what became of transfers of one device whose requests did not go well.

    Attributes:
      stopped: how many faults it has recorded.
    """

    def __init__(self, table: Table, diagnosis: Diagnosis) -> None:
        self._table = table
        self._diagnosis = diagnosis
        self.stopped = 0

    def good(self, batch: Batch, transfer: int) -> bool:
        """True where all of a transfer is granted, and permitted."""
        return self._meant(batch, transfer)[1]

    def not_writable(self, batch: Batch, transfer: int) -> bool:
        """True of a write to a file that is not to be written, from a good address."""
        forbidden = not batch.file.writable and bool(batch.wanted[transfer]["write"])
        return forbidden and self.good(batch, transfer)

    def fault(self, batch: Batch, transfer: int) -> None:
        """Record a transfer that was stopped, unless its address is good and its memory bad."""
        if transfer in batch.faults:
            return
        grant, good = self._meant(batch, transfer)
        if good:
            return
        address, size = batch.range_of(transfer)
        access = batch.access(transfer)
        self.stopped += 1
        if grant is not None and not self._table.perms[grant.slot]:
            what = f"grant {grant.number} is being revoked"
            fault = self._diagnosis.told(address, size, access, FaultReason.REVOKED, what).fault
        else:
            fault = self._diagnosis.fault(address, size, access, grant).fault
        batch.faults[transfer] = fault  # type: ignore[assignment]  # an object to those above

    def _meant(self, batch: Batch, transfer: int) -> tuple[UringGrant | None, bool]:
        """The grant that has a transfer's address, and whether it permits all of it."""
        address, size = batch.range_of(transfer)
        found = self._table.space.blocks.find(address)
        if found is None:
            return None, False
        grant = found[2]
        allowed = int(self._table.perms[grant.slot])  # none any more while it is being revoked
        return grant, bool(allowed & batch.access(transfer)) and address + size <= grant.stop
