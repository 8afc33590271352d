# The records of the structures that calls fill or read: C's field names, in C's order.
#
# Source: magenta/syscalls/object.h and magenta/syscalls/iommu.h of August 2017. Padding has no
# name. What the annotations mean for the bytes is in `pinfold.dialects.layout`.
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pinfold.dialects.layout import U8, U32, U64
from pinfold.dialects.mx import numbers as mx

Name = Annotated[str, f"{mx.MX_MAX_NAME_LEN}s"]


@dataclass(frozen=True, slots=True)
class InfoHandleBasic:
    """What a handle is to."""

    koid: U64
    rights: U32
    type: U32
    related_koid: U64
    props: U32


@dataclass(frozen=True, slots=True)
class InfoVmar:
    """Where a region is. Addresses and bytes."""

    base: U64
    len: U64


@dataclass(frozen=True, slots=True)
class InfoResource:
    """What a resource stands for; both ends belong to it."""

    kind: U32
    low: U64
    high: U64


@dataclass(frozen=True, slots=True)
class InfoMapsMapping:
    """A run of a mapping."""

    mmu_flags: U32
    vmo_koid: U64
    committed_pages: U64


@dataclass(frozen=True, slots=True)
class Union:
    """What a record has beside the range; zeros unless it is a mapping."""

    mapping: InfoMapsMapping


@dataclass(frozen=True, slots=True)
class InfoMaps:
    """An address space, a region or a run of a mapping."""

    name: Name
    base: U64
    size: U64
    depth: U64
    type: U32
    u: Union


@dataclass(frozen=True, slots=True)
class InfoVmo:
    """A memory object. ``size_bytes`` is its size to the byte."""

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


@dataclass(frozen=True, slots=True)
class IommuDescDummy:
    """The description of a pass-through IOMMU."""

    reserved: U8
