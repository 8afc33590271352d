# What a handle may do, and what a device may do.
#
# The numbers are Zircon's, so that a dialect passes them through. `RIGHTS_FOR_PERMS` is the one
# table from a device permission to the right that the memory's handle must have.
from __future__ import annotations

import enum


class Right(enum.IntFlag):
    """What the holder of a handle may do with the object behind it."""

    NONE = 0
    DUPLICATE = 1 << 0
    TRANSFER = 1 << 1
    READ = 1 << 2
    WRITE = 1 << 3
    EXECUTE = 1 << 4
    MAP = 1 << 5
    GET_PROPERTY = 1 << 6
    SET_PROPERTY = 1 << 7
    ENUMERATE = 1 << 8
    DESTROY = 1 << 9
    SET_POLICY = 1 << 10
    GET_POLICY = 1 << 11
    SIGNAL = 1 << 12
    SIGNAL_PEER = 1 << 13
    WAIT = 1 << 14
    INSPECT = 1 << 15
    MANAGE_JOB = 1 << 16
    MANAGE_PROCESS = 1 << 17
    MANAGE_THREAD = 1 << 18
    APPLY_PROFILE = 1 << 19
    MANAGE_SOCKET = 1 << 20
    OP_CHILDREN = 1 << 21
    RESIZE = 1 << 22
    ATTACH_VMO = 1 << 23
    MANAGE_VMO = 1 << 24
    SAME_RIGHTS = 1 << 31

    BASIC = TRANSFER | DUPLICATE | WAIT | INSPECT
    IO = READ | WRITE
    PROPERTY = GET_PROPERTY | SET_PROPERTY


class Perm(enum.IntFlag):
    """What a device may do with memory that is granted to it."""

    NONE = 0
    READ = 1 << 0
    WRITE = 1 << 1
    EXECUTE = 1 << 2


ALL_PERMS = 0x7

# It is the device that executes, not the host: EXECUTE asks the memory's handle for READ.
# Source: zx_bti_pin, "ZX_BTI_PERM_EXECUTE requires ZX_RIGHT_READ, not ZX_RIGHT_EXECUTE".
_ASKS = {Perm.READ: Right.READ, Perm.WRITE: Right.WRITE, Perm.EXECUTE: Right.READ}

RIGHTS_FOR_PERMS: tuple[int, ...] = tuple(
    int(sum({int(right) for perm, right in _ASKS.items() if bits & int(perm)}))
    for bits in range(ALL_PERMS + 1)
)
"""Indexed by the bits of a `Perm`: the rights that the memory's handle needs, beside MAP.

A tuple of plain ints, because this is read on every pin and flag arithmetic on enum members costs
as much as the rest of the check.
"""


def describe_rights(bits: int) -> str:
    """``READ|MAP`` for messages; ``NONE`` for no right."""
    names = [r.name for r in Right if r.value & bits and r.value.bit_count() == 1]
    return "|".join(name for name in names if name) or "NONE"


def describe_perms(bits: int) -> str:
    """``READ|WRITE`` for messages; ``NONE`` for no permission."""
    names = [p.name for p in Perm if p.value & bits]
    return "|".join(name for name in names if name) or "NONE"
