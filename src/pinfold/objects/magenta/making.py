# Making memory objects and devices' authorities with Magenta's checks and rights.
#
# Source: mx_vmo_create, mx_vmo_clone, mx_vmo_create_contiguous, mx_vmo_create_physical,
# mx_iommu_create, mx_bti_create; the kernel of August 2017 for the order of checks.
#
# A clone of Magenta's shares its parent's pages until it writes them. Ours is a copy, made at once
# (docs/adr/0007): what it has from its parent counts as borrowed until somebody writes there.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pinfold.errors import AccessDenied, InvalidArgs, NotSupported, OutOfRange
from pinfold.memory.backing import Backing
from pinfold.memory.ranges import RangeSet
from pinfold.objects.iommu import Iommu, IommuType
from pinfold.objects.magenta.rights import (
    BTI_RIGHTS,
    IOMMU_RIGHTS,
    RESOURCE_RIGHTS,
    VMO_RIGHTS,
    of_kind,
    required,
)
from pinfold.objects.memory_object import MAX_SIZE, VmoObject
from pinfold.objects.page_ops import checked_size
from pinfold.objects.resource import Resource, ResourceKind
from pinfold.objects.resource_object import ResourceObject
from pinfold.objects.vmo import Vmo
from pinfold.objects.vmo_child import copied, handed_over
from pinfold.rights import Right
from pinfold.units import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, UINT64_MAX, ByteRange, page_up

if TYPE_CHECKING:
    from pinfold.objects.bti import Bti
    from pinfold.objects.handle import Handle, HandleEntry
    from pinfold.objects.process import Process

_COPY_ON_WRITE: Final = 0x1
_TO_CLONE: Final = int(Right.DUPLICATE | Right.READ)
_OF_A_CLONE: Final = int(Right.PROPERTY | Right.WRITE)


# Memory -------------------------------------------------------------------------------------------


def _refuse_too_large(size: int) -> None:
    if size > MAX_SIZE:
        raise InvalidArgs("no object can be so large", asked=size, limit=MAX_SIZE)


def create(process: Process, size: int, options: int) -> Vmo:
    """A memory object of zeros, of that size to the byte.

    Raises:
      InvalidArgs: ``options`` is not 0; ``size`` is more than an object can have.
      NoMemory: the host has no descriptor or no memory for it.

    Source: mx_vmo_create.
    """
    if options:
        raise InvalidArgs("there are no options", asked=options, remedy="give 0")
    _refuse_too_large(size)
    backing = Backing.memfd(checked_size(size), name="", resizable=True)
    made = Vmo.__new__(Vmo)
    made._adopt(process, backing, "", resizable=True, stream=size, rights=VMO_RIGHTS)
    return made


def clone(handle: Handle[Any], options: int, offset: int, size: int) -> HandleEntry:
    """A copy of a range. What nobody writes in it has no memory of its own, as far as pins go.

    Raises:
      BadHandle, AccessDenied, WrongType: ``handle`` is closed, lacks DUPLICATE or READ, is to no
        memory object.
      InvalidArgs: ``options`` are not COPY_ON_WRITE alone.
      NotSupported: device memory, or a part of another object.
      BadState, NotFound: Zircon's calls have made it uncached; it was discarded.
      OutOfRange: ``size`` is more than an object can have.
      InvalidArgs: ``offset`` is unaligned.
      OutOfRange: the range ends beyond 64 bits.
      NoMemory, NoSpace, HostError: the copy could not be made.

    Source: mx_vmo_clone.
    """
    entry = handle._entry
    with entry.process.kernel.lock:
        parent = required(handle, VmoObject, _TO_CLONE)
        if options != _COPY_ON_WRITE:
            raise InvalidArgs(
                "a clone is COPY_ON_WRITE, and nothing else",
                asked=options,
                limit=_COPY_ON_WRITE,
                remedy="give MX_VMO_CLONE_COPY_ON_WRITE",
            )
        parent.refuse_if_physical("clone")
        parent.refuse_if_uncached("clone it")
        parent.refuse_if_discarded()
        if parent.is_slice:
            raise NotSupported(f"{parent} is a slice", remedy="clone what it is a part of")
        rounded = checked_size(size)
        if offset & PAGE_MASK:
            raise InvalidArgs("a clone begins at a page", asked=offset, limit=PAGE_SIZE)
        if offset + size > UINT64_MAX:
            raise OutOfRange("the range ends beyond 64 bits", asked=offset + size, limit=UINT64_MAX)
        made = copied(parent, offset, size, resizable=True)
        made.body.borrowed = borrowed = RangeSet()
        borrowed.add(0, rounded >> PAGE_SHIFT)
        return handed_over(made, parent, entry, offset, entry.rights & VMO_RIGHTS | _OF_A_CLONE)


def create_contiguous(resource: Handle[Any], size: int, log2: int) -> Vmo:
    """Memory in one physical run, all of it committed and never given back.

    Args:
      log2: of the alignment; 0 for a page.

    Raises:
      InvalidArgs: ``size`` is 0; ``log2`` is neither 0 nor from a page to 63. Both are found before
        the handle is looked at.
      BadHandle, WrongType, AccessDenied: ``resource`` is closed, is no resource, is not the root.
      InvalidArgs: ``size`` is more than an object can have.
      NoMemory: no such run is left, or the host has no memory.

    Source: mx_vmo_create_contiguous.
    """
    if not size:
        raise InvalidArgs("contiguous memory has at least a byte", asked=0)
    log2 = log2 or PAGE_SHIFT
    if not PAGE_SHIFT <= log2 < 64:
        raise InvalidArgs("an alignment is from a page to 2**63", asked=log2, limit=63)
    process = resource._entry.process
    with process.kernel.lock:
        _root(resource)
    _refuse_too_large(size)
    return Vmo.one_run(process, page_up(size), 1 << log2, rights=VMO_RIGHTS)


def create_physical(resource: Handle[Any], address: int, size: int) -> Vmo:
    """Device memory at a physical address, uncached.

    Args:
      resource: the root, or one of device memory that holds the range. No right is needed.
      size: bytes, rounded up to pages.

    Raises:
      InvalidArgs: ``size`` is 0, or the range overflows. Found before the handle is looked at.
      BadHandle, WrongType: ``resource`` is closed, is no resource.
      AccessDenied: it is of another kind, or does not hold the range; or there is RAM.
      InvalidArgs: ``address`` is unaligned.
      OutOfRange: beyond 2**63, which no file can simulate, or at the border of a real window.
      NoMemory: the host has no descriptor for it.

    Source: mx_vmo_create_physical.
    """
    if not size or address + size > UINT64_MAX:
        raise InvalidArgs("device memory has at least a byte, and ends", asked=size)
    process = resource._entry.process
    whole = page_up(size)
    with process.kernel.lock:
        owner = of_kind(resource, ResourceObject)
        wanted = ByteRange(address, address + size)
        if owner.kind is not ResourceKind.ROOT and (
            owner.kind is not ResourceKind.MMIO
            or (owner.range.size and not owner.range.contains(wanted))
        ):
            raise AccessDenied(
                f"{owner} does not stand for {wanted}", remedy="use a resource that holds it"
            )
        process.kernel.resources.refuse_denied(ResourceKind.MMIO, wanted)
        backing, hold = owner.shown(address, whole)
    return Vmo.over_device(process, address, backing, hold, rights=VMO_RIGHTS)


# Devices ------------------------------------------------------------------------------------------


def _root(resource: Handle[Any]) -> ResourceObject:
    """The root resource. Source: that kernel has ACCESS_DENIED for every other kind."""
    owner = of_kind(resource, ResourceObject)
    if owner.kind is not ResourceKind.ROOT:
        raise AccessDenied(f"{owner} is not the root resource", remedy="use the root resource")
    return owner


def root_resource(process: Process) -> Resource:
    """The root resource, with Magenta's rights: one more of it. A loader hands it out."""
    made = Resource.root(process=process)
    made._entry.rights = RESOURCE_RIGHTS
    return made


def create_iommu(
    resource: Handle[Any], kind: int, descriptor: memoryview | None, size: int
) -> Iommu:
    """A pass-through IOMMU: the stub bus. There was no other in that snapshot.

    Args:
      descriptor: one reserved byte; None for one that cannot be read.
      size: bytes of it, as the caller says.

    Raises:
      BadHandle, WrongType, AccessDenied: ``resource`` is closed, is no resource, is not the root.
      InvalidArgs: the descriptor is longer than any, or cannot be read.
      NotSupported: there is no such type.
      InvalidArgs: the descriptor is not one byte.

    Source: mx_iommu_create.
    """
    with resource._entry.process.kernel.lock:
        _root(resource)
    there = kind if kind == IommuType.STUB else IommuType.ARM_SMMU  # which is refused in its turn
    made = Iommu.create(resource, there, descriptor, size)
    made._entry.rights = IOMMU_RIGHTS
    return made


def create_bti(iommu: Iommu, number: int) -> Bti:
    """The authority of one device. No right is needed.

    Raises:
      BadHandle: ``iommu`` is closed.
      InvalidArgs: the bus has no such device.

    Source: mx_bti_create.
    """
    made = iommu.initiator(number)
    made._entry.rights = BTI_RIGHTS
    return made
