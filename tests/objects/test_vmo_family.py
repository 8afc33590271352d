"""Families of memory objects, at random, against a model of lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

import pinfold as pf
from pinfold.errors import BadState, InvalidArgs, NotSupported, OutOfRange, Unavailable
from pinfold.objects.signals import Signal
from pinfold.objects.vmo import VmoChild
from pinfold.testing import check_books

from .pages import PAGE, SNAPSHOTS, number, numbers

pytestmark = pytest.mark.slow

C = VmoChild
MOST = 6
PAGES = st.integers(0, MOST - 1)
KINDS = st.sampled_from((*SNAPSHOTS, C.SLICE, C.REFERENCE))


@dataclass(eq=False)
class Body:
    """Pages that several objects may show: what each is full of, and how often it is pinned."""

    values: list[int]
    resizable: bool
    pins: list[int] = field(default_factory=lambda: [0] * MOST)


@dataclass(eq=False)
class Model:
    """What a memory object is to be."""

    vmo: pf.Vmo
    body: Body
    first: int = 0
    count: int | None = None
    may_resize: bool = False
    parent: Model | None = None
    children: list[Model] = field(default_factory=list)
    pins: int = 0

    def __post_init__(self) -> None:
        self.koid = self.vmo.koid
        if self.parent is not None:
            self.parent.children.append(self)

    @property
    def size(self) -> int:
        """Pages."""
        return len(self.body.values) if self.count is None else self.count

    def range(self, first: int, count: int) -> slice:
        """Which pages of the body a range of the object is."""
        return slice(self.first + first, self.first + first + count)

    def pinned(self, first: int, count: int) -> bool:
        return any(self.body.pins[self.range(first, count)])

    def leave(self) -> None:
        """If neither a handle nor a pin is left it is gone, and its children are its parent's."""
        if not self.vmo.closed or self.pins:
            return
        for child in self.children:
            child.parent = self.parent
        if self.parent is not None:
            self.parent.children.remove(self)
            self.parent.children += self.children
        self.parent, self.children = None, []


@dataclass(eq=False)
class Pin:
    """A pin of a range of an object."""

    model: Model
    pmt: pf.Pmt
    pages: slice

    def count(self, by: int) -> None:
        self.model.pins += by
        pins = self.model.body.pins
        pins[self.pages] = [count + by for count in pins[self.pages]]


class Families(RuleBasedStateMachine):
    """Makes children, writes, moves, resizes, pins and closes; after each step all is compared."""

    objects = Bundle("objects")
    pinned = Bundle("pinned")

    def __init__(self) -> None:
        super().__init__()
        self.kernel = pf.Kernel(seed=5)
        self.process = pf.Process(self.kernel)
        with pf.open_bus("stub", process=self.process) as bus:
            self.bti = bus.initiator(1)
        self.alive: list[Model] = []
        self.pins: list[Pin] = []

    def add(self, model: Model) -> Model:
        self.alive.append(model)
        return model

    @rule(
        target=objects, values=st.lists(st.integers(0, 255), max_size=MOST), way=st.integers(0, 2)
    )
    def create(self, values: list[int], way: int) -> Model:
        loose = way == 0
        vmo = pf.Vmo(len(values) * PAGE, resizable=loose, process=self.process)
        number(vmo, values)
        return self.add(Model(vmo, Body(values, loose), may_resize=loose))

    @rule(
        target=objects, parent=objects, kind=KINDS, first=PAGES, count=PAGES, way=st.integers(0, 1)
    )
    def child(self, parent: Model, kind: C, first: int, count: int, way: int) -> Any:
        if kind is C.REFERENCE:
            first = count = 0
        loose = bool(way) and kind is not C.SLICE
        if kind is C.REFERENCE:
            loose = loose and parent.may_resize
        options = kind | C.RESIZABLE if loose else kind
        error = self.refusal(parent, kind, first, count)
        if error is not None:
            with pytest.raises(error):
                parent.vmo.child(options, first * PAGE, count * PAGE)
            return multiple()
        vmo = parent.vmo.child(options, first * PAGE, count * PAGE)
        if kind is C.SLICE:
            place = parent.first + first
            return self.add(Model(vmo, parent.body, place, count, parent=parent))
        if kind is C.REFERENCE:
            return self.add(Model(vmo, parent.body, may_resize=loose, parent=parent))
        taken = parent.body.values[parent.range(first, count)]
        body = Body(taken + [0] * (count - len(taken)), loose)
        return self.add(Model(vmo, body, may_resize=loose, parent=parent))

    @staticmethod
    def refusal(parent: Model, kind: C, first: int, count: int) -> type[Exception] | None:
        beyond, is_slice = first + count > parent.size, parent.count is not None
        if kind is C.SLICE:
            return InvalidArgs if beyond else NotSupported if parent.body.resizable else None
        if kind is C.REFERENCE:
            return NotSupported if is_slice else None
        if is_slice:
            return OutOfRange if beyond else NotSupported
        return BadState if any(parent.body.pins) else None

    @rule(model=objects, at=PAGES, value=st.integers(1, 255))
    def write(self, model: Model, at: int, value: int) -> None:
        if at >= model.size:
            with pytest.raises(OutOfRange):
                number(model.vmo, [value], at)
            return
        number(model.vmo, [value], at)
        model.body.values[model.first + at] = value

    @rule(model=objects, first=PAGES, count=PAGES)
    def zero(self, model: Model, first: int, count: int) -> None:
        if count and first + count > model.size:
            with pytest.raises(OutOfRange):
                model.vmo.zero(first * PAGE, count * PAGE)
            return
        model.vmo.zero(first * PAGE, count * PAGE)
        model.body.values[model.range(first, count)] = [0] * count

    @rule(model=objects, count=st.integers(0, MOST))
    def resize(self, model: Model, count: int) -> None:
        if not model.may_resize:
            return
        if any(model.body.pins[count:]):
            with pytest.raises(BadState):
                model.vmo.resize(count * PAGE)
            return
        model.vmo.resize(count * PAGE)
        values = model.body.values
        values[count:] = []
        values.extend([0] * (count - len(values)))

    @rule(to=objects, origin=objects, at=PAGES, first=PAGES, count=PAGES)
    def transfer(self, to: Model, origin: Model, at: int, first: int, count: int) -> None:
        arguments = {"offset": at * PAGE, "size": count * PAGE, "source_offset": first * PAGE}
        if to is not origin or at != first:
            for model, start in ((origin, first), (to, at)):
                beyond = start + count > model.size
                if beyond or model.pinned(start, count):
                    with pytest.raises(OutOfRange if beyond else BadState):
                        to.vmo.transfer(origin.vmo, **arguments)
                    return
            taken = origin.body.values[origin.range(first, count)]
            origin.body.values[origin.range(first, count)] = [0] * count
            to.body.values[to.range(at, count)] = taken
        to.vmo.transfer(origin.vmo, **arguments)

    @rule(target=pinned, model=objects, first=PAGES, count=st.integers(1, 3))
    def pin(self, model: Model, first: int, count: int) -> Any:
        count = min(count, model.size - first)
        if count <= 0:
            return multiple()
        try:
            pmt = self.bti.pin(model.vmo, first * PAGE, count * PAGE, perms=pf.Perm.READ)
        except Unavailable:
            assert max(model.body.pins) == 31
            return multiple()
        made = Pin(model, pmt, model.range(first, count))
        made.count(1)
        self.pins.append(made)
        return made

    @rule(pin=consumes(pinned))
    def unpin(self, pin: Pin) -> None:
        pin.pmt.unpin()
        pin.count(-1)
        self.pins.remove(pin)
        pin.model.leave()

    @rule(model=consumes(objects))
    def close(self, model: Model) -> None:
        model.vmo.close()
        self.alive.remove(model)
        model.leave()

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        check_books(self.kernel)
        for model in self.alive:
            found = model.vmo.statistics()
            shown = model.body.values[model.range(0, model.size)]
            assert numbers(model.vmo) == shown
            assert [model.vmo.pin_count(at * PAGE) for at in range(len(shown))] == [
                *model.body.pins[model.range(0, len(shown))]
            ]
            assert found.children == len(model.children)
            assert (model.vmo.signals == Signal.ZERO_CHILDREN) == (not model.children)
            assert found.parent_koid == (0 if model.parent is None else model.parent.koid)
            assert found.pins == model.pins

    def teardown(self) -> None:
        for pin in self.pins:
            pin.pmt.unpin()
        for model in self.alive:
            model.vmo.close()
        self.bti.close()
        assert self.kernel.objects() == [self.process]
        self.process.exit()


TestFamilies = Families.TestCase
TestFamilies.settings = settings(
    max_examples=60, stateful_step_count=40, suppress_health_check=list(HealthCheck)
)
