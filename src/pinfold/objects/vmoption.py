# The options of address regions, and the checks that need nothing else.
#
# Source: <zircon/types.h>; Zircon's dispatcher for which call takes which.
from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from pinfold.errors import AccessDenied, InvalidArgs, NotSupported
from pinfold.rights import Right
from pinfold.units import PAGE_MASK, PAGE_SIZE

if TYPE_CHECKING:
    from pinfold.objects.memory_object import VmoObject


class VmOption(enum.IntFlag, boundary=enum.KEEP):
    """Options of address regions. The numbers are Zircon's."""

    NONE = 0
    PERM_READ = 1 << 0
    PERM_WRITE = 1 << 1
    PERM_EXECUTE = 1 << 2
    COMPACT = 1 << 3
    SPECIFIC = 1 << 4
    SPECIFIC_OVERWRITE = 1 << 5
    CAN_MAP_SPECIFIC = 1 << 6
    CAN_MAP_READ = 1 << 7
    CAN_MAP_WRITE = 1 << 8
    CAN_MAP_EXECUTE = 1 << 9
    MAP_RANGE = 1 << 10
    REQUIRE_NON_RESIZABLE = 1 << 11
    ALLOW_FAULTS = 1 << 12
    OFFSET_IS_UPPER_LIMIT = 1 << 13
    PERM_READ_IF_XOM_UNSUPPORTED = 1 << 14
    FAULT_BEYOND_STREAM_SIZE = 1 << 15

    @staticmethod
    def align(log2: int) -> VmOption:
        """Place at a multiple of ``2 ** log2`` bytes; ``log2`` is 10 to 32.

        Raises:
          InvalidArgs: another ``log2``.
        """
        if not _LEAST_ALIGN <= log2 <= _MOST_ALIGN:
            raise InvalidArgs(
                "an alignment is from 1 KiB to 4 GiB",
                asked=log2,
                limit=_MOST_ALIGN,
                remedy="give its logarithm, 10 to 32",
            )
        return VmOption(log2 << ALIGN_SHIFT)


# Plain ints: arithmetic on enum members costs more than the checks it would serve.
PERMS: Final = 0x7
COMPACT: Final = int(VmOption.COMPACT)
SPECIFIC: Final = int(VmOption.SPECIFIC)
OVERWRITE: Final = int(VmOption.SPECIFIC_OVERWRITE)
AT: Final = SPECIFIC | OVERWRITE
UPPER: Final = int(VmOption.OFFSET_IS_UPPER_LIMIT)
PLACED: Final = AT | UPPER
CAN_SPECIFIC: Final = int(VmOption.CAN_MAP_SPECIFIC)
CAN_SHIFT: Final = 7  # CAN_MAP_READ, WRITE, EXECUTE are PERM_READ, WRITE, EXECUTE shifted by it
CAN_RWX: Final = PERMS << CAN_SHIFT
RIGHT_SHIFT: Final = 2  # READ, WRITE, EXECUTE among the rights
MAP_RANGE: Final = int(VmOption.MAP_RANGE)
FIXED_SIZE: Final = int(VmOption.REQUIRE_NON_RESIZABLE)
ALLOW_FAULTS: Final = int(VmOption.ALLOW_FAULTS)
XOM: Final = int(VmOption.PERM_READ_IF_XOM_UNSUPPORTED)
STREAM: Final = int(VmOption.FAULT_BEYOND_STREAM_SIZE)
ALIGN_SHIFT: Final = 24
_LEAST_ALIGN, _MOST_ALIGN = 10, 32
FLAGS: Final = 0xFFFF
"""What is neither one of these nor the alignment is illegal."""

NOT_FOR_ALLOCATE: Final = OVERWRITE | FIXED_SIZE | ALLOW_FAULTS | STREAM | MAP_RANGE

_USUAL: Final = PERMS | SPECIFIC | OVERWRITE | UPPER  # of map: needs no look at the rest
_MAP: Final = int(Right.MAP)


def check_bits(options: int) -> None:
    """Raise `InvalidArgs` for a bit that no call takes, and for an alignment that there is not."""
    align = options >> ALIGN_SHIFT
    if options & ~FLAGS & (1 << ALIGN_SHIFT) - 1 or align >> 8:
        raise InvalidArgs(
            "an option that there is not",
            asked=options,
            limit=FLAGS,
            remedy="combine members of VmOption only",
        )
    if align and not _LEAST_ALIGN <= align <= _MOST_ALIGN:
        raise InvalidArgs(
            "an alignment is from 1 KiB to 4 GiB",
            asked=align,
            limit=_MOST_ALIGN,
            remedy="use VmOption.align",
        )


def check_perms(perms: int) -> None:
    """Raise `InvalidArgs` for WRITE or EXECUTE without READ: no mapping is so."""
    if perms and not perms & 1:
        raise InvalidArgs(
            "PERM_WRITE and PERM_EXECUTE need PERM_READ", asked=perms, remedy="add PERM_READ"
        )


def check_region_size(size: int) -> None:
    """Raise `InvalidArgs` for a region that would not have whole pages."""
    if size & PAGE_MASK:
        raise InvalidArgs(
            "a region has whole pages",
            asked=size,
            limit=PAGE_SIZE,
            remedy="round the size up to pages",
        )


def check_address(address: int) -> None:
    """Raise `InvalidArgs` for an absolute address that is none of a page."""
    if address & PAGE_MASK or address < 0:
        raise InvalidArgs(
            "an address is page-aligned, and not negative",
            asked=address,
            limit=PAGE_SIZE,
            remedy="give absolute addresses, as map returns them",
        )


def not_taken(call: str, options: int) -> InvalidArgs:
    """The error for options that ``call`` does not take."""
    return InvalidArgs(
        f"{call} does not take {VmOption(options)!r}",
        asked=options,
        remedy="leave it out: PERM options are for mappings, CAN_MAP options for regions",
    )


def check_map(options: int, vmo: VmoObject, vmo_rights: int, allowed: int) -> None:
    """Raise unless ``map`` takes these options for this memory object.

    Args:
      options: READ_IF_XOM_UNSUPPORTED has been resolved.
      vmo_rights: of the handle to the object.
      allowed: permissions that both handles allow.

    Source: Zircon's dispatcher, steps in its order; zx_vmar_map for what a strict kernel refuses.
    """
    if options & STREAM and (vmo.physical or vmo.contiguous):
        raise NotSupported(
            f"{vmo} has no stream size: it is contiguous or device memory",
            remedy="leave FAULT_BEYOND_STREAM_SIZE out",
        )
    if not vmo_rights & _MAP:
        raise AccessDenied(
            f"a handle to {vmo}", missing=_MAP, remedy="use a handle with that right"
        )
    perms = options & PERMS
    check_perms(perms)
    if options & (MAP_RANGE | CAN_RWX):
        if options & MAP_RANGE and options & OVERWRITE:
            raise InvalidArgs(
                "MAP_RANGE and SPECIFIC_OVERWRITE exclude each other",
                asked=options,
                remedy="leave MAP_RANGE out: pages are entered when they are touched",
            )
        if options & CAN_RWX:
            raise not_taken("map", options & CAN_RWX)
    denied = perms & ~allowed
    if denied:
        missing = denied << RIGHT_SHIFT
        lacking = f"a handle to {vmo}" if missing & ~vmo_rights else "the handle to the region"
        raise AccessDenied(lacking, missing=missing, remedy="use a handle with that right")
    usual = not options & ~_USUAL
    if not usual:
        if options & STREAM and not options & ALLOW_FAULTS:
            raise InvalidArgs(
                "FAULT_BEYOND_STREAM_SIZE needs ALLOW_FAULTS",
                asked=options,
                remedy="add ALLOW_FAULTS",
            )
        check_bits(options)
        if options & FIXED_SIZE and vmo.resizable:
            raise NotSupported(f"{vmo} is resizable", remedy="leave REQUIRE_NON_RESIZABLE out")
    if not options & ALLOW_FAULTS:
        if vmo.discardable:
            raise NotSupported(
                f"{vmo} is discardable: a touch may find it gone", remedy="add ALLOW_FAULTS"
            )
        if vmo.resizable and vmo.kernel.strict == "docs":
            raise NotSupported(
                f"{vmo} is resizable: a touch may find its end moved", remedy="add ALLOW_FAULTS"
            )
    if not usual and options & (COMPACT | CAN_SPECIFIC):
        raise not_taken("map", options & (COMPACT | CAN_SPECIFIC))
