"""What `import pinfold` offers, held to a list: a name that comes or goes is a decision."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pinfold as pf

NAMES = [
    "PAGE_SIZE",
    "TRANSFER",
    "AddrForm",
    "Anchor",
    "Bti",
    "Bus",
    "BusLimits",
    "BusMaster",
    "ByteRange",
    "CachePolicy",
    "DevVa",
    "Extent",
    "Extents",
    "Fault",
    "FaultReason",
    "FileInitiator",
    "HostVa",
    "Iommu",
    "Kernel",
    "Mapping",
    "Outcome",
    "Outcomes",
    "Perm",
    "PhysAddr",
    "PinfoldError",
    "PinnedBuffer",
    "Pmt",
    "PmtState",
    "Process",
    "Resource",
    "ResourceKind",
    "Right",
    "Signal",
    "VmOption",
    "Vmar",
    "VmarOp",
    "Vmo",
    "VmoChild",
    "current_process",
    "default_kernel",
    "open_bus",
    "pin",
]


def test_the_public_names() -> None:
    """And no others."""
    assert sorted(pf.__all__) == sorted(NAMES)
    assert all(hasattr(pf, name) for name in pf.__all__)


def test_everything_public_is_documented() -> None:
    """Classes, functions, and what the classes offer."""
    for name in pf.__all__:
        thing = getattr(pf, name)
        if not inspect.isclass(thing) and not inspect.isfunction(thing):
            continue
        assert inspect.getdoc(thing), name
        if not inspect.isclass(thing):
            continue
        for member, value in vars(thing).items():
            if member.startswith("_") or not (
                inspect.isfunction(value) or isinstance(value, property)
            ):
                continue
            assert inspect.getdoc(value), f"{name}.{member}"


def test_the_core_needs_no_extra() -> None:
    """`import pinfold` loads neither the command line's packages nor any bus."""
    program = (
        "import sys, pinfold; "
        "loaded = {m.split('.')[0] for m in sys.modules}; "
        "assert not loaded & {'typer', 'rich', 'click', 'hypothesis'}, loaded; "
        "assert not any(m.startswith('pinfold.buses') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
