"""RLIMIT_MEMLOCK and the kernel's log, as an ordinary user who owns the group has them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from pinfold.buses.vfio.open import find_device
from pinfold.host.vfio import group_path
from tests.programs import run

if TYPE_CHECKING:
    from collections.abc import Iterator

KIB = 1 << 10
MEMLOCK = 4096 * KIB
NOBODY = 65534

pytestmark = pytest.mark.vfio("edu1")

PROGRAM = """
address, limit = sys.argv[1], int(sys.argv[2])
give_up_privileges(memlock=limit)
iommu = pf.open_bus(f"vfio:{address}", backend="type1")
with iommu, iommu.initiator(iommu.bus.requester) as bti:
    found = {"locked": [locked()], "readable": iommu.bus.faults.readable}
    found["faults"] = iommu.bus.faults.total
    with pf.Vmo(limit) as vmo, pf.Vmo(PAGE_SIZE) as small:
        with bti.pin(vmo, 0, limit - PAGE_SIZE, perms=pf.Perm.READ):
            found["locked"].append(locked())
            with bti.pin(small, perms=pf.Perm.READ):
                try:
                    bti.pin(vmo, 0, PAGE_SIZE, perms=pf.Perm.READ)
                except LimitReached as error:
                    found["over"] = told(error)
            bti.pin(vmo, 0, PAGE_SIZE, perms=pf.Perm.READ).unpin()
        try:
            with pf.Vmo(limit + PAGE_SIZE) as large:
                bti.pin(large, perms=pf.Perm.READ)
        except LimitReached as error:
            found["large"] = told(error)
        found["locked"].append(locked())
        bti.pin(vmo, perms=pf.Perm.READ).unpin()
    found["locked"].append(locked())
print(json.dumps(found))
"""


@pytest.fixture
def owned(vfio_edu64: str) -> Iterator[str]:
    """The device, whose group belongs to nobody's user for the length of the test."""
    group = find_device(vfio_edu64).group
    assert group is not None
    path = group_path(group)
    before = os.stat(path)
    os.chown(path, NOBODY, before.st_gid)
    yield vfio_edu64
    os.chown(path, before.st_uid, before.st_gid)


def test_the_limit_on_locked_memory(owned: str) -> None:
    """Each grant is charged anew; what is refused says why, and holds nothing."""
    found: dict[str, Any] = run(PROGRAM, owned, str(MEMLOCK))
    page = os.sysconf("SC_PAGESIZE")
    assert found["locked"] == [0, MEMLOCK - page, 0, 0]
    over, large = found["over"], found["large"]
    assert (over["asked"], over["available"], over["limit"]) == (page, 0, MEMLOCK)
    assert "4 MiB" in over["holder"]
    for text in (over["text"], large["text"]):
        assert "RLIMIT_MEMLOCK" in text
        assert "ulimit -l" in text
        assert "CAP_IPC_LOCK" in text
    assert (large["asked"], large["available"]) == (MEMLOCK + page, MEMLOCK)
    assert found["faults"] == 0
