# The bus contract as a suite: what `pinfold.bus` says a bus owes, tried on one.
#
# It runs on every bus that pinfold has, and on anybody else's. It needs nothing but the function
# that opens the bus; what the bus says of itself (BusLimits) decides which promises are tried.
from __future__ import annotations

import random
from typing import TYPE_CHECKING

from pinfold.errors import DmaFault, NotSupported, OutOfReach, PinfoldError
from pinfold.objects.iommu import Iommu
from pinfold.objects.kernel import Kernel
from pinfold.objects.pmt import AddrForm, Pmt
from pinfold.objects.process import Process
from pinfold.objects.vmo import Vmo
from pinfold.rights import Perm
from pinfold.testing.checks import check_books, check_extents, require
from pinfold.units import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.bus import Bus, BusMaster
    from pinfold.memory.physmap import PhysicalMap

_BOTH = Perm.READ | Perm.WRITE
_PAGES = 8
_ROUNDS = 200


def check_bus(open_bus: Callable[[PhysicalMap], Bus], *, seed: int = 0) -> list[str]:
    """Try every promise of the bus contract; the names of those tried.

    Args:
      open_bus: makes a fresh bus over a kernel's physical map.
      seed: of the random sequence of pins and unpins.

    Raises:
      AssertionError: a promise is not kept; the message says which, and how.
    """
    tried = []
    for promise in _PROMISES:
        kernel = Kernel()
        process = Process(kernel, name="bus contract")
        with process, Iommu(open_bus(kernel.physmap)) as iommu:
            try:
                promise(iommu, random.Random(seed))  # noqa: S311 - to be repeated, not secret
            except NotSupported:
                if promise is not _isolation:  # the one promise that a bus need not make
                    raise
                continue
            except AssertionError as error:
                error.add_note(f"while trying: {promise.__name__.strip('_').replace('_', ' ')}")
                raise
            finally:
                process.exit()
        if kernel.statistics().ledger.pins:
            raise AssertionError(f"{promise.__name__}: pins are left")
        tried.append(promise.__name__.strip("_"))
    return tried


def _a_grant_has_good_extents(iommu: Iommu, chance: random.Random) -> None:
    del chance
    with iommu.initiator(1) as bti, Vmo(_PAGES * PAGE_SIZE) as vmo:
        for first in range(_PAGES):
            for count in range(1, _PAGES - first + 1):
                size = count * PAGE_SIZE
                with bti.pin(vmo, first * PAGE_SIZE, size, perms=Perm.READ) as pmt:
                    check_extents(pmt.extents, size, iommu.limits)
                    require(len(pmt.addrs) == count, "not an address a page")


def _compressed_addresses_are_aligned(iommu: Iommu, chance: random.Random) -> None:
    del chance
    contiguity = iommu.limits.minimum_contiguity
    size = 2 * contiguity + PAGE_SIZE
    with (
        iommu.initiator(1) as bti,
        Vmo(size) as vmo,
        bti.pin(vmo, perms=Perm.READ, form=AddrForm.COMPRESS) as pmt,
    ):
        require(len(pmt.addrs) == -(-size // contiguity), "a wrong number of addresses")
        require(not (pmt.addrs % contiguity).any(), "an address is not aligned")


def _a_contiguous_object_is_one_extent(iommu: Iommu, chance: random.Random) -> None:
    del chance
    with (
        iommu.initiator(1) as bti,
        Vmo.contiguous(bti, _PAGES * PAGE_SIZE) as vmo,
        bti.pin(vmo, perms=Perm.READ, form=AddrForm.CONTIGUOUS) as pmt,
    ):
        require(len(pmt.extents) == 1 and len(pmt.addrs) == 1, "more than one extent")


def _a_device_moves_the_bytes_of_the_object(iommu: Iommu, chance: random.Random) -> None:
    with iommu.initiator(1) as bti, Vmo(_PAGES * PAGE_SIZE) as vmo:
        master = bti.master()
        content = chance.randbytes(vmo.size)
        vmo.write(content)
        with bti.pin(vmo, perms=_BOTH) as pmt:
            for extent in pmt.extents:
                want = content[extent.offset : extent.offset + extent.size]
                require(master.read(extent.address, extent.size) == want, "read other bytes")
                master.write(extent.address, want[::-1])
                back = vmo.read(extent.offset, extent.size)
                require(back == want[::-1], "wrote other bytes")


def _a_device_copies_between_two_grants(iommu: Iommu, chance: random.Random) -> None:
    with iommu.initiator(1) as bti, Vmo(PAGE_SIZE) as source, Vmo(PAGE_SIZE) as target:
        content = chance.randbytes(PAGE_SIZE)
        source.write(content)
        with bti.pin(source, perms=Perm.READ) as a, bti.pin(target, perms=Perm.WRITE) as b:
            bti.master().copy(int(b.addrs[0]), int(a.addrs[0]), PAGE_SIZE)
        require(target.read() == content, "copied other bytes")


def _a_device_gets_addresses_it_can_reach(iommu: Iommu, chance: random.Random) -> None:
    del chance
    for bits in (28, 32):
        with iommu.initiator(bits, address_bits=bits) as bti, Vmo(PAGE_SIZE) as vmo:
            try:
                with bti.pin(vmo, perms=Perm.READ) as pmt:
                    check_extents(pmt.extents, PAGE_SIZE, iommu.limits, address_bits=bits)
            except OutOfReach as error:
                require(error.extent is not None, "the offending extent is not named")


def _isolation(iommu: Iommu, chance: random.Random) -> None:
    """What was not granted, or no longer is, or not for this, or not to this device: stopped."""
    if not iommu.limits.isolates:
        raise NotSupported("the bus says that it does not isolate")
    with iommu.initiator(1) as one, iommu.initiator(2) as two, Vmo(2 * PAGE_SIZE) as vmo:
        content = chance.randbytes(vmo.size)
        vmo.write(content)
        master = one.master()
        with one.pin(vmo, 0, PAGE_SIZE, perms=Perm.READ) as pmt:
            at = int(pmt.addrs[0])
            _stopped(iommu, master, "a write to a read-only grant", lambda: master.write(at, b"!"))
            _stopped(iommu, master, "a fetch", lambda: master.fetch(at, 1))
            past = at + PAGE_SIZE - 1
            _stopped(iommu, master, "a byte past the end", lambda: master.read(past, 2))
            other = two.master()
            _stopped(iommu, other, "another device", lambda: other.read(at, 1))
        _stopped(iommu, master, "an access after unpin", lambda: master.read(at, 1))
        with one.pin(vmo, 0, PAGE_SIZE, perms=Perm.WRITE) as pmt:
            at = int(pmt.addrs[0])
            _stopped(iommu, master, "a read of a write-only grant", lambda: master.read(at, 1))
            end = at + PAGE_SIZE - 2
            _stopped(iommu, master, "a write over the end", lambda: master.write(end, b"torn"))
            require(vmo.read() == content, "a write over the end moved the bytes before it")
        require(vmo.read() == content, "a stopped access moved bytes")


def _books_hold_under_random_pins(iommu: Iommu, chance: random.Random) -> None:
    with iommu.initiator(1) as bti, Vmo(_PAGES * PAGE_SIZE) as vmo:
        live: list[Pmt] = []
        for _ in range(_ROUNDS):
            if live and chance.random() < 0.5:
                live.pop(chance.randrange(len(live))).unpin()
            else:
                first = chance.randrange(_PAGES)
                count = chance.randrange(1, _PAGES - first + 1)
                try:
                    live.append(bti.pin(vmo, first * PAGE_SIZE, count * PAGE_SIZE, perms=Perm.READ))
                except PinfoldError as error:
                    require(len(live) >= 31, f"refused too early: {error}")
            check_books(iommu.kernel)
        for pmt in live:
            pmt.unpin()
        require(bti.statistics().pins == 0, "pins are left")


_PROMISES: tuple[Callable[[Iommu, random.Random], None], ...] = (
    _a_grant_has_good_extents,
    _compressed_addresses_are_aligned,
    _a_contiguous_object_is_one_extent,
    _a_device_moves_the_bytes_of_the_object,
    _a_device_copies_between_two_grants,
    _a_device_gets_addresses_it_can_reach,
    _isolation,
    _books_hold_under_random_pins,
)


def _stopped(iommu: Iommu, master: BusMaster, what: str, access: Callable[[], object]) -> None:
    """The access raises, and the fault is on record with who, what and where."""
    before = iommu.faults.total
    try:
        access()
    except DmaFault as error:
        require(iommu.faults.total == before + 1, f"{what} was stopped without a record")
        fault = iommu.faults[-1]
        require(error.fault == fault, f"{what}: the error carries another fault")
        require(fault.initiator == master.initiator, f"{what}: the record names another device")
        require(bool(fault.detail), f"{what}: the record does not say why")
    else:
        raise AssertionError(f"{what} was not stopped")
