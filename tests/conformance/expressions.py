# The expressions of the cases: numbers in the arguments, truths in the checks.
#
# Read with `ast` and worked out node by node: what is not listed here is not understood, and what
# is not understood is an error. A case that is silently misread would pass for the wrong reason.
#
# Numbers are unsigned and 64 bits wide, and do not wrap: a result outside is an error too. On the
# way to it they may be anything: `2**64 - PAGE` is a fair size.
from __future__ import annotations

import ast
import operator
import re
from typing import TYPE_CHECKING, Any, Final

from pinfold.units import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

UINT64_MAX: Final = (1 << 64) - 1

_SYMBOL: Final = re.compile(r"\$([A-Za-z]\w*)")
_MARK: Final = "_symbol_"


class Unknown(Exception):
    """A word, a key or a form of a case that the runner has no meaning for."""


class Record:
    """What an info call filled in: the fields that C has, by name, and no others."""

    __slots__ = ("fields",)

    def __init__(self, **fields: Any) -> None:
        self.fields: Final = fields

    def __getitem__(self, name: str) -> Any:
        if name not in self.fields:
            raise Unknown(f"no field {name!r} among {', '.join(self.fields)}")
        return self.fields[name]

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name}: {value!r}" for name, value in self.fields.items()) + "}"


def round_up(number: int, unit: int) -> int:
    """The least multiple of ``unit`` that is not below ``number``."""
    return -(-number // unit) * unit


def number(word: int | str, symbols: Mapping[str, Any]) -> int:
    """An argument: an integer, or an expression over PAGE, UINT64_MAX and symbols.

    Raises:
      Unknown: it is none, or its value is no unsigned 64-bit number.
    """
    value = _Numbers(symbols).value(_parsed(word)) if isinstance(word, str) else word
    if type(value) is not int or not 0 <= value <= UINT64_MAX:
        raise Unknown(f"{word!r} is {value!r}, which is no unsigned 64-bit number")
    return value


def truth(text: str, symbols: Mapping[str, Any]) -> bool:
    """A check's expression.

    Raises:
      Unknown: it has a form that no check may have, or is neither true nor false.
      IndexError: it asks for an element that a result does not have: the check has failed.
    """
    value = _Truths(symbols).value(_parsed(text))
    if not isinstance(value, bool):
        raise Unknown(f"{text!r} is {value!r}, neither true nor false")
    return value


def _parsed(text: str) -> ast.expr:
    if _MARK in text:
        raise Unknown(f"{text!r} has a name that the runner keeps for symbols")
    try:
        return ast.parse(_SYMBOL.sub(rf"{_MARK}\1", text).strip(), mode="eval").body
    except SyntaxError as error:
        raise Unknown(f"{text!r} is no expression: {error.msg}") from error


def _power(base: int, exponent: int) -> int:
    if not 0 <= exponent <= 64:
        raise Unknown(f"{base}**{exponent}: no such power is needed for 64 bits")
    return int(base**exponent)


def _shifted(base: int, places: int) -> int:
    if not 0 <= places <= 64:
        raise Unknown(f"{base}<<{places}: no such shift is needed for 64 bits")
    return base << places


_ARITHMETIC: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
    ast.LShift: _shifted,
}

_COMPARISONS: Final[Mapping[type[ast.cmpop], Callable[[Any, Any], bool]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda member, members: member in members,
}


class _Numbers:
    """What an argument may say."""

    functions: Mapping[str, Callable[..., Any]] = {"round_up": round_up, "min": min}
    factors: tuple[type, ...] = (int,)

    def __init__(self, symbols: Mapping[str, Any]) -> None:
        self.names: dict[str, Any] = {"PAGE": PAGE_SIZE, "UINT64_MAX": UINT64_MAX}
        self.names.update((_MARK + name, value) for name, value in symbols.items())

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=value) if type(value) is int:
                return value
            case ast.Name(id=name):
                if name not in self.names:
                    raise Unknown(f"nothing is bound to {name.replace(_MARK, '$')!r}")
                return self.names[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._integer(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return self._combined(op, self.value(left), self.value(right))
            case ast.Attribute(value=owner, attr=field):
                record = self.value(owner)
                if not isinstance(record, Record):
                    raise Unknown(f"{ast.unparse(node)!r}: no record has that field")
                return record[field]
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                if name not in self.functions:
                    raise Unknown(f"no function is called {name!r}")
                return self.functions[name](*map(self.value, arguments))
        raise Unknown(f"{ast.unparse(node)!r} is no form that is known here")

    def _integer(self, node: ast.expr) -> int:
        value = self.value(node)
        if type(value) is not int:
            raise Unknown(f"{ast.unparse(node)!r} is {value!r}, no number")
        return value

    def _combined(self, op: ast.operator, left: Any, right: Any) -> Any:
        if type(left) not in self.factors or type(right) is not int:
            raise Unknown(f"{left!r} and {right!r} are no numbers")
        return _ARITHMETIC[type(op)](left, right)


class _Truths(_Numbers):
    """What a check may say besides: comparisons, texts, bytes, and lists of what is in a result."""

    functions: Mapping[str, Callable[..., Any]] = {
        **_Numbers.functions,
        "bytes": bytes,
        "set": frozenset,
    }
    factors = (int, bytes)

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=value) if type(value) in (str, bytes):
                return value
            case ast.BoolOp(op=op, values=values):
                every = isinstance(op, ast.And)
                return (all if every else any)(self._truth(part) for part in values)
            case ast.Compare(left=left, ops=ops, comparators=others):
                return self._compared(left, ops, others)
            case ast.Subscript(value=owner, slice=index):
                return self._element(self.value(owner), self._integer(index))
            case ast.Tuple(elts=parts):
                return tuple(map(self.value, parts))
            case ast.List(elts=parts):
                return list(map(self.value, parts))
            case ast.Set(elts=parts):
                return frozenset(map(self.value, parts))
            case ast.ListComp(
                elt=made, generators=[ast.comprehension(ast.Name(id=name), members, conditions)]
            ):
                return list(self._made(made, name, self.value(members), conditions))
        return super().value(node)

    def _truth(self, node: ast.expr) -> bool:
        value = self.value(node)
        if not isinstance(value, bool):
            raise Unknown(f"{ast.unparse(node)!r} is {value!r}, neither true nor false")
        return value

    def _compared(self, left: ast.expr, ops: list[ast.cmpop], others: list[ast.expr]) -> bool:
        before = self.value(left)
        for op, other in zip(ops, others, strict=True):
            if type(op) not in _COMPARISONS:
                raise Unknown(f"{type(op).__name__} is no comparison that is known here")
            after = self.value(other)
            if not _COMPARISONS[type(op)](before, after):
                return False
            before = after
        return True

    def _element(self, members: Any, index: int) -> Any:
        if not isinstance(members, (list, tuple, bytes)):
            raise Unknown(f"{members!r} has no elements")
        return members[index]

    def _made(
        self, made: ast.expr, name: str, members: Any, conditions: list[ast.expr]
    ) -> list[Any]:
        if name in self.names:
            raise Unknown(f"{name!r} means something already")
        result = []
        for member in members:
            self.names[name] = member
            if all(self._truth(condition) for condition in conditions):
                result.append(self.value(made))
        self.names.pop(name, None)
        return result
