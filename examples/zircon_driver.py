"""A driver written against Zircon's calls alone: a ring, a crash, a quarantine, a release.

Run it: python examples/zircon_driver.py. It needs no hardware and no privilege: the memory is real,
the device is a model of a scatter-gather engine, and the IOMMU between them is software.

`CopyDriver` uses nothing but `zx` and four register accesses. What is below it is the rest of the
machine: the board, which has the device, and the bus driver, which hands a driver the authority
over its device (a BTI) and cleans up when the driver dies with the device still running.
"""

import struct
from typing import Protocol

import pinfold as pf
from pinfold.devices.copier import Copier
from pinfold.dialects import Out, zx

PAGE = zx.ZX_PAGE_SIZE
READ_WRITE = zx.ZX_VM_PERM_READ | zx.ZX_VM_PERM_WRITE

# The engine's registers and its descriptors: see the head of pinfold/devices/copier.py.
CONTROL, STATUS, RING_BASE, RING_SIZE, TAIL, HEAD = 0x04, 0x08, 0x10, 0x18, 0x1C, 0x20
RUN, RESET, BUSY = 0x1, 0x4, 0x2
DESCRIPTOR = struct.Struct("<QQIIII")
DONE = 1


class Mmio(Protocol):
    """What a driver may do with the registers of its device."""

    def read32(self, offset: int) -> int: ...
    def write32(self, offset: int, value: int) -> None: ...
    def write64(self, offset: int, value: int) -> None: ...


class ZxError(Exception):
    """A call returned a status that the driver has no answer to."""


def ok(status: int) -> None:
    if status != zx.ZX_OK:
        raise ZxError(zx.zx_status_get_string(status))


class CopyDriver:
    """Has the engine copy memory. Its descriptors lie in a page that it shares with the engine."""

    SLOTS = PAGE // DESCRIPTOR.size

    def __init__(self, registers: Mmio, bti: int) -> None:
        self.registers = registers
        self.bti = bti
        # The ring: one page, which we fill and the device reads and writes back.
        out, mapped = Out(), Out()
        ok(zx.zx_vmo_create(PAGE, 0, out))
        self.ring = out.value
        ok(zx.zx_object_set_property(self.ring, zx.ZX_PROP_NAME, b"ring", 4))
        root = zx.zx_vmar_root_self()
        ok(zx.zx_vmar_map(root, READ_WRITE, 0, self.ring, 0, PAGE, mapped))
        self.mapped = mapped.value
        self.tokens: list[int] = []
        (ring_address,) = self.pin(self.ring, PAGE, zx.ZX_BTI_PERM_READ | zx.ZX_BTI_PERM_WRITE)
        registers.write32(CONTROL, RESET)
        registers.write64(RING_BASE, ring_address)
        registers.write32(RING_SIZE, self.SLOTS)
        registers.write32(CONTROL, RUN)
        self.tail = 0

    def pin(self, vmo: int, size: int, perms: int) -> tuple[int, ...]:
        """The device addresses of a VMO's pages, one a page. The token is kept until `close`."""
        count = size // PAGE
        addresses, token = bytearray(8 * count), Out()
        ok(zx.zx_bti_pin(self.bti, perms, vmo, 0, size, addresses, count, token))
        self.tokens.append(token.value)
        return struct.unpack(f"={count}Q", addresses)

    def submit(self, source: int, destination: int, length: int) -> int:
        """Hand the engine one descriptor; the slot it is in."""
        slot = self.tail
        descriptor = DESCRIPTOR.pack(source, destination, length, 0, 0, 0)
        ok(zx.zx_vmo_write(self.ring, descriptor, slot * DESCRIPTOR.size, DESCRIPTOR.size))
        self.tail = (slot + 1) % self.SLOTS
        self.registers.write32(TAIL, self.tail)
        return slot

    def wait(self, slot: int) -> None:
        """Until the engine has written the descriptor back."""
        while self.registers.read32(STATUS) & BUSY:
            pass
        back = bytearray(DESCRIPTOR.size)
        ok(zx.zx_vmo_read(self.ring, back, slot * DESCRIPTOR.size, len(back)))
        code = DESCRIPTOR.unpack(back)[4]
        if code != DONE:
            raise ZxError(f"the engine stopped at slot {slot} with code {code}")

    def close(self) -> None:
        """Stop the device first, then take its access back: never the other way round."""
        self.registers.write32(CONTROL, RESET)
        for token in self.tokens:
            ok(zx.zx_pmt_unpin(token))
        ok(zx.zx_vmar_unmap(zx.zx_vmar_root_self(), self.mapped, PAGE))
        ok(zx.zx_handle_close(self.ring))


def bti_counts(bti: int) -> tuple[int, int]:
    """How many tokens a BTI has, and how many of them are in quarantine."""
    info = bytearray(32)
    ok(zx.zx_object_get_info(bti, zx.ZX_INFO_BTI, info, len(info), None, None))
    record = zx.unpack(zx.ZX_INFO_BTI, info)
    return record.pmo_count, record.quarantine_count


def new_vmo(pages: int, name: bytes) -> int:
    out = Out()
    ok(zx.zx_vmo_create(pages * PAGE, 0, out))
    ok(zx.zx_object_set_property(out.value, zx.ZX_PROP_NAME, name, len(name)))
    return out.value


def copy_a_message(driver: CopyDriver) -> None:
    """What the driver is for: eight pages, moved by the device."""
    source, destination = new_vmo(8, b"request"), new_vmo(8, b"reply")
    message = b"moved by the device itself"
    ok(zx.zx_vmo_write(source, message, 3 * PAGE, len(message)))
    sources = driver.pin(source, 8 * PAGE, zx.ZX_BTI_PERM_READ)
    destinations = driver.pin(destination, 8 * PAGE, zx.ZX_BTI_PERM_WRITE)

    slots = [driver.submit(s, d, PAGE) for s, d in zip(sources, destinations, strict=True)]
    driver.wait(slots[-1])

    arrived = bytearray(len(message))
    ok(zx.zx_vmo_read(destination, arrived, 3 * PAGE, len(arrived)))
    assert bytes(arrived) == message
    print(f"{len(slots)} descriptors done; in the reply: {arrived.decode()!r}")
    ok(zx.zx_handle_close(source))
    ok(zx.zx_handle_close(destination))


def main() -> None:
    # The board: a bus with an IOMMU, and the engine behind it. The engine works in steps, so that
    # a driver can die in the middle of its work.
    with pf.open_bus("sim") as bus, bus.initiator(0x10) as port:
        engine = Copier(port.master(), latency=1, step=1)

        # The bus driver: it makes the BTI, keeps a handle, and gives the driver another.
        keeper, process = zx.Process(name="bus driver"), zx.Process(name="driver")
        with keeper:
            iommu, bti, twin, given = Out(), Out(), Out(), Out()
            ok(zx.iommu_from_bus(bus, iommu))
            ok(zx.zx_bti_create(iommu.value, 0, 0x10, bti))
            ok(zx.zx_handle_duplicate(bti.value, zx.ZX_RIGHT_SAME_RIGHTS, twin))
            ok(zx.handle_transfer(twin.value, process, given))

        with process:
            driver = CopyDriver(engine, given.value)
            copy_a_message(driver)

            # Work is under way when the driver dies: nobody has told the engine to stop.
            source, victim = new_vmo(4, b"next"), new_vmo(4, b"victim")
            froms = driver.pin(source, 4 * PAGE, zx.ZX_BTI_PERM_READ)
            tos = driver.pin(victim, 4 * PAGE, zx.ZX_BTI_PERM_WRITE)
            for one, other in zip(froms, tos, strict=True):
                driver.submit(one, other, PAGE)
            engine.read32(STATUS)  # one descriptor's worth of time
            assert engine.read32(STATUS) & BUSY
        process.exit()

        with keeper:
            tokens, quarantined = bti_counts(bti.value)
            print(f"the driver died: {tokens} tokens, {quarantined} in quarantine")
            assert tokens == quarantined == 5

            # The engine goes on, as hardware would. The IOMMU stops it, and the pages it was after
            # are still held: nobody else has been given them.
            engine.read32(STATUS)
            assert engine.statistics().stopped > 0
            print(f"stopped: {bus.faults[0]}")

            # No pin can be made before somebody says that the device is quiet.
            vmo, addresses, token = new_vmo(1, b"fresh"), bytearray(8), Out()
            again = (bti.value, zx.ZX_BTI_PERM_READ, vmo, 0, PAGE, addresses, 1, token)
            assert zx.zx_bti_pin(*again) == zx.ZX_ERR_BAD_STATE

            engine.write32(CONTROL, RESET)
            ok(zx.zx_bti_release_quarantine(bti.value))
            assert bti_counts(bti.value) == (0, 0)
            ok(zx.zx_bti_pin(*again))
            ok(zx.zx_pmt_unpin(token.value))
            print("released: the next driver may have the device")
        keeper.exit()
    print("ok")


if __name__ == "__main__":
    main()
