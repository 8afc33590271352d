"""Address regions: views that stop them, process exit, and failing host calls."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from pinfold import Kernel, Process, Vmo
from pinfold.errors import (
    AlreadyExists,
    BadState,
    InvalidArgs,
    NoMemory,
    NotFound,
    OutOfRange,
    PinfoldError,
)
from pinfold.host import calls
from pinfold.objects.mapping import Mapping
from pinfold.objects.vmar import Vmar, VmOption
from pinfold.units import MIB
from tests.objects.vmar.world import (
    CAN_ALL,
    OVERWRITE,
    READ,
    RW,
    SPECIFIC,
    P,
    World,
    agree,
    kernel_maps,
    open_files,
    shown,
)
from tests.user_memory import load

# Views ------------------------------------------------------------------------------------------


def test_a_view_stops_every_way_of_losing_its_bytes(
    world: World, family: tuple[Vmar, Vmar, Mapping]
) -> None:
    child, inner, made = family
    array = made.array("u1", P, 16)
    acts: tuple[Callable[[], Any], ...] = (
        made.unmap,
        lambda: made.__exit__(None, None, None),
        lambda: inner.unmap(made.address + P, P),
        lambda: inner.map(world.vmo, READ | OVERWRITE, size=2 * P),
        lambda: inner.protect(made.address, 2 * P, READ),
        inner.destroy,
        child.destroy,
        lambda: world.root.unmap(world.root.base, world.root.size),
    )
    for act in acts:
        with pytest.raises(BadState) as caught:
            act()
        assert __file__ in str(caught.value.holder)
        assert caught.value.remedy
    assert world.vmo.statistics().views == 1
    assert (array == 2).all()
    agree(world)
    inner.unmap(made.address, P)
    del array
    assert world.vmo.statistics().views == 0
    made.unmap()


def test_a_read_only_view_lets_write_go(world: World) -> None:
    made = world.root.map(world.vmo, READ)
    view = made.view()
    world.root.protect(made.address, P, RW)
    world.root.protect(made.address, P, READ)
    with pytest.raises(BadState):
        world.root.protect(made.address, P, 0)
    view.release()
    world.root.protect(made.address, P, 0)


def test_a_view_keeps_the_object_from_shrinking_under_it(world: World) -> None:
    vmo = world.new_vmo(4, resizable=True)
    view = world.root.map(vmo, READ).view(2 * P, P)
    with pytest.raises(BadState) as caught:
        vmo.resize(2 * P)
    assert __file__ in str(caught.value.holder)
    vmo.resize(3 * P)
    del view
    vmo.resize(P)


@pytest.mark.parametrize(
    ("offset", "size", "error"),
    [
        (-1, None, InvalidArgs),
        (0, 0, InvalidArgs),
        (4 * P, None, InvalidArgs),
        (0, 4 * P + 1, OutOfRange),
    ],
)
def test_a_view_is_of_bytes_in_the_mapping(
    world: World, offset: int, size: int | None, error: type[PinfoldError]
) -> None:
    with pytest.raises(error):
        world.root.map(world.vmo, READ).view(offset, size)


def test_force_leaves_the_range_inaccessible(world: World) -> None:
    made = world.root.map(world.vmo, RW)
    view = made.view(P, P)
    made.unmap(force=True)
    assert shown(world, made) == [None] * 4
    assert made.pieces == 0
    again = world.root.map(world.vmo, READ)  # not at the addresses of the view
    assert again.address >= made.address + 2 * P
    with pytest.raises(BadState) as caught:
        world.root.map(world.vmo, READ | SPECIFIC, offset=P, size=P)
    assert __file__ in str(caught.value.holder)
    koid = world.vmo.koid
    world.vmo.close()
    again.unmap()
    assert koid in {found.koid for found in world.kernel.objects()}
    del view
    assert koid not in {found.koid for found in world.kernel.objects()}
    with world.new_vmo(1) as other:
        assert world.root.map(other, READ | SPECIFIC, offset=P).size == P


@pytest.mark.parametrize("way", ["vmar", "destroy"])
def test_force_in_other_ways(world: World, family: tuple[Vmar, Vmar, Mapping], way: str) -> None:
    child, _, made = family
    view = made.view()
    if way == "vmar":
        world.root.unmap(child.base, child.size, force=True)
    else:
        child.destroy(force=True)
    assert load(made.address) is None
    assert not child.alive
    del view


def test_dropping_a_mapping_unmaps_nothing(world: World) -> None:
    address = world.root.map(world.vmo, READ).address
    assert load(address) == b"\x01"
    assert world.root.statistics().mappings == 1
    with world.root.map(world.vmo, READ) as made:
        assert "Mapping" in repr(made)
        other = made.address
    assert load(other) is None


# The life of a process --------------------------------------------------------------------------


def test_process_exit_unmaps_everything() -> None:
    """Source: zircon, the region and its mappings stay until process exit."""
    files, kernel = open_files(), Kernel()
    process = Process(kernel)
    root = process.root
    with Vmo(4 * P, process=process) as vmo:
        made = root.map(vmo, RW)
        child = root.allocate(8 * P, CAN_ALL)
        child.map(vmo, READ)
    view = made.view()
    base, size = root.base, root.size
    process.exit()
    process.exit()
    assert root.closed
    assert child.closed
    assert load(made.address) is None
    assert [line[2] for line in kernel_maps(base, base + size)] == ["---p"]  # for the view
    del view
    assert all(line[2] != "---p" for line in kernel_maps(base, base + size))
    assert kernel.objects() == []
    assert open_files() == files
    with pytest.raises(BadState):
        process.root  # noqa: B018 - reading it is the act


def test_the_root_is_the_same_after_its_handle_is_closed(world: World) -> None:
    koid = world.root.koid
    made = world.root.map(world.vmo, READ)
    world.root.close()
    assert world.root.koid == koid
    assert load(made.address) == b"\x01"


def test_vmar_root_is_the_current_processs(world: World) -> None:
    with world.process:
        assert Vmar.root() is world.process.root


def test_two_threads_get_the_same_root() -> None:
    process = Process(Kernel())
    found: list[Vmar] = []
    threads = [threading.Thread(target=lambda: found.append(process.root)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(root) for root in found}) == 1
    process.exit()


# Faults -----------------------------------------------------------------------------------------


@dataclass
class Faults:
    """Fails host calls from the n-th on: one of them, or all."""

    at: int
    lasting: bool
    seen: int = 0

    def __call__(self, name: str) -> None:
        if name.startswith("process_vm"):  # how the test looks, not what it tests
            return
        self.seen += 1
        if self.seen == self.at or (self.lasting and self.seen > self.at):
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def life(world: World) -> list[Callable[[], Any]]:
    """One of each act, on whatever the acts before it have left."""
    root, vmo = world.root, world.vmo
    base = root.base
    return [
        lambda: root.map(vmo, RW | SPECIFIC | VmOption.MAP_RANGE),
        lambda: root.map(vmo, READ | SPECIFIC, offset=4 * P),
        lambda: root.protect(base + P, 5 * P, 0),
        lambda: root.map(vmo, READ | OVERWRITE, offset=2 * P, size=P),
        lambda: root.unmap(base + P, P),
        lambda: world.allocate(4 * P, CAN_ALL | SPECIFIC, offset=16 * P).map(vmo, RW),
        lambda: root.unmap(base + 12 * P, 20 * P),
        lambda: root.unmap(base, 6 * P),
    ]


PARTIAL = 2  # protect, of which some may be done when the host is out of mappings


@pytest.mark.parametrize("lasting", [False, True])
def test_whatever_call_fails_books_and_kernel_agree(lasting: bool) -> None:  # noqa: FBT001 - a parameter
    files, at, refused, complete = open_files(), 0, 0, False
    while not complete:
        at += 1
        world, faults = World(), Faults(at, lasting)
        for number, act in enumerate(life(world)):
            before = world.root.maps()
            former = calls.set_interceptor(faults)
            try:
                act()
            except NoMemory:
                refused += 1
                if not lasting and number != PARTIAL:
                    assert [r for r in world.root.maps() if r.kind == "mapping"] == [
                        r for r in before if r.kind == "mapping"
                    ]
            except (NotFound, AlreadyExists):
                pass  # an act that was refused has left it nothing to work on
            finally:
                calls.set_interceptor(former)
            agree(world)
        complete = faults.seen < at
        base, size = world.root.base, world.root.size
        calls.set_interceptor(Faults(1, lasting=lasting))
        try:
            world.process.exit()
        except PinfoldError:
            assert not world.process.alive
        finally:
            calls.set_interceptor(None)
        assert world.kernel.objects() == []
        assert all(line[2] != "---p" for line in kernel_maps(base, base + size))
        assert open_files() == files
    assert at > 8
    assert refused > 5  # a refused unmap is often made good by the spare mapping


def test_a_root_that_cannot_be_reserved_leaves_nothing() -> None:
    kernel = Kernel()
    process = Process(kernel)
    former = calls.set_interceptor(Faults(1, lasting=True))
    try:
        for size in (MIB, None):
            with pytest.raises(NoMemory):
                process.reserve_root(size=size)
    finally:
        calls.set_interceptor(former)
    assert process.root.alive
    process.exit()
    assert kernel.objects() == []


def test_numpy_keeps_a_view_alive(world: World) -> None:
    made = world.root.map(world.vmo, RW)
    array = made.array("<u8")[3:9].reshape(2, 3)
    with pytest.raises(BadState):
        made.unmap()
    array[:] = 7
    assert np.frombuffer(world.vmo.read(24, 48), "<u8").tolist() == [7] * 6
    del array
    made.unmap()
