# What a caller says of an Intel IOMMU: where its registers are, and which devices are behind it.
#
# Source: zx_iommu_create, zx_iommu_desc_intel_t; Zircon's driver for what is refused. A device is a
# bus number and eight bits of device and function; behind bridges it is the hops to it.
#
# The driver compares the length of a reserved range's scopes with the length of the scopes in the
# header. That looks like an oversight, but it is what a caller meets, so it is what we do: ranges
# can only be reserved for as many scopes as the header has.
from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from pinfold.errors import InvalidArgs

_HEADER: Final = struct.Struct("<QH?BH2x")  # zx_iommu_desc_intel_t
_SCOPE: Final = struct.Struct("<BBB5s")  # zx_iommu_desc_intel_scope_t
_RESERVED: Final = struct.Struct("<QQB7x")  # zx_iommu_desc_intel_reserved_memory_t

_MOST_HOPS: Final = 5
_LAST_ID: Final = 0xFFFF


class Scope(NamedTuple):
    """One device, or one bridge and what is behind it."""

    kind: int
    """0 for a device, 1 for a bridge."""
    start_bus: int
    hops: bytes
    """Device and function of each bridge on the way, then of the device."""


class ReservedRange(NamedTuple):
    """Physical memory that firmware uses, and the devices that go on reaching it."""

    base: int
    size: int
    scopes: tuple[Scope, ...]


@dataclass(frozen=True, slots=True)
class IntelDescriptor:
    """A descriptor that was found to be good.

    Attributes:
      register_base: physical address of a page of registers.
      segment: of the PCI bus.
      whole_segment: the IOMMU serves every device of the segment but those in ``scopes``; else it
        serves those in ``scopes`` and no other.
    """

    register_base: int
    segment: int
    whole_segment: bool
    scopes: tuple[Scope, ...]
    reserved: tuple[ReservedRange, ...]

    @classmethod
    def parse(cls, raw: bytes) -> IntelDescriptor:
        """What ``raw`` says.

        Raises:
          InvalidArgs: it is too short or too long for what it says; no device is served; a scope
            has no hop or more than five; a reserved range has no scopes, or other than the header.
        """
        if len(raw) < _HEADER.size:
            raise _bad("shorter than its header", len(raw), _HEADER.size)
        base, segment, whole, scope_bytes, reserved_bytes = _HEADER.unpack_from(raw)
        described = _HEADER.size + scope_bytes + reserved_bytes
        if described != len(raw):
            raise _bad("not as long as it says", len(raw), described)
        if not scope_bytes and not whole:
            raise _bad("of an IOMMU that serves nothing", 0, None)
        if scope_bytes % _SCOPE.size:
            raise _bad("with a part of a scope", scope_bytes, _SCOPE.size)
        at = _HEADER.size + scope_bytes
        scopes = _scopes(raw[_HEADER.size : at])
        reserved: list[ReservedRange] = []
        while at + _RESERVED.size < len(raw):
            start, size, length = _RESERVED.unpack_from(raw, at)
            at += _RESERVED.size
            if at + length > len(raw):
                raise _bad("with a reserved range that runs past its end", at + length, len(raw))
            if not length or length != scope_bytes:
                raise _bad("with a reserved range of other scopes", length, scope_bytes)
            reserved.append(ReservedRange(start, size, _scopes(raw[at : at + length])))
            at += length
        if at != len(raw):
            raise _bad("with bytes left over", len(raw), at)
        return cls(base, segment, whole, scopes, tuple(reserved))

    def serves(self, initiator: int) -> bool:
        """True when it has a device of that number: bus << 8 | device << 3 | function.

        Devices behind bridges are not looked for, as in Zircon's driver.
        """
        if not 0 <= initiator <= _LAST_ID:
            return False
        bus, function = initiator >> 8, bytes([initiator & 0xFF])
        named = any(scope.start_bus == bus and scope.hops == function for scope in self.scopes)
        return named is not self.whole_segment


def _scopes(raw: bytes) -> tuple[Scope, ...]:
    found: list[Scope] = []
    for kind, bus, hops, path in _SCOPE.iter_unpack(raw):
        if not 0 < hops <= _MOST_HOPS:
            raise _bad("with a scope of that many hops", hops, _MOST_HOPS)
        found.append(Scope(kind, bus, path[:hops]))
    return tuple(found)


def _bad(how: str, asked: int, limit: int | None) -> InvalidArgs:
    return InvalidArgs(
        f"an IOMMU descriptor {how}",
        asked=asked,
        limit=limit,
        remedy="build it as zx_iommu_desc_intel_t says",
    )
