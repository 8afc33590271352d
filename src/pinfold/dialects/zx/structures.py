# The records of the structures that calls fill or read: C's field names, in C's order.
#
# Source: zircon/syscalls/object.h, zircon/types.h and zircon/syscalls/iommu.h. Padding has no name.
# What the annotations mean for the bytes is in `pinfold.dialects.layout`.
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pinfold.dialects.layout import U8, U16, U32, U64, Bool
from pinfold.dialects.zx import numbers as zx

Name = Annotated[str, f"{zx.ZX_MAX_NAME_LEN}s"]
Counts = Annotated[tuple[int, ...], f"{zx.ZX_OBJ_TYPE_UPPER_BOUND}I"]

# Handles ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InfoHandleBasic:
    """What a handle is to."""

    koid: U64
    rights: U32
    type: U32
    related_koid: U64
    reserved: U32


@dataclass(frozen=True, slots=True)
class InfoHandleExtended:
    """One row of a handle table."""

    type: U32
    handle_value: U32
    rights: U32
    reserved: U32
    koid: U64
    related_koid: U64
    peer_owner_koid: U64


@dataclass(frozen=True, slots=True)
class InfoHandleCount:
    """How many handles there are to an object, in all processes."""

    handle_count: U32


@dataclass(frozen=True, slots=True)
class InfoProcessHandleStats:
    """How many handles a process has, by the type of their objects."""

    handle_count: Counts


# Regions, devices, resources ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InfoVmar:
    """Where a region is. Addresses and bytes."""

    base: U64
    len: U64


@dataclass(frozen=True, slots=True)
class InfoBti:
    """What a device's authority promises and holds."""

    minimum_contiguity: U64
    aspace_size: U64
    pmo_count: U64
    quarantine_count: U64


@dataclass(frozen=True, slots=True)
class InfoResource:
    """What a resource stands for."""

    kind: U32
    flags: U32
    base: U64
    size: U64
    name: Name


# Memory objects: each version is the one before it and more --------------------------------------


@dataclass(frozen=True, slots=True)
class InfoVmoV1:
    """A memory object, as the first version of the topic has it."""

    koid: U64
    name: Name
    size_bytes: U64
    parent_koid: U64
    num_children: U64
    num_mappings: U64
    share_count: U64
    flags: U32
    committed_bytes: U64
    handle_rights: U32
    cache_policy: U32


@dataclass(frozen=True, slots=True)
class InfoVmoV2(InfoVmoV1):
    """The second version."""

    metadata_bytes: U64
    committed_change_events: U64


@dataclass(frozen=True, slots=True)
class InfoVmoV3(InfoVmoV2):
    """The third version."""

    populated_bytes: U64


@dataclass(frozen=True, slots=True)
class InfoVmo(InfoVmoV3):
    """The newest version."""

    committed_private_bytes: U64
    populated_private_bytes: U64
    committed_scaled_bytes: U64
    populated_scaled_bytes: U64
    committed_fractional_scaled_bytes: U64
    populated_fractional_scaled_bytes: U64


# What is mapped: two versions count pages, the newest bytes ---------------------------------------


@dataclass(frozen=True, slots=True)
class _MappingHead:
    mmu_flags: U32
    vmo_koid: U64
    vmo_offset: U64


@dataclass(frozen=True, slots=True)
class InfoMapsMappingV1(_MappingHead):
    """A run of a mapping, as the first version of the topic has it."""

    committed_pages: U64


@dataclass(frozen=True, slots=True)
class InfoMapsMappingV2(InfoMapsMappingV1):
    """The second version."""

    populated_pages: U64


@dataclass(frozen=True, slots=True)
class InfoMapsMapping(_MappingHead):
    """The newest version."""

    committed_bytes: U64
    populated_bytes: U64
    committed_private_bytes: U64
    populated_private_bytes: U64
    committed_scaled_bytes: U64
    populated_scaled_bytes: U64
    committed_fractional_scaled_bytes: U64
    populated_fractional_scaled_bytes: U64


@dataclass(frozen=True, slots=True)
class UnionV1:
    """What a record has beside the range; zeros unless it is a mapping."""

    mapping: InfoMapsMappingV1


@dataclass(frozen=True, slots=True)
class UnionV2:
    """As `UnionV1`."""

    mapping: InfoMapsMappingV2


@dataclass(frozen=True, slots=True)
class Union:
    """As `UnionV1`."""

    mapping: InfoMapsMapping


@dataclass(frozen=True, slots=True)
class _MapsHead:
    name: Name
    base: U64
    size: U64
    depth: U64
    type: U32


@dataclass(frozen=True, slots=True)
class InfoMapsV1(_MapsHead):
    """An address space, a region or a run of a mapping; the first version."""

    u: UnionV1


@dataclass(frozen=True, slots=True)
class InfoMapsV2(_MapsHead):
    """The second version."""

    u: UnionV2


@dataclass(frozen=True, slots=True)
class InfoMaps(_MapsHead):
    """The newest version."""

    u: Union


# Beside zx_object_get_info ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VmoLockState:
    """What ZX_VMO_OP_LOCK fills in. Bytes; zeros where nothing was discarded."""

    offset: U64
    size: U64
    discarded_offset: U64
    discarded_size: U64


@dataclass(frozen=True, slots=True)
class IommuDescStub:
    """The description of a stub IOMMU."""

    reserved: U8


@dataclass(frozen=True, slots=True)
class IommuDescIntelScope:
    """A device, or what is behind a bridge, that an Intel unit has."""

    type: U8
    start_bus: U8
    num_hops: U8
    dev_func: Annotated[tuple[int, ...], "5B"]


@dataclass(frozen=True, slots=True)
class IommuDescIntelReservedMemory:
    """Memory that is to stay mapped for some devices; their scopes follow it."""

    base_addr: U64
    len: U64
    scope_bytes: U8
    _reserved: Annotated[tuple[int, ...], "7B"] = (0,) * 7


@dataclass(frozen=True, slots=True)
class IommuDescIntel:
    """The description of an Intel IOMMU; scopes and reserved memory follow it."""

    register_base: U64
    pci_segment: U16
    whole_segment: Bool
    scope_bytes: U8
    reserved_memory_bytes: U16
    _reserved: Annotated[tuple[int, ...], "2B"] = (0, 0)


@dataclass(frozen=True, slots=True)
class IommuDescArmSmmu:
    """The description of an ARM SMMU."""

    register_base: U64
