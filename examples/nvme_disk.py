"""A user-space NVMe driver, a disk that is a file, and a read into memory that was taken away.

Run it: python examples/nvme_disk.py. It needs no hardware and no privilege: the controller is a
model, its blocks are in a file, and the IOMMU between it and memory is software. The driver is the
one for real controllers: with `open_bus("vfio:0000:00:06.0")` give it `bti.device().bar(0)` and, as
hardware takes time, `wait=lambda: time.sleep(1e-4)`.
"""

import tempfile
from pathlib import Path

import pinfold as pf
from pinfold.devices.nvme import FileMedium, Nvme
from pinfold.drivers.nvme import CommandFailed, NvmeDriver

MIB = 1 << 20


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "disk.img")
        with image.open("wb") as file:
            file.truncate(64 * MIB)
        with (
            FileMedium(image) as medium,
            pf.open_bus("sim") as bus,
            bus.initiator(0x30, name="nvme") as bti,
        ):
            drive(Nvme(bti.master(), medium), bti, bus, image)
            # Closing the driver shut the controller down, and only then unpinned its queues.
            assert bti.statistics().pins == 0
    print("ok")


def drive(device: Nvme, bti: pf.Bti, bus: pf.Iommu, image: Path) -> None:
    with NvmeDriver(device, bti) as disk:
        block = disk.namespace.block_size
        print(f"{disk.controller.model}: {disk.namespace.blocks} blocks of {block} bytes")

        # Bytes, the easy way: through memory of the driver's own.
        disk.store(100, b"the hundredth block".ljust(block))
        disk.flush()
        with image.open("rb") as file:
            file.seek(100 * block)
            print(f"in the file: {file.read(19)!r}")
        assert disk.load(100, 1).rstrip() == b"the hundredth block"

        # A megabyte straight from pinned memory, from inside a page. The controller takes 512 KiB a
        # command, so these are two.
        with pf.Vmo(MIB + pf.PAGE_SIZE, name="buffer") as buffer:
            buffer.write(bytes(range(256)) * (MIB // 256), offset=64)
            with bti.pin(buffer, perms=pf.Perm.READ) as pmt:
                disk.write(pmt, lba=2048, blocks=MIB // block, offset=64)
            assert disk.load(2048, MIB // block) == buffer.read(64, MIB)

            # Eight reads at once. They may complete in any order; a ticket tells them apart.
            with bti.pin(buffer, perms=pf.Perm.WRITE) as pmt:
                tickets = {
                    disk.submit_read(pmt, lba=100, blocks=1, offset=number * block)
                    for number in range(8)
                }
                done = disk.reap(len(tickets))
                assert {found.ticket for found in done} == tickets
                assert all(found.error is None for found in done)
            print(f"8 reads at once: {buffer.read(7 * block, 19)!r} is in the eighth place")

            # A driver with a bug: memory is unpinned while the controller is to write to it.
            before = buffer.read()
            pmt = bti.pin(buffer, perms=pf.Perm.WRITE)
            disk.submit_read(pmt, lba=2048, blocks=8)
            pmt.unpin()
            (failed,) = disk.reap(1)
            assert isinstance(failed.error, CommandFailed)
            print(f"refused: {failed.error}")
            (fault,) = bus.faults
            assert fault.reason is pf.FaultReason.REVOKED
            print(f"stopped: {fault}")
            assert buffer.read() == before


if __name__ == "__main__":
    main()
