# Where a mapping ends to show anything, though its addresses go on.
#
# A file may have more bytes than whoever maps it may see: the rest of a memory object of which this
# is a slice, of a device's memory, or what lies beyond a stream size. So a piece has an edge. Below
# it is the file; from it on are the piece's addresses, and under them the PROT_NONE reservation,
# which nobody makes accessible: a touch faults, whatever the piece's permissions.
#
# The edge of a piece is a fact about the kernel, `Mapped.reach` says where it ought to be. They
# differ only between a change of the reach and `move_edge`. As everywhere among regions the host
# comes first, then the books, and where a Ctrl-C comes in between, the books show less than the
# kernel.
#
# Callers hold the kernel's lock.
from __future__ import annotations

from typing import TYPE_CHECKING

from pinfold.host import mm
from pinfold.memory.hosterrors import noted
from pinfold.memory.mapped import PROT, Piece, refused
from pinfold.units import HostVa

if TYPE_CHECKING:
    from collections.abc import Iterable


def move_edge(piece: Piece) -> None:
    """Show of a piece what its reach allows now, with the permissions of each run.

    The caller has made sure that no live view shows what is to be hidden.

    Raises:
      NoMemory, AccessDenied, HostError: the kernel refuses; ``piece.edge`` says what is shown now,
        which is what was shown before, or a part of what was to be shown.
    """
    edge = piece.edge_at(piece.mapped.reach)
    if edge < piece.edge:
        _hide(piece, edge)
    elif piece.edge < edge:
        for low, high, prot in piece.runs_in(piece.edge, edge):
            _show(piece, low, high, prot)


def _hide(piece: Piece, edge: int) -> None:
    former = piece.edge
    space = piece.region.space
    try:
        space.clear(edge, former)
        piece.edge = edge
    except OSError as error:
        raise refused("hide a part of a mapping", error, former - edge) from error
    except BaseException as error:
        piece.edge = edge
        with noted("hide a part of a mapping", error):
            space.clear(edge, former)
        raise


def _show(piece: Piece, low: int, high: int, prot: int) -> None:
    try:
        _map_run(piece, low, high, prot)
        piece.edge = high
    except OSError as error:
        raise refused("show more of a mapping", error, high - low) from error
    except BaseException as error:
        with noted("hide it again", error):
            piece.region.space.clear(low, high)
        raise


def _map_run(piece: Piece, low: int, high: int, prot: int) -> None:
    offset = piece.offset + low - piece.start
    mm.map_shared_at(HostVa(low), piece.mapped.fd, offset, high - low, PROT[prot])


def shown(nodes: Iterable[object], start: int, stop: int) -> tuple[int, int] | None:
    """From the first address of the range at which a piece shows something to the last.

    A border inside the reservation would have the kernel split it, which it refuses when it is out
    of mappings.
    """
    low, high = stop, start
    for node in nodes:
        if isinstance(node, Piece):
            first, last = max(start, node.start), min(stop, node.edge)
            if first < last:
                low, high = min(low, first), last
    return (low, high) if low < high else None


def show_instead(piece: Piece, nodes: Iterable[object]) -> None:
    """Show a piece that is not all shown in place of other pieces. Host only, in two steps.

    What it does not show of the others goes first: a reader meets the reservation there, and the
    old bytes or the new ones elsewhere.

    Raises:
      OSError: the kernel refuses; nothing changed.
      NoMemory, AccessDenied, HostError: that, and what was there could not be put back.
    """
    over = [node for node in nodes if isinstance(node, Piece)]
    behind = shown(over, piece.edge, piece.stop)
    if behind is not None:
        piece.region.space.clear(*behind)
    if piece.start == piece.edge:
        return
    try:
        for run in piece.runs_in(piece.start, piece.edge):
            _map_run(piece, *run)
    except OSError as error:
        if behind is None:
            raise
        try:
            for old in over:
                for run in old.runs_in(behind[0], min(behind[1], old.edge)):
                    _map_run(old, *run)
        except OSError as second:
            failure = refused("map memory", error, piece.stop - piece.start)
            failure.add_note(f"and what was there could not be put back: {second.strerror}")
            raise failure from error
        raise
