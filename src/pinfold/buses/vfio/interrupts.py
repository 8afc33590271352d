# Interrupts of a real device, each vector an eventfd.
#
# Order of the kernel's making: a device has one kind of interrupt enabled at a time, MSI and MSI-X
# with all their vectors in one go. INTx is a level: the kernel masks it as it arrives, and it stays
# masked until `unmask`, after the driver has had the device lower it.
#
# An eventfd in a vector keeps nothing alive but itself; `disable` takes it out again. Order there:
# the kernel takes the vectors away, THEN the device is free for the next `enable`, and both under
# one lock: the request names the device and not who had enabled it. A descriptor that somebody is
# waiting on is closed by the last who waits: its number could be another file's by then.
from __future__ import annotations

import enum
import errno
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

from pinfold.buses.vfio.refusals import is_the_kernels
from pinfold.errors import BadState, InvalidArgs, NotSupported, TimedOut, WrongProcess
from pinfold.host import abi_vfio as abi
from pinfold.host import calls, eventfd, vfio
from pinfold.memory.hosterrors import each_tried, noted, translated
from pinfold.memory.locks import LostLock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType


class InterruptKind(enum.IntEnum):
    """How a PCI device interrupts; the numbers are VFIO's."""

    INTX = abi.VFIO_PCI_INTX_IRQ_INDEX
    MSI = abi.VFIO_PCI_MSI_IRQ_INDEX
    MSIX = abi.VFIO_PCI_MSIX_IRQ_INDEX


@dataclass(frozen=True, slots=True)
class InterruptInfo:
    """What a device has of one kind."""

    kind: InterruptKind
    count: int
    """Vectors; 0 where the device has none of this kind."""
    maskable: bool
    """`Interrupts.mask` and `Interrupts.unmask` work."""
    automasked: bool
    """Masked as it arrives, until it is unmasked."""


class DeviceInterrupts:
    """What a device has of interrupts, and enabling them."""

    def __init__(self, address: str, device: int) -> None:
        self._address = address
        self._fd = device
        self._enabled: Interrupts | None = None
        self.lock: threading.RLock | LostLock = threading.RLock()
        """Held over every request on the device, and while the descriptor is being taken away."""
        self._refusal: type[BadState] | None = None

    def info(self, kind: InterruptKind) -> InterruptInfo:
        """What the device has of one kind.

        Raises:
          InvalidArgs: there is no such kind.
          BadState: the bus is closed.
          HostError: the kernel refused.
        """
        kind = _known(kind)
        self._refuse_if_closed()
        with self.lock, translated(f"ask PCI device {self._address} about {kind.name}"):
            self._refuse_if_closed()
            found = vfio.irq_info(self._fd, kind)
        return InterruptInfo(
            kind=kind,
            count=found.count,
            maskable=bool(found.flags & abi.VFIO_IRQ_INFO_MASKABLE),
            automasked=bool(found.flags & abi.VFIO_IRQ_INFO_AUTOMASKED),
        )

    def available(self) -> tuple[InterruptInfo, ...]:
        """Every kind of which the device has a vector."""
        kinds = (self.info(kind) for kind in InterruptKind)
        return tuple(info for info in kinds if info.count)

    def enable(
        self, kind: InterruptKind, count: int = 1, *, eventfds: Sequence[int] | None = None
    ) -> Interrupts:
        """Have vectors 0 to ``count`` - 1 of a kind add to an eventfd each.

        Args:
          eventfds: the caller's own, one a vector; they stay the caller's. By default new ones.

        Raises:
          InvalidArgs: there is no such kind, ``count`` is not > 0, or there is another number of
            eventfds.
          NotSupported: the device has no such interrupt, or not so many vectors (``.available``).
          BadState: interrupts are enabled already, or the bus is closed.
          NoMemory, HostError: the kernel refused; nothing is enabled.
        """
        kind = _known(kind)
        self._refuse_if_closed()
        with self.lock:
            info = self.info(kind)
            if count <= 0 or (eventfds is not None and len(eventfds) != count):
                raise InvalidArgs(
                    "an eventfd for each of one vector or more",
                    asked=count,
                    available=None if eventfds is None else len(eventfds),
                )
            if count > info.count:
                raise NotSupported(
                    f"PCI device {self._address} has too few vectors of {kind.name}",
                    asked=count,
                    available=info.count,
                    remedy="ask for fewer, or for another kind",
                )
            if self._enabled is not None:
                raise BadState(
                    "a device has one kind of interrupt at a time",
                    holder=f"{self._enabled.kind.name} is enabled",
                    remedy="disable that first",
                )
            self._enabled = Interrupts(self, self._fd, kind, count, eventfds)
            return self._enabled

    def disabled(self, interrupts: Interrupts) -> None:
        """For `Interrupts`, which has the lock: they are no longer enabled."""
        if self._enabled is interrupts:
            self._enabled = None

    def close(self) -> None:
        """The descriptor is about to be closed: take the eventfds out. Twice is once."""
        with self.lock:
            self._refusal = self._refusal or BadState
            if self._enabled is not None:
                self._enabled.close()

    def abandon(self) -> None:
        """In a forked child: close the child's copies of the eventfds."""
        self.lock = LostLock()
        self._refusal = WrongProcess
        if self._enabled is not None:
            self._enabled.abandon()

    def _refuse_if_closed(self) -> None:
        if self._refusal is not None:
            raise self._refusal(f"PCI device {self._address} was given back with its bus")


def _known(kind: InterruptKind) -> InterruptKind:
    """The kind, which may be given as its number. Raises InvalidArgs: there is no such kind."""
    try:
        return InterruptKind(kind)
    except ValueError as error:
        known = ", ".join(f"InterruptKind.{each.name}" for each in InterruptKind)
        raise InvalidArgs(
            f"{kind!r} is no kind of interrupt", available=known, remedy="name one of those"
        ) from error


class Interrupts:
    """Enabled vectors of one kind, each with an eventfd. Made by `DeviceInterrupts.enable`.

    After `disable`, and after the bus is closed, every call but `disable` raises `BadState`. A
    `wait` that is under way does too, except on an eventfd of the caller's own: it goes on.
    """

    def __init__(
        self,
        owner: DeviceInterrupts,
        device: int,
        kind: InterruptKind,
        count: int,
        eventfds: Sequence[int] | None,
    ) -> None:
        self.kind = kind
        self._owner = owner
        self._device = device
        self._own = eventfds is None
        self._fds: list[int] = list(eventfds or ())
        self._refusal: type[BadState] | None = None
        self._turning_off = False
        """True while the kernel may have disabled them, and that is not written down."""
        self._waiting = 0
        """Calls that are using an eventfd."""
        try:
            with translated(f"enable {count} vector(s) of {kind.name}"):
                while len(self._fds) < count:
                    self._fds.append(eventfd.create())
                vfio.set_irqs(device, kind, abi.VFIO_IRQ_SET_ACTION_TRIGGER, 0, count, self._fds)
        except BaseException as error:
            with noted("closing the eventfds", error):
                self._close_fds()
            raise

    def __len__(self) -> int:
        """Vectors."""
        return len(self._fds)

    def fileno(self, vector: int = 0) -> int:
        """The eventfd of a vector, for `select` and its kin, until `disable`.

        Raises InvalidArgs: there is no such vector.
        """
        return self._fd(vector)

    def wait(self, timeout: float | None = None, vector: int = 0) -> int:
        """Wait for a vector; how often it has interrupted since it was last asked.

        Args:
          timeout: seconds; None for no end.

        Raises:
          TimedOut: it did not.
          InvalidArgs: there is no such vector.
          BadState: they are disabled, or were meanwhile.
        """
        with self._in_use(vector) as fd, translated(f"wait for {self.kind.name}"):
            arrived = eventfd.wait(fd, timeout)
            self._refuse_if_disabled()
            count = eventfd.take(fd) if arrived else 0
        if not count:
            raise TimedOut(f"vector {vector} of {self.kind.name} did not interrupt", asked=timeout)
        return count

    def poll(self, vector: int = 0) -> int:
        """How often a vector has interrupted since it was last asked; does not wait."""
        with self._in_use(vector) as fd, translated(f"read {self.kind.name}"):
            return eventfd.take(fd)

    def clear(self) -> None:
        """Forget what has arrived on any vector."""
        for vector in range(len(self._fds)):
            self.poll(vector)

    def trigger(self, vector: int = 0) -> None:
        """Have the kernel act as if the device had interrupted: it tries all but the device."""
        with translated(f"trigger {self.kind.name}"):
            self._set(abi.VFIO_IRQ_SET_ACTION_TRIGGER, vector)

    def unmask(self, vector: int = 0) -> None:
        """Let a vector interrupt again: INTx, once the device has lowered it.

        Raises:
          NotSupported: vectors of this kind are not masked through VFIO.
          InvalidArgs: there is no such vector.
        """
        self._mask(abi.VFIO_IRQ_SET_ACTION_UNMASK, vector)

    def mask(self, vector: int = 0) -> None:
        """Hold a vector back until `unmask`. Raises as `unmask` does."""
        self._mask(abi.VFIO_IRQ_SET_ACTION_MASK, vector)

    def _mask(self, action: int, vector: int) -> None:
        self._fd(vector)
        if not self._owner.info(self.kind).maskable:
            raise NotSupported(
                f"{self.kind.name} is not masked through VFIO", remedy="mask it in the device"
            )
        with translated(f"mask or unmask {self.kind.name}"):
            self._set(action, vector)

    def _set(self, action: int, vector: int) -> None:
        self._refuse_if_disabled()
        with self._owner.lock:
            self._fd(vector)
            vfio.set_irqs(self._device, self.kind, action, vector, 1)

    def disable(self) -> None:
        """No more interrupts; eventfds that are not the caller's are closed. Twice is once.

        Raises HostError: the kernel refused; they are enabled as before, and may be disabled again.
        """
        if self._refusal is not None:
            return
        with self._owner.lock:
            if self._refusal is None:
                self._turn_off()
                self._end()

    def close(self) -> None:
        """For the owner, which has the lock and is about to close the device, and all with it."""
        if self._refusal is None:
            each_tried([self._turn_off, self._end])

    def _turn_off(self) -> None:
        again, self._turning_off = self._turning_off, True
        with translated(f"disable {self.kind.name}"):
            try:
                vfio.set_irqs(self._device, self.kind, abi.VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0)
            except OSError as error:
                if not is_the_kernels(error):
                    raise
                if not (again and error.errno == errno.EINVAL):  # it was done, and broken off
                    self._turning_off = again
                    raise

    def _end(self) -> None:
        self._refusal = BadState
        self._owner.disabled(self)
        if not self._waiting:
            self._close_fds()
        elif self._own:
            each_tried([partial(_wake, fd) for fd in self._fds])

    def _close_fds(self) -> None:
        fds, self._fds = self._fds, []
        if self._own:
            each_tried([partial(_close, fd) for fd in fds])

    def abandon(self) -> None:
        """In a forked child: close the child's copies."""
        self._refusal = WrongProcess
        self._close_fds()

    @contextmanager
    def _in_use(self, vector: int) -> Iterator[int]:
        """The eventfd of a vector, which stays open as long as the block takes."""
        self._refuse_if_disabled()
        with self._owner.lock:
            fd = self._fd(vector)
            self._waiting += 1
        try:
            yield fd
        finally:
            with self._owner.lock:
                self._waiting -= 1
                if self._refusal is not None and not self._waiting:
                    self._close_fds()

    def _refuse_if_disabled(self) -> None:
        if self._refusal is not None:
            raise self._refusal("these interrupts are disabled")

    def _fd(self, vector: int) -> int:
        self._refuse_if_disabled()
        if not 0 <= vector < len(self._fds):
            raise InvalidArgs("there is no such vector", asked=vector, limit=len(self._fds))
        return self._fds[vector]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.disable()


def _wake(fd: int) -> None:
    with translated("wake who waits for an interrupt"):
        eventfd.add(fd)


def _close(fd: int) -> None:
    with translated("close an eventfd"):
        calls.close(fd)
