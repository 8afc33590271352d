# A memory object, as all handles to it share it: pages, relatives, and what keeps them.
#
# It lives for as long as it has a handle, a mapping, a pin, a view, or a call that uses it. Its
# memory is given back by `release_if_idle`, which whoever ends one of those calls, with the lock
# held.
#
# A slice and a reference show the pages of their parent, through the same `Pages`: what is pinned
# through one is pinned for all, and a page has one physical address by whatever name it is reached.
# They are members of one `Body`, and the pages go with its last member. A snapshot has pages of its
# own: they were copied, so nothing has to be broken when one of them is pinned or written.
#
# Offsets of an object, and of a pin of it, are bytes of the object. Those of its pages, its views
# and its pinned ranges are bytes of the pages: `base` further on.
from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Final

from pinfold import sites
from pinfold.errors import (
    BadHandle,
    BadState,
    InvalidArgs,
    NotFound,
    NotSupported,
    OutOfRange,
    Unavailable,
    WrongType,
)
from pinfold.memory.hosterrors import noted
from pinfold.memory.pages import Pages
from pinfold.objects.handle import Handle
from pinfold.objects.object import KernelObject, ObjectType
from pinfold.objects.signals import Signal
from pinfold.objects.vmo_parts import Body, CachePolicy, StreamSize, VmoLockState
from pinfold.rights import Right
from pinfold.units import PAGE_SIZE, page_up

if TYPE_CHECKING:
    from pinfold.objects.kernel import Kernel
    from pinfold.objects.vmo_parts import ShownRange, ViewLease

VMO_RIGHTS: Final = int(Right.BASIC | Right.IO | Right.PROPERTY | Right.MAP | Right.SIGNAL)
_RESIZE: Final = int(Right.RESIZE)
_ZERO_CHILDREN: Final = int(Signal.ZERO_CHILDREN)

_GRAIN: Final = 32 * PAGE_SIZE
MAX_SIZE: Final = ((1 << 63) - 1) // _GRAIN * _GRAIN
"""Bytes: what a file offset on Linux can say, rounded as Zircon rounds its limit of 64 bits."""


class VmoObject(KernelObject):
    """What every handle to a memory object shares.

    Args:
      pages: its own, or its parent's for a slice or a reference.
      body: the parent's, where it shows the parent's pages.
      stream: its parent's for a reference, or bytes; all of the pages by default.
      name: for people.

    Attributes:
      base: where in ``pages`` its byte 0 is.
      parent: what it was made from, while that is there; then what that was made from.
      children: what was made from it.
    """

    __slots__ = (
        "base",
        "body",
        "cache_policy",
        "children",
        "discardable",
        "discarded",
        "discards",
        "immutable",
        "in_use",
        "label",
        "length",
        "locks",
        "mappings",
        "pages",
        "parent",
        "physical",
        "pins",
        "reclaimable",
        "released",
        "resizable",
        "root_offset",
        "shares_pages",
        "snapshot",
        "spaces",
        "stream",
        "views",
    )

    object_type = ObjectType.VMO
    has_name = True

    def __init__(
        self,
        kernel: Kernel,
        pages: Pages,
        *,
        body: Body | None = None,
        stream: StreamSize | int | None = None,
        name: str = "",
        resizable: bool = False,
    ) -> None:
        super().__init__(kernel, name)
        self.pages = pages
        self.shares_pages = body is not None
        self.body = Body(pages) if body is None else body
        self.body.members.append(self)
        self.base = 0
        self.length: int | None = None
        """Bytes of a slice; None where all of the pages are shown."""
        if not isinstance(stream, StreamSize):
            stream = StreamSize(pages.backing.size if stream is None else stream)
        self.stream = stream
        self.resizable = resizable
        self.physical = False
        self.cache_policy = CachePolicy.CACHED
        self.parent: VmoObject | None = None
        self.children: list[VmoObject] = []
        self.snapshot = False
        self.immutable = False
        self.root_offset = 0
        """Where its byte 0 is in the first ancestor, as 64-bit arithmetic has to bear it."""
        self.discardable = False
        self.reclaimable = False
        """Discardable, and it has been unlocked: `Kernel.reclaim` may take its memory."""
        self.discarded = False
        self.discards = 0
        self.locks = 0
        self.mappings = 0
        self.spaces: dict[int, int] = {}
        """How many mappings each address space has of it, by where the space begins."""
        self.pins = 0
        """Live pins through this object; those of the pages may be more."""
        self.views: list[ShownRange] = []
        self.in_use = 0
        """Calls under way that use the memory without the kernel's lock."""
        self.released = False
        self.label = str(self)
        """The object's name in pin records, made once: pins are frequent."""

    @property
    def size(self) -> int:
        """Bytes, whole pages."""
        length = self.length
        return self.pages.backing.size if length is None else length

    @property
    def is_slice(self) -> bool:
        """True when it shows a part of its parent's pages, and no more."""
        return self.length is not None

    @property
    def cow_clone(self) -> bool:
        """True for a snapshot that has a parent. Source: ZX_INFO_VMO_IS_COW_CLONE."""
        return self.snapshot and self.parent is not None

    @property
    def contiguous(self) -> bool:
        """True when it is one run of physical memory: contiguous and device memory."""
        return self.pages.contiguous

    @property
    def default_rights(self) -> int:
        """The rights of the first handle. Source: Zircon; RESIZE only where it can be used."""
        return VMO_RIGHTS | (_RESIZE if self.resizable else 0)

    @property
    def signals(self) -> int:
        """ZERO_CHILDREN, while it has none."""
        return 0 if self.children else _ZERO_CHILDREN

    @property
    def share_count(self) -> int:
        """How many address spaces map it; 1 where it has fewer than two mappings.

        Source: Zircon, zx_info_vmo_t.
        """
        return len(self.spaces) if self.mappings > 1 else 1

    def renamed(self) -> None:
        """Pin records of later pins have the new name."""
        self.label = str(self)

    def attributed(self, offset: int, size: int) -> int:
        """Bytes of memory in a range that are charged to this object.

        Source: Zircon: what a slice or a reference shows is its owner's.
        """
        if self.shares_pages or self.physical:
            return 0
        size = min(size, self.size - offset)
        runs = self.pages.backing.data_runs(self.base + offset, size) if size > 0 else []
        return sum(page_up(stop) - start for start, stop in runs)

    # Stream and discarding ----------------------------------------------------------------------

    def refuse_to_follow(self, size: int) -> None:
        """Raise `BadState` if a view shows what a stream of ``size`` bytes would hide."""
        for mapping in self.stream.shown:
            mapping.refuse_follow(size)

    def set_stream(self, size: int) -> None:
        """Note another stream size; mappings follow. Called with the kernel's lock held.

        Raises:
          NoMemory, HostError: one of them cannot; size and mappings are as before.
        """
        if self.contiguous:
            return
        stream, mappings = self.stream, self.stream.shown
        former, stream.size = stream.size, size
        try:
            for mapping in mappings:
                mapping.follow()
        except BaseException as error:
            stream.size = former
            for mapping in mappings:
                with noted("show the former stream", error):
                    mapping.follow()
            raise

    def lock_memory(self) -> VmoLockState:
        """One lock more. Called with the kernel's lock held."""
        lost = self.size if self.discarded else 0
        self.discarded = False
        self.reclaimable = False
        self.locks += 1
        return VmoLockState(0, self.size, 0, lost)

    def unlock_memory(self) -> None:
        """One lock less. Called with the kernel's lock held.

        Raises:
          BadState: there is none.
        """
        if not self.locks:
            raise BadState(f"{self} is not locked", remedy="unlock it as often as it was locked")
        self.locks -= 1
        self.reclaimable = not self.locks

    def discard(self) -> int:
        """Take the memory, unless it is in use; how many bytes. Called with the kernel's lock.

        Whoever maps, views or pins it uses it, locked or not: on Linux a mapping of memory that was
        taken would read as zeros and tell nobody.
        """
        in_use = self.mappings or self.pins or self.views or self.in_use
        if not self.reclaimable or self.discarded or in_use:
            return 0
        taken = self.attributed(0, self.size)
        if not taken:
            return 0
        self.pages.decommit(0, self.size)
        self.discarded = True
        self.discards += 1
        return taken

    # Relatives ----------------------------------------------------------------------------------

    def join_family(self) -> None:
        """Find the other objects over the same file. Called with the kernel's lock held."""
        pages, file = self.pages, self.pages.backing.inode
        if file is not None:
            pages.family = self.kernel.families.setdefault(file, [])
            pages.family.append(pages)

    def adopt(self, child: VmoObject) -> None:
        """Become the parent of ``child``. Called with the kernel's lock held."""
        child.parent = self
        self.children.append(child)

    def _leave_parent(self) -> None:
        """It is gone: its children are its parent's now, or nobody's."""
        parent, self.parent = self.parent, None
        for child in self.children:
            child.parent = parent
        if parent is not None:
            parent.children.remove(self)
            parent.children += self.children
            if not parent.children:
                parent.signals_changed()
        self.children = []

    # The end ------------------------------------------------------------------------------------

    def release_if_idle(self) -> None:
        """Give the memory back when nothing refers to it. Called with the kernel's lock held."""
        try:
            self._release()
        except Unavailable:  # a finaliser, inside an access or a change of windows
            self.kernel.lock.later(self)

    def _release(self) -> None:
        in_use = self.mappings or self.pins or self.views or self.in_use
        if self.released or self.handle_count or in_use:
            return
        body, kernel = self.body, self.kernel
        last = len(body.members) == 1
        if last:
            self.pages.refuse_inside_access()
        self.released = True
        kernel.forget(self)
        body.members.remove(self)
        self._leave_parent()
        if not last:
            return
        body.relatives.remove(body)
        file = self.pages.backing.inode
        device, body.device = body.device, None
        try:
            self.pages.close()
        finally:
            if file is not None and not self.pages.family:
                kernel.families.pop(file, None)
            if device is not None:
                device.leave()

    def on_zero_handles(self) -> None:
        """The last handle was closed; mappings, pins and views keep the memory."""
        self.release_if_idle()

    def settle(self) -> None:
        """What was put off until no device is in the physical map."""
        self._release()

    def end_view(self, lease: ViewLease) -> None:
        """A view is gone. Called with the kernel's lock held."""
        self.views.remove(lease)
        if lease.window is not None:
            lease.window.release()
        self.release_if_idle()

    # Checks -------------------------------------------------------------------------------------

    def refuse_if_viewed(self, what: str, offset: int, size: int) -> None:
        """Raise `BadState` when a live view shows a part of the range, through any member."""
        start = self.base + offset
        for member in self.body.members:
            for lease in member.views:
                if lease.offset < start + size and start < lease.offset + lease.size:
                    raise BadState(
                        f"cannot {what}: a view of it is in use",
                        asked=offset,
                        holder=f"the view made at {sites.describe(lease.site)}",
                        remedy="drop the view, and every slice and array made from it",
                    )

    def refuse_if_physical(self, what: str) -> None:
        """Raise `NotSupported` for device memory."""
        if self.physical:
            raise NotSupported(f"cannot {what} {self}: it is device memory", remedy="map it")

    def refuse_if_discarded(self) -> None:
        """Raise `NotFound` while the memory is discarded."""
        if self.discarded:
            raise NotFound(
                f"the memory of {self} was discarded",
                remedy="lock it, and fill it anew: the lock says what was lost",
            )

    def refuse_if_uncached(self, what: str) -> None:
        """Raise `BadState` while the cache policy is not CACHED."""
        if self.cache_policy is not CachePolicy.CACHED:
            raise BadState(
                f"cannot {what}: {self} is {self.cache_policy.name}",
                remedy="map it, or set its cache policy to CACHED",
            )

    def check_range(self, offset: int, size: int) -> None:
        """Raise unless ``[offset, offset + size)`` lies in the object."""
        offset, size = index(offset), index(size)  # numpy's integers wrap; ours do not
        if offset < 0 or size < 0:
            raise InvalidArgs("an offset and a size are not negative", asked=min(offset, size))
        end = offset + size
        if end > self.size:
            raise OutOfRange(f"the range leaves {self}", asked=end, limit=self.size)


def memory_of(handle: object, kernel: Kernel) -> VmoObject:
    """The memory object behind what a caller gave as a handle to one.

    Raises:
      BadHandle: it is closed.
      WrongType: it is a handle to something else, or none.
      InvalidArgs: the object belongs to another kernel, whose books and lock are not these.
    """
    target = handle._entry.object if isinstance(handle, Handle) else None
    if isinstance(target, VmoObject):
        if target.kernel is kernel:
            return target
        raise InvalidArgs(f"{target} belongs to another kernel", remedy="make both in one kernel")
    if isinstance(handle, Handle) and target is None:
        raise BadHandle(f"this {type(handle).__name__} is closed", remedy="use an open handle")
    raise WrongType(f"{type(handle).__name__} is not a Vmo", remedy="pass a Vmo")
