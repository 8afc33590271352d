# The rows of zx_vmar_map for the error catalogue; see catalogue.py.
#
# The pages of zx_vmar_map and of the older mx_vmar_map name the conditions, Zircon's dispatcher and
# its placement rules say which of two mistakes is reported. Where a page promises an error that the
# kernel never raises, pinfold does as the kernel does, and the row says so.
from __future__ import annotations

from functools import partial
from typing import Final

from pinfold import Right
from pinfold.errors import (
    AccessDenied,
    AlreadyExists,
    BadHandle,
    BadState,
    BufferTooSmall,
    InvalidArgs,
    NoMemory,
    NoResources,
    NotSupported,
    OutOfRange,
    Status,
    WrongType,
)
from pinfold.objects.vmoption import VmOption
from pinfold.units import PAGE_SIZE, UINT64_MAX
from tests.catalogue_vmar_acts import (
    NO_SUCH_ALIGNMENT,
    OVERWRITE,
    PAGES,
    READ,
    READ_WRITE,
    SPECIFIC,
    UNKNOWN_OPTION,
    UPPER,
    closed_region,
    closed_vmo,
    contiguous_stream,
    destroyed,
    discardable,
    host_refuses,
    no_gap,
    not_a_vmo,
    over_a_mapping,
    over_a_region,
    over_a_view,
    plain_map,
    strictly,
)
from tests.stage import CannotHappen, Case

MAP: Final = "zx_vmar_map"

case: Final = partial(Case, MAP)
cannot: Final = partial(CannotHappen, MAP)


VMAR_ROWS: Final[tuple[Case | CannotHappen, ...]] = (
    case(Status.BAD_HANDLE, "the Vmar is closed", BadHandle, closed_region, remedy=False),
    case(Status.BAD_HANDLE, "the Vmo is closed", BadHandle, closed_vmo, remedy=False),
    cannot(
        Status.WRONG_TYPE,
        "the call is made on something that is not a VMAR",
        "`map` is a method of `Vmar`.",
    ),
    case(
        Status.WRONG_TYPE, "what is to be mapped is not a Vmo", WrongType, not_a_vmo, remedy=False
    ),
    case(
        Status.BAD_STATE,
        "the region is destroyed",
        BadState,
        destroyed,
        facts=("asked",),
        varies=("address",),
    ),
    case(
        Status.BAD_STATE,
        "a mapping that would be replaced is shown by a live view (ours: Zircon has no views)",
        BadState,
        over_a_view,
        facts=("asked", "holder"),
        varies=("address",),
    ),
    case(
        Status.ACCESS_DENIED,
        "the Vmo lacks MAP",
        AccessDenied,
        plain_map(vmo_lacks=Right.MAP),
        facts=("missing",),
    ),
    case(
        Status.ACCESS_DENIED,
        "to be read, and the Vmo lacks READ",
        AccessDenied,
        plain_map(vmo_lacks=Right.READ),
        facts=("missing",),
    ),
    case(
        Status.ACCESS_DENIED,
        "to be written, and the Vmo lacks WRITE",
        AccessDenied,
        plain_map(READ_WRITE, vmo_lacks=Right.WRITE),
        facts=("missing",),
    ),
    case(
        Status.ACCESS_DENIED,
        "to be executed, and the Vmo lacks EXECUTE, as every Vmo does at first",
        AccessDenied,
        plain_map(READ | VmOption.PERM_EXECUTE),
        facts=("missing",),
    ),
    case(
        Status.ACCESS_DENIED,
        "to be written, and the handle to the region lacks WRITE",
        AccessDenied,
        plain_map(READ_WRITE, vmar_lacks=Right.WRITE),
        facts=("missing",),
    ),
    case(
        Status.ACCESS_DENIED,
        "the region was allocated without CAN_MAP_READ, and so without the right",
        AccessDenied,
        plain_map(region=VmOption.CAN_MAP_WRITE),
        facts=("missing",),
    ),
    case(
        Status.ACCESS_DENIED,
        "to be placed in a region that was allocated without CAN_MAP_SPECIFIC",
        AccessDenied,
        plain_map(READ | SPECIFIC, region=VmOption.CAN_MAP_READ, offset=PAGE_SIZE),
    ),
    case(
        Status.INVALID_ARGS,
        "an option has a bit that means nothing",
        InvalidArgs,
        plain_map(READ | UNKNOWN_OPTION),
        facts=("asked", "limit"),
    ),
    case(
        Status.INVALID_ARGS,
        "the alignment is none there is",
        InvalidArgs,
        plain_map(READ | NO_SUCH_ALIGNMENT),
        facts=("asked", "limit"),
    ),
    case(
        Status.INVALID_ARGS,
        "PERM_WRITE without PERM_READ",
        InvalidArgs,
        plain_map(VmOption.PERM_WRITE),
        facts=("asked",),
    ),
    case(
        Status.INVALID_ARGS,
        "an option that is for regions: CAN_MAP_READ",
        InvalidArgs,
        plain_map(READ | VmOption.CAN_MAP_READ),
        facts=("asked",),
    ),
    case(
        Status.INVALID_ARGS,
        "an option that is for regions: COMPACT",
        InvalidArgs,
        plain_map(READ | VmOption.COMPACT),
        facts=("asked",),
    ),
    case(
        Status.INVALID_ARGS,
        "MAP_RANGE and SPECIFIC_OVERWRITE together",
        InvalidArgs,
        plain_map(READ | VmOption.MAP_RANGE | OVERWRITE),
        facts=("asked",),
    ),
    case(
        Status.INVALID_ARGS,
        "SPECIFIC and OFFSET_IS_UPPER_LIMIT together",
        InvalidArgs,
        plain_map(READ | SPECIFIC | UPPER, offset=PAGE_SIZE),
    ),
    case(
        Status.INVALID_ARGS,
        "an offset, and no option that says what it is for",
        InvalidArgs,
        plain_map(offset=PAGE_SIZE),
        facts=("asked",),
    ),
    case(
        Status.INVALID_ARGS,
        "that, in a region that lets nobody choose addresses: the offset is reported",
        InvalidArgs,
        plain_map(region=VmOption.CAN_MAP_READ, offset=PAGE_SIZE),
        facts=("asked",),
    ),
    case(
        Status.INVALID_ARGS,
        "the offset is not a multiple of the page size",
        InvalidArgs,
        plain_map(READ | SPECIFIC, offset=1),
        facts=("asked", "limit"),
    ),
    case(
        Status.INVALID_ARGS,
        "the offset into the Vmo is not a multiple of the page size",
        InvalidArgs,
        plain_map(vmo_offset=1),
        facts=("asked", "limit"),
    ),
    case(
        Status.INVALID_ARGS,
        "the size is 0",
        InvalidArgs,
        plain_map(size=0),
        facts=("asked",),
    ),
    case(
        Status.INVALID_ARGS,
        "the place is partly outside of the region",
        InvalidArgs,
        plain_map(READ | SPECIFIC, offset=(PAGES - 1) * PAGE_SIZE),
        facts=("asked", "limit"),
    ),
    case(
        Status.INVALID_ARGS,
        "larger than the region, wherever it is put",
        InvalidArgs,
        plain_map(size=(PAGES + 1) * PAGE_SIZE),
        facts=("asked", "limit"),
    ),
    case(
        Status.INVALID_ARGS,
        "larger than what lies below the upper limit",
        InvalidArgs,
        plain_map(READ | UPPER, offset=PAGE_SIZE),
        facts=("asked", "available", "limit"),
    ),
    case(
        Status.INVALID_ARGS,
        "SPECIFIC_OVERWRITE, and a region is in the way; the mappings beside it stay",
        InvalidArgs,
        over_a_region,
        facts=("asked",),
        varies=("address",),
    ),
    cannot(
        Status.INVALID_ARGS,
        "where the address goes is not a valid pointer",
        "It is returned, as `Mapping.address`.",
    ),
    case(
        Status.OUT_OF_RANGE,
        "the offset into the Vmo plus the size overflows (the page says INVALID_ARGS)",
        OutOfRange,
        plain_map(vmo_offset=UINT64_MAX + 1 - PAGE_SIZE, size=2 * PAGE_SIZE),
        facts=("asked", "limit"),
    ),
    case(
        Status.ALREADY_EXISTS,
        "SPECIFIC, and a mapping is there",
        AlreadyExists,
        over_a_mapping,
        facts=("asked", "holder"),
        varies=("address",),
    ),
    case(
        Status.NOT_SUPPORTED,
        "REQUIRE_NON_RESIZABLE, and the Vmo is resizable",
        NotSupported,
        plain_map(READ | VmOption.REQUIRE_NON_RESIZABLE, resizable=True),
    ),
    case(
        Status.NOT_SUPPORTED,
        "FAULT_BEYOND_STREAM_SIZE, and the Vmo is contiguous, or device memory: it has no stream",
        NotSupported,
        contiguous_stream,
    ),
    case(
        Status.NOT_SUPPORTED,
        "the Vmo is discardable, and ALLOW_FAULTS is not given",
        NotSupported,
        discardable,
    ),
    case(
        Status.NOT_SUPPORTED,
        'the Vmo is resizable, and ALLOW_FAULTS is not given: with `Kernel(strict="docs")` only, '
        "as the kernel maps it",
        NotSupported,
        strictly(plain_map(resizable=True)),
    ),
    case(
        Status.BUFFER_TOO_SMALL,
        'the range leaves the Vmo, and ALLOW_FAULTS is not given: with `Kernel(strict="docs")` '
        "only, as the kernel maps it",
        BufferTooSmall,
        strictly(plain_map(size=3 * PAGE_SIZE)),
        facts=("asked", "limit"),
    ),
    case(
        Status.NO_RESOURCES,
        "no gap of the size is left in the region",
        NoResources,
        no_gap,
        facts=("asked", "available", "limit"),
        varies=("address",),
    ),
    case(
        Status.NO_MEMORY,
        "the host is out of mappings, or of memory for one",
        NoMemory,
        host_refuses,
        facts=("asked",),
    ),
)
