"""A user-space driver, a device that does DMA, and a stray write that goes nowhere.

Run it: python examples/edu_driver.py. It needs no hardware and no privilege: the memory is real,
the device is a model of `edu`, QEMU's teaching device, and the IOMMU between them is software.
The driver would not notice if the device were QEMU's own behind VFIO.
"""

import pinfold as pf
from pinfold.devices.edu import Edu
from pinfold.drivers.edu import EduDriver


def main() -> None:
    # A bus, and one device's authority on it. edu puts 28 address bits on the bus, and saying so
    # here makes every pin give addresses that the device can use, or fail with the extent named.
    with pf.open_bus("sim") as bus, bus.initiator(0x10, address_bits=28, name="edu") as bti:
        # The model reaches memory through its port on the bus and in no other way.
        device = Edu(bti.master())

        with EduDriver(device, bti) as driver:
            print(f"edu {driver.version[0]}.{driver.version[1]}, alive: {driver.alive()}")
            print(f"12! = {driver.factorial(12)}, computed by the device")
            assert driver.factorial(12) == 479_001_600

            # Two buffers of 64 KiB. The device may read the one and write the other.
            size = 64 << 10
            with pf.Vmo(size, name="request") as request, pf.Vmo(size, name="reply") as reply:
                message = b"moved by the device itself"
                request.write(message, offset=5000)

                with (
                    bti.pin(request, perms=pf.Perm.READ) as source,
                    bti.pin(reply, perms=pf.Perm.WRITE) as destination,
                ):
                    # By way of the device's 4 KiB of memory, in chunks that no page border cuts.
                    transfers = driver.transfer(source, destination)
                    print(f"{size} bytes in {transfers} transfers")
                    assert reply.read() == request.read()
                    print(f"in the reply: {reply.read(5000, len(message)).decode()!r}")
                    stale = int(destination.addrs[0])

                # Unpinned. A driver with a bug now sends the device to the address it remembers.
                before = reply.read()
                driver.copy_from_device(stale, 16)

                # The device noticed nothing, as real hardware would not: the IOMMU did.
                assert reply.read() == before
                (fault,) = bus.faults
                assert fault.reason is pf.FaultReason.REVOKED
                assert device.statistics().stopped == 1
                print(f"stopped: {fault}")

        # Every page is back: closing the driver unpinned the one it had for itself.
        assert bti.statistics().pins == 0
    print("ok")


if __name__ == "__main__":
    main()
