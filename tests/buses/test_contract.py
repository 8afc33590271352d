"""The contract of pinfold.bus: every bus keeps it, and its suite notices who does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

import pinfold as pf
from pinfold.bus import BusLimits, Extents
from pinfold.buses.io_uring import UringBus
from pinfold.buses.sim import SimBus, SimSpace
from pinfold.buses.stub import StubBus
from pinfold.errors import DmaFault, NotSupported
from pinfold.testing import check_bus, check_extents

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.memory.physmap import PhysicalMap

PAGE = pf.PAGE_SIZE
READ, WRITE = pf.Perm.READ, pf.Perm.WRITE
BUSES: dict[str, Callable[[PhysicalMap], pf.Bus]] = {
    "sim": lambda _: SimBus(),
    "sim, 1 MiB contiguity": lambda _: SimBus(minimum_contiguity=1 << 20),
    "sim, locking": lambda _: SimBus(anchor=pf.Anchor.MLOCK),
    "sim, high aperture": lambda _: SimBus(aperture=(1 << 20, 1 << 63), guard=16 * PAGE),
    "stub": StubBus,
    "io_uring": lambda _: UringBus(),
    "io_uring, one at a time": lambda _: UringBus(depth=1),
}


@pytest.mark.parametrize("name", BUSES)
def test_the_bus_contract(name: str) -> None:
    """Every promise of pinfold.bus; the ones that a bus does not make are not tried on it."""
    tried = check_bus(BUSES[name])
    assert ("isolation" in tried) is (name != "stub")
    assert len(tried) >= 7


def test_the_contract_notices_a_bus_that_does_not_revoke() -> None:
    """A suite that cannot fail proves nothing."""

    class Forgetful(SimBus):
        def attach(self, initiator: int, *, address_bits: int = 64) -> SimSpace:
            space: Any = super().attach(initiator, address_bits=address_bits)
            space.revoke = lambda grant: None
            return cast("SimSpace", space)

    with pytest.raises(AssertionError, match="after unpin was not stopped"):
        check_bus(lambda _: Forgetful())


def test_the_contract_notices_a_bus_that_tears_writes() -> None:
    """What is stopped has moved nothing, not even the part that would have been allowed."""

    class Tearing(SimBus):
        def attach(self, initiator: int, *, address_bits: int = 64) -> SimSpace:
            space: Any = super().attach(initiator, address_bits=address_bits)
            translate = space.translate

            def torn(address: int, size: int, access: int) -> Any:
                try:
                    return translate(address, size, access)
                except DmaFault:
                    found = space._space.blocks.find(address)  # noqa: SLF001 - a bus of our own
                    if found is not None and found[2].perms & access & int(WRITE):
                        found[2].pinned.write_from(memoryview(b"t"), address - found[0])
                    raise

            space.translate = torn
            return cast("SimSpace", space)

    with pytest.raises(AssertionError, match="over the end"):
        check_bus(lambda _: Tearing())


def test_the_contract_does_not_pass_a_bus_that_supports_nothing() -> None:
    """Only isolation is optional."""

    class Useless(SimBus):
        def attach(self, initiator: int, *, address_bits: int = 64) -> SimSpace:
            raise NotSupported("not on this bus")

    with pytest.raises(NotSupported):
        check_bus(lambda _: Useless())


def test_the_contract_does_not_pass_a_bus_that_only_says_it_isolates() -> None:
    """NotSupported is no way out of a promise that its limits make; it was, and nobody was told."""

    class Evasive(SimBus):
        def attach(self, initiator: int, *, address_bits: int = 64) -> SimSpace:
            space: Any = super().attach(initiator, address_bits=address_bits)
            translate = space.translate

            def evaded(address: int, size: int, access: int) -> Any:
                try:
                    return translate(address, size, access)
                except DmaFault as fault:
                    raise NotSupported("this bus stops nothing") from fault

            space.translate = evaded
            return cast("SimSpace", space)

    with pytest.raises(NotSupported, match="stops nothing"):
        check_bus(lambda _: Evasive())


@pytest.mark.parametrize(
    ("extents", "complaint"),
    [
        (Extents.run(PAGE, PAGE), "cover"),
        (Extents.run(PAGE + 1, 2 * PAGE), "not aligned"),
        (Extents.run(1 << 40, 2 * PAGE), "beyond 32 address bits"),
        (Extents.scattered(np.array([PAGE, PAGE], dtype=np.uint64), PAGE, 2 * PAGE), "overlap"),
        (Extents.run(0, 2 * PAGE), "no aperture"),
    ],
)
def test_check_extents_notices(extents: Extents, complaint: str) -> None:
    """Each postcondition of a grant has something that breaks it."""
    limits = BusLimits(
        page_size=PAGE,
        minimum_contiguity=PAGE,
        apertures=(pf.ByteRange(PAGE, 1 << 48),),
        max_grant=None,
        max_grants=None,
        isolates=True,
        anchor=pf.Anchor.NONE,
    )
    with pytest.raises(AssertionError, match=complaint):
        check_extents(extents, 2 * PAGE, limits, address_bits=32)
