"""Have a disk read into memory that is held in place, and check every block on the way.

Run it: python examples/io_uring_file.py [FILE]. It needs no privilege, but a kernel with io_uring.
The device is the kernel's block layer: it reads and writes by device address, what was pinned for
it and nothing else. Without FILE it makes one for itself.

Half of the memory is checked while the disk fills the other half.
"""

import sys
import tempfile
import zlib
from pathlib import Path

import pinfold as pf
from pinfold.errors import DmaFault

BLOCK = 64 * 1024
HALF = 16 * BLOCK


def checksums(path: Path) -> list[int]:
    """The CRC of each 64 KiB of a file, read past the page cache where that can be."""
    found: list[int] = []
    with (
        pf.open_bus("io_uring") as bus,
        bus.file(path, depth=16) as disk,
        pf.Vmo(2 * HALF, name="blocks") as memory,
        disk.pin(memory, perms=pf.Perm.WRITE) as pmt,  # the disk writes to memory
    ):
        start, size = int(pmt.addrs[0]), disk.file_statistics().size
        view = memory.view()
        halves = range(0, size, HALF)

        def read(number: int) -> pf.bus.FileBatch:
            """Hand over the reads of a half; they go on by themselves."""
            inside, offset = number % 2 * HALF, halves[number]
            return disk.submit(
                [(False, start + inside + at, BLOCK, offset + at) for at in range(0, HALF, BLOCK)]
            )

        batch = read(0) if halves else None
        for number in range(len(halves)):
            outcomes = batch.finish()
            outcomes.raise_first()
            if number + 1 < len(halves):
                batch = read(number + 1)
            inside = number % 2 * HALF
            for index, moved in enumerate(outcomes.moved.tolist()):  # fewer bytes at the end
                at = inside + index * BLOCK
                if moved:
                    found.append(zlib.crc32(view[at : at + moved]))
        view.release()
        print(disk.file_statistics())
    return found


def stray(path: Path) -> str:
    """A transfer to memory that was not granted moves nothing, and says what it was near."""
    with (
        pf.open_bus("io_uring") as bus,
        bus.file(path) as disk,
        pf.Vmo(BLOCK, name="small") as memory,
        disk.pin(memory, perms=pf.Perm.WRITE) as pmt,
    ):
        try:
            disk.read(int(pmt.addrs[0]) + 100, BLOCK, at=0)
        except DmaFault as error:
            return str(error)
    return "the file is shorter than a block"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder, "file")
        if len(sys.argv) < 2:
            path.write_bytes(bytes(range(256)) * 20_000 + b"and a tail")
        found = checksums(path)
        content = path.read_bytes()
        assert found == [
            zlib.crc32(content[at : at + BLOCK]) for at in range(0, len(content), BLOCK)
        ]
        print(f"{len(found)} blocks of {len(content)} bytes: all as they are in the file")
        print(stray(path))
    print("ok")


if __name__ == "__main__":
    main()
