"""Fixtures of the tests of iommufd without an iommufd."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from pinfold.buses.vfio.iommufd import IommufdContainer
from pinfold.host import calls, iommufd
from pinfold.testing import HostState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

from tests.host.iommufd.model import DEVICE, Model


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """Its descriptors are real ones, of a device that does nothing; none may be left in the end."""
    made = Model()
    monkeypatch.setattr(iommufd, "IOMMU", "/dev/null")
    monkeypatch.setattr(iommufd, "fcntl", SimpleNamespace(ioctl=made.ioctl))
    before = HostState.now()
    yield made
    assert before.difference(HostState.now()) == []


@pytest.fixture
def container(model: Model) -> Iterator[IommufdContainer]:
    made = IommufdContainer(DEVICE)
    model.seen.clear()
    yield made
    made.close()


@pytest.fixture
def intercept() -> Iterator[Callable[[Callable[[str], None]], None]]:
    yield lambda see: (calls.set_interceptor(see), None)[1]
    calls.set_interceptor(None)
