"""A call that is refused leaves everything as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pinfold.dialects import Out, zx

if TYPE_CHECKING:
    import pinfold as pf

    from .faulty import Call, Fault


def name_of(status: int, dialect: Any = zx) -> str:
    """The status without its prefix: ``OK``, ``BAD_HANDLE``."""
    prefix = dialect.__name__.rpartition(".")[2]
    name: str = getattr(dialect, f"{prefix}_status_get_string")(status)
    return name.removeprefix(f"{prefix.upper()}_").removeprefix("ERR_")


def standing(kernel: pf.Kernel) -> tuple[int, ...]:
    """What there is of everything, as a refused call has to leave it."""
    now = kernel.statistics()
    books = now.ledger
    return (
        now.objects,
        now.handles,
        now.leaks,
        books.pins,
        books.pinned_bytes,
        books.requested_bytes,
    )


def refused(call: Call, faults: tuple[Fault, ...], kernel: pf.Kernel) -> dict[str, Any]:
    """The first fault decides; no object, handle or pin is more or less. The arguments."""
    wrong = {fault.arg: fault.give for fault in faults}
    args = {arg: wrong.get(arg, give)() for arg, give in call.good.items()}
    before = standing(kernel)
    assert name_of(call.function(*args.values())) == faults[0].status
    assert standing(kernel) == before
    for arg in args.values():
        assert not isinstance(arg, Out) or arg.value is None
    return args
