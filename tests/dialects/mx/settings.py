"""Settings for Magenta's calls: the state of each object that a handle is to, by fields.

As in the settings for Zircon's calls, a field is ``<handle>.<what>``. All objects are made by
Magenta's calls, so that what they refuse is refused of their own.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pinfold as pf
from pinfold.dialects import mx
from pinfold.dialects.calling import face, number_of
from pinfold.errors import HostError
from pinfold.objects.memory_object import VmoObject
from pinfold.testing import check_books
from tests.dialects.settings import Setting

from . import things
from .things import PAGE, ok

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

SIZE = 3 * PAGE + 100
"""Bytes of every memory object here: the last page is used in part."""
REGION = 16 * PAGE
MOST_PINS = 31
DEVICE = 0xC000_0000
"""A physical address at which there is no RAM."""

RW = mx.MX_VM_FLAG_PERM_READ | mx.MX_VM_FLAG_PERM_WRITE
MAPPED, CHILD, READ_ONLY, TAKEN = 2, 8, 5, 4
"""What is where in a region, in pages: two mapped pages, a region of two, a page that can only be
read. TAKEN is free, and next to the last of these."""

DEFAULTS: dict[str, Any] = {
    "as": "open",
    "kind": "plain",
    "lacks": 0,
    "hole": None,
    "bound": None,
    "full": None,
    "pinned": None,
    "mapped": False,
    "stuck": False,
    "dead": False,
    "filled": False,
    "can": things.CAN_ALL,
}
"""What a handle is to.

as: "open"; "none", the number 0; "closed"; or another type of object.
kind: how a memory object was made; or another type of object, or the kind of a resource.
lacks: rights that the handle does not have.
hole, bound, full, pinned: a page of memory that has none; that the BTI of the call has pinned; that
is pinned as often as can be, or once, by another BTI.
stuck: a pin of the BTI could not be taken back.
dead, filled, can: of a region: destroyed, without a gap, what may be mapped in it.
"""


def impossible(fields: Mapping[str, Any]) -> str | None:
    """Why there can be no such setting, or the call does not look at it; None where there can."""
    for handle in _handles(fields):
        found = _of(fields, handle)
        kind, pages = found["kind"], [found[what] for what in ("hole", "bound", "full", "pinned")]
        if kind in ("clone", "physical") and any(page is not None for page in pages):
            return "its pages are as they are"
        if kind == "contiguous" and found["hole"] is not None:
            return "contiguous memory has no holes"
        if found["hole"] is not None and found["hole"] in pages[1:]:
            return "what is pinned has memory"
        if fields.get("size") == 0 and "perms" in fields and pages != [None] * 4:
            return "a pin of no bytes touches no page"
        if fields.get("size") == 0 and "perms" in fields and kind == "clone":
            return "a pin of no bytes touches no page"
        if found["bound"] is not None and fields.get("bti.stuck"):
            return "a device with a stuck pin makes no more"
        if found["bound"] is not None and fields.get("bti.as", "open") != "open":
            return "another device has not pinned it"
        if found["bound"] is not None and fields.get("bti.lacks"):
            return "a handle without MAP pins nothing"
        if found["dead"] and found["filled"]:
            return "a dead region has nothing in it"
    return None


def _handles(fields: Mapping[str, Any]) -> set[str]:
    return {name.partition(".")[0] for name in fields if "." in name}


def _of(fields: Mapping[str, Any], handle: str) -> dict[str, Any]:
    return {name: fields.get(f"{handle}.{name}", usual) for name, usual in DEFAULTS.items()}


@dataclass
class MxSetting(Setting):
    """A kernel, a process, and the objects that the fields speak of."""

    memory: dict[str, VmoObject] = field(default_factory=dict)

    def buffer(self, kind: Any) -> Any:
        """Bytes to be read or written: as many as that, or what is no good."""
        return bytes(8 * PAGE) if kind == "read-only" else super().buffer(kind)

    def standing(self, *, without: Collection[int] = ()) -> Any:
        """What a refused call leaves as it was; ``without`` the handles that it consumes."""
        check_books(self.kernel)
        now = self.kernel.statistics()
        books = now.ledger.pins, now.ledger.pinned_bytes, now.ledger.requested_bytes
        handles = {n for n in self.process.handles if n not in without}
        vmos = {}
        for name, vmo in self.memory.items():
            content = bytearray(SIZE)
            vmo.pages.read_into(memoryview(content), 0)
            sizes = vmo.size, vmo.stream.size, vmo.attributed(0, vmo.size)
            vmos[name] = sizes, vmo.cache_policy, content
        maps = self.process.root.maps()
        return now.objects, handles, books, len(self.kernel.leaks), vmos, maps


@contextmanager
def arranged(fields: Mapping[str, Any]) -> Iterator[MxSetting]:
    """The setting, as the current process; all of it is gone at the end."""
    kernel = pf.Kernel(seed=3, strict=fields.get("kernel.strict"))
    process = pf.Process(kernel, name="setting")
    with ExitStack() as stack, process:
        process.reserve_root(size=64 * PAGE)
        stack.callback(process.exit)
        made = MxSetting(fields, kernel, process, stack)
        maker = _Maker(made)
        for handle in sorted(_handles(fields) - {"kernel"}, key=lambda name: name != "bti"):
            made.numbers[handle] = maker.make(handle)
        yield made
    assert [m for m in kernel.objects() if m is not process] == []


class _Maker:
    """Makes what the fields of one handle speak of."""

    def __init__(self, setting: MxSetting) -> None:
        self.setting = setting

    def make(self, handle: str) -> int:
        """Its number."""
        found = _of(self.setting.fields, handle)
        number = self._thing(found["kind"], found)
        target = face(number)
        if isinstance(target, pf.Vmo):
            self._put(number, found)
            self.setting.memory[handle] = target.object
        state = found["as"]
        if state == "none":
            return 0
        if state not in ("open", "closed"):
            return things.ALL[state]()
        if found["lacks"]:
            number = things.without(found["lacks"], number)
        if state == "closed":
            assert mx.mx_handle_close(things.twin(number)) == mx.MX_OK
            return things.closed()
        return number

    def _thing(self, kind: str, found: dict[str, Any]) -> int:
        if kind == "bti":
            return self._bti(stuck=found["stuck"])
        if kind == "region":
            return self._region(found)
        if kind in ("mmio", "irq"):
            at, number = (DEVICE, 0) if kind == "mmio" else (3, 1)
            return number_of(pf.Resource(at, 2 * PAGE if kind == "mmio" else 1, kind=number))
        if kind in things.ALL:
            return things.ALL[kind]()
        return self._memory(kind)

    @staticmethod
    def _memory(kind: str) -> int:
        root = mx.root_resource()
        if kind == "contiguous":
            return int(ok(mx.mx_vmo_create_contiguous, root, SIZE, 0))
        if kind == "physical":
            return int(ok(mx.mx_vmo_create_physical, root, DEVICE, SIZE))
        made = things.vmo(SIZE)
        if kind == "clone":
            return int(ok(mx.mx_vmo_clone, made, mx.MX_VMO_CLONE_COPY_ON_WRITE, 0, SIZE))
        return made

    def _bti(self, *, stuck: bool) -> int:
        bti = things.bti()
        if stuck:
            target: Any = face(bti).object
            addrs = things.pin(bti, things.vmo(PAGE), 0, PAGE)
            target.space.revoke, revoke = _refuse, target.space.revoke
            assert mx.mx_bti_unpin(bti, addrs, len(addrs)) == mx.MX_ERR_IO
            target.space.revoke = revoke
        return bti

    def _put(self, number: int, found: dict[str, Any]) -> None:
        """Bring a memory object into its state."""
        if found["hole"] is not None:
            op = mx.MX_VMO_OP_DECOMMIT
            assert mx.mx_vmo_op_range(number, op, found["hole"] * PAGE, 1, None, 0) == mx.MX_OK
        if found["bound"] is not None:
            things.pin(self.setting.numbers["bti"], number, found["bound"] * PAGE, 1)
        if found["pinned"] is not None:
            things.pin(things.bti(), number, found["pinned"] * PAGE, 1)
        if found["full"] is not None:
            bound = found["bound"] == found["full"]
            for _ in range(MOST_PINS - (found["kind"] == "contiguous") - bound):
                things.pin(things.bti(), number, found["full"] * PAGE, 1)
        if found["mapped"]:
            root, read = mx.mx_vmar_root_self(), mx.MX_VM_FLAG_PERM_READ
            ok(mx.mx_vmar_map, root, 0, number, 0, PAGE, read)

    def _region(self, found: dict[str, Any]) -> int:
        made, vmo = things.region(REGION), things.vmo(2 * PAGE)
        self.setting.base = things.info(made, mx.MX_INFO_VMAR).base
        at, read = mx.MX_VM_FLAG_SPECIFIC, mx.MX_VM_FLAG_PERM_READ
        reader = things.without(mx.MX_RIGHT_WRITE, things.twin(vmo))
        ok(mx.mx_vmar_map, made, MAPPED * PAGE, vmo, 0, 2 * PAGE, at | RW)
        ok(mx.mx_vmar_map, made, READ_ONLY * PAGE, reader, 0, PAGE, at | read)
        things.region(2 * PAGE, at, CHILD * PAGE, parent=made)
        if found["filled"]:
            for page, pages in ((0, 2), (4, 1), (6, 2), (10, 6)):
                ok(mx.mx_vmar_map, made, page * PAGE, vmo, 0, pages * PAGE, at | read)
        target: Any = face(made).object
        target.options = found["can"]
        if found["dead"]:
            assert mx.mx_vmar_destroy(made) == mx.MX_OK
        return made


def _refuse(_: object) -> None:
    raise HostError("revoke", OSError(5, "the bus does not answer"))
