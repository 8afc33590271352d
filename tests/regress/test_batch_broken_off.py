"""A batch whose preparation was broken off gave the kernel its old requests again.

What had been marked as prepared before the entries were made stayed so when making them raised: the
next `finish` handed over the entries of requests that had ended, to memory that had been told to be
done with, and `unpin` did not know of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.buses.io_uring.batch import Batch

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("process")
PAGE = pf.PAGE_SIZE
MANY = 1024  # as many as entries are made for at a time


def test_a_batch_goes_on_where_it_was_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"S" * PAGE)
    with (
        pf.open_bus("io_uring") as bus,
        bus.file(path, depth=8, direct=False) as disk,
        pf.Vmo(PAGE) as first,
        pf.Vmo(PAGE) as second,
        disk.pin(first, perms=pf.Perm.WRITE) as one,
        disk.pin(second, perms=pf.Perm.WRITE) as two,
    ):
        a, b = int(one.addrs[0]), int(two.addrs[0])
        batch = disk.submit([(False, a, 512, 0)] * MANY + [(False, b, 512, 0)] * MANY)
        real = Batch._entries  # noqa: SLF001 - where memory may run out

        def broken(*arguments: Any) -> Any:
            monkeypatch.setattr(Batch, "_entries", real)
            raise MemoryError

        monkeypatch.setattr(Batch, "_entries", broken)
        with pytest.raises(MemoryError):
            batch.finish()
        first.write(b"mine")
        outcomes = batch.finish()
        assert first.read(0, 4) == b"mine"  # the requests before were over, and are not made again
        assert outcomes.ok
        assert outcomes.bytes_moved == 2 * MANY * 512
        assert second.read(0, 512) == b"S" * 512
