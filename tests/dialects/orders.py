"""The order of checks of a call, as data, and every pair of faults that it decides between.

A call is made in a setting: fields, by name, for its arguments and for the states of the objects
that they name. A fault gives fields another value. Two faults are there at once where they do not
want different values of one field, and where a setting with both can be arranged at all: what
cannot is listed with its reason, so that no pair is lost without a word.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from pinfold.dialects import Out, zx

from .refused import name_of
from .settings import Setting, arranged, impossible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager

    Fields = Mapping[str, Any]


class Also(int):
    """Bits that a fault adds to a field, whatever else is in it."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, the fields that make it so, and the status that says it."""

    what: str
    status: str
    fields: Fields

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True)
class Order:
    """A call that succeeds as it is, and its faults in the order in which it finds them.

    Attributes:
      args: its parameters, in order, each with its kind: u32, u64, out, buffer, address (counted
        from the setting's base), or the prefix of the fields that say what a handle is to.
      fields: of the setting in which it succeeds, beside what `settings.DEFAULTS` has.
      faults: the earlier of two decides.
      pairs: how many pairs of faults can be there at once. A pair that goes unnoticed is a check
        whose order nobody looks at.
      unlike: pairs that are not two faults together, and why.
      consumes: parameters whose handle is gone even after an error.
      dialect: whose call it is.
      arranged, impossible: make the setting, or say why it cannot be.
    """

    name: str
    function: Callable[..., int]
    args: Mapping[str, str]
    fields: Fields
    faults: tuple[Fault, ...]
    pairs: int
    unlike: Mapping[tuple[str, str], str] = field(default_factory=dict)
    consumes: frozenset[str] = frozenset()
    dialect: Any = zx
    arranged: Callable[[Fields], AbstractContextManager[Setting]] = arranged
    impossible: Callable[[Fields], str | None] = impossible

    def setting(self, *faults: Fault) -> dict[str, Any] | None:
        """The fields with those faults; None where two of them want one field otherwise."""
        found, wanted = dict(self.fields), dict[str, Any]()
        for fault in faults:
            for name, value in fault.fields.items():
                if isinstance(value, Also):
                    found[name] = found.get(name, 0) | int(value)
                elif wanted.setdefault(name, value) != value:
                    return None
        mixed = wanted.keys() & {n for f in faults for n, v in f.fields.items() if type(v) is Also}
        return None if mixed else found | wanted

    def partition(self) -> tuple[list[tuple[Fault, Fault]], dict[tuple[str, str], str]]:
        """The pairs that can be there at once, and those that cannot, each with the reason."""
        pairs, others = [], {}
        for one, two in combinations(self.faults, 2):
            fields, names = self.setting(one, two), (one.what, two.what)
            if fields is None:
                others[names] = "one field cannot have two values"
            else:
                reason = self.unlike.get(names) or self.impossible(fields)
                if reason:
                    others[names] = reason
                else:
                    pairs.append((one, two))
        return pairs, others

    def __str__(self) -> str:
        return self.name


def attempts(orders: Iterable[Order]) -> list[Any]:
    """Every call with each fault alone, and with each pair of faults."""
    made = []
    for order in orders:
        for faults in (*((fault,) for fault in order.faults), *order.partition()[0]):
            ident = f"{order}: {' and '.join(map(str, faults))}"
            made.append(pytest.param(order, faults, id=ident))
    return made


def check_success(order: Order) -> None:
    """As it is it succeeds, so that what the faults give is theirs."""
    with order.arranged(order.fields) as setting:
        args = arguments(order, setting)
        assert name_of(order.function(*args.values()), order.dialect) == "OK"
        for value in args.values():
            assert not isinstance(value, Out) or value.value is not None


def check_refusal(order: Order, faults: tuple[Fault, ...]) -> None:
    """The first fault decides; no output parameter is written, and nothing has changed."""
    fields = order.setting(*faults)
    assert fields is not None
    with order.arranged(fields) as setting:
        args = arguments(order, setting)
        before = setting.standing(without={args[name] for name in order.consumes})
        buffers = [bytes(value) for value in args.values() if isinstance(value, bytearray)]
        found = order.function(*args.values())
        assert name_of(found, order.dialect) == faults[0].status
        for value in args.values():
            assert not isinstance(value, Out) or value.value is None
        assert buffers == [bytes(value) for value in args.values() if isinstance(value, bytearray)]
        assert setting.standing() == before


def check_pairs(order: Order) -> None:
    """No pair is lost: their number is known, and every fault has been set against another."""
    able, others = order.partition()
    names = {fault.what for fault in order.faults}
    assert len(names) == len(order.faults)
    assert set(order.unlike) <= set(others), "an exception that excepts nothing"
    known = len(able), others
    assert len(able) == order.pairs, known
    tried = {fault.what for pair in able for fault in pair}
    assert not able or tried == names, known


def arguments(order: Order, setting: Setting) -> dict[str, Any]:
    """What the call is given, by the name of the parameter."""
    found: dict[str, Any] = {}
    for name, kind in order.args.items():
        if kind == "out":
            found[name] = Out() if setting.fields.get(name, True) else None
        elif kind in ("u32", "u64"):
            found[name] = setting.fields[name]
        elif kind == "buffer":
            found[name] = setting.buffer(setting.fields[name])
        elif kind == "address":
            found[name] = setting.base + setting.fields[name]
        else:
            found[name] = setting.number(kind)
    return found


# What C could not have passed ---------------------------------------------------------------------

_BITS = {"u32": 32, "u64": 64, "address": 64}


def misfits(orders: Iterable[Order]) -> list[Any]:
    """Every parameter of every call with values that no C compiler lets through."""
    made = []
    for order in orders:
        for name, kind in order.args.items():
            bad: tuple[tuple[Any, type[Exception]], ...]
            if kind == "out":
                bad = ((1, TypeError), ([], TypeError))
            elif kind == "buffer":
                bad = ((1, TypeError), ("text", TypeError))
            else:
                limit = 1 << _BITS.get(kind, 32)
                bad = (
                    (-1, OverflowError),
                    (limit, OverflowError),
                    (1.5, TypeError),
                    ("1", TypeError),
                    (None, TypeError),
                )
            made += [
                pytest.param(order, name, *two, id=f"{order} {name}={two[0]!r}") for two in bad
            ]
    return made


def check_misfit(order: Order, name: str, value: object, error: type[Exception]) -> None:
    """It is Python's own error, raised before anything is done."""
    with order.arranged(order.fields) as setting:
        args = arguments(order, setting)
        before = setting.standing()
        with pytest.raises(error):
            order.function(*(args | {name: value}).values())
        assert setting.standing() == before
        for given in args.values():
            assert not isinstance(given, Out) or given.value is None
