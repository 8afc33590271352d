# Executable memory objects.
#
# Source: zx_vmo_replace_as_executable; Zircon's dispatcher for the order: what the authority is
# worth is found out first, and told last, when the handle is gone.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pinfold.errors import BadHandle, InvalidArgs, PinfoldError
from pinfold.objects.memory_object import VmoObject
from pinfold.objects.resource import ResourceObject
from pinfold.rights import Right

if TYPE_CHECKING:
    from pinfold.objects.handle import Handle, HandleEntry
    from pinfold.objects.kernel import Kernel

_EXECUTE: Final = int(Right.EXECUTE)
_VMEX: Final = 1  # ZX_RSRC_SYSTEM_VMEX_BASE


def replace_as_executable(handle: Handle[Any], vmex: Handle[Any] | None) -> HandleEntry:
    """The new row for ``handle``, which is closed; see `Vmo.replace_as_executable`."""
    entry = handle._entry
    process = entry.process
    with process.kernel.lock:
        refusal = _refusal(vmex, process.kernel)
        target = entry.object
        if target is None:
            raise BadHandle("the handle to be replaced is closed")
        try:
            if not isinstance(target, VmoObject):
                raise BadHandle(f"{target} is not a memory object", remedy="pass a Vmo")
            if refusal is not None:
                raise refusal
            return process.add(target, entry.rights | _EXECUTE)
        finally:
            entry.close_locked()


def _refusal(vmex: Handle[Any] | None, kernel: Kernel) -> PinfoldError | None:
    if vmex is None:  # the policy of the process: it may
        return None
    try:
        authority = vmex._demand(ResourceObject, 0)
        if authority.kernel is not kernel:
            return InvalidArgs(f"{authority} belongs to another kernel", remedy="make both in one")
        authority.check_system(_VMEX)
    except PinfoldError as error:
        return error
    return None
