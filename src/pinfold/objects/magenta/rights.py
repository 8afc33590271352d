# Magenta's rights: which bits there were, what a new handle has, and how a handle is looked at.
#
# Source: magenta/rights.h of August 2017, and the handle table of that kernel for the orders.
#
# Zircon put rights of its own beside Magenta's later: WAIT, INSPECT, RESIZE, OP_CHILDREN. A handle
# that Magenta's calls make has Magenta's rights and no others, and a Magenta call asks for
# Magenta's and no others. So nothing has to be hidden or added on the way, and what Zircon's calls
# make of such a handle is what they make of any that lacks a right (docs/adr/0011). Only where
# rights are told or compared do the later bits of a handle made elsewhere have to be left out.
#
# The handle table of that kernel has two ways to look a handle up, and their orders differ:
#
#   required   BAD_HANDLE, ACCESS_DENIED, WRONG_TYPE: the call names the rights at once
#   of_kind    BAD_HANDLE, WRONG_TYPE: it asks for none, or for some later (`refuse_without`)
#
# Lock: the kernel's is held, but for `duplicated` and `replaced`, which take it.
from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pinfold.errors import AccessDenied, BadHandle, InvalidArgs, WrongType
from pinfold.objects.handle import narrowed
from pinfold.objects.object import KernelObject, ObjectType
from pinfold.rights import Right

if TYPE_CHECKING:
    from pinfold.objects.handle import Handle, HandleEntry

T = TypeVar("T", bound=KernelObject)

KNOWN: Final = 0x3FFF
"""Every right that Magenta has. SAME_RIGHTS is none: it is a word for a handle's own."""

_BASIC: Final = Right.DUPLICATE | Right.TRANSFER
VMO_RIGHTS: Final = int(
    _BASIC | Right.IO | Right.EXECUTE | Right.MAP | Right.PROPERTY | Right.SIGNAL
)
BTI_RIGHTS: Final = int(_BASIC | Right.READ | Right.MAP)
VMAR_RIGHTS: Final = int(_BASIC)
"""Beside READ, WRITE and EXECUTE for what may be mapped in the region."""
IOMMU_RIGHTS: Final = int(_BASIC)
RESOURCE_RIGHTS: Final = int(_BASIC | Right.IO | Right.SIGNAL)

_DUPLICATE: Final = int(Right.DUPLICATE)

WAITABLE: Final = (ObjectType.VMO, ObjectType.RESOURCE, ObjectType.PROCESS)
"""What can be signalled, and so be waited for."""


def of_kind(handle: Handle[Any], kind: type[T]) -> T:
    """The object, whatever the handle may do.

    Raises:
      BadHandle: the handle is closed.
      WrongType: it is a handle to something else.
    """
    target = handle._entry.object
    if target is None:
        raise BadHandle("the handle is closed", remedy="use an open handle")
    if not isinstance(target, kind):
        raise WrongType(f"{target} is of another kind", remedy="pass another handle")
    if target.kernel is not handle._entry.process.kernel:
        raise InvalidArgs(f"{target} belongs to another kernel", remedy="make both in one")
    return target


def required(handle: Handle[Any], kind: type[T], rights: int) -> T:
    """The object, if the handle may do that. The right is looked at before the kind.

    Raises:
      BadHandle: the handle is closed.
      AccessDenied: it lacks a right (``.missing``).
      WrongType: it is a handle to something else.
    """
    if handle._entry.object is not None:
        refuse_without(handle, rights)
    return of_kind(handle, kind)


def refuse_without(handle: Handle[Any], rights: int) -> None:
    """Raise `AccessDenied` unless the handle has every right asked for."""
    entry = handle._entry
    missing = rights & ~entry.rights
    if missing:
        raise AccessDenied(
            f"a handle to {entry.object}", missing=missing, remedy="use a handle with that right"
        )


def told(entry: HandleEntry) -> int:
    """The rights of a handle as Magenta's callers see them."""
    return entry.rights & KNOWN


# Making one handle from another -------------------------------------------------------------------


def duplicated(handle: Handle[Any], rights: int) -> HandleEntry:
    """Another handle to the same object, with the same rights or fewer.

    Raises:
      BadHandle: the handle is closed.
      AccessDenied: it lacks DUPLICATE.
      InvalidArgs: ``rights`` has one that it lacks.

    Source: mx_handle_duplicate.
    """
    process = handle._entry.process
    with process.kernel.lock:
        target = required(handle, KernelObject, _DUPLICATE)
        return process.add(target, _narrowed(handle._entry, index(rights)))


def replaced(handle: Handle[Any], rights: int) -> HandleEntry:
    """A handle in place of another, with the same rights or fewer. DUPLICATE is not needed.

    After an error the handle is as it was.

    Raises:
      BadHandle: the handle is closed.
      InvalidArgs: ``rights`` has one that it lacks.

    Source: mx_handle_replace.
    """
    entry = handle._entry
    with entry.process.kernel.lock:
        target = of_kind(handle, KernelObject)
        fresh = entry.process.add(target, _narrowed(entry, index(rights)))
        entry.close_locked()
        return fresh


def _narrowed(entry: HandleEntry, rights: int) -> int:
    if rights == Right.SAME_RIGHTS:
        return entry.rights
    return narrowed(told(entry), rights)
