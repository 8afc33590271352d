# A real PCI device: registers, configuration space, interrupts, reset.
#
# Stopping it is bus mastering off, THEN reset: see the order at the top of the package. Everything
# that refers to the device (mappings of its BARs, eventfds in its vectors) is given back before its
# descriptor is: the kernel keeps the group busy for as long as any of it is there.
from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pinfold.buses.vfio.bar import VfioBar
from pinfold.buses.vfio.config import ConfigSpace
from pinfold.buses.vfio.interrupts import DeviceInterrupts
from pinfold.errors import BadState, InvalidArgs, NotFound, NotSupported, WrongProcess
from pinfold.host import abi_vfio as abi
from pinfold.host import calls, vfio
from pinfold.memory.hosterrors import each_tried, noted, translated
from pinfold.memory.locks import LostLock

if TYPE_CHECKING:
    from collections.abc import Callable


class VfioDevice:
    """The device of a vfio bus.

    Attributes:
      address: as ``lspci -D`` writes it.
      config: its configuration space, a `pinfold.buses.vfio.config.ConfigSpace`.
      interrupts: its interrupts, a `pinfold.buses.vfio.interrupts.DeviceInterrupts`. Its `enable`
        takes an `pinfold.buses.vfio.interrupts.InterruptKind` (INTX, MSI or MSIX) and gives an
        eventfd a vector: ``device.interrupts.enable(InterruptKind.MSI).wait(1.0)``.
      mastering: True from when it was let master the bus until it was stopped from that.

    Args:
      address: as ``lspci -D`` writes it.
      fd: its descriptor, which it closes.
    """

    def __init__(self, address: str, fd: int) -> None:
        self.address = address
        self._fd = fd
        self._bars: dict[int, VfioBar] = {}
        self.mastering = False
        self._lock: threading.RLock | LostLock = threading.RLock()
        self._refusal: type[BadState] | None = None
        try:
            with translated(f"ask about PCI device {address}"):
                self._info = vfio.device_info(fd)
                region = vfio.region_info(fd, abi.VFIO_PCI_CONFIG_REGION_INDEX)
            if not self._info.flags & abi.VFIO_DEVICE_FLAGS_PCI:
                raise NotSupported(f"{address} is no PCI device of VFIO's")
        except BaseException as error:
            with noted("closing the device", error):
                calls.close(fd)
            raise
        self.config = ConfigSpace(
            fd, region, lambda: any(bar.mapped for bar in list(self._bars.values()))
        )
        self.interrupts = DeviceInterrupts(address, fd)

    def bar(self, index: int) -> VfioBar:
        """A memory BAR; the same object each time. It is valid until the bus is closed.

        Raises:
          InvalidArgs: ``index`` is not 0 to 5.
          NotFound: the device has no such BAR.
          BadState: the bus is closed.
          HostError, NoMemory: the kernel refused to map it.
        """
        if not abi.VFIO_PCI_BAR0_REGION_INDEX <= index <= abi.VFIO_PCI_BAR5_REGION_INDEX:
            raise InvalidArgs("a device has BARs 0 to 5", asked=index, limit=5)
        with self._lock:
            self._refuse_if_closed()
            bar = self._bars.get(index)
            if bar is None:
                with translated(f"ask about BAR {index}"):
                    region = vfio.region_info(self._fd, index)
                if not region.size:
                    raise NotFound(f"PCI device {self.address} has no BAR {index}", asked=index)
                bar = self._bars[index] = VfioBar(self._fd, index, region)
            return bar

    @property
    def resets(self) -> bool:
        """True where the device has a reset."""
        return bool(self._info.flags & abi.VFIO_DEVICE_FLAGS_RESET)

    def reset(self) -> None:
        """Put the device into the state it has after power-on; its configuration stays.

        Raises:
          NotSupported: it has none.
          BadState: the bus is closed.
          HostError: the kernel refused.
        """
        if not self.resets:
            self._refuse_if_closed()
            raise NotSupported(
                f"PCI device {self.address} has no reset: neither its function, nor its power "
                "state, nor its slot can be reset alone",
                remedy="stop it through its own registers",
            )
        with self._lock:
            self._refuse_if_closed()
            with translated(f"reset PCI device {self.address}"):
                vfio.reset(self._fd)

    def start(self) -> None:
        """Let it master the bus. Raises HostError."""
        with self._lock:
            self._refuse_if_closed()
            self.mastering = True  # before: what is broken off may have done it
            self.config.set_master(allowed=True)

    def stop(self) -> None:
        """Bus mastering off, then reset where it has one: both are tried. Not after `close`.

        Raises HostError: the kernel refused one.
        """
        with self._lock:
            if self._refusal is not None:  # given back, so the kernel has stopped it
                return
            steps: list[Callable[[], object]] = [self._end_mastering]
            if self.resets:
                steps.append(self.reset)
            each_tried(steps)

    def _end_mastering(self) -> None:
        self.config.set_master(allowed=False)
        self.mastering = False

    def close(self) -> None:
        """Give back what refers to the device, then the device. Twice is once."""
        with self._lock:
            if self._refusal is not None:
                return
            self._refusal = BadState
            self.config.close()
            bars = [bar.close for bar in self._bars.values()]
            each_tried([self.interrupts.close, *bars, self._close_fd])

    def _close_fd(self) -> None:
        with translated("close the device"):
            calls.close(self._fd)

    def abandon(self) -> None:
        """In a forked child: close the child's copy of the descriptor."""
        closed, self._refusal = self._refusal is not None, WrongProcess
        self._lock = LostLock()
        self.config.abandon()
        steps: list[Callable[[], object]] = [self.interrupts.abandon]
        steps += [bar.abandon for bar in self._bars.values()]
        if not closed:
            steps.append(self._close_fd)
        each_tried(steps)

    def _refuse_if_closed(self) -> None:
        if self._refusal is not None:
            raise self._refusal(f"PCI device {self.address} was given back with its bus")
