"""Pin a numpy array where it is, and watch the kernel's count of locked memory.

Nothing is copied and the array needs no preparation: its pages stay in memory until the end of the
block. Pins nest, so two parts of a program may pin overlapping pieces and need not know of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import pinfold as pf
from pinfold.errors import LimitReached


def locked() -> int:
    """VmLck: bytes of this process that the kernel keeps in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmLck":
            return int(value.split()[0]) << 10
    raise AssertionError("this kernel does not say what is locked")


def main() -> None:
    """Pin a megabyte twice over, then run into a limit of our own."""
    array = np.arange(1 << 17, dtype=np.float64)  # 1 MiB
    before = locked()
    print(f"before           VmLck {before:>9,}")

    with pf.pin(array) as whole:
        # Whole pages, so a little more than the array: numpy does not align to pages.
        assert locked() - before == whole.pages.size >= array.nbytes
        print(f"array pinned     VmLck {locked():>9,}  {whole.pages}")

        with pf.pin(array[:1000]) as part:
            assert locked() - before == whole.pages.size  # no page is locked twice
            print(f"a part as well   VmLck {locked():>9,}  {part.pages}")

        array *= 2  # it is the same array, and can be used as ever
        assert array[-1] == 2 * (array.size - 1)

    assert locked() == before
    print(f"after            VmLck {locked():>9,}")

    small = pf.Kernel(max_pinned=256 << 10)
    with pf.Process(small, name="careful"):
        try:
            pf.pin(array)
        except LimitReached as error:
            print(f"refused          {error}")
        else:
            raise AssertionError("a limit of 256 KiB let 1 MiB pass")
    assert locked() == before
    print("ok")


if __name__ == "__main__":
    main()
