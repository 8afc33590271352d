"""A device that cannot be had: each reason has a class, and a remedy that works."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.buses.vfio.open import find_device, why_not
from pinfold.errors import (
    AccessDenied,
    BadState,
    HostError,
    InvalidArgs,
    NotFound,
    NotSupported,
    PinfoldError,
    Unavailable,
)
from pinfold.host import pci
from pinfold.testing.faults import FailNth, HostCalls
from tests.programs import run
from tests.vfio.real import opened

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.vfio("edu1")

UNPRIVILEGED = """
address = sys.argv[1]
give_up_privileges()
try:
    pf.open_bus(f"vfio:{address}", backend="type1")
    print(json.dumps({"class": "none"}))
except PinfoldError as error:
    print(json.dumps(told(error)))
"""


@contextmanager
def unbound(address: str) -> Iterator[None]:
    """The device without a driver."""
    device = Path("/sys/bus/pci/devices", address)
    (device / "driver/unbind").write_text(address)
    try:
        yield
    finally:
        if not (device / "driver").exists():
            (device / "driver_override").write_text("vfio-pci")
            Path("/sys/bus/pci/drivers_probe").write_text(address)


def test_a_device_without_vfio_pci_and_what_to_type(process: pf.Process, vfio_edu64: str) -> None:
    """The remedy's commands, typed as they stand, bind it."""
    (Path("/sys/bus/pci/devices", vfio_edu64) / "driver_override").write_text("\n")
    with unbound(vfio_edu64):
        with pytest.raises(BadState, match="not bound to vfio-pci") as raised:
            pf.open_bus(f"vfio:{vfio_edu64}", backend="type1")
        assert raised.value.holder == "no driver"
        assert isinstance(why_not(vfio_edu64), BadState)
        assert raised.value.remedy
        _, _, commands = raised.value.remedy.partition("modprobe vfio-pci; ")
        subprocess.run(["sh", "-ec", commands], check=True)
        with opened(vfio_edu64, backend="type1"):
            assert why_not(vfio_edu64) is None


def test_a_device_that_is_not_there(process: pf.Process, vfio_edu64: str) -> None:
    with pytest.raises(NotFound, match="no PCI device 0000:7f"):
        pf.open_bus("vfio:7f:1f.7")
    for wrong in ("", "edu", "0000:00:05", "0000:00:25.0", "0000:00:05.9"):
        with pytest.raises(InvalidArgs, match="PCI address"):
            pf.open_bus("vfio", address=wrong)
    with pytest.raises(InvalidArgs, match="name it"):
        pf.open_bus("vfio")
    with pytest.raises(InvalidArgs, match="backend"):
        pf.open_bus(f"vfio:{vfio_edu64}", backend="type9")


def test_a_device_that_is_in_use(process: pf.Process, vfio_edu64: str) -> None:
    with (
        opened(vfio_edu64, backend="type1"),
        pytest.raises(Unavailable, match="in use") as raised,
    ):
        pf.open_bus(f"vfio:{vfio_edu64}", backend="type1")
    assert raised.value.remedy
    assert "fuser" in raised.value.remedy


def test_whoever_does_not_own_the_group_is_told_so(vfio_edu64: str) -> None:
    """The kernel's own refusal, of a process without privileges."""
    told: dict[str, Any] = run(UNPRIVILEGED, vfio_edu64)
    device = find_device(vfio_edu64)
    assert told["class"] == "AccessDenied"
    assert f"chown nobody /dev/vfio/{device.group}" in told["text"]


@pytest.mark.parametrize(
    ("call", "number", "kind"),
    [
        ("open", errno.EPERM, AccessDenied),
        ("open", errno.ENOENT, NotSupported),
        ("open", errno.EIO, HostError),
        ("vfio_group_get_device_fd", errno.EBUSY, HostError),
        ("vfio_set_iommu", errno.ENODEV, HostError),
    ],
)
def test_a_refused_call_of_opening(
    process: pf.Process, vfio_edu64: str, call: str, number: int, kind: type[PinfoldError]
) -> None:
    """The group is the last file that is opened before the device is asked anything."""
    with HostCalls() as host:
        pf.open_bus(f"vfio:{vfio_edu64}", backend="type1").close()
    names = host.names[: host.names.index("vfio_device_get_info")]
    at = len(names) - names[::-1].index(call)
    with FailNth(at, number), pytest.raises(kind) as raised:
        pf.open_bus(f"vfio:{vfio_edu64}", backend="type1")
    assert isinstance(raised.value, PinfoldError)
    pf.open_bus(f"vfio:{vfio_edu64}", backend="type1").close()


def test_a_group_that_is_not_viable_names_who_is_in_it(
    process: pf.Process, vfio_edu64: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the kernel's flag taken away: a device that has such a neighbour is in no guest."""
    from dataclasses import replace

    from pinfold.host import vfio

    device = find_device(vfio_edu64)
    other = replace(device, address=pci.PciAddress(0, 0, 6, 1), driver="ahci")
    monkeypatch.setattr(vfio, "group_is_viable", lambda fd: False)
    monkeypatch.setattr(pci, "neighbours", lambda device: [other])
    with pytest.raises(BadState) as raised:
        pf.open_bus(f"vfio:{vfio_edu64}", backend="type1")
    assert raised.value.holder == "0000:00:06.1 (1234:11e8) on driver ahci"
    monkeypatch.undo()
    pf.open_bus(f"vfio:{vfio_edu64}", backend="type1").close()
    assert os.path.exists(f"/dev/vfio/{device.group}")
