"""Pins by number, and what there is to pin."""

from __future__ import annotations

import pinfold as pf
from pinfold.dialects import Out, zx
from pinfold.dialects.calling import number_of

from . import things
from .refused import name_of
from .things import PAGE, ok

READ, WRITE, EXECUTE = zx.ZX_BTI_PERM_READ, zx.ZX_BTI_PERM_WRITE, zx.ZX_BTI_PERM_EXECUTE
COMPRESS, CONTIGUOUS = zx.ZX_BTI_COMPRESS, zx.ZX_BTI_CONTIGUOUS
RW = READ | WRITE
MOST_ADDRESSES = 64 * PAGE // 8
MOST_PINS = 31
REGISTERS = 0xE000_0000
"""Device memory."""


def pin(bti: int, vmo: int, *, options: int = READ, offset: int = 0, size: int = PAGE) -> int:
    """A pin with an address a page that is to succeed."""
    count = size // PAGE
    made: int = ok(zx.zx_bti_pin, bti, options, vmo, offset, size, bytearray(8 * count), count)
    return made


def attempt(bti: int, vmo: int, count: int, **options: int) -> str:
    """The status of a pin, which is undone."""
    given = {"options": READ, "offset": 0, "size": PAGE} | options
    pmt = Out()
    found = zx.zx_bti_pin(
        bti,
        given["options"],
        vmo,
        given["offset"],
        given["size"],
        bytearray(8 * count),
        count,
        pmt,
    )
    if pmt.value is not None:
        assert zx.zx_pmt_unpin(pmt.value) == zx.ZX_OK
    return name_of(found)


def quarantined() -> int:
    """A BTI one of whose tokens was dropped."""
    bti = things.bti()
    assert zx.zx_handle_close(pin(bti, things.vmo())) == zx.ZX_OK
    return bti


def intel_bti() -> int:
    """A device behind an IOMMU with a minimum contiguity of 1 MiB."""
    descriptor = bytes(10) + b"\1" + bytes(5)
    root, kind = zx.root_resource(), zx.ZX_IOMMU_TYPE_INTEL
    iommu = ok(zx.zx_iommu_create, root, kind, descriptor, len(descriptor))
    made: int = ok(zx.zx_bti_create, iommu, 0, 0x310)
    return made


def contiguous(size: int) -> int:
    """Contiguous memory."""
    made: int = ok(zx.zx_vmo_create_contiguous, things.bti(), size, 0)
    return made


def device_memory(size: int) -> int:
    """A physical VMO."""
    resource = number_of(pf.Resource(REGISTERS, size))
    made: int = ok(zx.zx_vmo_create_physical, resource, REGISTERS, size)
    return made
