# What memory objects are made of beside their pages: what they share, and what is said of them.
#
# Source: zx_vmo_create_child, zx_vmo_set_stream_size, zx_vmo_set_cache_policy; Zircon's VM for what
# slices, references and snapshots have in common.
from __future__ import annotations

import enum
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pinfold.memory.locks import refuse_inside
from pinfold.objects.lent import view_ended
from pinfold.units import PAGE_SHIFT, page_up

if TYPE_CHECKING:
    from pinfold.memory.pages import Pages
    from pinfold.memory.ranges import RangeSet
    from pinfold.memory.window import Window
    from pinfold.objects.memory_object import VmoObject
    from pinfold.objects.resource_object import DeviceHold
    from pinfold.sites import Site


class CachePolicy(enum.IntEnum):
    """How the CPU is to cache the memory. The numbers are Zircon's.

    Linux maps a memfd cached, whatever is said here: the policy is kept, and it decides which calls
    are refused.
    """

    CACHED = 0
    UNCACHED = 1
    UNCACHED_DEVICE = 2
    WRITE_COMBINING = 3


class Follower(Protocol):
    """A mapping that shows a memory object up to the end of its stream."""

    def refuse_follow(self, size: int) -> None:
        """Raise `BadState` if a live view shows what lies beyond a stream of ``size`` bytes."""

    def follow(self) -> None:
        """The stream has another size. Called with the kernel's lock held."""


class StreamSize:
    """The stream size of a memory object, which its references share.

    Attributes:
      size: bytes; 0 for contiguous and device memory, where it says nothing.
    """

    __slots__ = ("_followers", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        # Weakly: a mapping keeps its process, and a memory object must not, or a process that is
        # dropped would never end. Made for the first, as few objects ever have one.
        self._followers: weakref.WeakSet[Follower] | None = None

    @property
    def shown(self) -> list[Follower]:
        """The mappings made with FAULT_BEYOND_STREAM_SIZE."""
        return [] if self._followers is None else list(self._followers)

    def followed_by(self, mapping: Follower, *, now: bool) -> None:
        """Note that a mapping ends with the stream, or does not any more."""
        if now:
            if self._followers is None:
                self._followers = weakref.WeakSet()
            self._followers.add(mapping)
        elif self._followers is not None:
            self._followers.discard(mapping)


class Body:
    """One set of pages, and the memory objects that show it: a root, its slices and references.

    Attributes:
      pages: the pages; closed when the last member has gone.
      members: the objects that show them, in no order.
      relatives: the bodies that were copied from one another and are still there, this one
        included. While there are two, none of them gives memory back: Zircon's share pages then.
      device: what keeps device memory in being.
      borrowed: pages, by number, that a clone of Magenta's has from what it was made from, and that
        nobody has written since: for its calls they have no memory of their own. None elsewhere.
    """

    __slots__ = ("borrowed", "device", "members", "pages", "relatives")

    def __init__(self, pages: Pages) -> None:
        self.pages = pages
        self.members: list[VmoObject] = []
        self.relatives: list[Body] = [self]
        self.device: DeviceHold | None = None
        self.borrowed: RangeSet | None = None

    def own(self, start: int, stop: int) -> None:
        """The pages of a byte range are its own now. Called with the kernel's lock held."""
        if self.borrowed is not None:
            self.borrowed.discard(start >> PAGE_SHIFT, page_up(stop) >> PAGE_SHIFT)


class ShownRange(Protocol):
    """A live view of a memory object, through a window of ours or through a mapping."""

    offset: int
    """Bytes, of the pages."""
    size: int
    site: Site


class ViewLease:
    """A live view of a memory object: keeps its window, and is found when the view is gone."""

    __slots__ = ("offset", "ref", "shown_at", "site", "size", "vmo", "window")

    def __init__(
        self, vmo: VmoObject, window: Window | None, offset: int, size: int, site: Site
    ) -> None:
        self.vmo = vmo
        self.window = window
        self.offset = offset
        self.size = size
        self.site = site
        self.ref: weakref.ref[Any] | None = None
        self.shown_at = 0
        """Where the mapping begins that it lies in."""

    @property
    def live(self) -> bool:
        """False as soon as nobody can read through it, even if nobody has been told yet."""
        return self.ref is not None and self.ref() is not None

    def settle(self) -> None:
        """The view is gone. Called with the kernel's lock held."""
        refuse_inside(self.vmo.pages.backing.lock)
        view_ended(self.vmo.kernel, self)
        self.vmo.end_view(self)


@dataclass(frozen=True, slots=True)
class VmoLockState:
    """What locking a discardable object found. Source: zx_vmo_lock_state_t."""

    offset: int
    size: int
    discarded_offset: int
    discarded_size: int
    """Bytes that had been discarded: all of the object, or 0."""


@dataclass(frozen=True, slots=True)
class VmoStatistics:
    """A memory object at one moment. Sizes in bytes."""

    koid: int
    name: str
    size: int
    stream_size: int
    committed: int
    """Memory or file blocks behind it; those of its parent, for a slice or a reference."""
    attributed: int
    """What of that is charged to this object: nothing, for a slice or a reference."""
    pinned: int
    """Bytes of its pages that at least one pin holds, by whatever object."""
    pins: int
    """Live pins through it, those in quarantine included."""
    mappings: int
    share_count: int
    """Address spaces that map it; 1 where it has fewer than two mappings, as Zircon says it."""
    views: int
    handles: int
    parent_koid: int
    """0 without a parent."""
    children: int
    kind: str
    """``memfd``, ``fd``, ``file`` or ``physical``."""
    cache_policy: CachePolicy
    resizable: bool
    contiguous: bool
    """One run of physical memory: contiguous and device memory, and slices of either."""
    physical: bool
    discardable: bool
    cow_clone: bool
    """A snapshot, while it has a parent."""
    immutable: bool
    """A snapshot that nobody may write."""
    discards: int
    """How often its memory was taken by `Kernel.reclaim`."""
