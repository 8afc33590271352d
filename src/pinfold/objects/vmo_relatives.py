# A handle to a memory object: making another from it, moving pages, caching, executing.
#
# Source: zx_vmo_create_child, zx_vmo_transfer_data, zx_vmo_set_cache_policy,
# zx_vmo_replace_as_executable. The checks, in the order of Zircon's kernel, are in vmo_child.py and
# vmo_exec.py, where a handle of any kind may be given.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pinfold.objects.vmo_child import VmoChild, make_child, set_cache_policy, transfer
from pinfold.objects.vmo_exec import replace_as_executable
from pinfold.objects.vmo_views import VmoViews

if TYPE_CHECKING:
    from pinfold.objects.handle import Handle
    from pinfold.objects.vmo_parts import CachePolicy


class VmoRelatives(VmoViews):
    """What a memory object has to do with others, through a handle to it. `Vmo` is one."""

    __slots__ = ()

    # Making another from it ---------------------------------------------------------------------

    def child(self, options: VmoChild | int, offset: int = 0, size: int = 0) -> Self:
        """Another memory object, made from this one.

        Snapshots are copied at once: the committed pages of the range, inside the kernel. What
        lies beyond the end of this object reads as zeros. Slices and references show this object's
        own pages: what is pinned through one is pinned for all.

        The child has the rights of this handle, RESIZE if RESIZABLE, the property rights, and not
        WRITE if NO_WRITE; a snapshot that may be written has WRITE, and not EXECUTE. While it has a
        handle, a mapping, a pin or a view this object has no ZERO_CHILDREN.

        Args:
          options: one kind of `VmoChild`, and NO_WRITE or RESIZABLE.
          offset, size: bytes of this object; ``offset`` page-aligned. ``size`` is rounded up, and
            is the stream size of a slice or a snapshot. Both 0 for a reference.

        Raises:
          AccessDenied: without DUPLICATE and READ, and RESIZE for a resizable reference.
          InvalidArgs: no kind, two of them, or what does not go with it; unaligned; a slice that
            leaves this object; a reference to a part; a snapshot of contiguous memory.
          OutOfRange: ``size`` is more than an object can have, or ``offset + size`` more than 64
            bits hold.
          NotSupported: this object is discardable, physical (but for slices), resizable (slices), a
            slice (references and snapshots), contiguous (references), or not resizable (resizable
            references).
          BadState: it is not cached; it has a pinned page anywhere (snapshots).
          NoMemory, NoSpace, HostError: the copy could not be made.

        After an error there is no child. The order of the checks is Zircon's.

        Source: zx_vmo_create_child.
        """
        return self.wrap(make_child(self, options, offset, size))

    def transfer(
        self, source: Handle[Any], *, offset: int = 0, size: int, source_offset: int = 0
    ) -> None:
        """Move pages of ``source`` here; where they were, ``source`` reads as zeros.

        Args:
          source: a handle to a memory object, with READ and WRITE; this one has WRITE.
          offset, size, source_offset: bytes, page-aligned.

        Raises:
          InvalidArgs: unaligned; another kernel's.
          AccessDenied: a right is missing.
          NotSupported: either is contiguous, device memory, or a file that others have too.
          OutOfRange: a range leaves its object.
          BadState: a page of either range is pinned.
          NoMemory, NoSpace, HostError: the host refuses. ``source`` still has the pages, or has
            them again, unless a note on the error says otherwise, and the range here is lost. Or,
            of ranges that overlap, they are here, and what they went by way of could not be closed.

        After every other error nothing has changed.

        Source: zx_vmo_transfer_data.
        """
        transfer(self, source, offset, size, source_offset)

    def set_cache_policy(self, policy: CachePolicy | int) -> None:
        """Say how the CPU is to cache the memory, before anybody uses it.

        On Linux a mapping of a memfd is cached all the same. The policy decides what is refused:
        `read` and `write`, and making children.

        Raises:
          InvalidArgs: there is no such policy.
          AccessDenied: without MAP.
          BadState: it has a pinned page, a mapping, or a relative; it is discardable.

        Source: zx_vmo_set_cache_policy.
        """
        set_cache_policy(self, policy)

    def replace_as_executable(self, vmex: Handle[Any] | None = None) -> Self:
        """This handle, with EXECUTE as well: a new one, and this one is closed, error or not.

        Args:
          vmex: a resource of the kind SYSTEM that covers VMEX. None leaves it to the policy of the
            process, which allows it.

        Raises:
          BadHandle: this handle, or ``vmex``, is closed.
          WrongType: ``vmex`` is no such resource.
          OutOfRange: it is of that kind and covers something else.

        Source: zx_vmo_replace_as_executable.
        """
        return self.wrap(replace_as_executable(self, vmex))
