# Which devices the tests may take from the machine, and why they may not where they may not.
#
# The rig's guest has them all (tests/rig/README.md). Elsewhere there are none: a test takes no
# device that nobody has set aside for it, whatever is bound to vfio-pci.
from __future__ import annotations

import os
from pathlib import Path

DEVICES = ("edu0", "edu1", "nvme")
"""QEMU's `edu` with 28 address bits, one with 64, and a disk that may be overwritten."""

REQUIRED = "PINFOLD_REQUIRE_VFIO"
"""Set to 1 where every test that needs a device has to run: there a skip is a failure."""

FOLDERS = ("buses", "drivers", "vfio")
"""Of tests: what `make test-vfio` collects. To collect all of them takes the guest minutes."""

NO_IOMMUFD = "the kernel has no iommufd"
NO_MAP_FILE = "the kernel has no IOMMU_IOAS_MAP_FILE"
"""The reasons to skip that may be good ones: Debian's kernels have neither (tests/rig/kernel)."""


def address(name: str) -> str | None:
    """The PCI address of one of `DEVICES`, from ``PINFOLD_VFIO_EDU0`` and its like; None: unset."""
    return os.environ.get(f"PINFOLD_VFIO_{name.upper()}")


def why_not(name: str) -> str | None:
    """What keeps a test from taking that device; None where nothing does."""
    at = address(name)
    if at is None:
        return "no device is bound to vfio-pci: run make test-vfio"
    driver = Path("/sys/bus/pci/devices", at, "driver")
    bound = driver.resolve().name if driver.exists() else "no driver"
    if bound != "vfio-pci":
        return f"{name}, {at}, is bound to {bound}, not to vfio-pci: run make test-vfio"
    return None


def required() -> bool:
    """Whether a skip is a failure here."""
    return os.environ.get(REQUIRED) == "1"


def excused(reason: str) -> bool:
    """Whether a skip for that reason is none, because the kernel is really without."""
    return reason == NO_MAP_FILE or (reason == NO_IOMMUFD and not Path("/dev/iommu").exists())
