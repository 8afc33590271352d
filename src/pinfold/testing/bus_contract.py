# The bus contract as a suite: what `pinfold.bus` says a bus owes, tried on one.
#
# It runs on every bus that pinfold has, and on anybody else's. It needs nothing but the function
# that opens the bus; what the bus says of itself (BusLimits) decides which promises are tried.
from __future__ import annotations

import random
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pinfold.errors import DmaFault, NotSupported, OutOfReach, PinfoldError
from pinfold.objects.bti import Bti
from pinfold.objects.iommu import Iommu
from pinfold.objects.kernel import Kernel
from pinfold.objects.pmt import AddrForm, Pmt
from pinfold.objects.process import Process
from pinfold.objects.vmo import Vmo
from pinfold.rights import Perm
from pinfold.testing.checks import check_books, check_extents, require
from pinfold.units import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pinfold.bus import Bus, BusMaster
    from pinfold.memory.physmap import PhysicalMap

_BOTH = Perm.READ | Perm.WRITE
_PAGES = 8
_ROUNDS = 200


def check_bus(
    open_bus: Callable[[PhysicalMap], Bus],
    *,
    master: Callable[[Bti], BusMaster] | None = None,
    initiators: Sequence[int] | None = None,
    whole: bool = True,
    write_only: bool = True,
    seed: int = 0,
) -> list[str]:
    """Try every promise of the bus contract; the names of those tried.

    Args:
      open_bus: makes a fresh bus over a kernel's physical map.
      master: a port for a device behind an authority; `Bti.master` by default. A bus whose devices
        are real brings one that has a real device move the bytes.
      initiators: the numbers of the devices that are on the bus, two or one; by default any number
        is a device.
      whole: an access that is stopped moves no byte at all. False of a real device behind an
        IOMMU, which translates page by page: what comes before the border moves.
      write_only: a device cannot read what it may only write. False of an IOMMU whose driver sets
        both permissions in its tables, as Intel's in Linux 6.1 does.
      seed: of the random sequence of pins and unpins.

    Raises:
      AssertionError: a promise is not kept; the message says which, and how.
      NotSupported, and whatever else the bus raises where it owes an answer.
    """
    tried = []
    for promise in _PROMISES:
        kernel = Kernel()
        process = Process(kernel, name="bus contract")
        with process, Iommu(open_bus(kernel.physmap)) as iommu:
            try:
                if promise is _isolation and not iommu.limits.isolates:
                    continue  # the one promise that a bus need not make
                promise(_Stage(iommu, master or Bti.master, initiators, whole, write_only, seed))
            except AssertionError as error:
                error.add_note(f"while trying: {promise.__name__.strip('_').replace('_', ' ')}")
                raise
            finally:
                process.exit()
        if kernel.statistics().ledger.pins:
            raise AssertionError(f"{promise.__name__}: pins are left")
        tried.append(promise.__name__.strip("_"))
    return tried


class _Stage:
    """A fresh bus, and how to have a device on it do something."""

    def __init__(
        self,
        iommu: Iommu,
        master: Callable[[Bti], BusMaster],
        initiators: Sequence[int] | None,
        whole: bool,  # noqa: FBT001 - one caller, which passes them in order
        write_only: bool,  # noqa: FBT001
        seed: int,
    ) -> None:
        self.iommu = iommu
        self.master = master
        self.initiators = (1, 2) if initiators is None else initiators
        self.any_number = initiators is None
        self.whole = whole
        self.write_only = write_only
        self.chance = random.Random(seed)  # noqa: S311 - to be repeated, not secret

    def device(self, which: int = 0) -> Bti:
        """The authority of a device on the bus."""
        return self.iommu.initiator(self.initiators[which])

    def narrow_device(self, address_bits: int) -> Bti:
        """The authority of one that has so many address bits."""
        number = address_bits if self.any_number else self.initiators[0]
        return self.iommu.initiator(number, address_bits=address_bits)


def _a_grant_has_good_extents(stage: _Stage) -> None:
    with stage.device() as bti, Vmo(_PAGES * PAGE_SIZE) as vmo:
        for first in range(_PAGES):
            for count in range(1, _PAGES - first + 1):
                size = count * PAGE_SIZE
                with bti.pin(vmo, first * PAGE_SIZE, size, perms=Perm.READ) as pmt:
                    check_extents(pmt.extents, size, stage.iommu.limits)
                    require(len(pmt.addrs) == count, "not an address a page")


def _compressed_addresses_are_aligned(stage: _Stage) -> None:
    contiguity = stage.iommu.limits.minimum_contiguity
    size = 2 * contiguity + PAGE_SIZE
    with (
        stage.device() as bti,
        Vmo(size) as vmo,
        bti.pin(vmo, perms=Perm.READ, form=AddrForm.COMPRESS) as pmt,
    ):
        require(len(pmt.addrs) == -(-size // contiguity), "a wrong number of addresses")
        require(not (pmt.addrs % contiguity).any(), "an address is not aligned")


def _a_contiguous_object_is_one_extent(stage: _Stage) -> None:
    with (
        stage.device() as bti,
        Vmo.contiguous(bti, _PAGES * PAGE_SIZE) as vmo,
        bti.pin(vmo, perms=Perm.READ, form=AddrForm.CONTIGUOUS) as pmt,
    ):
        require(len(pmt.extents) == 1 and len(pmt.addrs) == 1, "more than one extent")


def _a_device_moves_the_bytes_of_the_object(stage: _Stage) -> None:
    with stage.device() as bti, Vmo(_PAGES * PAGE_SIZE) as vmo:
        master = stage.master(bti)
        content = stage.chance.randbytes(vmo.size)
        vmo.write(content)
        with bti.pin(vmo, perms=_BOTH) as pmt:
            for extent in pmt.extents:
                want = content[extent.offset : extent.offset + extent.size]
                require(master.read(extent.address, extent.size) == want, "read other bytes")
                master.write(extent.address, want[::-1])
                back = vmo.read(extent.offset, extent.size)
                require(back == want[::-1], "wrote other bytes")


def _a_device_copies_between_two_grants(stage: _Stage) -> None:
    with stage.device() as bti, Vmo(PAGE_SIZE) as source, Vmo(PAGE_SIZE) as target:
        content = stage.chance.randbytes(PAGE_SIZE)
        source.write(content)
        with bti.pin(source, perms=Perm.READ) as a, bti.pin(target, perms=Perm.WRITE) as b:
            stage.master(bti).copy(int(b.addrs[0]), int(a.addrs[0]), PAGE_SIZE)
        require(target.read() == content, "copied other bytes")


def _a_device_gets_addresses_it_can_reach(stage: _Stage) -> None:
    for bits in (28, 32):
        with stage.narrow_device(bits) as bti, Vmo(PAGE_SIZE) as vmo:
            try:
                with bti.pin(vmo, perms=Perm.READ) as pmt:
                    check_extents(pmt.extents, PAGE_SIZE, stage.iommu.limits, address_bits=bits)
            except OutOfReach as error:
                require(error.extent is not None, "the offending extent is not named")


def _isolation(stage: _Stage) -> None:
    """What was not granted, or no longer is, or not for this, or not to this device: stopped."""
    with ExitStack() as stack:
        one = stack.enter_context(stage.device())
        vmo = stack.enter_context(Vmo(2 * PAGE_SIZE))
        content = stage.chance.randbytes(vmo.size)
        vmo.write(content)
        master = stage.master(one)
        with one.pin(vmo, 0, PAGE_SIZE, perms=Perm.READ) as pmt:
            at = int(pmt.addrs[0])
            _stopped(stage, master, "a write to a read-only grant", lambda: master.write(at, b"!"))
            if _permits_executing(one, vmo):
                _stopped(stage, master, "a fetch", lambda: master.fetch(at, 1))
            past = at + PAGE_SIZE - 1
            _stopped(stage, master, "a byte past the end", lambda: master.read(past, 2))
            if len(stage.initiators) > 1:
                other = stage.master(stack.enter_context(stage.device(1)))
                _stopped(stage, other, "another device", lambda: other.read(at, 1))
        _stopped(stage, master, "an access after unpin", lambda: master.read(at, 1))
        with one.pin(vmo, 0, PAGE_SIZE, perms=Perm.WRITE) as pmt:
            at = int(pmt.addrs[0])
            if stage.write_only:
                _stopped(stage, master, "a read of a write-only grant", lambda: master.read(at, 1))
            end = at + PAGE_SIZE - 2
            _stopped(stage, master, "a write over the end", lambda: master.write(end, b"torn"))
            if stage.whole:
                require(vmo.read() == content, "a write over the end moved the bytes before it")
            else:
                vmo.write(content)
        require(vmo.read() == content, "a stopped access moved bytes")


def _permits_executing(bti: Bti, vmo: Vmo) -> bool:
    """False on a bus whose hardware knows no such permission: there nothing is fetched."""
    try:
        bti.pin(vmo, 0, PAGE_SIZE, perms=Perm.READ | Perm.EXECUTE).unpin()
    except NotSupported:
        return False
    return True


def _books_hold_under_random_pins(stage: _Stage) -> None:
    with stage.device() as bti, Vmo(_PAGES * PAGE_SIZE) as vmo:
        live: list[Pmt] = []
        for _ in range(_ROUNDS):
            if live and stage.chance.random() < 0.5:
                live.pop(stage.chance.randrange(len(live))).unpin()
            else:
                first = stage.chance.randrange(_PAGES)
                count = stage.chance.randrange(1, _PAGES - first + 1)
                try:
                    live.append(bti.pin(vmo, first * PAGE_SIZE, count * PAGE_SIZE, perms=Perm.READ))
                except PinfoldError as error:
                    require(len(live) >= 31, f"refused too early: {error}")
            check_books(stage.iommu.kernel)
        for pmt in live:
            pmt.unpin()
        require(bti.statistics().pins == 0, "pins are left")


_PROMISES: tuple[Callable[[_Stage], None], ...] = (
    _a_grant_has_good_extents,
    _compressed_addresses_are_aligned,
    _a_contiguous_object_is_one_extent,
    _a_device_moves_the_bytes_of_the_object,
    _a_device_copies_between_two_grants,
    _a_device_gets_addresses_it_can_reach,
    _isolation,
    _books_hold_under_random_pins,
)


def _stopped(stage: _Stage, master: BusMaster, what: str, access: Callable[[], object]) -> None:
    """The access raises, and the fault is on record with who, what and where."""
    before = stage.iommu.faults.total
    try:
        access()
    except DmaFault as error:
        require(stage.iommu.faults.total == before + 1, f"{what} was stopped without a record")
        fault = stage.iommu.faults[-1]
        require(error.fault == fault, f"{what}: the error carries another fault")
        require(fault.initiator == master.initiator, f"{what}: the record names another device")
        require(bool(fault.detail), f"{what}: the record does not say why")
    else:
        raise AssertionError(f"{what} was not stopped")
