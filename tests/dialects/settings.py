"""Settings for a call on memory objects: the state of each object that a handle is to, by fields.

A field is ``<handle>.<what>``; `DEFAULTS` has those of every handle. `impossible` knows which of
them do not go together, and why.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pinfold as pf
from pinfold.dialects.calling import number_of
from pinfold.objects.vmo import VmoChild
from pinfold.testing import check_books

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

PAGE = pf.PAGE_SIZE
SIZE = 4 * PAGE
"""Bytes of every memory object here."""

FAR = (1 << 64) - 16 * PAGE
"""Where in its ancestor a "far" snapshot begins."""

DEVICE = 0xC000_0000
"""A physical address at which there is no RAM."""

DEFAULTS: dict[str, Any] = {
    "as": "open",
    "kind": "plain",
    "lacks": 0,
    "resizable": False,
    "discardable": False,
    "discarded": False,
    "locks": 0,
    "policy": 0,
    "child": None,
    "pinned": None,
    "mapped": False,
}
"""What a handle is to.

as: "open"; "none", the number 0; "closed"; or another type of object: "bti", "vmo".
kind: how a memory object was made; or "bti", or, for a resource, "mmio", "vmex", "hypervisor".
lacks: rights that the handle does not have.
policy: the cache policy. child: the kind of a child that it has. pinned: a page of it.
"""

_OF_CACHED = ("slice", "reference", "snapshot", "far")
_FIXED = ("contiguous", "physical", "slice", "slice of contiguous", "slice of physical")


def impossible(fields: Mapping[str, Any]) -> str | None:
    """Why no memory object can be in that state; None where one can."""
    for handle in _handles(fields):
        found = _of(fields, handle)
        kind = found["kind"]
        if found["discardable"] and kind != "plain":
            return "only zx_vmo_create makes discardable memory"
        if found["discardable"] and found["policy"]:
            return "the cache policy of discardable memory is fixed"
        if found["discardable"] and found["child"]:
            return "discardable memory has no children"
        if found["discarded"] and (found["pinned"] is not None or found["locks"]):
            return "what is pinned or locked is not discarded"
        if found["policy"] and kind in _OF_CACHED:
            return "what is not cached has no such children"
        if found["policy"] and found["child"]:
            return "the cache policy of what has children is fixed"
        if found["resizable"] and kind in _FIXED:
            return "that kind has one size"
        if found["child"] == "slice" and found["resizable"]:
            return "resizable memory has no slices"
        if found["child"] in ("snapshot", "reference") and kind in _FIXED:
            return "that kind has no such children"
    return None


def _handles(fields: Mapping[str, Any]) -> set[str]:
    return {name.partition(".")[0] for name in fields if "." in name}


def _of(fields: Mapping[str, Any], handle: str) -> dict[str, Any]:
    return {name: fields.get(f"{handle}.{name}", usual) for name, usual in DEFAULTS.items()}


@dataclass
class Setting:
    """A kernel, a process, and the objects that the fields speak of."""

    fields: Mapping[str, Any]
    kernel: pf.Kernel
    process: pf.Process
    stack: ExitStack
    vmos: dict[str, pf.Vmo] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    base: int = 0
    """What addresses among the arguments are counted from."""

    def number(self, handle: str) -> int:
        """The number of the handle whose fields have that prefix."""
        return self.numbers[handle]

    def buffer(self, kind: Any) -> Any:
        """Bytes to be read or written: as many as that, or what is no good."""
        if kind == "null":
            return None
        if kind == "read-only":
            return bytes(PAGE)
        return bytearray(kind)

    def standing(self, *, without: Collection[int] = ()) -> Any:
        """What a refused call leaves as it was; ``without`` the handles that it consumes."""
        check_books(self.kernel)
        now = self.kernel.statistics()
        handles = {n for n in self.process.handles if n not in without}
        vmos = {name: self._standing(vmo) for name, vmo in self.vmos.items()}
        return now.objects, handles, now.ledger, now.leaks, vmos

    def _standing(self, vmo: pf.Vmo) -> Any:
        target = vmo.object
        found = vmo.statistics()
        state = target.locks, target.discarded, int(vmo.signals)
        content = bytearray(SIZE)
        target.pages.read_into(memoryview(content), target.base)  # whatever the policy of it is
        return found.size, found.stream_size, found.cache_policy, found.children, state, content


@contextmanager
def arranged(fields: Mapping[str, Any]) -> Iterator[Setting]:
    """The setting, as the current process; all of it is gone at the end."""
    kernel = pf.Kernel(seed=3, debug_syscalls=bool(fields.get("kernel.debug", True)))
    process = pf.Process(kernel, name="setting")
    with ExitStack() as stack, process:
        stack.callback(process.exit)
        made = Setting(fields, kernel, process, stack)
        for handle in sorted(_handles(fields) - {"kernel"}):
            made.numbers[handle] = _Maker(made).make(handle)
        yield made
    assert [m for m in kernel.objects() if m is not process] == []


class _Maker:
    """Makes what the fields of one handle speak of."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.keep = setting.stack.enter_context

    def make(self, handle: str) -> int:
        """Its number."""
        found = _of(self.setting.fields, handle)
        made = self._thing(found["kind"], found)
        if isinstance(made, pf.Vmo):
            self._put(made, found)
            self.setting.vmos[handle] = made
        state = found["as"]
        if state == "none":
            return 0
        if state in ("bti", "vmo"):
            return number_of(pf.Vmo(PAGE) if state == "vmo" else self._bti().duplicate())
        given = made.duplicate(int(made.rights) & ~found["lacks"])
        number = number_of(given)
        if state == "closed":
            given.close()
        return number

    def _bti(self) -> pf.Bti:
        bus = self.keep(pf.open_bus("stub"))
        return self.keep(bus.initiator(0x10))

    def _thing(self, kind: str, found: dict[str, Any]) -> Any:
        if kind == "bti":
            return self._bti()
        if kind == "mmio":
            return self.keep(pf.Resource(DEVICE, SIZE))
        if kind in ("vmex", "hypervisor"):
            return self.keep(pf.Resource(1 if kind == "vmex" else 0, 1, kind=5))
        return self.keep(self._memory(kind, found))

    def _memory(self, kind: str, found: dict[str, Any]) -> pf.Vmo:
        if kind.startswith("slice"):
            with self._memory(kind.partition(" of ")[2] or "plain", found) as root:
                if found["policy"]:
                    self._fill(root)
                    root.set_cache_policy(found["policy"])
                return root.child(VmoChild.SLICE, 0, SIZE)
        if kind == "contiguous":
            return pf.Vmo.contiguous(self._bti(), SIZE)
        if kind == "physical":
            with pf.Resource(DEVICE, SIZE) as resource:
                return pf.Vmo.physical(resource, DEVICE, SIZE)
        resizable = found["resizable"]
        if kind == "plain":
            return pf.Vmo(SIZE, resizable=resizable, discardable=found["discardable"])
        root = self.keep(pf.Vmo(SIZE, resizable=resizable))
        modifier = VmoChild.RESIZABLE if resizable else 0
        if kind == "reference":
            return root.child(VmoChild.REFERENCE | modifier)
        offset = {"snapshot": 0, "far": FAR}[kind]
        return root.child(VmoChild.SNAPSHOT | modifier, offset, SIZE)

    @staticmethod
    def _fill(vmo: pf.Vmo) -> None:
        if not vmo.object.physical:
            vmo.write(b"full" * (SIZE // 4))

    def _put(self, vmo: pf.Vmo, found: dict[str, Any]) -> None:
        """Bring a memory object into its state."""
        if not vmo.cache_policy:
            self._fill(vmo)
        if found["policy"] and not vmo.object.is_slice:
            vmo.set_cache_policy(found["policy"])
        assert vmo.object.physical or vmo.cache_policy == found["policy"]
        if found["discarded"]:
            vmo.lock_memory()
            vmo.unlock_memory()
            assert self.setting.kernel.reclaim() == SIZE
        for _ in range(found["locks"]):
            vmo.lock_memory()
        if found["child"]:
            kind = VmoChild[found["child"].upper()]
            self.keep(vmo.child(kind, 0, 0 if kind is VmoChild.REFERENCE else PAGE))
        if found["mapped"]:
            options = pf.VmOption.PERM_READ | pf.VmOption.ALLOW_FAULTS
            self.keep(self.setting.process.root.map(vmo, options))
        if found["pinned"] is not None:
            offset = found["pinned"] * PAGE
            self.keep(self._bti().pin(vmo, offset, PAGE, perms=pf.Perm.READ))
