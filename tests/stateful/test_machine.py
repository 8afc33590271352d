"""VMOs, regions, pins, drops, resizes and closes, at random, against a plain model.

The model is a dict of pages and a list of pins. After every step the real books are recounted from
the live tokens, and compared with the model's. A run of a million steps on demand:

    PINFOLD_STEPS=1000000 python -m pytest tests/stateful -k machine
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import pinfold as pf
from pinfold.errors import BadState, DmaFault, PinfoldError, Unavailable
from pinfold.memory.counts import MAX_PINS
from pinfold.testing import check_books

PAGE = pf.PAGE_SIZE
PAGES = 6
STEPS = int(os.environ.get("PINFOLD_STEPS", "0"))
"""Steps of a long run, in examples of a thousand; 0 for the ordinary one."""


@dataclass
class ModelVmo:
    """What a memory object should be."""

    handle: pf.Vmo | None
    pages: int
    content: dict[int, int] = field(default_factory=dict)
    """The byte that fills each page that was ever written; 0 elsewhere."""
    mappings: list[pf.Mapping] = field(default_factory=list)
    view: memoryview | None = None


@dataclass
class ModelPin:
    """What a pin should be."""

    token: pf.Pmt | None
    vmo: ModelVmo
    device: int
    first: int
    last: int
    perms: pf.Perm
    address: int
    """Of its first page; extents follow on, on `sim`."""


def counts(pins: list[ModelPin], vmo: ModelVmo) -> list[int]:
    table = [0] * vmo.pages
    for pin in pins:
        if pin.vmo is vmo:
            for page in range(pin.first, pin.last):
                table[page] += 1
    return table


class PinMachine(RuleBasedStateMachine):
    """Two devices on one translating bus, and any number of memory objects."""

    @initialize(seed=st.integers(0, 3))
    def start(self, seed: int) -> None:
        self.kernel = pf.Kernel(seed=seed, max_pinned=PAGES * 3 * PAGE)
        self.process = pf.Process(self.kernel, name="machine")
        self.bus = pf.open_bus("sim", process=self.process)
        with self.process:
            self.devices = [self.bus.initiator(number) for number in (1, 2)]
            self.root = self.process.root
        self.vmos: list[ModelVmo] = []
        self.pins: list[ModelPin] = []
        self.gone: list[tuple[int, int]] = []
        self.make(PAGES, resizable=True)
        self.make(PAGES, resizable=False)
        for device in (0, 1):
            self.pin_range(self.vmos[device], 1, PAGES - 1, device, pf.Perm.READ | pf.Perm.WRITE)

    # Memory objects -----------------------------------------------------------------------------

    @precondition(lambda self: len(self.vmos) < 5)
    @rule(pages=st.integers(0, PAGES), resizable=st.booleans())
    def make(self, pages: int, resizable: bool) -> None:  # noqa: FBT001 - hypothesis passes names
        vmo = pf.Vmo(pages * PAGE, resizable=resizable, process=self.process)
        self.vmos.append(ModelVmo(vmo, pages))

    @precondition(lambda self: self.vmos)
    @rule(data=st.data(), fill=st.integers(1, 255))
    def write(self, data: st.DataObject, fill: int) -> None:
        model = self.pick(data)
        if model.handle is None or not model.pages:
            return
        page = data.draw(st.integers(0, model.pages - 1))
        model.handle.write(bytes([fill]) * PAGE, page * PAGE)
        model.content[page] = fill

    @precondition(lambda self: self.vmos)
    @rule(data=st.data(), pages=st.integers(0, PAGES))
    def resize(self, data: st.DataObject, pages: int) -> None:
        model = self.pick(data)
        if model.handle is None:
            return
        cut = any(counts(self.pins, model)[pages:]) or (
            model.view is not None and pages * PAGE < len(model.view)
        )
        try:
            model.handle.resize(pages * PAGE)
        except Unavailable:
            assert not model.handle.statistics().resizable
            return
        except BadState:
            assert cut
            return
        assert not cut
        model.pages = pages
        model.content = {page: fill for page, fill in model.content.items() if page < pages}

    @precondition(lambda self: self.vmos)
    @rule(data=st.data(), zeroing=st.booleans())
    def give_back(self, data: st.DataObject, zeroing: bool) -> None:  # noqa: FBT001 - as above
        model = self.pick(data)
        if model.handle is None or not model.pages:
            return
        first = data.draw(st.integers(0, model.pages - 1))
        last = data.draw(st.integers(first + 1, model.pages))
        pinned = any(counts(self.pins, model)[first:last])
        act = model.handle.zero if zeroing else model.handle.decommit
        try:
            act(first * PAGE, (last - first) * PAGE)
        except BadState:
            assert pinned
            assert not zeroing
            return
        assert zeroing or not pinned
        for page in range(first, last):
            model.content.pop(page, None)

    @precondition(lambda self: self.vmos)
    @rule(data=st.data())
    def view(self, data: st.DataObject) -> None:
        model = self.pick(data)
        if model.view is not None:
            model.view = None
        elif model.handle is not None and model.pages:
            model.view = model.handle.view()

    @precondition(lambda self: self.vmos)
    @rule(data=st.data())
    def map(self, data: st.DataObject) -> None:
        model = self.pick(data)
        if model.mappings:
            model.mappings.pop().unmap()
        elif model.handle is not None and model.pages:
            options = pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE
            model.mappings.append(self.root.map(model.handle, options))

    @precondition(lambda self: self.vmos)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        model = self.pick(data)
        if model.handle is not None:
            model.handle.close()
            model.handle = None

    def pick(self, data: st.DataObject) -> ModelVmo:
        return self.vmos[data.draw(st.integers(0, len(self.vmos) - 1))]

    # Pins ---------------------------------------------------------------------------------------

    @precondition(lambda self: self.vmos)
    @rule(
        data=st.data(),
        device=st.integers(0, 1),
        perms=st.sampled_from([pf.Perm.READ, pf.Perm.WRITE, pf.Perm.READ | pf.Perm.WRITE]),
    )
    def pin(self, data: st.DataObject, device: int, perms: pf.Perm) -> None:
        model = self.pick(data)
        if model.handle is None or not model.pages:
            return
        first = data.draw(st.integers(0, model.pages - 1))
        last = data.draw(st.integers(first + 1, model.pages))
        self.pin_range(model, first, last, device, perms)

    def pin_range(
        self, model: ModelVmo, first: int, last: int, device: int, perms: pf.Perm
    ) -> None:
        """A pin that either works or is refused for a reason that the model knows."""
        assert model.handle is not None
        quarantined = any(p.device == device and p.token is None for p in self.pins)
        table = counts(self.pins, model)
        held = sum(count > 0 for vmo in self.all_vmos() for count in counts(self.pins, vmo))
        fresh = table[first:last].count(0)
        too_often = max(table[first:last]) == MAX_PINS
        too_much = held + fresh > PAGES * 3
        try:
            token = self.devices[device].pin(
                model.handle, first * PAGE, (last - first) * PAGE, perms=perms
            )
        except PinfoldError:
            assert quarantined or too_often or too_much
            return
        assert not quarantined
        assert not too_often
        assert not too_much
        self.pins.append(ModelPin(token, model, device, first, last, perms, int(token.addrs[0])))

    @precondition(lambda self: any(p.token for p in self.pins))
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        pin = self.pick_pin(data)
        assert pin.token is not None
        pin.token.unpin()
        self.pins.remove(pin)
        self.gone.append((pin.device, pin.address))

    @precondition(lambda self: any(p.token for p in self.pins))
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        pin = self.pick_pin(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            pin.token = None
        self.gone.append((pin.device, pin.address))

    @rule(device=st.integers(0, 1))
    def release(self, device: int) -> None:
        quarantined = [p for p in self.pins if p.device == device and p.token is None]
        assert self.devices[device].release_quarantine() == len(quarantined)
        for pin in quarantined:
            self.pins.remove(pin)

    def pick_pin(self, data: st.DataObject) -> ModelPin:
        live = [pin for pin in self.pins if pin.token is not None]
        return live[data.draw(st.integers(0, len(live) - 1))]

    # The device ---------------------------------------------------------------------------------

    @precondition(lambda self: any(p.token for p in self.pins))
    @rule(data=st.data(), fill=st.integers(1, 255))
    def device_writes(self, data: st.DataObject, fill: int) -> None:
        pin = self.pick_pin(data)
        page = data.draw(st.integers(pin.first, pin.last - 1))
        master = self.devices[pin.device].master()
        at = pin.address + (page - pin.first) * PAGE
        try:
            master.write(at, bytes([fill]) * PAGE)
        except DmaFault:
            assert not pin.perms & pf.Perm.WRITE
        else:
            assert pin.perms & pf.Perm.WRITE
            pin.vmo.content[page] = fill

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def a_late_device_is_stopped(self, data: st.DataObject) -> None:
        device, address = self.gone[data.draw(st.integers(0, len(self.gone) - 1))]
        try:
            self.devices[device].master().read(address, 1)
        except DmaFault:
            return
        raise AssertionError(f"device {device} still reads {address:#x}")

    # What must always hold ----------------------------------------------------------------------

    def all_vmos(self) -> list[ModelVmo]:
        return list({id(v): v for v in [*self.vmos, *(p.vmo for p in self.pins)]}.values())

    @invariant()
    def books_agree(self) -> None:
        if not hasattr(self, "kernel"):
            return
        check_books(self.kernel)
        held = 0
        for model in self.all_vmos():
            table = counts(self.pins, model)
            held += sum(count > 0 for count in table)
            if model.handle is not None:
                assert [model.handle.pin_count(p * PAGE) for p in range(model.pages)] == table
                content = b"".join(
                    bytes([model.content.get(p, 0)]) * PAGE for p in range(model.pages)
                )
                assert model.handle.read() == content
                assert model.handle.statistics().views == (model.view is not None)
        ledger = self.kernel.statistics().ledger
        assert ledger.pins == len(self.pins)
        assert ledger.pinned_bytes == held * PAGE
        for number, device in enumerate(self.devices):
            mine = [pin for pin in self.pins if pin.device == number]
            statistics = device.statistics()
            assert statistics.pins == len(mine)
            assert statistics.quarantined == sum(pin.token is None for pin in mine)

    def teardown(self) -> None:
        if not hasattr(self, "kernel"):
            return
        for model in self.vmos:
            model.view = None
        for pin in self.pins:
            if pin.token is not None:
                pin.token.unpin()
        for device in self.devices:
            device.release_quarantine()
        self.process.exit()
        assert self.kernel.statistics().objects == 0
        assert self.kernel.statistics().ledger.pinned_bytes == 0


TestPinMachine = PinMachine.TestCase
TestPinMachine.settings = settings(
    max_examples=max(1, STEPS // 1000) if STEPS else 100,
    stateful_step_count=1000 if STEPS else 50,
    deadline=None,
    derandomize=not STEPS,
    suppress_health_check=list(HealthCheck),
)
