"""A driver in AIX's words: a user's buffer is attached, pinned, translated, moved and let go.

Run it: python examples/aix_driver.py. It needs no hardware and no privilege: the memory is real,
the device is a model of `edu`, QEMU's teaching device, and the IOMMU between them is software.

`EduDriver` takes both of AIX's ways to give a device memory. `write` pins and translates in one
step, with a pretranslation list; `read` pins, and maps a list of buffers. Its interrupt handler
keeps a count in the user's memory, which is pinned, for a handler cannot wait for a page.
"""

import mmap
from typing import Protocol

import pinfold as pf
from pinfold.devices.edu import Edu
from pinfold.dialects import aix

PAGE = aix.PAGE_SIZE

# The device's registers, and where its own 4 KiB are: see the head of pinfold/devices/edu.py.
INTERRUPT_STATUS, ACKNOWLEDGE = 0x24, 0x64
SOURCE, DESTINATION, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98
RUN, TO_MEMORY, INTERRUPT = 0x1, 0x2, 0x4
ON_DEVICE = 0x40000


class Mmio(Protocol):
    """What a driver may do with the registers of its device."""

    def read32(self, offset: int) -> int: ...
    def write32(self, offset: int, value: int) -> None: ...
    def write64(self, offset: int, value: int) -> None: ...


class EduDriver:
    """Moves a user's buffer to the device and back; every entry point returns 0 or an errno."""

    def __init__(self, registers: Mmio, bid: pf.Bti) -> None:
        self.registers = registers
        self.bid = bid
        handle = aix.d_map_init(bid, 0, 0, 0)
        assert isinstance(handle, aix.d_handle_t)  # else it is DMA_FAIL
        self.handle = handle
        self.control = aix.Xmem()
        self.interrupts = 0

        # The driver's own data: a page of system space, which the handler may touch at any time.
        self.memory = pf.Vmo(PAGE, name="driver data")
        read_write = pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE
        self.mapping = pf.current_process().root.map(self.memory, read_write)
        self.data = self.mapping.address
        assert aix.ltpin(self.data, PAGE) == 0

    def open(self, control: mmap.mmap) -> int:
        """The user has a control block, in which the handler counts the transfers."""
        if aix.xmattach(control, 8, self.control, aix.USER_ADSPACE) != aix.XMEM_SUCC:
            return aix.EFAULT
        return aix.xmempin(self.control.vaddr, 8, self.control)

    def interrupt(self, status: int) -> None:
        """At interrupt level: nothing here may wait, so what is touched has to be pinned."""
        with aix.interrupt_environment():
            self.registers.write32(ACKNOWLEDGE, status)
            self.interrupts += 1
            user = self.control.vaddr
            if aix.xmemin(user, self.data, 8, self.control) == aix.XMEM_SUCC:
                count = int.from_bytes(self.memory.read(0, 8), "little") + 1
                self.memory.write(count.to_bytes(8, "little"))
                aix.xmemout(self.data, user, 8, self.control)

    def transfer(self, address: int, offset: int, size: int, command: int) -> None:
        """One run of bytes, between a bus address and the device's own memory."""
        there = ON_DEVICE + offset
        source, destination = (there, address) if command & TO_MEMORY else (address, there)
        self.registers.write64(SOURCE, source)
        self.registers.write64(DESTINATION, destination)
        self.registers.write64(COUNT, size)
        self.registers.write32(COMMAND, RUN | INTERRUPT | command)
        while self.registers.read32(COMMAND) & RUN:
            pass

    def write(self, buffer: mmap.mmap | memoryview, count: int) -> int:
        """To the device, from a user's buffer: pinned and translated in one step."""
        dp = aix.Xmem(bti=self.bid)
        if aix.xmattach(buffer, count, dp, aix.USER_ADSPACE) != aix.XMEM_SUCC:
            return aix.EFAULT
        start = dp.vaddr
        found = aix.xlate_pin(dp, start, count, aix.B_WRITE)
        if found == 0:
            done = 0
            while done < count:  # a page at a time: the next page need not have the next address
                size = min(count - done, PAGE - (start + done) % PAGE)
                self.transfer(aix.xmemdma64(dp, start + done, 0), done, size, 0)
                done += size
            found = aix.xlate_unpin(dp, start, count)
        assert aix.xmdetach(dp) == aix.XMEM_SUCC
        return aix.EFAULT if found == aix.XMEM_FAIL else found

    def read(self, buffer: mmap.mmap, count: int) -> int:
        """From the device, into a user's buffer: pinned first, then mapped as a list."""
        dp = aix.Xmem()
        if aix.xmattach(buffer, count, dp, aix.USER_ADSPACE) != aix.XMEM_SUCC:
            return aix.EFAULT
        found = aix.xmempin(dp.vaddr, count, dp)
        if found == 0:
            wanted = aix.Dio(1, 1, dvec=[aix.Iovec(dp.vaddr, count, dp)])
            runs = aix.Dio(total_iovecs=8)
            mapped = aix.d_map_list(self.handle, aix.DMA_READ, 1, wanted, runs)
            if mapped == aix.DMA_SUCC:
                done = 0
                for run in runs.dvec[: runs.used_iovecs]:
                    self.transfer(run.iov_base, done, run.iov_len, TO_MEMORY)
                    done += run.iov_len
                assert aix.d_unmap_list(self.handle, runs) == aix.DMA_SUCC
            else:
                found = aix.EFAULT if mapped == aix.DMA_NOACC else aix.EAGAIN
            assert aix.xmemunpin(dp.vaddr, count, dp) == 0
        assert aix.xmdetach(dp) == aix.XMEM_SUCC
        return found

    def close(self) -> None:
        """What was pinned is unpinned, what was attached is detached, what was mapped unmapped."""
        assert aix.d_map_clear(self.handle) == aix.DMA_SUCC
        assert aix.xmemunpin(self.control.vaddr, 8, self.control) == 0
        assert aix.xmdetach(self.control) == aix.XMEM_SUCC
        assert aix.ltunpin(self.data, PAGE) == 0
        self.mapping.unmap()
        self.memory.close()


def main() -> None:
    kernel = pf.Kernel(max_pinned=16 * PAGE)  # what AIX calls maxpin
    process = aix.Process(kernel, name="edudd")
    with (
        process,
        pf.open_bus("sim") as bus,
        bus.initiator(0x10, address_bits=28, name="edu") as bid,
    ):
        device = Edu(bid.master())
        driver = EduDriver(device, bid)
        device.on_interrupt(driver.interrupt)

        # A user's memory: what a program gets from mmap, anywhere but in system space.
        control, request, reply = (mmap.mmap(-1, 2 * PAGE) for _ in range(3))
        message = b"moved by the device itself"
        at = PAGE - 10  # across the border of two pages
        request[at : at + len(message)] = message
        assert driver.open(control) == 0

        assert driver.write(memoryview(request)[at:], len(message)) == 0
        assert driver.read(reply, len(message)) == 0
        assert reply[: len(message)] == message
        print(f"in the reply: {bytes(reply[: len(message)]).decode()!r}")

        counted = int.from_bytes(control[:8], "little")
        assert counted == driver.interrupts == 3  # two pages there, one back
        print(f"{counted} interrupts, counted in the user's memory by the handler")

        # The device would write memory that may only be read: the I/O fails before it starts.
        sealed = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ)
        assert driver.read(sealed, 100) == aix.EFAULT
        assert driver.write(sealed, 100) == 0
        assert device.statistics().stopped == 0
        print("a read-only buffer: EFAULT for a read, 0 for a write")

        # A handler that touches what is not in memory is told so, and does not wait.
        fresh, dp = mmap.mmap(-1, PAGE), aix.Xmem()
        assert aix.xmattach(fresh, PAGE, dp, aix.USER_ADSPACE) == aix.XMEM_SUCC
        with aix.interrupt_environment():
            assert aix.xmemin(dp.vaddr, driver.data, 8, dp) == aix.XMEM_FAIL
        assert aix.xmempin(dp.vaddr, 8, dp) == 0
        with aix.interrupt_environment():
            assert aix.xmemin(dp.vaddr, driver.data, 8, dp) == aix.XMEM_SUCC
        assert aix.xmemunpin(dp.vaddr, 8, dp) == 0
        assert aix.xmdetach(dp) == aix.XMEM_SUCC
        print("at interrupt level: XMEM_FAIL for a page that is not there, XMEM_SUCC once pinned")

        held = kernel.counted.statistics()
        assert held.held == 2 * PAGE  # the driver's page, and the control block
        driver.close()
        assert kernel.counted.statistics().held == 0
    process.exit()
    print("ok")


if __name__ == "__main__":
    main()
