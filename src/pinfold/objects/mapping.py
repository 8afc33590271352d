# A mapping: a memory object at host addresses.
#
# Source: zx_vmar_map; Zircon's VmMapping for what a cut leaves. The views are ours.
#
# It belongs to its region, not to this Python object: dropping the object unmaps nothing. It keeps
# the memory object alive, whatever becomes of the handles. Who holds the Python object, or a view,
# keeps the whole process alive: nothing is unmapped because somebody else dropped the last handle.
#
# Its pages are the memory object's. Where that is made smaller, the mapping keeps its length, and
# touching what lies beyond the end ends the process: Linux has it so. What the object does not have
# and its file may have is never shown (memory/reach.py): the rest of the parent of a slice, of a
# device, of a file that grew; and, where a mapping is to end with the stream, what lies beyond it.
from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from pinfold import sites
from pinfold.errors import AccessDenied, InvalidArgs, NotFound, NotSupported, OutOfRange
from pinfold.memory.hosterrors import noted
from pinfold.memory.mapped import READ, WRITE, Lease, Mapped, Piece, lent, refuse
from pinfold.memory.reach import move_edge
from pinfold.rights import Perm, describe_perms
from pinfold.units import FILE_LIMIT, PAGE_SIZE, HostVa, page_up

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from pinfold.memory.regions import Region
    from pinfold.objects.memory_object import VmoObject
    from pinfold.sites import Site


class MappingView(Lease):
    """A live view of a mapping, as the memory object knows it: see ``VmoObject.views``.

    Attributes:
      offset: bytes, of the pages.
    """

    __slots__ = ("mapping", "offset", "size")

    def __init__(
        self, mapping: Mapping, start: int, offset: int, size: int, needs: int, site: Site
    ) -> None:
        super().__init__(start, start + size, needs, site)
        self.mapping = mapping
        self.offset = offset
        self.size = size

    def settle(self) -> None:
        """The view is gone. Called with the kernel's lock held."""
        self.mapping.end_view(self)


class Mapping(Mapped):
    """What one ``Vmar.map`` put into a region.

    ``with vmar.map(...) as mapping:`` unmaps it at the end of the block.

    Attributes:
      address: where it begins.
      size: bytes, whole pages, as it was made.
      vmo_offset: the byte of the memory object at ``address``.
      follows: it ends with the stream: made with FAULT_BEYOND_STREAM_SIZE.
    """

    __slots__ = ("__weakref__", "_region", "_vmo", "address", "follows", "size", "vmo_offset")

    def __init__(
        self,
        region: Region,
        vmo: VmoObject,
        max_perms: int,
        address: int,
        size: int,
        offset: int,
        *,
        follows: bool = False,
    ) -> None:
        super().__init__(vmo.pages.backing.fd, max_perms)
        self._region = region
        self._vmo = vmo
        self.address = HostVa(address)
        self.size = size
        self.vmo_offset = offset
        self.follows = follows
        if follows:
            self.reach = self._reach(vmo.stream.size)
        elif offset + size > vmo.size:
            self.reach = self._reach(None)

    @property
    def vmo(self) -> VmoObject:
        """The memory object, which may have no handle any more."""
        return self._vmo

    @property
    def max_perms(self) -> Perm:
        """What `Vmar.protect` may allow at most: what both handles allowed at map time."""
        return Perm(self.allowed)

    @property
    def mapped_size(self) -> int:
        """Bytes of it that are still mapped."""
        with self._vmo.kernel.lock:
            return sum(piece.stop - piece.start for piece in self._own_pieces())

    def pieces_changed(self, by: int) -> None:
        """Count for the memory object, and let it go. Called with the kernel's lock held."""
        # Among the counts nothing is called: Python hears no Ctrl-C between them.
        self.pieces += by
        vmo = self._vmo
        vmo.mappings += by
        spaces, space = vmo.spaces, self._region.space.base
        if space in spaces:
            spaces[space] += by
        else:
            spaces[space] = by
        if not spaces[space]:
            del spaces[space]
        if self.follows:
            vmo.stream.followed_by(self, now=bool(self.pieces))
        if not vmo.mappings:
            vmo.release_if_idle()

    def pieces_in(self, start: int, stop: int) -> list[Piece]:
        """Its pieces that have addresses in a range, whole. Called with the kernel's lock held."""
        found = self._region.pieces(start, stop)
        return [piece for piece in found if piece.mapped is self]

    def _own_pieces(self) -> list[Piece]:
        return self.pieces_in(self.address, self.address + self.size)

    # What it shows ------------------------------------------------------------------------------

    def _reach(self, stream: int | None) -> int:
        """Where in the file ends what it may show, if a stream of that size is to end it."""
        vmo = self._vmo
        start = vmo.pages.backing.base + vmo.base
        most = FILE_LIMIT if vmo.resizable else start + vmo.size
        return most if stream is None else min(most, start + page_up(stream))

    def refuse_follow(self, size: int) -> None:
        """Raise `BadState` if a live view shows what a stream of ``size`` bytes would hide.

        Called with the kernel's lock held, before the stream has that size.
        """
        reach = self._reach(size)
        for piece in self._own_pieces():
            edge = piece.edge_at(reach)
            if edge < piece.edge:
                refuse(lent([piece], edge, piece.edge), "end the stream before this mapping ends")

    def follow(self) -> None:
        """Show what the stream has now, and no more. Called with the kernel's lock held.

        Raises:
          NoMemory, HostError: the kernel refuses; it shows what it showed before, or, which a note
            says, less.

        Source: ZX_VM_FAULT_BEYOND_STREAM_SIZE.
        """
        former, self.reach = self.reach, self._reach(self._vmo.stream.size)
        pieces = self._own_pieces()
        try:
            for piece in pieces:
                move_edge(piece)
        except BaseException as error:
            self.reach = former
            for piece in pieces:
                with noted("show what was shown before", error):
                    move_edge(piece)
            raise

    def unmap(self, *, force: bool = False) -> None:
        """Unmap what is left of it. Where nothing is left this does nothing.

        With ``force`` live views are no obstacle: their addresses stay reserved and inaccessible,
        so that a late access faults (and ends the process) instead of reading somebody else's
        bytes.

        Raises:
          BadState: a live view shows a part of it (``.holder``); nothing changed.
          NoMemory: the kernel is out of mappings (vm.max_map_count); nothing changed, or, where it
            had been cut, only some of its parts are unmapped.
        """
        with self._vmo.kernel.lock:
            pieces = self._own_pieces()
            if not force:
                refuse(lent(pieces, self.address, self.address + self.size), "unmap this mapping")
            for piece in pieces:
                piece.region.clear(piece.start, piece.stop, force=force)

    def view(self, offset: int = 0, size: int | None = None) -> memoryview:
        """The bytes at ``address + offset``, as a memoryview; to the end by default.

        Writable where the protection is. Reading through it commits what it touches. While it, or
        anything made from it, lives, what it shows is not unmapped, replaced, protected against it
        or cut off the memory object, unless by force. A file that others can cut is at the caller's
        risk, as any mapping of it is: reading beyond its end ends the process.

        Args:
          offset, size: bytes; ``size`` > 0.

        Raises:
          InvalidArgs: negative, or empty.
          OutOfRange: the range leaves the mapping, the memory object as it is now, or what the
            mapping shows of it (its stream).
          NotFound: a part of it is unmapped or replaced.
          AccessDenied: a part of it is not readable.
        """
        vmo = self._vmo
        kernel = vmo.kernel
        with kernel.lock:
            offset = index(offset)  # numpy's integers wrap; ours do not
            size = max(self.size - offset, 0) if size is None else index(size)
            if offset < 0 or size <= 0:
                raise InvalidArgs(
                    "a view shows at least a byte",
                    asked=min(offset, size),
                    remedy="give an offset of 0 or more, and a size above 0",
                )
            start, stop = self.address + offset, self.address + offset + size
            if offset + size > self.size:
                raise OutOfRange(
                    "the view leaves the mapping",
                    asked=offset + size,
                    limit=self.size,
                    remedy="ask for less, or map more",
                )
            piece = next(
                (p for p in self._own_pieces() if p.start <= start and stop <= p.stop), None
            )
            if piece is None:
                raise NotFound(
                    "this part of the mapping is not mapped any more",
                    asked=start,
                    remedy="map it again",
                )
            at = self.vmo_offset + offset
            if at + size > vmo.size:
                raise OutOfRange(
                    f"the view leaves {vmo}",
                    asked=at + size,
                    limit=vmo.size,
                    remedy="ask for less: what lies beyond has no memory",
                )
            if stop > piece.edge:
                raise OutOfRange(
                    "the view leaves what the mapping shows",
                    asked=offset + size,
                    limit=piece.edge - self.address,
                    remedy="ask for less, or set a larger stream size",
                )
            perms = WRITE | READ
            for _, _, prot in piece.runs_in(start, stop):
                perms &= prot
            if not perms & READ:
                raise AccessDenied(
                    f"the memory at {start:#x} is mapped {describe_perms(perms)}, not readable",
                    remedy="protect it with PERM_READ first",
                )
            lease = MappingView(self, start, vmo.base + at, size, perms, sites.caller())
            vmo.views.append(lease)
            try:
                return self._region.space.lend(self, lease, lambda _: kernel.lock.post(lease))
            except BaseException:
                if lease.ref is None:  # else its end is told by the weak reference
                    self.end_view(lease)
                raise

    def array(
        self, dtype: str | np.dtype[Any] | type = "u1", offset: int = 0, size: int | None = None
    ) -> NDArray[Any]:
        """The bytes at ``address + offset`` as a numpy array; see `view`.

        Args:
          dtype: of an element; ``size`` is a multiple of its length.
          offset, size: bytes.
        """
        return np.frombuffer(self.view(offset, size), dtype=dtype)

    def end_view(self, lease: MappingView) -> None:
        """A view is gone. Called with the kernel's lock held."""
        self.leases.discard(lease)
        self._vmo.views.remove(lease)
        try:
            self._region.space.lease_over(lease)
        finally:
            self._vmo.release_if_idle()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unmap()

    def __repr__(self) -> str:
        stop = self.address + self.size
        return f"<Mapping [{self.address:#x}, {stop:#x}) of {self._vmo} at {self.vmo_offset:#x}>"


def show(
    region: Region,
    vmo: VmoObject,
    allowed: int,
    start: int,
    size: int,
    offset: int,
    perms: int,
    *,
    follows: bool = False,
) -> Mapping:
    """Map a part of a memory object at an address that is free, or whose pieces are replaced.

    Called with the kernel's lock held, and the caller has checked all there is to check.

    Args:
      allowed: permissions that both handles allow.

    Raises:
      BadState, NoMemory, AccessDenied, HostError: as `Region.map`.
      NotSupported: memory of huge pages. Linux maps whole ones, over whatever is there.
    """
    backing = vmo.pages.backing
    if backing.grain > PAGE_SIZE:
        raise NotSupported(
            f"{vmo} is made of huge pages, which a Vmar cannot map page by page",
            limit=backing.grain,
            remedy="use its view(), read() and write()",
        )
    if not backing.writable:
        allowed &= ~WRITE
    made = Mapping(region, vmo, allowed, start, size, offset, follows=follows)
    region.map(start, start + size, made, backing.base + vmo.base + offset, perms)
    if perms & WRITE:
        vmo.body.own(vmo.base + offset, vmo.base + offset + size)
    return made


def protect(region: Region, start: int, stop: int, perms: int) -> None:
    """Change the permissions of a range of mappings; whoever asks for it has checked it.

    What can be stored to from then on is its memory object's own: nothing tells us of stores.
    Called with the kernel's lock held.

    Raises:
      BadState, NoMemory, HostError: as `Region.protect`.
    """
    try:
        region.protect(start, stop, perms)
    finally:  # the host may have refused the second of two mappings
        if perms & WRITE:
            for piece in region.pieces(start, stop):
                _own_writable(piece, start, stop)


def _own_writable(piece: Piece, start: int, stop: int) -> None:
    mapping = cast("Mapping", piece.mapped)
    vmo = mapping.vmo
    if vmo.body.borrowed is None:
        return
    shift = vmo.base + mapping.vmo_offset - mapping.address
    for low, high, prot in piece.runs_in(start, stop):
        if prot & WRITE:
            vmo.body.own(low + shift, high + shift)
