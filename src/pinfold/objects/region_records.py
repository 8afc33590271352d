# What is told of an address region: its statistics, and the lines of its map.
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pinfold.objects.vmoption import VmOption
    from pinfold.rights import Perm


@dataclass(frozen=True, slots=True)
class VmarStatistics:
    """A region at one moment. Sizes in bytes; what is in child regions is theirs."""

    koid: int
    name: str
    base: int
    size: int
    alive: bool
    options: VmOption
    """What may be mapped in it, and COMPACT."""
    regions: int
    mappings: int
    mapped: int
    free: int
    largest_gap: int
    handles: int


@dataclass(frozen=True, slots=True)
class MapsRecord:
    """One line of `Vmar.maps`: a region, or a run of a mapping with one protection."""

    depth: int
    kind: str
    """``vmar`` or ``mapping``."""
    name: str
    base: int
    size: int
    perms: Perm
    """Of a mapping; a region's is what may be mapped in it."""
    vmo_koid: int
    """Of a mapping; 0 for a region."""
    vmo_offset: int
    committed: int
    """Bytes of memory in the run that are charged to the memory object; 0 for a region."""
