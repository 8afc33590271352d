# A memory object, as all handles to it share it: pages, and what keeps them.
#
# It lives for as long as it has a handle, a mapping, a pin or a view. Its memory is given back by
# `release_if_idle`, which whoever ends one of those calls, with the kernel's lock held.
from __future__ import annotations

from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any, Final, Protocol

from pinfold import sites
from pinfold.errors import BadHandle, BadState, InvalidArgs, OutOfRange, Unavailable, WrongType
from pinfold.memory.locks import refuse_inside
from pinfold.memory.pages import Pages
from pinfold.objects.handle import Handle
from pinfold.objects.object import KernelObject, ObjectType
from pinfold.rights import Right
from pinfold.units import PAGE_SIZE, UINT64_MAX, page_up

if TYPE_CHECKING:
    import weakref

    from pinfold.memory.backing import Backing
    from pinfold.memory.window import Window
    from pinfold.objects.kernel import Kernel
    from pinfold.objects.resource import ResourceObject
    from pinfold.sites import Site

VMO_RIGHTS: Final = int(Right.BASIC | Right.IO | Right.PROPERTY | Right.MAP | Right.SIGNAL)
_RESIZE: Final = int(Right.RESIZE)

MAX_SIZE: Final = (1 << 63) - PAGE_SIZE
"""Bytes: what a file offset on Linux can say, in whole pages."""


@dataclass(frozen=True, slots=True)
class VmoStatistics:
    """A memory object at one moment. Sizes in bytes."""

    koid: int
    name: str
    size: int
    committed: int
    """Memory or file blocks behind it."""
    pinned: int
    """Bytes that at least one pin holds."""
    pins: int
    """Live pins, those in quarantine included."""
    mappings: int
    views: int
    handles: int
    kind: str
    """``memfd``, ``fd``, ``file`` or ``physical``."""
    resizable: bool
    contiguous: bool


class ShownRange(Protocol):
    """A live view of a memory object, through a window of ours or through a mapping."""

    offset: int
    size: int
    site: Site


class ViewLease:
    """A live view of a memory object: keeps its window, and is found when the view is gone."""

    __slots__ = ("offset", "ref", "site", "size", "vmo", "window")

    def __init__(
        self, vmo: VmoObject, window: Window | None, offset: int, size: int, site: Site
    ) -> None:
        self.vmo = vmo
        self.window = window
        self.offset = offset
        self.size = size
        self.site = site
        self.ref: weakref.ref[Any] | None = None

    def settle(self) -> None:
        """The view is gone. Called with the kernel's lock held."""
        refuse_inside(self.vmo.pages.backing.lock)
        self.vmo.end_view(self)


class VmoObject(KernelObject):
    """What every handle to a memory object shares."""

    __slots__ = (
        "in_use",
        "label",
        "mappings",
        "pages",
        "physical",
        "released",
        "resizable",
        "resource",
        "views",
    )

    object_type = ObjectType.VMO

    def __init__(
        self, kernel: Kernel, backing: Backing, *, name: str = "", resizable: bool = False
    ) -> None:
        super().__init__(kernel, name)
        self.pages = Pages(backing, kernel.physmap)
        self.resizable = resizable
        self.physical = False
        self.mappings = 0
        self.views: list[ShownRange] = []
        self.in_use = 0
        """Calls under way that use the memory without the kernel's lock."""
        self.released = False
        self.label = str(self)
        """The object's name in pin records, made once: pins are frequent."""
        self.resource: ResourceObject | None = None

    @property
    def size(self) -> int:
        """Bytes, whole pages."""
        return self.pages.backing.size

    @property
    def contiguous(self) -> bool:
        """True when it is one run of physical memory: contiguous and device memory."""
        return self.pages.contiguous

    @property
    def default_rights(self) -> int:
        """The rights of the first handle. Source: Zircon; RESIZE only where it can be used."""
        return VMO_RIGHTS | (_RESIZE if self.resizable else 0)

    def join_family(self) -> None:
        """Find the other objects over the same file. Called with the kernel's lock held."""
        pages, file = self.pages, self.pages.backing.inode
        if file is not None:
            pages.family = self.kernel.families.setdefault(file, [])
            pages.family.append(pages)

    def release_if_idle(self) -> None:
        """Give the memory back when nothing refers to it. Called with the kernel's lock held."""
        try:
            self._release()
        except Unavailable:  # a finaliser, inside an access or a change of windows
            self.kernel.lock.later(self)

    def _release(self) -> None:
        in_use = self.mappings or self.pages.pins or self.views or self.in_use
        if self.released or self.handle_count or in_use:
            return
        self.pages.refuse_inside_access()
        self.released = True
        kernel, file = self.kernel, self.pages.backing.inode
        kernel.forget(self)
        resource, self.resource = self.resource, None
        try:
            self.pages.close()
        finally:
            if file is not None and not self.pages.family:
                kernel.families.pop(file, None)
            if resource is not None:
                resource.leave()

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

    def refuse_if_viewed(self, what: str, offset: int, size: int) -> None:
        """Raise `BadState` when a live view shows a part of the range."""
        for lease in self.views:
            if lease.offset < offset + size and offset < lease.offset + lease.size:
                raise BadState(
                    f"cannot {what}: a view of it is in use",
                    asked=offset,
                    holder=f"the view made at {sites.describe(lease.site)}",
                    remedy="drop the view, and every slice and array made from it",
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


def checked_size(size: int) -> int:
    """``size`` in whole pages, if an object can have it. Source: zx_vmo_create."""
    size = index(size)
    if size < 0:
        raise InvalidArgs("a size is not negative", asked=size)
    rounded = page_up(size)
    if rounded > MAX_SIZE or size > UINT64_MAX:
        raise OutOfRange("no object can be so large", asked=size, limit=MAX_SIZE)
    return rounded
