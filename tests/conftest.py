"""Fixtures that more than one room's tests use."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

import pinfold as pf
from pinfold.testing import HostState, check_books

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["tests.vfio.plugin"]

# Derandomised: what CI runs today it runs tomorrow. `--hypothesis-profile=long` goes further.
settings.register_profile(
    "ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", max_examples=2000, deadline=None)
settings.load_profile("ci")


WHOLE_PROGRAMS = {
    "bench",
    "cli",
    "dialects",
    "docs",
    "examples",
    "faults",
    "regress",
    "stateful",
}
"""Folders whose tests run whole programs, sweeps, machines, or thousands of combinations:
`./check fast` leaves them out. The conformance cases, which go through the dialects, stay."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them, so that a test need not say of itself that it is slow."""
    tests = Path(__file__).parent
    for item in items:
        if item.path.relative_to(tests).parts[0] in WHOLE_PROGRAMS:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """What pytest itself has made is no garbage: a collection in a fixture need not look at it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def kernel() -> pf.Kernel:
    """A kernel of the test's own."""
    return pf.Kernel(seed=1)


@pytest.fixture
def process(kernel: pf.Kernel) -> Iterator[pf.Process]:
    """The current process of the test. At its end nothing may be left of it, whatever happened."""
    gc.collect()
    before = HostState.now()
    made = pf.Process(kernel, name="test")
    with made:
        yield made
        check_books(kernel)
    made.exit()
    gc.collect()
    gc.freeze()  # what is left is the test run's own: the next collection need not look at it
    with kernel.lock:
        quarantined = [m for m in kernel.objects() if m is not made]
    if not quarantined:  # a test that leaks on purpose says so with its own asserts
        assert before.difference(HostState.now()) == []


@pytest.fixture(params=["sim", "stub", "io_uring"])
def any_bus(request: pytest.FixtureRequest, process: pf.Process) -> Iterator[pf.Iommu]:
    """Each bus that has software devices."""
    del process
    with pf.open_bus(request.param) as iommu:
        yield iommu


@pytest.fixture(params=["sim", "stub"])
def book_bus(request: pytest.FixtureRequest, process: pf.Process) -> Iterator[pf.Iommu]:
    """Each bus whose grants are lines in a book: any memory can be granted, a file's too."""
    del process
    with pf.open_bus(request.param) as iommu:
        yield iommu


@pytest.fixture
def sim(process: pf.Process) -> Iterator[pf.Iommu]:
    """The translating bus."""
    del process
    with pf.open_bus("sim") as iommu:
        yield iommu


@pytest.fixture
def bti(sim: pf.Iommu) -> Iterator[pf.Bti]:
    """A device on the translating bus."""
    with sim.initiator(0x10, name="device") as made:
        yield made


@pytest.fixture
def vmo(process: pf.Process) -> Iterator[pf.Vmo]:
    """Four pages, nothing committed."""
    del process
    with pf.Vmo(4 * pf.PAGE_SIZE, name="buffer") as made:
        yield made
