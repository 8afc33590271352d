# What is known of an object, in the bytes that C has for it.
#
# Source: mx_object_get_info of August 2017; that kernel for the order of checks: the topic, then
# the handle, its rights and its type, then where the record is to go.
#
# Whether a BTI or an IOMMU could be waited for is not known of that draft. Neither could be
# signalled, so it is said here that they could not.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pinfold.dialects.calling import face, open_handle, pointed, slot, u32, u64
from pinfold.dialects.mx import numbers as mx
from pinfold.dialects.mx.records import TOPICS
from pinfold.dialects.mx.status import syscall
from pinfold.dialects.mx.structures import (
    InfoHandleBasic,
    InfoMaps,
    InfoMapsMapping,
    InfoResource,
    InfoVmar,
    InfoVmo,
    Union,
)
from pinfold.dialects.topics import handed_out
from pinfold.errors import AccessDenied, NotSupported
from pinfold.objects.magenta.memory import byte_size, own_bytes
from pinfold.objects.magenta.rights import WAITABLE, of_kind, required, told
from pinfold.objects.memory_object import VmoObject
from pinfold.objects.object import KernelObject
from pinfold.objects.process import Process, current_process
from pinfold.objects.region import VmarObject
from pinfold.objects.resource_object import ResourceObject
from pinfold.objects.resource_space import ResourceKind
from pinfold.units import PAGE_SHIFT, UINT64_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.dialects.calling import Out
    from pinfold.objects.region_records import MapsRecord

_KINDS: Final = {
    ResourceKind.ROOT: mx.MX_RSRC_KIND_ROOT,
    ResourceKind.MMIO: mx.MX_RSRC_KIND_MMIO,
    ResourceKind.IOPORT: mx.MX_RSRC_KIND_IOPORT,
    ResourceKind.IRQ: mx.MX_RSRC_KIND_IRQ,
}


@syscall
def mx_object_get_info(
    handle: int,
    topic: int,
    buffer: Any,
    buffer_size: int,
    actual: Out | None,
    avail: Out | None,
) -> None:
    """What is known of an object:
    ``mx_object_get_info(mx_handle_t, uint32_t, void*, size_t, size_t*, size_t*)``.

    Topics that give one record want room for it. Topics that give several fill what there is room
    for, and it is no error if that is nothing. `unpack` takes the buffer apart.

    After an error neither the buffer nor the counts are written, except the counts after
    BUFFER_TOO_SMALL.

    Args:
      topic: MX_INFO_HANDLE_VALID, which looks at nothing but the handle; MX_INFO_HANDLE_BASIC,
        which tells the type of what only Zircon has as Zircon does; _VMAR, _RESOURCE; of a process
        other than one's own, _PROCESS_MAPS and _PROCESS_VMOS.
      buffer_size: bytes, which need not be whole records.
      actual: gets the number of records written. NULL is no error.
      avail: gets the number of records that there are. NULL is no error.

    Errors, in this order:
      NOT_SUPPORTED: the topic is not one of those.
      BAD_HANDLE, ACCESS_DENIED, WRONG_TYPE: the number names nothing; lacks READ, for the topics of
        a process; is to another type of object.
      ACCESS_DENIED: the process is one's own.
      BAD_STATE: the process has ended.
      NO_MEMORY: the address space of the process had to be reserved for its record, and there is no
        room.
      NOT_SUPPORTED: Magenta has no such kind of resource.
      INVALID_ARGS: a record is to be written, and the buffer is NULL, read-only or shorter than
        ``buffer_size``.
      BUFFER_TOO_SMALL: ``buffer_size`` has no room for the one record.
    """
    number, topic = u32(handle), u32(topic)
    view, room = pointed(buffer), u64(buffer_size)
    slot(actual), slot(avail)
    if topic == mx.MX_INFO_HANDLE_VALID:
        open_handle(number)
        return
    found = TOPICS.get(topic)
    if found is None:
        raise NotSupported("this topic is not to be had", asked=topic)
    handed_out(found, _SOURCES[topic](number), view, room, actual, avail)


def _handle_basic(number: int) -> list[Any]:
    handle = face(number)
    with handle._entry.process.kernel.lock:
        target = of_kind(handle, KernelObject)
        waitable = target.object_type in WAITABLE
        props = mx.MX_OBJ_PROP_WAITABLE if waitable else mx.MX_OBJ_PROP_NONE
        rights = told(handle._entry)
    return [InfoHandleBasic(target.koid, rights, target.object_type, mx.MX_KOID_INVALID, props)]


def _vmar(number: int) -> list[Any]:
    handle = face(number)
    with handle._entry.process.kernel.lock:
        region = of_kind(handle, VmarObject).region
        return [InfoVmar(region.base, region.stop - region.base)]


def _resource(number: int) -> list[Any]:
    handle = face(number)
    with handle._entry.process.kernel.lock:
        target = of_kind(handle, ResourceObject)
        kind, span = _KINDS.get(target.kind), target.range
    if kind is None:
        raise NotSupported(f"Magenta has no resource like {target}", asked=int(target.kind))
    if target.kind is ResourceKind.ROOT:
        return [InfoResource(kind, 0, 0)]
    return [InfoResource(kind, span.start, span.stop - 1 if span.size else UINT64_MAX)]


# Processes ----------------------------------------------------------------------------------------


def _other_process(number: int) -> Process:
    """The process, which is not the one that asks. Called with the kernel's lock held.

    Source: that kernel writes the records into the address space that it walks, and does not dare.
    """
    target = required(face(number), Process, mx.MX_RIGHT_READ)
    if target is current_process():
        raise AccessDenied("a process does not look at itself", remedy="ask about another")
    return target


def _process_maps(number: int) -> list[Any]:
    with current_process().kernel.lock:
        target = _other_process(number)
        root = target.root_region()
        region = root.region
        memory = {vmo.koid: vmo for vmo in root.mapped()}
        lines = [_line(record, memory) for record in root.records(1)]
    space, size = f"proc:{target.koid}", region.stop - region.base
    whole = InfoMaps(space, region.base, size, 0, mx.MX_INFO_MAPS_TYPE_ASPACE, _NOTHING)
    return [whole, *lines]


def _line(record: MapsRecord, memory: dict[int, VmoObject]) -> InfoMaps:
    """A record as Magenta has it: what a clone has borrowed is not committed in it."""
    where = (record.name, record.base, record.size, record.depth)
    if record.kind != "mapping":
        return InfoMaps(*where, mx.MX_INFO_MAPS_TYPE_VMAR, _NOTHING)
    pages = own_bytes(memory[record.vmo_koid], record.vmo_offset, record.size) >> PAGE_SHIFT
    run = InfoMapsMapping(record.perms, record.vmo_koid, pages)
    return InfoMaps(*where, mx.MX_INFO_MAPS_TYPE_MAPPING, Union(run))


def _process_vmos(number: int) -> list[Any]:
    with current_process().kernel.lock:
        target = _other_process(number)
        root = target.root_region()
        through_handles = [
            _vmo_record(entry.object, mx.MX_INFO_VMO_VIA_HANDLE, told(entry))
            for entry in target.handles.values()
            if isinstance(entry.object, VmoObject)
        ]
        mapped = [
            _vmo_record(vmo, mx.MX_INFO_VMO_VIA_MAPPING, mx.MX_RIGHT_NONE) for vmo in root.mapped()
        ]
    return through_handles + mapped


def _vmo_record(vmo: VmoObject, flags: int, rights: int) -> InfoVmo:
    """What there is to say of a memory object. Called with the kernel's lock held."""
    if not vmo.physical:
        flags |= mx.MX_INFO_VMO_TYPE_PAGED
    if vmo.cow_clone:
        flags |= mx.MX_INFO_VMO_IS_COW_CLONE
    return InfoVmo(
        koid=vmo.koid,
        name=vmo.name,
        size_bytes=byte_size(vmo),
        parent_koid=vmo.parent.koid if vmo.parent is not None else mx.MX_KOID_INVALID,
        num_children=len(vmo.children),
        num_mappings=vmo.mappings,
        share_count=vmo.share_count,
        flags=flags,
        committed_bytes=own_bytes(vmo, 0, vmo.size),
        handle_rights=rights,
    )


_NOTHING: Final = Union(InfoMapsMapping(0, 0, 0))

_SOURCES: Final[dict[int, Callable[[int], list[Any]]]] = {
    mx.MX_INFO_HANDLE_BASIC: _handle_basic,
    mx.MX_INFO_VMAR: _vmar,
    mx.MX_INFO_PROCESS_MAPS: _process_maps,
    mx.MX_INFO_PROCESS_VMOS: _process_vmos,
    mx.MX_INFO_RESOURCE: _resource,
}
"""What each topic's records are made from."""
