"""Snapshots, slices, references and their parents, at random, against a plain model.

The model is a set of pages for every body of memory, and for every object what it shows of one, who
its parent is, and what keeps it. After every step each object that has a handle must read as the
model has it, know its parent and its children, and count the pins of its pages as the model does.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import pinfold as pf
from pinfold.errors import BadState, InvalidArgs, NotSupported, PinfoldError, Unavailable
from pinfold.memory.counts import MAX_PINS
from pinfold.objects.signals import Signal
from pinfold.objects.vmo_child import VmoChild
from pinfold.testing import check_books

PAGE = pf.PAGE_SIZE
PAGES = 4
STEPS = int(os.environ.get("PINFOLD_STEPS", "0"))


@dataclass(eq=False)
class Body:
    """Pages that one or more objects show."""

    pages: int
    resizable: bool
    content: dict[int, int] = field(default_factory=dict)
    relatives: list[Body] = field(default_factory=list)
    """Bodies that were copied from one another and are still shown by somebody."""


@dataclass(eq=False)
class Model:
    """What one memory object should be."""

    handle: pf.Vmo | None
    body: Body
    first: int
    length: int | None
    """Pages of a slice."""
    parent: Model | None = None
    koid: int = 0
    pins: list[Pin] = field(default_factory=list)
    mappings: list[pf.Mapping] = field(default_factory=list)
    children: list[Model] = field(default_factory=list)

    @property
    def pages(self) -> int:
        return self.body.pages if self.length is None else self.length

    @property
    def kept(self) -> bool:
        return self.handle is not None or bool(self.pins) or bool(self.mappings)

    def expected(self) -> bytes:
        fills = (self.body.content.get(self.first + page, 0) for page in range(self.pages))
        return b"".join(bytes([fill]) * PAGE for fill in fills)


@dataclass(eq=False)
class Pin:
    """One pin: pages of a body, by way of one object."""

    token: pf.Pmt | None
    vmo: Model
    first: int
    last: int


class FamilyMachine(RuleBasedStateMachine):
    """One device, and trees of memory objects."""

    @initialize(seed=st.integers(0, 3))
    def start(self, seed: int) -> None:
        self.kernel = pf.Kernel(seed=seed)
        self.process = pf.Process(self.kernel, name="family")
        self.bus = pf.open_bus("sim", process=self.process)
        with self.process:
            self.device = self.bus.initiator(1)
            self.root = self.process.root
        self.alive: list[Model] = []
        self.pins: list[Pin] = []
        self.make(resizable=True)
        self.make(resizable=False)
        # What seldom comes about by chance: a slice of a slice, a snapshot whose parent goes.
        outer = self.add_child(self.alive[1], VmoChild.SLICE, 1, 3)
        self.add_child(outer, VmoChild.SLICE, 1, 2)
        self.add_child(self.alive[0], VmoChild.SNAPSHOT, 0, PAGES)
        for model in self.alive:
            assert model.handle is not None
            for page in range(model.pages):
                model.handle.write(bytes([page + 1]) * PAGE, page * PAGE)
                model.body.content[model.first + page] = page + 1

    # Making -------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.alive) < 10)
    @rule(resizable=st.booleans())
    def make(self, resizable: bool) -> None:  # noqa: FBT001 - hypothesis passes names
        vmo = pf.Vmo(PAGES * PAGE, resizable=resizable, process=self.process)
        body = Body(PAGES, resizable)
        body.relatives = [body]
        self.alive.append(Model(vmo, body, 0, None, koid=vmo.koid))

    @precondition(lambda self: 0 < len(self.alive) < 10)
    @rule(
        data=st.data(),
        kind=st.sampled_from([VmoChild.SNAPSHOT, VmoChild.SLICE, VmoChild.REFERENCE]),
        resizable=st.booleans(),
        first=st.integers(0, PAGES),
        length=st.integers(0, PAGES),
    )
    def child(
        self,
        data: st.DataObject,
        kind: VmoChild,
        resizable: bool,  # noqa: FBT001 - hypothesis passes names
        first: int,
        length: int,
    ) -> None:
        parent = self.pick(data)
        if parent.handle is None:
            return
        slice_of = parent.length is not None
        pinned = any(self.counts(parent.body))
        if kind is VmoChild.REFERENCE:
            first = length = 0
            refusal: type[PinfoldError] | None = NotSupported if slice_of else None
        elif kind is VmoChild.SLICE:
            outside = first + length > parent.pages
            refusal = InvalidArgs if outside else NotSupported if parent.body.resizable else None
        elif slice_of:
            # A range that leaves the slice is found before that it is one.
            refusal = PinfoldError
        else:
            refusal = BadState if pinned else None
        if refusal is not None:
            with pytest.raises(refusal):
                parent.handle.child(kind, first * PAGE, length * PAGE)
            return
        self.add_child(parent, kind, first, length, resizable=resizable)

    def add_child(
        self, parent: Model, kind: VmoChild, first: int, length: int, *, resizable: bool = False
    ) -> Model:
        """Make a child that can be made."""
        assert parent.handle is not None
        options = kind | (VmoChild.RESIZABLE if resizable and kind is VmoChild.SNAPSHOT else 0)
        made = parent.handle.child(options, first * PAGE, length * PAGE)
        if kind is VmoChild.SNAPSHOT:
            body = Body(length, resizable)
            for page in range(min(length, max(parent.pages - first, 0))):
                if parent.first + first + page in parent.body.content:
                    body.content[page] = parent.body.content[parent.first + first + page]
            body.relatives = parent.body.relatives
            body.relatives.append(body)
            model = Model(made, body, 0, None)
        elif kind is VmoChild.SLICE:
            model = Model(made, parent.body, parent.first + first, length)
        else:
            model = Model(made, parent.body, parent.first, None)
        model.koid, model.parent = made.koid, parent
        parent.children.append(model)
        self.alive.append(model)
        return model

    def pick(self, data: st.DataObject) -> Model:
        return self.alive[data.draw(st.integers(0, len(self.alive) - 1))]

    def counts(self, body: Body) -> list[int]:
        table = [0] * body.pages
        for pin in self.pins:
            if pin.vmo.body is body:
                for page in range(pin.first, pin.last):
                    table[page] += 1
        return table

    # Using --------------------------------------------------------------------------------------

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), fill=st.integers(1, 255), through=st.booleans())
    def write(self, data: st.DataObject, fill: int, through: bool) -> None:  # noqa: FBT001
        model = self.pick(data)
        if not model.pages:
            return
        page = data.draw(st.integers(0, model.pages - 1))
        if through and model.mappings:
            mapping = model.mappings[-1]
            if page * PAGE < mapping.size:
                mapping.view(page * PAGE, PAGE)[:] = bytes([fill]) * PAGE
                model.body.content[model.first + page] = fill
        elif model.handle is not None:
            model.handle.write(bytes([fill]) * PAGE, page * PAGE)
            model.body.content[model.first + page] = fill

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def zero(self, data: st.DataObject) -> None:
        self.give_back(data, zeroing=True)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def decommit(self, data: st.DataObject) -> None:
        self.give_back(data, zeroing=False)

    def give_back(self, data: st.DataObject, *, zeroing: bool) -> None:
        model = self.pick(data)
        if model.handle is None or not model.pages:
            return
        first = data.draw(st.integers(0, model.pages - 1))
        last = data.draw(st.integers(first + 1, model.pages))
        start, stop = model.first + first, model.first + last
        pinned = any(self.counts(model.body)[start:stop])
        act = model.handle.zero if zeroing else model.handle.decommit
        try:
            act(first * PAGE, (last - first) * PAGE)
        except NotSupported:
            assert not zeroing
            assert len(model.body.relatives) > 1
            return
        except BadState:
            assert not zeroing
            assert pinned
            return
        assert zeroing or not (pinned or len(model.body.relatives) > 1)
        for page in range(start, stop):
            model.body.content.pop(page, None)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), pages=st.integers(0, PAGES))
    def resize(self, data: st.DataObject, pages: int) -> None:
        model = self.pick(data)
        # A store through a mapping of what was cut off would end the process: Linux has it so.
        if model.handle is None or any(m.mappings for m in self.alive if m.body is model.body):
            return
        cut = any(self.counts(model.body)[pages:])
        able = model.body.resizable and model.length is None
        try:
            model.handle.resize(pages * PAGE)
        except (Unavailable, PermissionError):
            assert not able or not model.handle.rights & pf.Right.RESIZE
            return
        except BadState:
            assert cut
            return
        assert able
        assert not cut
        body = model.body
        body.pages = pages
        body.content = {page: fill for page, fill in body.content.items() if page < pages}

    @precondition(lambda self: len(self.alive) > 1)
    @rule(data=st.data(), length=st.integers(0, PAGES))
    def transfer(self, data: st.DataObject, length: int) -> None:
        to, origin = self.pick(data), self.pick(data)
        if to.handle is None or origin.handle is None:
            return
        if length > min(to.pages, origin.pages):
            return
        at = data.draw(st.integers(0, to.pages - length))
        source = data.draw(st.integers(0, origin.pages - length))
        same = to is origin and at == source
        pinned = any(self.counts(origin.body)[origin.first + source :][:length]) or any(
            self.counts(to.body)[to.first + at :][:length]
        )
        try:
            to.handle.transfer(
                origin.handle, offset=at * PAGE, size=length * PAGE, source_offset=source * PAGE
            )
        except BadState:
            assert pinned
            assert not same
            return
        assert same or not pinned
        if same:
            return
        start, place = origin.first + source, to.first + at
        moved = {page: origin.body.content.pop(start + page, 0) for page in range(length)}
        for page, fill in moved.items():
            to.body.content[place + page] = fill

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def map(self, data: st.DataObject) -> None:
        model = self.pick(data)
        if model.mappings:
            model.mappings.pop().unmap()
            self.settle(model)
        elif model.handle is not None and model.pages:
            options = pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE
            model.mappings.append(self.root.map(model.handle, options))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        model = self.pick(data)
        if model.handle is None or not model.pages:
            return
        first = data.draw(st.integers(0, model.pages - 1))
        last = data.draw(st.integers(first + 1, model.pages))
        quarantined = any(pin.token is None for pin in self.pins)
        try:
            token = self.device.pin(
                model.handle, first * PAGE, (last - first) * PAGE, perms=pf.Perm.READ
            )
        except BadState:
            assert quarantined
            return
        except Unavailable:
            assert max(self.counts(model.body)[model.first + first :][: last - first]) == MAX_PINS
            return
        assert not quarantined
        pin = Pin(token, model, model.first + first, model.first + last)
        self.pins.append(pin)
        model.pins.append(pin)

    @precondition(lambda self: any(pin.token for pin in self.pins))
    @rule(data=st.data(), dropping=st.booleans())
    def unpin(self, data: st.DataObject, dropping: bool) -> None:  # noqa: FBT001 - as above
        live = [pin for pin in self.pins if pin.token is not None]
        pin = live[data.draw(st.integers(0, len(live) - 1))]
        assert pin.token is not None
        if dropping:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                pin.token = None
            return
        pin.token.unpin()
        self.let_go(pin)

    @rule()
    def release(self) -> None:
        quarantined = [pin for pin in self.pins if pin.token is None]
        assert self.device.release_quarantine() == len(quarantined)
        for pin in quarantined:
            self.let_go(pin)

    def let_go(self, pin: Pin) -> None:
        self.pins.remove(pin)
        pin.vmo.pins.remove(pin)
        self.settle(pin.vmo)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        model = self.pick(data)
        if model.handle is not None:
            model.handle.close()
            model.handle = None
            self.settle(model)

    def settle(self, model: Model) -> None:
        """An object that nothing keeps is gone; its children are its parent's."""
        if model.kept or model not in self.alive:
            return
        self.alive.remove(model)
        for child in model.children:
            child.parent = model.parent
        if model.parent is not None:
            model.parent.children.remove(model)
            model.parent.children += model.children
        if not any(other.body is model.body for other in self.alive):
            model.body.relatives.remove(model.body)

    # What must always hold ----------------------------------------------------------------------

    @invariant()
    def family_agrees(self) -> None:
        if not hasattr(self, "kernel"):
            return
        check_books(self.kernel)
        for model in self.alive:
            if model.handle is None:
                continue
            assert model.handle.read() == model.expected()
            statistics = model.handle.statistics()
            assert statistics.children == len(model.children)
            assert statistics.parent_koid == (model.parent.koid if model.parent else 0)
            assert statistics.pins == len(model.pins)
            assert bool(model.handle.signals & Signal.ZERO_CHILDREN) == (not model.children)
            table = self.counts(model.body)[model.first :][: model.pages]
            assert [model.handle.pin_count(p * PAGE) for p in range(model.pages)] == table

    def teardown(self) -> None:
        if not hasattr(self, "kernel"):
            return
        for pin in self.pins:
            if pin.token is not None:
                pin.token.unpin()
        self.device.release_quarantine()
        self.process.exit()
        assert self.kernel.statistics().objects == 0
        assert self.kernel.statistics().ledger.pinned_bytes == 0


TestFamilyMachine = FamilyMachine.TestCase
TestFamilyMachine.settings = settings(
    max_examples=max(1, STEPS // 1000) if STEPS else 200,
    stateful_step_count=1000 if STEPS else 50,
    deadline=None,
    derandomize=not STEPS,
    suppress_health_check=list(HealthCheck),
)
