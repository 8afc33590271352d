# Where a case of the error catalogue is played: a kernel of its own, and what it puts there.
#
# A case arranges its objects on a `Stage` and returns the act that must fail. Between the two the
# test takes the `Standing` of the stage, and takes it again after the failure: nothing may be
# granted, counted or open that was not so before.
from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from pinfold import Bti, Kernel, Process, Right, Vmo, open_bus
from pinfold.buses.sim import SimSpace
from pinfold.errors import PinfoldError, Status
from pinfold.objects.vmoption import VmOption
from pinfold.units import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from pinfold.objects.handle import Handle
    from pinfold.objects.vmar import MapsRecord, Vmar

T = TypeVar("T", bound=AbstractContextManager[Any])
H = TypeVar("H", bound="Handle[Any]")

ANYTHING: Final = (
    VmOption.CAN_MAP_READ
    | VmOption.CAN_MAP_WRITE
    | VmOption.CAN_MAP_EXECUTE
    | VmOption.CAN_MAP_SPECIFIC
)
"""Options of a region that allows whatever a mapping can be."""


@dataclass(frozen=True)
class Case:
    """One documented error, and how to come by it.

    Attributes:
      call: the documented call.
      status: what its page says.
      when: the condition, in our words.
      error: the exact class that pinfold raises.
      arrange: puts the objects on a stage and returns the act that fails.
      facts: attributes of the error that must be there: asked, available, limit, holder, missing,
        extent.
      remedy: the error must say what to do.
      max_pinned: of the stage's kernel.
      varies: facts whose value is another one on every run or machine; the manual leaves it out.
        "address" stands for every address of this process in the message.
    """

    call: str
    status: Status
    when: str
    error: type[PinfoldError]
    arrange: Callable[[Stage], Callable[[], object]]
    facts: tuple[str, ...] = ()
    remedy: bool = True
    max_pinned: int | None = None
    varies: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.call} {self.status.value}: {self.when}"


@dataclass(frozen=True)
class CannotHappen:
    """A documented error whose mistake cannot be made in Python, and why."""

    call: str
    status: Status
    when: str
    why: str


@dataclass(frozen=True)
class Standing:
    """What must be as it was after a call that failed."""

    objects: int
    handles: int
    pins: int
    pinned_bytes: int
    requested_bytes: int
    leaks: int
    grants: int
    maps: tuple[MapsRecord, ...]


class Stage:
    """A kernel, a process and whatever a case puts there; all of it is closed at the end."""

    def __init__(self, max_pinned: int | None = None) -> None:
        self.kernel = Kernel(max_pinned=max_pinned)
        self.process = Process(self.kernel, name="stage")
        self._spaces: list[SimSpace] = []
        self._root: Vmar | None = None
        self._close = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close.close()
        self.process.exit()

    def keep(self, handle: T) -> T:
        """Leave ``handle``'s block when the case is over."""
        self._close.enter_context(handle)
        return handle

    def bti(self, bus: str = "sim", *, address_bits: int = 64, **options: Any) -> Bti:
        """A device on a bus of its own."""
        with open_bus(bus, process=self.process, **options) as iommu:
            made = self.keep(iommu.initiator(0x10, address_bits=address_bits, name="nic"))
        space = made.object.space
        if isinstance(space, SimSpace):
            self._spaces.append(space)
        return made

    def quarantined_bti(self) -> Bti:
        """A device one of whose pins was closed without unpin."""
        bti = self.bti()
        bti.pin(self.vmo(name="lost"), perms=1).close()
        self._close.callback(bti.release_quarantine)
        return bti

    def vmo(self, pages: int = 2, *, name: str = "ring", resizable: bool = False) -> Vmo:
        """A memory object of so many pages."""
        size = pages * PAGE_SIZE
        return self.keep(Vmo(size, name=name, resizable=resizable, process=self.process))

    def region(self, options: VmOption = ANYTHING, *, pages: int = 16) -> Vmar:
        """An address region of so many pages, below the root of the process."""
        self._root = self.process.root
        return self.keep(self._root.allocate(pages * PAGE_SIZE, options, name="heap"))

    def weaker(self, handle: H, *, without: Right) -> H:
        """Another handle to the same object, with every right but ``without``."""
        return self.keep(handle.duplicate(handle.rights & ~without))

    def standing(self) -> Standing:
        """What is open, counted and granted now."""
        now = self.kernel.statistics()
        return Standing(
            objects=now.objects,
            handles=now.handles,
            pins=now.ledger.pins,
            pinned_bytes=now.ledger.pinned_bytes,
            requested_bytes=now.ledger.requested_bytes,
            leaks=now.leaks,
            grants=sum(len(space.live_grants()) for space in self._spaces),
            maps=tuple(self._root.maps()) if self._root is not None else (),
        )
