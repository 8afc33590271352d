"""Calls with everything that can be wrong with them, in the order in which it is found out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from pinfold.dialects import Out, zx

from .things import status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with one argument, and the status that says so."""

    what: str
    arg: str
    give: Callable[[], Any]
    status: str


@dataclass(frozen=True)
class Call:
    """A call, arguments with which it succeeds, and its faults: the first of those there decides.

    The arguments are made anew for every attempt, those that are wrong as well.
    """

    function: Callable[..., int]
    good: dict[str, Callable[[], Any]]
    faults: tuple[Fault, ...]
    name: str = ""

    def attempt(self, *faults: Fault) -> tuple[str, dict[str, Any]]:
        """The status it gives, by name, and the arguments it was given."""
        wrong = {fault.arg: fault.give for fault in faults}
        args = {arg: wrong.get(arg, give)() for arg, give in self.good.items()}
        return zx.zx_status_get_string(self.function(*args.values())), args


def attempts(calls: Iterable[Call]) -> list[Any]:
    """Every call with each fault alone, and with each two that can be there at once."""
    made = []
    for call in calls:
        name = call.name or call.function.__name__
        pairs = [two for two in combinations(call.faults, 2) if two[0].arg != two[1].arg]
        for faults in (*((one,) for one in call.faults), *pairs):
            ident = f"{name}: {' and '.join(fault.what for fault in faults)}"
            made.append(pytest.param(call, faults, id=ident))
    return made


def check(call: Call, faults: tuple[Fault, ...]) -> dict[str, Any]:
    """The first fault decides the status, and no output parameter is written."""
    found, args = call.attempt(*faults)
    expected = faults[0].status
    assert found == zx.zx_status_get_string(status(expected))
    for arg in args.values():
        assert not isinstance(arg, Out) or arg.value is None
    return args
