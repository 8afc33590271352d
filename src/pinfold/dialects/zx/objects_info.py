# What is known of an object, in the bytes that C has for it.
#
# Source: zx_object_get_info; Zircon's kernel for the order of checks: the topic, then the handle,
# its type and its rights, then where the record is to go.
#
# What pinfold does not know is 0: the memory that the kernel's own books take (metadata_bytes).
# There is no compressed memory, so what is populated is committed, and no page of two objects, so
# all of it is private and scaled by one.
#
# Lock: the kernel's, for as long as a record is made.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from pinfold.dialects.calling import open_handle, pointed, slot, u32, u64
from pinfold.dialects.topics import handed_out
from pinfold.dialects.zx import numbers as zx
from pinfold.dialects.zx.records import TOPICS
from pinfold.dialects.zx.status import syscall
from pinfold.dialects.zx.structures import (
    InfoBti,
    InfoHandleBasic,
    InfoHandleCount,
    InfoHandleExtended,
    InfoMaps,
    InfoMapsMapping,
    InfoMapsMappingV1,
    InfoMapsMappingV2,
    InfoMapsV1,
    InfoMapsV2,
    InfoProcessHandleStats,
    InfoResource,
    InfoVmar,
    InfoVmo,
    Union,
    UnionV1,
    UnionV2,
)
from pinfold.errors import NotSupported, WrongType
from pinfold.objects.initiator import BtiObject
from pinfold.objects.memory_object import VmoObject
from pinfold.objects.object import KernelObject
from pinfold.objects.process import Process
from pinfold.objects.region import VmarObject
from pinfold.objects.region_records import MapsRecord
from pinfold.objects.resource_object import ResourceObject
from pinfold.units import PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.dialects.calling import Out
    from pinfold.objects.handle import Handle

K = TypeVar("K", bound=KernelObject)

_INSPECT: Final = zx.ZX_RIGHT_INSPECT
_TABLE_RIGHTS: Final = zx.ZX_RIGHT_INSPECT | zx.ZX_RIGHT_MANAGE_PROCESS | zx.ZX_RIGHT_MANAGE_THREAD


@syscall
def zx_object_get_info(
    handle: int,
    topic: int,
    buffer: Any,
    buffer_size: int,
    actual: Out | None,
    avail: Out | None,
) -> None:
    """What is known of an object:
    ``zx_object_get_info(zx_handle_t, uint32_t, void*, size_t, size_t*, size_t*)``.

    Topics that give one record want room for it. Topics that give several fill what there is room
    for, and it is no error if that is nothing. `unpack` takes the buffer apart. Addresses and sizes
    in the records are absolute, and bytes; the older versions of ZX_INFO_PROCESS_MAPS count pages.

    After an error neither the buffer nor the counts are written, except the counts after
    BUFFER_TOO_SMALL.

    Args:
      topic: ZX_INFO_*. ZX_INFO_HANDLE_VALID looks at nothing but the handle.
      buffer_size: bytes, which need not be whole records.
      actual: gets the number of records written; of ZX_INFO_HANDLE_TABLE, where ``buffer`` and
        ``avail`` are NULL, the number that there are. NULL is no error.
      avail: gets the number of records that there are. NULL is no error.

    Errors, in this order:
      NOT_SUPPORTED: the topic is not one of those here (`TOPICS`, ZX_INFO_HANDLE_VALID).
      BAD_HANDLE: the number names nothing.
      WRONG_TYPE: the topic is about another type of object.
      ACCESS_DENIED: the handle lacks INSPECT; for ZX_INFO_HANDLE_TABLE also MANAGE_PROCESS or
        MANAGE_THREAD. ZX_INFO_HANDLE_BASIC and ZX_INFO_VMO ask for no right.
      BAD_STATE: the region is destroyed (ZX_INFO_VMAR_MAPS), or the process has ended
        (ZX_INFO_PROCESS_MAPS, ZX_INFO_PROCESS_VMOS).
      NO_MEMORY: the address space of the process had to be reserved for its record, and there is no
        room (the same two).
      BUFFER_TOO_SMALL: ``buffer_size`` has no room for the one record.
      INVALID_ARGS: a record is to be written, and the buffer is NULL, read-only or shorter than
        ``buffer_size``.
    """
    number, topic = u32(handle), u32(topic)
    view, room = pointed(buffer), u64(buffer_size)
    slot(actual), slot(avail)
    if topic == zx.ZX_INFO_HANDLE_VALID:
        open_handle(number)
        return
    found = TOPICS.get(topic)
    if found is None:
        raise NotSupported("this topic is not to be had", asked=topic)
    records = _SOURCES[topic](number, topic)
    # Zircon's answer to who asks for the number first.
    asks = topic == zx.ZX_INFO_HANDLE_TABLE and view is None and avail is None
    handed_out(found, records, view, room, actual, avail, asks_first=asks)


def _looked_up(number: int, kind: type[K], rights: int) -> tuple[K, Handle[Any]]:
    """The object under a number, which is to be of one kind, and the handle.

    Raises:
      BadHandle, WrongType, AccessDenied: in this order.
    """
    found = open_handle(number)
    target = found.object
    if not isinstance(target, kind):
        raise WrongType(f"{target} has no such topic", asked=number)
    found._require(rights)
    return target, found


# Any object ---------------------------------------------------------------------------------------


def _handle_basic(number: int, _: int) -> list[Any]:
    target, handle = _looked_up(number, KernelObject, 0)
    rights = handle._entry.rights
    return [InfoHandleBasic(target.koid, rights, target.object_type, zx.ZX_KOID_INVALID, 0)]


def _handle_count(number: int, _: int) -> list[Any]:
    target, _handle = _looked_up(number, KernelObject, _INSPECT)
    return [InfoHandleCount(target.handle_count)]


# One object ---------------------------------------------------------------------------------------


def _vmar(number: int, _: int) -> list[Any]:
    target, _handle = _looked_up(number, VmarObject, _INSPECT)
    region = target.region
    return [InfoVmar(region.base, region.stop - region.base)]


def _bti(number: int, _: int) -> list[Any]:
    target, _handle = _looked_up(number, BtiObject, _INSPECT)
    with target.kernel.lock:
        least, reach = target.limits.minimum_contiguity, target.address_space
        pins, quarantined = len(target.pins), len(target.quarantined)
    return [InfoBti(least, reach, pins, quarantined)]


def _resource(number: int, _: int) -> list[Any]:
    target, _handle = _looked_up(number, ResourceObject, _INSPECT)
    span = target.range
    return [InfoResource(target.kind, target.flags, span.start, span.size, target.name)]


def _vmo(number: int, _: int) -> list[Any]:
    target, handle = _looked_up(number, VmoObject, 0)
    flags = zx.ZX_INFO_VMO_VIA_HANDLE
    if target.immutable:  # said here, and not in the list of a process's memory
        flags |= zx.ZX_INFO_VMO_IMMUTABLE
    with target.kernel.lock:
        handle._require(0)  # its memory is there: another thread may have closed the last handle
        return [_vmo_record(target, flags, handle._entry.rights)]


def _vmo_record(vmo: VmoObject, flags: int, rights: int) -> InfoVmo:
    """What there is to say of a memory object. Called with the kernel's lock held."""
    if not vmo.physical:
        flags |= zx.ZX_INFO_VMO_TYPE_PAGED
    if vmo.resizable:
        flags |= zx.ZX_INFO_VMO_RESIZABLE
    if vmo.cow_clone:
        flags |= zx.ZX_INFO_VMO_IS_COW_CLONE
    if vmo.contiguous:
        flags |= zx.ZX_INFO_VMO_CONTIGUOUS
    if vmo.discardable:
        flags |= zx.ZX_INFO_VMO_DISCARDABLE
    committed = vmo.attributed(0, vmo.size)
    return InfoVmo(
        koid=vmo.koid,
        name=vmo.name,
        size_bytes=vmo.size,
        parent_koid=vmo.parent.koid if vmo.parent is not None else zx.ZX_KOID_INVALID,
        num_children=len(vmo.children),
        num_mappings=vmo.mappings,
        share_count=vmo.share_count,
        flags=flags,
        committed_bytes=committed,
        handle_rights=rights,
        cache_policy=vmo.cache_policy,
        metadata_bytes=0,
        committed_change_events=vmo.discards,
        populated_bytes=committed,
        committed_private_bytes=committed,
        populated_private_bytes=committed,
        committed_scaled_bytes=committed,
        populated_scaled_bytes=committed,
        committed_fractional_scaled_bytes=0,
        populated_fractional_scaled_bytes=0,
    )


# Processes ----------------------------------------------------------------------------------------


def _process_handle_stats(number: int, _: int) -> list[Any]:
    target, _handle = _looked_up(number, Process, _INSPECT)
    counts = [0] * zx.ZX_OBJ_TYPE_UPPER_BOUND
    with target.kernel.lock:
        for entry in target.handles.values():
            if entry.object is not None:
                counts[entry.object.object_type] += 1
    return [InfoProcessHandleStats(tuple(counts))]


def _handle_table(number: int, _: int) -> list[Any]:
    target, _handle = _looked_up(number, Process, _TABLE_RIGHTS)
    with target.kernel.lock:
        return [
            InfoHandleExtended(
                type=entry.object.object_type,
                handle_value=entry.value,
                rights=entry.rights,
                reserved=0,
                koid=entry.object.koid,
                related_koid=zx.ZX_KOID_INVALID,
                peer_owner_koid=zx.ZX_KOID_INVALID,
            )
            for entry in target.handles.values()
            if entry.object is not None
        ]


def _process_vmos(number: int, _: int) -> list[Any]:
    target, _handle = _looked_up(number, Process, _INSPECT)
    with target.kernel.lock:
        root = target.root_region()
        through_handles = [
            _vmo_record(entry.object, zx.ZX_INFO_VMO_VIA_HANDLE, entry.rights)
            for entry in target.handles.values()
            if isinstance(entry.object, VmoObject)
        ]
        mapped = [
            _vmo_record(vmo, zx.ZX_INFO_VMO_VIA_MAPPING, zx.ZX_RIGHT_NONE) for vmo in root.mapped()
        ]
    return through_handles + mapped


def _process_maps(number: int, topic: int) -> list[Any]:
    target, _handle = _looked_up(number, Process, _INSPECT)
    with target.kernel.lock:
        root = target.root_region()
        region = root.region
        records = list(root.records(1))
    space = f"proc:{target.koid}"  # what Zircon calls it
    size = region.stop - region.base
    make = _MAPS[topic]
    whole = make(space, region.base, size, 0, zx.ZX_INFO_MAPS_TYPE_ASPACE, None)
    return [whole, *(_line(make, record) for record in records)]


# What is mapped -----------------------------------------------------------------------------------


def _vmar_maps(number: int, topic: int) -> list[Any]:
    target, _handle = _looked_up(number, VmarObject, _INSPECT)
    with target.kernel.lock:
        target.require_alive()
        records = list(target.records())
    return [_line(_MAPS[topic], record) for record in records]


def _line(make: Callable[..., Any], record: MapsRecord) -> Any:
    where = (record.name, record.base, record.size, record.depth)
    if record.kind == "mapping":
        return make(*where, zx.ZX_INFO_MAPS_TYPE_MAPPING, record)
    return make(*where, zx.ZX_INFO_MAPS_TYPE_VMAR, None)


def _newest(
    name: str, base: int, size: int, depth: int, kind: int, run: MapsRecord | None
) -> InfoMaps:
    mapping = _NO_MAPPING
    if run is not None:
        there = run.committed
        mapping = InfoMapsMapping(
            mmu_flags=run.perms,
            vmo_koid=run.vmo_koid,
            vmo_offset=run.vmo_offset,
            committed_bytes=there,
            populated_bytes=there,
            committed_private_bytes=there,
            populated_private_bytes=there,
            committed_scaled_bytes=there,
            populated_scaled_bytes=there,
            committed_fractional_scaled_bytes=0,
            populated_fractional_scaled_bytes=0,
        )
    return InfoMaps(name, base, size, depth, kind, Union(mapping))


def _second(
    name: str, base: int, size: int, depth: int, kind: int, run: MapsRecord | None
) -> InfoMapsV2:
    mapping = InfoMapsMappingV2(0, 0, 0, 0, 0)
    if run is not None:
        pages = run.committed >> PAGE_SHIFT
        mapping = InfoMapsMappingV2(run.perms, run.vmo_koid, run.vmo_offset, pages, pages)
    return InfoMapsV2(name, base, size, depth, kind, UnionV2(mapping))


def _first(
    name: str, base: int, size: int, depth: int, kind: int, run: MapsRecord | None
) -> InfoMapsV1:
    mapping = InfoMapsMappingV1(0, 0, 0, 0)
    if run is not None:
        pages = run.committed >> PAGE_SHIFT
        mapping = InfoMapsMappingV1(run.perms, run.vmo_koid, run.vmo_offset, pages)
    return InfoMapsV1(name, base, size, depth, kind, UnionV1(mapping))


_NO_MAPPING: Final = InfoMapsMapping(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

_MAPS: Final[dict[int, Callable[..., Any]]] = {
    zx.ZX_INFO_PROCESS_MAPS_V1: _first,
    zx.ZX_INFO_PROCESS_MAPS_V2: _second,
    zx.ZX_INFO_PROCESS_MAPS: _newest,
    zx.ZX_INFO_VMAR_MAPS: _newest,
}

_SOURCES: Final[dict[int, Callable[[int, int], list[Any]]]] = {
    zx.ZX_INFO_HANDLE_BASIC: _handle_basic,
    zx.ZX_INFO_HANDLE_COUNT: _handle_count,
    zx.ZX_INFO_PROCESS_HANDLE_STATS: _process_handle_stats,
    zx.ZX_INFO_HANDLE_TABLE: _handle_table,
    zx.ZX_INFO_VMAR: _vmar,
    zx.ZX_INFO_BTI: _bti,
    zx.ZX_INFO_RESOURCE: _resource,
    zx.ZX_INFO_VMAR_MAPS: _vmar_maps,
    **dict.fromkeys(
        (zx.ZX_INFO_VMO_V1, zx.ZX_INFO_VMO_V2, zx.ZX_INFO_VMO_V3, zx.ZX_INFO_VMO), _vmo
    ),
    **dict.fromkeys(
        (
            zx.ZX_INFO_PROCESS_VMOS_V1,
            zx.ZX_INFO_PROCESS_VMOS_V2,
            zx.ZX_INFO_PROCESS_VMOS_V3,
            zx.ZX_INFO_PROCESS_VMOS,
        ),
        _process_vmos,
    ),
    **dict.fromkeys(
        (zx.ZX_INFO_PROCESS_MAPS_V1, zx.ZX_INFO_PROCESS_MAPS_V2, zx.ZX_INFO_PROCESS_MAPS),
        _process_maps,
    ),
}
"""What each topic's records are made from; an older version's are a part of the newest's."""
