"""A driver written against Magenta's calls alone: it commits, pins, lets the device copy, unpins.

Run it: python examples/magenta_driver.py. It needs no hardware and no privilege: the memory is
real, the device is a model of a scatter-gather engine, and there is no IOMMU, as in Magenta's
draft: the engine uses (simulated) physical addresses, one a page.

The driver has no tokens. What it has of a pin is the array of addresses, which it gives back to
unpin. What it forgets to unpin ends with its BTI: see the last lines.
"""

import struct
from typing import Any, Protocol

import numpy as np

import pinfold as pf
from pinfold.devices.copier import Copier
from pinfold.dialects import Out, mx

PAGE = mx.PAGE_SIZE
READ, WRITE = mx.MX_VM_FLAG_PERM_READ, mx.MX_VM_FLAG_PERM_WRITE

# The engine's registers and its descriptors: see the head of pinfold/devices/copier.py.
CONTROL, STATUS, RING_BASE, RING_SIZE, TAIL = 0x04, 0x08, 0x10, 0x18, 0x1C
RUN, RESET, BUSY = 0x1, 0x4, 0x2
DESCRIPTOR = struct.Struct("<QQIIII")


class Mmio(Protocol):
    """What a driver may do with the registers of its device."""

    def read32(self, offset: int) -> int: ...
    def write32(self, offset: int, value: int) -> None: ...
    def write64(self, offset: int, value: int) -> None: ...


def ok(status: int) -> None:
    assert status == mx.MX_OK, mx.mx_status_get_string(status)


def made(call: Any, *args: Any) -> int:
    """What a call returns through its last parameter."""
    out = Out()
    ok(call(*args, out))
    return out.value


class CopyDriver:
    """Has the engine copy memory. Its descriptors lie in a page that it shares with the engine."""

    SLOTS = PAGE // DESCRIPTOR.size

    def __init__(self, registers: Mmio, bti: int) -> None:
        self.registers = registers
        self.bti = bti
        self.ring = new_vmo(PAGE)
        self.pins: list[np.ndarray] = []
        (ring_address,) = self.pin(self.ring, PAGE, READ | WRITE)
        registers.write32(CONTROL, RESET)
        registers.write64(RING_BASE, int(ring_address))
        registers.write32(RING_SIZE, self.SLOTS)
        registers.write32(CONTROL, RUN)
        self.tail = 0

    def pin(self, vmo: int, size: int, perms: int) -> np.ndarray:
        """The device addresses of a VMO's pages. They are also what names the pin."""
        addrs, actual = np.zeros(-(-size // PAGE), np.uint64), Out()
        ok(mx.mx_bti_pin(self.bti, vmo, 0, size, perms, addrs, len(addrs), actual))
        self.pins.append(addrs[: actual.value])
        return self.pins[-1]

    def unpin_all(self) -> None:
        """Stop the device first, then take its access back: never the other way round."""
        self.registers.write32(CONTROL, RESET)
        for addrs in self.pins:
            ok(mx.mx_bti_unpin(self.bti, addrs, len(addrs)))
        self.pins = []

    def copy(self, source: int, destination: int, size: int) -> None:
        """Have the engine copy all of one VMO to another, page by page."""
        sources = self.pin(source, size, READ)
        destinations = self.pin(destination, size, WRITE)
        left = size
        for one, other in zip(sources, destinations, strict=True):
            words = DESCRIPTOR.pack(int(one), int(other), min(left, PAGE), 0, 0, 0)
            at = self.tail * DESCRIPTOR.size
            assert made(mx.mx_vmo_write, self.ring, words, at, len(words)) == len(words)
            self.tail = (self.tail + 1) % self.SLOTS
            left -= PAGE
        self.registers.write32(TAIL, self.tail)
        while self.registers.read32(STATUS) & BUSY:
            pass


def new_vmo(size: int, *, commit: bool = True) -> int:
    """Memory that can be pinned: a pin does not commit it."""
    vmo = made(mx.mx_vmo_create, size, 0)
    if commit:
        ok(mx.mx_vmo_op_range(vmo, mx.MX_VMO_OP_COMMIT, 0, size, None, 0))
    return vmo


def main() -> None:
    # The board: a bus without an IOMMU, and the engine on it.
    with pf.open_bus("stub") as bus, bus.initiator(0x10) as port:
        engine = Copier(port.master())
        process = mx.Process(name="driver")
        with process:
            iommu = made(mx.iommu_from_bus, bus)
            bti = made(mx.mx_bti_create, iommu, 0x10)
            driver = CopyDriver(engine, bti)

            # Sizes are kept to the byte, and any number of them can be pinned.
            size = 2 * PAGE + 100
            source, destination = new_vmo(size), new_vmo(size)
            message = b"moved by the device itself"
            offset = size - len(message)
            assert made(mx.mx_vmo_write, source, message, offset, len(message)) == len(message)
            driver.copy(source, destination, size)
            arrived = bytearray(100)
            count = made(mx.mx_vmo_read, destination, arrived, offset, len(arrived))
            assert arrived[:count] == message
            print(f"{len(driver.pins[-1])} pages: {arrived[:count].decode()!r}")

            # A page that is pinned cannot be pinned again by the same device, nor given back.
            again = mx.mx_bti_pin(bti, source, 0, 1, READ, bytearray(8), 1, Out())
            print(mx.mx_status_get_string(again))
            decommit = mx.mx_vmo_op_range(source, mx.MX_VMO_OP_DECOMMIT, 0, 1, None, 0)
            assert decommit == mx.MX_ERR_BAD_STATE
            driver.unpin_all()

            # What has no memory is not pinned, and not committed either.
            absent = new_vmo(PAGE, commit=False)
            found = mx.mx_bti_pin(bti, absent, 0, PAGE, READ, bytearray(8), 1, Out())
            print(mx.mx_status_get_string(found))

            # Contiguous memory has one address, of its start.
            ring = made(mx.mx_vmo_create_contiguous, mx.root_resource(), 4 * PAGE, 0)
            assert len(driver.pin(ring, 4 * PAGE, READ | WRITE)) == 1

            # The driver forgets that pin. With the last handle to its BTI it ends.
            assert process.kernel.statistics().ledger.pins == 1
            ok(mx.mx_handle_close(bti))
            assert process.kernel.statistics().ledger.pins == 0
            print("closed: nothing is pinned any more")
        process.exit()
    print("ok")


if __name__ == "__main__":
    main()
