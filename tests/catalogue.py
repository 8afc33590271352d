# The error catalogue: every documented error of zx_bti_pin, zx_pmt_unpin and zx_vmar_map, as data.
#
# A row is either a `Case`, which can be provoked on real objects, or a `CannotHappen`: a mistake
# that a C caller can make and a Python caller cannot, with the reason. The tests provoke every case
# and hold it to its class and its facts; docs/generate.py provokes them again and prints what each
# one says. So the page in the manual cannot drift from the code.
#
# Sources: the ERRORS sections of the three calls' pages; Zircon's dispatchers for the order of the
# checks and for what the pages leave out. Where two mistakes are made at once, the row says which
# of them is reported: callers that are ported depend on it.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from pinfold import AddrForm, Perm, Right, Vmo
from pinfold.errors import (
    AccessDenied,
    BadHandle,
    BadState,
    InvalidArgs,
    LimitReached,
    NoMemory,
    OutOfRange,
    OutOfReach,
    Status,
    Unavailable,
    WrongType,
)
from pinfold.memory.counts import MAX_PINS
from pinfold.units import MIB, PAGE_SIZE
from tests.catalogue_vmar import VMAR_ROWS
from tests.stage import CannotHappen, Case, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    Act = Callable[[], object]

PIN: Final = "zx_bti_pin"
UNPIN: Final = "zx_pmt_unpin"

UNKNOWN_PERM: Final = 0x20
"""A bit that is no permission."""

FAR_TOO_MUCH: Final = 1 << 47
"""Bytes: more than any machine has, and less than a file can say it has."""


def plain_pin(
    offset: int = 0,
    size: int | None = None,
    *,
    perms: Perm | int = Perm.READ,
    form: AddrForm = AddrForm.PER_PAGE,
    vmo_lacks: Right = Right.NONE,
    bti_lacks: Right = Right.NONE,
    quarantined: bool = False,
) -> Callable[[Stage], Act]:
    """Pin a part of an object of two pages; what is wrong with the call is in the arguments."""

    def arrange(stage: Stage) -> Act:
        bti = stage.weaker(
            stage.quarantined_bti() if quarantined else stage.bti(), without=bti_lacks
        )
        vmo = stage.weaker(stage.vmo(), without=vmo_lacks)
        return lambda: bti.pin(vmo, offset, size, perms=perms, form=form)

    return arrange


def closed_bti(stage: Stage) -> Act:
    bti, vmo = stage.bti(), stage.vmo()
    bti.close()
    return lambda: bti.pin(vmo, perms=Perm.READ)


def closed_vmo(stage: Stage) -> Act:
    bti, vmo = stage.bti(), stage.vmo()
    vmo.close()
    return lambda: bti.pin(vmo, perms=Perm.READ)


def pinned_too_often(stage: Stage) -> Act:
    """The second page of two has all the pins it can have; the first must not keep one."""
    bti, vmo = stage.bti(), stage.vmo()
    for _ in range(MAX_PINS):
        stage.keep(bti.pin(vmo, PAGE_SIZE, PAGE_SIZE, perms=Perm.READ))
    return lambda: bti.pin(vmo, perms=Perm.READ)


def over_the_pin_limit(stage: Stage) -> Act:
    bti = stage.bti()
    stage.keep(bti.pin(stage.vmo(1, name="rx"), perms=Perm.READ))
    vmo = stage.vmo(2, name="tx")
    return lambda: bti.pin(vmo, perms=Perm.READ)


def more_than_the_host_has(stage: Stage) -> Act:
    bti = stage.bti()
    vmo = stage.keep(Vmo(FAR_TOO_MUCH, name="huge", process=stage.process))
    return lambda: bti.pin(vmo, perms=Perm.READ)


def no_device_addresses_left(stage: Stage) -> Act:
    """The bus has an aperture of 1 MiB, and one grant and its guard have more than half."""
    bti = stage.bti(aperture=(MIB, 2 * MIB))
    stage.keep(bti.pin(stage.vmo(MIB // PAGE_SIZE // 2, name="rx"), perms=Perm.READ))
    vmo = stage.vmo(MIB // PAGE_SIZE // 2, name="tx")
    return lambda: bti.pin(vmo, perms=Perm.READ)


def beyond_the_device(stage: Stage) -> Act:
    """Without an IOMMU, memory lies where it lies; a device with 20 address bits sees 1 MiB."""
    bti, vmo = stage.bti("stub", address_bits=20), stage.vmo()
    return lambda: bti.pin(vmo, perms=Perm.READ)


def pins_a_bti(stage: Stage) -> Act:
    bti, other = stage.bti(), stage.bti()
    return lambda: bti.pin(cast("Any", other), perms=Perm.READ)


def unpinned_before(stage: Stage) -> Act:
    pmt = stage.bti().pin(stage.vmo(), perms=Perm.READ)
    pmt.unpin()
    return pmt.unpin


BTI_PIN_ROWS: Final[tuple[Case | CannotHappen, ...]] = (
    Case(PIN, Status.BAD_HANDLE, "the Bti is closed", BadHandle, closed_bti, remedy=False),
    Case(PIN, Status.BAD_HANDLE, "the Vmo is closed", BadHandle, closed_vmo, remedy=False),
    CannotHappen(
        PIN,
        Status.WRONG_TYPE,
        "the call is made on something that is not a BTI",
        "`pin` is a method of `Bti`.",
    ),
    Case(PIN, Status.WRONG_TYPE, "what is to be pinned is not a VMO", WrongType, pins_a_bti),
    Case(
        PIN,
        Status.ACCESS_DENIED,
        "the Bti lacks MAP",
        AccessDenied,
        plain_pin(bti_lacks=Right.MAP),
        facts=("missing",),
    ),
    Case(
        PIN,
        Status.ACCESS_DENIED,
        "the Vmo lacks MAP",
        AccessDenied,
        plain_pin(vmo_lacks=Right.MAP),
        facts=("missing",),
    ),
    Case(
        PIN,
        Status.ACCESS_DENIED,
        "the device is to read, and the Vmo lacks READ",
        AccessDenied,
        plain_pin(vmo_lacks=Right.READ),
        facts=("missing",),
    ),
    Case(
        PIN,
        Status.ACCESS_DENIED,
        "the device is to write, and the Vmo lacks WRITE",
        AccessDenied,
        plain_pin(perms=Perm.WRITE, vmo_lacks=Right.WRITE),
        facts=("missing",),
    ),
    Case(
        PIN,
        Status.ACCESS_DENIED,
        "the device is to execute, and the Vmo lacks READ; EXECUTE does not help",
        AccessDenied,
        plain_pin(perms=Perm.EXECUTE, vmo_lacks=Right.READ),
        facts=("missing",),
    ),
    Case(
        PIN,
        Status.ACCESS_DENIED,
        "no bytes are asked for and the Vmo lacks READ: the right is reported",
        AccessDenied,
        plain_pin(0, 0, vmo_lacks=Right.READ),
        facts=("missing",),
    ),
    Case(
        PIN,
        Status.INVALID_ARGS,
        "the offset is not a multiple of the page size",
        InvalidArgs,
        plain_pin(1, PAGE_SIZE),
        facts=("asked", "limit"),
    ),
    Case(
        PIN,
        Status.INVALID_ARGS,
        "the size is not a multiple of the page size",
        InvalidArgs,
        plain_pin(0, PAGE_SIZE + 1),
        facts=("asked", "limit"),
    ),
    Case(
        PIN,
        Status.INVALID_ARGS,
        "the offset is negative",
        InvalidArgs,
        plain_pin(-PAGE_SIZE, PAGE_SIZE),
        facts=("asked", "limit"),
    ),
    Case(
        PIN,
        Status.INVALID_ARGS,
        "the size is 0 (the page does not say so, the kernel does)",
        InvalidArgs,
        plain_pin(0, 0),
        facts=("asked",),
    ),
    Case(
        PIN,
        Status.INVALID_ARGS,
        "the device is to do nothing",
        InvalidArgs,
        plain_pin(perms=Perm.NONE),
        facts=("asked",),
    ),
    Case(
        PIN,
        Status.INVALID_ARGS,
        "a permission has a bit that means nothing",
        InvalidArgs,
        plain_pin(perms=Perm.READ | UNKNOWN_PERM),
        facts=("asked", "limit"),
    ),
    Case(
        PIN,
        Status.INVALID_ARGS,
        "one address is asked for, of an object that is not contiguous",
        InvalidArgs,
        plain_pin(form=AddrForm.CONTIGUOUS),
    ),
    Case(
        PIN,
        Status.INVALID_ARGS,
        "that, and the range leaves the object: the form is reported",
        InvalidArgs,
        plain_pin(0, 3 * PAGE_SIZE, form=AddrForm.CONTIGUOUS),
    ),
    CannotHappen(
        PIN,
        Status.INVALID_ARGS,
        "COMPRESS and CONTIGUOUS are both asked for",
        "`form` is one `AddrForm`.",
    ),
    CannotHappen(
        PIN,
        Status.INVALID_ARGS,
        "the array of addresses, or where the token goes, is not a valid pointer",
        "Both are returned.",
    ),
    CannotHappen(
        PIN,
        Status.INVALID_ARGS,
        "the array of addresses has the wrong length",
        "`Pmt.addrs` is made with the right one.",
    ),
    Case(
        PIN,
        Status.OUT_OF_RANGE,
        "the range leaves the object",
        OutOfRange,
        plain_pin(PAGE_SIZE, 2 * PAGE_SIZE),
        facts=("asked", "limit"),
    ),
    Case(
        PIN,
        Status.OUT_OF_RANGE,
        "that, and the device is to do nothing: the range is reported",
        OutOfRange,
        plain_pin(0, 3 * PAGE_SIZE, perms=Perm.NONE),
        facts=("asked", "limit"),
    ),
    Case(
        PIN,
        Status.UNAVAILABLE,
        f"a page of the range has {MAX_PINS} pins already; the other pages keep none of this call",
        Unavailable,
        pinned_too_often,
        facts=("asked", "limit"),
    ),
    Case(
        PIN,
        Status.BAD_STATE,
        "a pin of this Bti is in quarantine (the page does not say so, the kernel does)",
        BadState,
        plain_pin(quarantined=True),
        facts=("holder",),
    ),
    Case(
        PIN,
        Status.BAD_STATE,
        "that, and the device is to do nothing: the quarantine is reported",
        BadState,
        plain_pin(perms=Perm.NONE, quarantined=True),
        facts=("holder",),
    ),
    Case(
        PIN,
        Status.NO_MEMORY,
        "the kernel's limit on pinned memory would be passed",
        LimitReached,
        over_the_pin_limit,
        facts=("asked", "available", "limit", "holder"),
        max_pinned=2 * PAGE_SIZE,
    ),
    Case(
        PIN,
        Status.NO_MEMORY,
        "the host has no memory for the absent pages",
        NoMemory,
        more_than_the_host_has,
        facts=("asked", "available"),
        varies=("available",),
    ),
    Case(
        PIN,
        Status.NO_MEMORY,
        "the bus has no device addresses left",
        LimitReached,
        no_device_addresses_left,
        facts=("asked", "available", "limit", "holder"),
    ),
    Case(
        PIN,
        Status.NO_MEMORY,
        "the device has too few address bits for where the memory lies",
        OutOfReach,
        beyond_the_device,
        facts=("asked", "limit", "extent"),
    ),
)

PMT_UNPIN_ROWS: Final[tuple[Case | CannotHappen, ...]] = (
    Case(
        UNPIN,
        Status.BAD_HANDLE,
        "the Pmt was unpinned or closed before",
        BadHandle,
        unpinned_before,
        remedy=False,
    ),
    CannotHappen(
        UNPIN,
        Status.WRONG_TYPE,
        "the handle, which is consumed all the same, is not to a pin",
        "`unpin` is a method of `Pmt`.",
    ),
)

ROWS: Final = BTI_PIN_ROWS + PMT_UNPIN_ROWS + VMAR_ROWS
CASES: Final = tuple(row for row in ROWS if isinstance(row, Case))
