# Zircon's calls on resources, IOMMUs, bus transaction initiators and pinned memory tokens.
#
# Source: the zx_resource_*, zx_iommu_*, zx_bti_* and zx_pmt_* pages, and Zircon's kernel for the
# order of checks. Checks and order are the objects'; here numbers become handles and buffers, and
# nothing is decided but what a pointer that cannot be used gets, which is INVALID_ARGS.
#
# A pin whose addresses or token cannot be handed over is undone, not quarantined: nobody has seen
# an address of it.
from __future__ import annotations

from struct import Struct
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
)
from pinfold.dialects.zx import numbers as zx
from pinfold.dialects.zx.status import syscall
from pinfold.errors import InvalidArgs
from pinfold.objects.bti import Bti
from pinfold.objects.handle import NAME_BYTES
from pinfold.objects.iommu import Iommu
from pinfold.objects.pmt import Pmt
from pinfold.objects.process import current_process
from pinfold.objects.resource import Resource, ResourceKind

if TYPE_CHECKING:
    from pinfold.dialects.calling import Out
    from pinfold.objects.process import Process

_ADDRESS: Final = Struct("=Q")

_roots: WeakKeyDictionary[Process, dict[int, int]] = WeakKeyDictionary()
"""The numbers of the root resources that each process has been given, by kind."""


# Resources ----------------------------------------------------------------------------------------


def root_resource(kind: int = ResourceKind.ROOT) -> int:
    """The root resource of the current process, which a C program gets from its loader.

    Made on first use, and again when it was closed. With another kind, the resource of every
    address of that kind: what a newer Zircon hands out, which has no ROOT any more.

    Raises:
      InvalidArgs: there is no such kind.
    """
    process = current_process()
    numbers = _roots.setdefault(process, {})
    entry = process.handles.get(numbers.get(kind, zx.ZX_HANDLE_INVALID))
    if entry is None:
        numbers[kind] = number_of(Resource.root(kind, process=process))
    return numbers[kind]


@syscall
def zx_resource_create(
    parent: int, options: int, base: int, size: int, name: Any, name_size: int, out: Out | None
) -> None:
    """A resource over a part of another: ``zx_resource_create(zx_handle_t, uint32_t, uint64_t,
    size_t, const char*, size_t, zx_handle_t*)``.

    ``options`` is a ZX_RSRC_KIND_*, and ZX_RSRC_FLAG_EXCLUSIVE.

    Errors, in this order:
      INVALID_ARGS: ``base`` + ``size`` overflows.
      BAD_HANDLE, WRONG_TYPE, ACCESS_DENIED: ``parent`` names nothing, is no resource, lacks WRITE.
      INVALID_ARGS: the kind or a flag is unknown.
      ACCESS_DENIED: ``parent`` is of another kind, or does not hold the range; or the range is RAM.
      INVALID_ARGS: ``parent`` holds a part of its kind, and one of the two is exclusive; then, the
        name cannot be read; then, ``size`` is 0; last, ``out`` is NULL.
      NOT_FOUND: the kind has no such addresses, or they are spoken for exclusively.
    """
    parent, options, base, size = u32(parent), u32(options), u64(base), u64(size)
    view, name_size, out = pointed(name), u64(name_size), slot(out)
    text = readable(view, min(name_size, NAME_BYTES))
    made = Resource.child(
        face(parent),  # type: ignore[arg-type]  # looked at there, in its turn
        options & ~zx.ZX_RSRC_FLAG_EXCLUSIVE,
        base,
        size,
        exclusive=bool(options & zx.ZX_RSRC_FLAG_EXCLUSIVE),
        name=None if text is None else bytes(text),
    )
    give(out, made)


# IOMMUs -------------------------------------------------------------------------------------------


@syscall
def zx_iommu_create(resource: int, type: int, desc: Any, desc_size: int, out: Out | None) -> None:  # noqa: A002 - the page's name
    """An IOMMU: ``zx_iommu_create(zx_handle_t, uint32_t, const void*, size_t, zx_handle_t*)``.

    ZX_IOMMU_TYPE_STUB is the stub bus, ZX_IOMMU_TYPE_INTEL a sim bus for the devices of the
    descriptor, with a minimum contiguity of 1 MiB.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``resource`` names nothing; is neither the SYSTEM resource for IOMMUs
        nor the root resource.
      INVALID_ARGS: the descriptor is longer than ZX_IOMMU_MAX_DESC_LEN; then, it cannot be read.
      NOT_SUPPORTED: there is no such type here.
      INVALID_ARGS: the descriptor says something wrong; last, ``out`` is NULL.
    """
    resource, type_, view = u32(resource), u32(type), pointed(desc)
    desc_size, out = u64(desc_size), slot(out)
    text = readable(view, desc_size)
    give(out, Iommu.create(face(resource), type_, text, desc_size))


@syscall
def iommu_from_bus(bus: Any, out: Out | None) -> None:
    """A handle over an open bus, which Zircon does not have.

    Args:
      bus: a `pinfold.bus.Bus`, or an `Iommu` of which the handle is to be another one.

    Errors: WRONG_TYPE (neither), BAD_HANDLE (a closed Iommu), ALREADY_EXISTS (the bus has an
    Iommu), INVALID_ARGS (of another kernel; ``out`` is NULL).
    """
    out = slot(out)
    give(out, over_bus(bus))


# Bus transaction initiators -----------------------------------------------------------------------


@syscall
def zx_bti_create(iommu: int, options: int, bti_id: int, out: Out | None) -> None:
    """A device's authority: ``zx_bti_create(zx_handle_t, uint32_t, uint64_t, zx_handle_t*)``.

    Errors, in this order:
      INVALID_ARGS: ``options`` is not 0.
      BAD_HANDLE, WRONG_TYPE: ``iommu`` names nothing, is no IOMMU.
      INVALID_ARGS: the IOMMU serves no such device; last, ``out`` is NULL.
    """
    iommu, options, bti_id, out = u32(iommu), u32(options), u64(bti_id), slot(out)
    if options:
        raise InvalidArgs("there are no options", asked=options, remedy="give 0")
    give(out, handle_of(iommu, Iommu).initiator(bti_id))


@syscall
def zx_bti_pin(
    handle: int,
    options: int,
    vmo: int,
    offset: int,
    size: int,
    addrs: Any,
    num_addrs: int,
    pmt: Out | None,
) -> None:
    """Pin pages and grant a device access to them: ``zx_bti_pin(zx_handle_t, uint32_t, zx_handle_t,
    uint64_t, uint64_t, zx_paddr_t*, size_t, zx_handle_t*)``.

    ``addrs`` is a buffer of ``num_addrs`` native 64-bit unsigned numbers.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE, ACCESS_DENIED: ``handle`` names nothing, is no BTI, lacks MAP.
      INVALID_ARGS: ``offset`` or ``size`` is unaligned; ``num_addrs`` is more than any pin has.
      BAD_HANDLE, WRONG_TYPE, ACCESS_DENIED: ``vmo`` names nothing, is no VMO, lacks MAP or what
        ``options`` ask (ZX_BTI_PERM_EXECUTE asks for READ).
      INVALID_ARGS: an unknown option; COMPRESS and CONTIGUOUS; CONTIGUOUS of a VMO that is not;
        then, ``size`` is 0.
      OUT_OF_RANGE, NOT_FOUND, NO_MEMORY, UNAVAILABLE: the range leaves the VMO; it was discarded;
        no memory, or the limit of pinned memory; a page is pinned as often as a page can be.
      BAD_STATE: the BTI has tokens in quarantine.
      INVALID_ARGS: ``options`` permit nothing.
      NO_MEMORY: the device's address space is full, or has no place within its reach.
      INVALID_ARGS: ``num_addrs`` is not the number of addresses; then, ``addrs`` or ``pmt`` cannot
        be written.

    After every error nothing is pinned; pages may have been committed.
    """
    handle, options, vmo = u32(handle), u32(options), u32(vmo)
    offset, size, view = u64(offset), u64(size), pointed(addrs)
    num_addrs, pmt = u64(num_addrs), slot(pmt)
    # Two frames are known to be ours: this one, and that of `syscall`.
    site = sites.caller(3)
    token = handle_of(handle, Bti).pin_as(face(vmo), offset, size, options, num_addrs, site)
    room = num_addrs * _ADDRESS.size
    if view is None or view.readonly or len(view) < room or pmt is None:
        token.unpin()
        raise InvalidArgs(
            "the addresses or the token cannot be written",
            asked=num_addrs,
            remedy="pass a writable buffer of 8 bytes for each address, and an Out()",
        )
    target = token.object
    if num_addrs == 1:
        _ADDRESS.pack_into(view, 0, target.grant.first)
    else:
        found: Any = target.grant.extents.addresses(target.step)  # mypy: numpy's are no Buffer
        view[:room] = memoryview(found).cast("B")
    pmt.value = number_of(token)


@syscall
def zx_bti_release_quarantine(handle: int) -> None:
    """Let go of every quarantined token of a BTI, whose device is quiet:
    ``zx_bti_release_quarantine(zx_handle_t)``.

    Errors: BAD_HANDLE, WRONG_TYPE, ACCESS_DENIED (without WRITE).
    """
    handle_of(u32(handle), Bti).release_quarantine()


# Pinned memory tokens -----------------------------------------------------------------------------


@syscall
def zx_pmt_unpin(handle: int) -> None:
    """Take the device's access back and let the pages go: ``zx_pmt_unpin(zx_handle_t)``.

    The handle is closed, whatever it is one to.

    Errors: BAD_HANDLE, WRONG_TYPE.
    """
    number = u32(handle)
    token = face(number)
    if isinstance(token, Pmt):
        token.unpin()
        return
    try:
        handle_of(number, Pmt)
    finally:
        token.close()
