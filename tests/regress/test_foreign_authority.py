"""An authority of another kernel was as good as one of this.

`Vmo.replace_as_executable` took a vmex resource of any kernel, without that kernel's lock: a test's
own kernel could hand out what the program's does not have.
"""

from __future__ import annotations

import pytest

import pinfold as pf
from pinfold.errors import InvalidArgs

PAGE = pf.PAGE_SIZE
SYSTEM, VMEX = pf.ResourceKind.SYSTEM, 1


def test_a_vmex_resource_of_another_kernel_is_no_authority(process: pf.Process) -> None:
    """The handle is gone all the same. Source: zx_vmo_replace_as_executable."""
    other = pf.Process(pf.Kernel(), name="elsewhere")
    with pf.Resource(VMEX, 1, kind=SYSTEM, process=other) as foreign:
        vmo = pf.Vmo(PAGE, process=process)
        with pytest.raises(InvalidArgs, match="another kernel"):
            vmo.replace_as_executable(foreign)
        assert vmo.closed
    with (
        pf.Resource(VMEX, 1, kind=SYSTEM, process=process) as own,
        pf.Vmo(PAGE, process=process).replace_as_executable(own) as executable,
    ):
        assert executable.rights & pf.Right.EXECUTE
    other.exit()
