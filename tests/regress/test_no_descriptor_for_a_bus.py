"""Without a descriptor left, an IOMMU was refused with an error of Python's.

The module of a bus is imported when the bus is first asked for. With no descriptor left that is an
OSError or an ImportError, which went through the call where C would have seen ZX_ERR_NO_MEMORY.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, resource, struct, sys
from pinfold.dialects import Out, zx

KIND = {kind}
DESCRIPTOR = {descriptor}
root = zx.root_resource()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, hard), hard))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
assert not any(name.startswith("pinfold.buses.") for name in sys.modules)
out = Out()
print(zx.zx_status_get_string(zx.zx_iommu_create(root, KIND, DESCRIPTOR, len(DESCRIPTOR), out)))
assert out.value is None
for fd in taken:
    os.close(fd)
print(zx.zx_status_get_string(zx.zx_iommu_create(root, KIND, DESCRIPTOR, len(DESCRIPTOR), out)))
assert zx.zx_handle_close(out.value) == 0
"""


@pytest.mark.parametrize(
    ("kind", "descriptor"),
    [(0, b"\0"), (1, (0xFED9_0000).to_bytes(8, "little") + b"\0\0\1" + bytes(5))],
    ids=["stub", "intel"],
)
def test_an_iommu_needs_no_descriptor_or_says_no_memory(kind: int, descriptor: bytes) -> None:
    """And once there are descriptors again the same call succeeds. Source: zx_iommu_create."""
    program = PROGRAM.format(kind=kind, descriptor=descriptor)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split() in (["ZX_ERR_NO_MEMORY", "ZX_OK"], ["ZX_OK", "ZX_OK"])
