# Magenta's calls on IOMMUs and bus transaction initiators: the draft that no release had.
#
# Source: mx_bti_pin, mx_bti_unpin, mx_bti_create, mx_iommu_create of August 2017, and the kernel of
# that draft for the order of checks. Checks and order are the objects'; here numbers become handles
# and buffers.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from pinfold import sites
from pinfold.dialects.calling import (
    face,
    give,
    handle_of,
    number_of,
    over_bus,
    pointed,
    readable,
    slot,
    u32,
    u64,
    writable,
)
from pinfold.dialects.mx import numbers as mx
from pinfold.dialects.mx.status import syscall
from pinfold.errors import InvalidArgs
from pinfold.objects.iommu import Iommu
from pinfold.objects.magenta import making, pins
from pinfold.objects.process import current_process

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pinfold.dialects.calling import Out
    from pinfold.objects.process import Process

_ADDRESS_BYTES: Final = 8

_roots: WeakKeyDictionary[Process, int] = WeakKeyDictionary()
"""The number of the root resource that each process has been given."""


def root_resource() -> int:
    """The root resource of the current process, which a C program gets from its loader.

    Made on first use, and again when it was closed.
    """
    process = current_process()
    number = _roots.get(process, mx.MX_HANDLE_INVALID)
    if number not in process.handles:
        number = _roots[process] = number_of(making.root_resource(process))
    return number


@syscall
def mx_iommu_create(rsrc: int, type: int, desc: Any, desc_len: int, out: Out | None) -> None:  # noqa: A002 - the call's name
    """An IOMMU: ``mx_iommu_create(mx_handle_t, uint32_t, const void*, uint32_t, mx_handle_t*)``.

    MX_IOMMU_TYPE_DUMMY is the stub bus: device addresses are simulated physical addresses.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE, ACCESS_DENIED: ``rsrc`` names nothing, is no resource, is not the root
        resource.
      INVALID_ARGS: the descriptor is longer than MX_IOMMU_MAX_DESC_LEN; then, it cannot be read.
      NOT_SUPPORTED: there is no such type.
      INVALID_ARGS: the descriptor is not one byte; last, ``out`` is NULL.
    """
    rsrc, type_, view = u32(rsrc), u32(type), pointed(desc)
    desc_len, out = u32(desc_len), slot(out)
    give(out, making.create_iommu(face(rsrc), type_, readable(view, desc_len), desc_len))


@syscall
def iommu_from_bus(bus: Any, out: Out | None) -> None:
    """A handle over an open bus, which Magenta does not have.

    Args:
      bus: a `pinfold.bus.Bus`, or an `Iommu` of which the handle is to be another one.

    Errors: WRONG_TYPE (neither), BAD_HANDLE (a closed Iommu), ALREADY_EXISTS (the bus has an
    Iommu), INVALID_ARGS (of another kernel; ``out`` is NULL).
    """
    out = slot(out)
    give(out, over_bus(bus))


@syscall
def mx_bti_create(iommu: int, bti_id: int, out: Out | None) -> None:
    """A device's authority: ``mx_bti_create(mx_handle_t, uint64_t, mx_handle_t*)``.

    Any number of them may have one ``bti_id``; each has its own pins.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``iommu`` names nothing, is no IOMMU.
      INVALID_ARGS: the IOMMU serves no such device; last, ``out`` is NULL.
    """
    iommu, bti_id, out = u32(iommu), u64(bti_id), slot(out)
    give(out, making.create_bti(handle_of(iommu, Iommu), bti_id))


@syscall
def mx_bti_pin(
    bti: int,
    vmo: int,
    offset: int,
    size: int,
    perms: int,
    addrs: Any,
    addrs_len: int,
    actual_addrs_len: Out | None,
) -> None:
    """Pin pages and grant a device access to them: ``mx_bti_pin(mx_handle_t, mx_handle_t, uint64_t,
    uint64_t, uint32_t, uint64_t*, uint32_t, uint32_t*)``.

    Nothing is committed: the pages have memory already. ``addrs`` gets one native 64-bit number a
    page, or a single one where the device finds all of the range in one run: always for a range
    within one page, for contiguous memory, and on a bus that translates. The pin belongs to
    the BTI, and ends by mx_bti_unpin with the same addresses, or with the BTI's last handle.

    Args:
      offset: bytes, page-aligned.
      size: bytes, of any number above 0.
      perms: MX_VM_FLAG_PERM_READ, _WRITE, _EXECUTE, alone or together.
      addrs_len: how many addresses there is room for.
      actual_addrs_len: gets how many there are.

    Errors, in this order:
      INVALID_ARGS: ``offset`` is unaligned.
      BAD_HANDLE, ACCESS_DENIED, WRONG_TYPE: ``bti`` names nothing, lacks MAP, is no BTI.
      BAD_HANDLE, WRONG_TYPE: ``vmo`` names nothing, is no VMO.
      ACCESS_DENIED: ``vmo`` lacks MAP; then, READ, WRITE or EXECUTE as ``perms`` has it.
      INVALID_ARGS: an unknown bit in ``perms``.
      BAD_STATE: the bus has refused to take back an earlier pin of this BTI, or Zircon's calls left
        it a token in quarantine.
      NOT_SUPPORTED: device memory.
      OUT_OF_RANGE: the range leaves the VMO, to the byte.
      NOT_FOUND: a page has no memory; of a clone, nobody has written it. A page below that is
        pinned as often as can be is UNAVAILABLE, unless one below it is pinned by this BTI.
      ALREADY_BOUND: a page is pinned by this BTI; not with ``Kernel(strict="kernel")``.
      UNAVAILABLE: a page is pinned 31 times, or 30 times in contiguous memory.
      NO_MEMORY: the kernel's limit of pinned memory.
      INVALID_ARGS: ``perms`` is 0; or ``size``, which leaves no page to look at before.
      NO_MEMORY: the device's address space is full, or has no place within its reach.
      BUFFER_TOO_SMALL: there are more addresses than ``addrs_len``.
      INVALID_ARGS: ``addrs`` or ``actual_addrs_len`` cannot be written.

    After every error nothing is pinned, and no page has been given memory. Where a pin has to be
    undone and the bus refuses to take it back, the status is IO, and its pages stay held, until the
    last handle to the BTI is closed, which tries again.
    """
    bti, vmo, offset, size = u32(bti), u32(vmo), u64(offset), u64(size)
    perms, view, addrs_len, actual = (
        u32(perms),
        pointed(addrs),
        u32(addrs_len),
        slot(actual_addrs_len),
    )

    def write(addresses: NDArray[np.uint64]) -> None:
        room = writable(view, addresses.nbytes)
        if room is None or actual is None:
            raise InvalidArgs(
                "the addresses or their number cannot be written",
                asked=len(addresses),
                remedy="pass a writable buffer of 8 bytes for each address, and an Out()",
            )
        room[:] = memoryview(addresses.tobytes())
        actual.value = len(addresses)

    # Two frames are known to be ours: this one, and that of `syscall`.
    site = sites.caller(3)
    pins.pin(face(bti), face(vmo), offset, size, perms, addrs_len, write, site)


@syscall
def mx_bti_unpin(bti: int, addrs: Any, addrs_len: int) -> None:
    """Take a device's access back and let the pages go:
    ``mx_bti_unpin(mx_handle_t, const uint64_t*, uint32_t)``.

    A pin is named by all of the addresses that it gave, in their order. Of equal ones the oldest
    ends.

    Errors, in this order:
      BAD_HANDLE, ACCESS_DENIED, WRONG_TYPE: ``bti`` names nothing, lacks MAP, is no BTI.
      INVALID_ARGS: ``addrs`` is NULL or shorter than ``addrs_len``.
      BAD_STATE: the last handle to the BTI was closed meanwhile.
      INVALID_ARGS: no live pin of this BTI gave exactly these.
      IO: the bus refuses to take the access back. The pages stay held, the BTI makes no more pins,
        and the same call tries again.
    """
    bti, view, addrs_len = u32(bti), pointed(addrs), u32(addrs_len)
    found = readable(view, addrs_len * _ADDRESS_BYTES)
    pins.unpin(face(bti), None if found is None else bytes(found))
