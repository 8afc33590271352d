# What a controller tells about itself and its namespaces.
#
# Source: NVM Express Base Specification 1.4, section 5.15.2 (Identify data structures). A byte
# offset stands beside each field.
from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from pinfold.errors import NotFound, NotSupported

IDENTIFY_SIZE: Final = 1 << 12
"""Bytes of every Identify data structure, whatever a page is."""

_ENTRY_SIZES: Final = (6, 4)
"""log2 of a submission and of a completion queue entry: 64 and 16 bytes, required of everyone."""


@dataclass(frozen=True, slots=True)
class ControllerInfo:
    """A controller, as it describes itself."""

    serial: str
    model: str
    firmware: str
    version: tuple[int, int, int]
    """Of the specification, from the VS register."""
    vendor: int
    """PCI vendor."""
    namespaces: int
    """The highest number that a namespace of it can have."""
    max_transfer: int | None
    """Bytes in one command at most, as the controller says (MDTS); None for no limit of its own."""
    volatile_cache: bool
    """True when what was written is safe only after a flush."""

    @classmethod
    def parse(cls, data: bytes, *, version: int, smallest_page: int) -> ControllerInfo:
        """From the Identify Controller data structure (CNS 01h).

        Raises:
          NotSupported: it needs queue entries of other sizes than the NVM command set's.
        """
        for offset, required in zip((512, 513), _ENTRY_SIZES, strict=True):  # SQES, CQES
            smallest, largest = data[offset] & 0xF, data[offset] >> 4
            if not smallest <= required <= largest:
                raise NotSupported(
                    "the controller's queue entries are not those of the NVM command set",
                    asked=1 << required,
                    available=1 << smallest,
                )
        mdts = data[77]  # in units of the smallest memory page
        return cls(
            serial=_text(data[4:24]),
            model=_text(data[24:64]),
            firmware=_text(data[64:72]),
            version=(version >> 16, version >> 8 & 0xFF, version & 0xFF),
            vendor=int.from_bytes(data[0:2], "little"),
            namespaces=int.from_bytes(data[516:520], "little"),  # NN
            max_transfer=smallest_page << mdts if mdts else None,
            volatile_cache=bool(data[525] & 1),  # VWC
        )


@dataclass(frozen=True, slots=True)
class NamespaceInfo:
    """A namespace: blocks of one size, counted from 0."""

    number: int
    blocks: int
    block_size: int
    """Bytes; a power of two."""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.blocks * self.block_size

    @classmethod
    def parse(cls, number: int, data: bytes) -> NamespaceInfo:
        """From the Identify Namespace data structure (CNS 00h).

        Raises:
          NotFound: there is no such namespace: what is not active reads as zeros.
          NotSupported: its blocks carry metadata.
        """
        (blocks,) = struct.unpack_from("<Q", data, 0)  # NSZE
        if not blocks:
            raise NotFound(f"the controller has no active namespace {number}", asked=number)
        selected = data[26] & 0xF  # FLBAS
        metadata, shift = struct.unpack_from("<HB", data, 128 + 4 * selected)  # LBAF: MS, LBADS
        if metadata:
            raise NotSupported(
                f"namespace {number} has {metadata} bytes of metadata a block", asked=metadata
            )
        return cls(number, blocks, 1 << shift)


def _text(field: bytes) -> str:
    """An ASCII field, padded with spaces (section 1.5)."""
    return field.decode("ascii", "backslashreplace").strip(" \0")
