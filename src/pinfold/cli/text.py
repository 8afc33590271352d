# Words for people: counts that agree with their noun, and a fault record in two short lines.
from __future__ import annotations

from os.path import basename
from typing import TYPE_CHECKING

from pinfold import sites
from pinfold.faults import FaultReason
from pinfold.rights import describe_perms
from pinfold.units import GIB, KIB, MIB, TIB, human_size

if TYPE_CHECKING:
    from pinfold.faults import Fault


def counted(number: int, noun: str) -> str:
    """``1 pin``, ``2 pins``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def sized(size: int) -> str:
    """`human_size`, where one byte is one byte."""
    return "1 byte" if size == 1 else human_size(size)


def exact(size: int) -> str:
    """`human_size`, where it is not rounded, else in the largest unit that is not: ``4097 bytes``,
    where two sizes are compared."""
    for name, unit in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size and size % unit == 0:
            return f"{size // unit} {name}"
    return counted(size, "byte")


def one_line(text: str) -> str:
    """The text with whatever is not printable as an escape: a file may be named ``a\\nb``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def fault_text(fault: Fault) -> str:
    """Who, what and where in one line, why in another; each fits 80 columns, indented.

    `Fault` itself prints the same facts in one long line, with whole paths.
    """
    who = f"fault {fault.number}: device {fault.initiator:#x}, "
    who += f"{describe_perms(fault.access).lower()} of {counted(fault.size, 'byte')} "
    who += f"at {fault.address:#x}"
    grant = fault.nearest
    if grant is None:
        return f"{who}\n{fault.detail}"
    who += f", nearest {grant.what}"
    which = f"grant {grant.number} {grant.range}"
    if fault.reason is FaultReason.REVOKED and grant.revoked_ns is not None:
        ago = (fault.when_ns - grant.revoked_ns) / 1e6
        where = basename(sites.describe(grant.revoked_at)).partition(" in ")[0]
        return f"{who}\n{which}, revoked {ago:.3f} ms before at {where}"
    if fault.reason is FaultReason.BEYOND_END:
        past = fault.address + fault.size - grant.range.stop
        return f"{who}\n{counted(past, 'byte')} beyond the end of {which}"
    if fault.reason is FaultReason.NOT_PERMITTED:
        asked = describe_perms(fault.access)
        return f"{who}\n{which} permits {describe_perms(grant.perms)}, not {asked}"
    return f"{who}\n{fault.detail}"
