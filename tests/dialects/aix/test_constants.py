"""AIX's numbers, the services that are there, and how each is called."""

from __future__ import annotations

import inspect
import json
import pydoc
from pathlib import Path
from typing import Any

import pytest

from pinfold.dialects import aix
from pinfold.dialects.aix import numbers, services
from pinfold.errors import Status
from pinfold.objects.process import Process
from pinfold.units import PAGE_SIZE

DATA: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "aix_constants.json").read_text()
)
NUMBERS = DATA["errno"] | {
    name: value for name, value in DATA["pinfold_values"].items() if not name.startswith("_")
}
NAMED = {name for group in DATA["constants"].values() for name in group}

PARAMETERS = {
    "pin": "addr length",
    "unpin": "addr length",
    "ltpin": "addr length",
    "ltunpin": "addr length",
    "pinu": "base len segflg",
    "unpinu": "base len segflg",
    "pincode": "func",
    "unpincode": "func",
    "xmattach": "addr count dp segflag",
    "xmattach64": "addr count dp segflag",
    "xmdetach": "dp",
    "xmempin": "base len xd",
    "xmemunpin": "base len xd",
    "xmemin": "uaddr kaddr count dp",
    "xmemout": "kaddr uaddr count dp",
    "xmemdma": "xp xaddr flag",
    "xmemdma64": "xp xaddr flag",
    "xmempsize": "dp uaddr count",
    "xlate_create": "dp baddr count flags",
    "xlate_pin": "dp baddr count rw",
    "xlate_unpin": "dp baddr count",
    "xlate_remove": "dp",
    "d_map_init": "bid flags bus_flags channel",
    "d_map_clear": "handle",
    "d_map_enable": "handle",
    "d_map_disable": "handle",
    "d_map_page": "handle flags baddr busaddr xmp",
    "d_map_list": "handle flags minxfer virt_list bus_list",
    "d_unmap_page": "handle busaddr",
    "d_unmap_list": "handle bus_list",
}
"""Source: the synopses of the services."""


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_a_number_is_what_it_is(name: str) -> None:
    assert getattr(aix, name) == NUMBERS[name]
    assert name in aix.__all__ or name in vars(numbers)


def test_there_are_no_other_numbers_and_none_is_missing() -> None:
    assert {name for name in vars(numbers) if name.isupper()} == set(NUMBERS)
    assert set(NUMBERS) >= NAMED


def test_a_failure_is_no_errno() -> None:
    """One service may return either."""
    positive = set(DATA["errno"].values())
    for name in ("XMEM_FAIL", "DMA_FAIL", "DMA_NORES", "DMA_NOACC", "DMA_DIOFULL"):
        assert NUMBERS[name] < 0
        assert NUMBERS[name] not in positive
    assert aix.XMEM_SUCC == aix.DMA_SUCC == 0


@pytest.mark.parametrize("family", services.STATUSES)
def test_every_reaction_has_a_result(family: str) -> None:
    assert set(services.STATUSES[family]) == set(Status)
    assert 0 not in services.STATUSES[family].values()


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_service_is_called_as_in_c(name: str) -> None:
    service = getattr(aix, name)
    found = inspect.signature(service)
    assert " ".join(found.parameters) == PARAMETERS[name]
    assert "int" in str(found.return_annotation)
    assert service.__doc__
    assert "(" in pydoc.plain(pydoc.render_doc(service))


def test_the_page_is_the_machine_s_and_the_process_pinfold_s() -> None:
    assert aix.PAGE_SIZE == PAGE_SIZE
    assert aix.Process is Process


def test_what_is_public_is_there() -> None:
    assert set(PARAMETERS) <= set(aix.__all__)
    for name in aix.__all__:
        assert hasattr(aix, name)
