# A descriptor that is one of our own objects' memory is not adopted.
#
# Two objects over one memfd would have two sets of books: a page pinned through the one could be
# given away through the other. Slices and references are how one memory has two names.
from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pinfold.errors import InvalidArgs
from pinfold.memory.files import is_memory_of
from pinfold.objects.object import ObjectType

if TYPE_CHECKING:
    from pinfold.objects.kernel import Kernel
    from pinfold.objects.memory_object import VmoObject


def refuse_own(kernel: Kernel, fd: int) -> None:
    """Raise `InvalidArgs` if ``fd`` is the memory of an object of the kernel.

    Called with the kernel's lock held. HostError: ``fd`` is not open.
    """
    members = [cast("VmoObject", vmo) for vmo in kernel.objects(ObjectType.VMO)]
    found = is_memory_of(fd, [vmo.pages.backing for vmo in members])
    if found is not None:
        owner = next(vmo for vmo in members if vmo.pages.backing is found)
        raise InvalidArgs(
            "that descriptor is the memory of an object of this kernel",
            holder=str(owner),
            remedy="duplicate the handle, or make a slice or a reference",
        )
