# The bus's half of a pin: the pages are reserved, now they are filled and granted.
#
# On sim and stub a grant is a line in a book, made with the kernel's lock held, and what is in the
# books as committed needs no filling: then all of a pin happens in one holding of the lock.
# Otherwise the host has work to do. What is absent is committed and the anchor takes hold without
# the lock. And where the grant itself holds the pages (`Anchor.in_place`: a real bus), granting and
# revoking are the host's work too: Linux pins a gigabyte in 30 ms, and to revoke may mean to wait
# for requests in flight. There the bus is called without the lock, and what must hold meanwhile is
# in the books:
#
#   granting    the device has a pin on its way: it stays on its bus (`BtiObject.granting`)
#   leaving     the token is being unpinned: nobody else ends it, and its pages stay counted
#
# For the thread that is in there it is as if it had the lock (`KernelLock.inside`): a finaliser
# waits, and what a signal handler calls is refused. It would find the bus half way.
#
#   pin    counts up (lock), pages committed, bus grants, token listed (lock)
#   unpin  token marked (lock), bus revokes, counts down (lock)
#
# A device whose last handle goes while it has a pin on its way gets no token: the grant is undone.
from __future__ import annotations

from typing import TYPE_CHECKING

from pinfold.errors import InvalidArgs, PinfoldError
from pinfold.memory.locks import Reentered
from pinfold.objects.pmt import PMT_RIGHTS, PmtObject

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.bus import PinnedRange
    from pinfold.objects.initiator import BtiObject
    from pinfold.objects.memory_object import VmoObject
    from pinfold.objects.pmt import AddrForm, E, Holder


def granted(
    bti: BtiObject,
    holder: Holder[E],
    vmo: VmoObject,
    pinned: PinnedRange,
    perms: int,
    form: AddrForm,
    count: int | None = None,
) -> E:
    """Grant what is filled, on a bus whose grants are lines in a book.

    Args:
      holder: gets the token.
      count: the addresses that the caller has room for, which have to be as many as there are;
        None where the caller asks how many there are.

    Called with the kernel's lock held. If it raises, nothing is granted and the pages have been let
    go, or the device may reach them and they are held.
    """
    try:
        bti.refuse_if_unusable()
        if not perms:  # found this late by Zircon, too
            raise _permits_nothing()
        grant = bti.space.grant(pinned, perms)
    except BaseException as error:
        _ungranted(bti, vmo, pinned, error)
        raise
    token = PmtObject(bti, vmo, pinned, grant, form)
    bti.pins[token.koid] = token
    try:
        if count is not None:
            _check_count(token, count)
        return holder.add(token, PMT_RIGHTS)
    except BaseException:
        bti.withdraw(token)
        raise


def completed(
    bti: BtiObject,
    holder: Holder[E],
    vmo: VmoObject,
    pinned: PinnedRange,
    perms: int,
    form: AddrForm,
    count: int | None = None,
    check: Callable[[], None] | None = None,
) -> E:
    """Fill and grant what was reserved. Called without the kernel's lock.

    Args:
      pinned: reserved; filled from the books already, or not.
      holder, count: as `granted`.
      check: called with the kernel's lock held, when the pages are there; if it raises, there is
        no pin.

    If it raises, nothing is granted and the pages have been let go; or, where that failed, they are
    held and the device may reach them.
    """
    kernel = bti.kernel
    if not pinned.filled:
        try:
            pinned.fill()
        except BaseException:
            with kernel.lock:
                bti.let_go(vmo, pinned)
            raise
    with kernel.lock:
        if check is not None:
            try:
                check()
            except BaseException:
                bti.let_go(vmo, pinned)
                raise
        pinned.remember()
        if not pinned.anchor.in_place:
            return granted(bti, holder, vmo, pinned, perms, form, count)
        try:
            bti.refuse_if_unusable()
            if not perms:
                raise _permits_nothing()
        except BaseException:
            bti.let_go(vmo, pinned)
            raise
        bti.granting += 1
    try:
        with kernel.lock.inside():
            grant = bti.space.grant(pinned, perms)
    except BaseException as error:
        with kernel.lock:
            bti.granting -= 1
            try:
                _ungranted(bti, vmo, pinned, error)
            finally:
                bti.leave_if_idle()
        raise
    with kernel.lock:
        bti.granting -= 1
        try:
            token = PmtObject(bti, vmo, pinned, grant, form)
        except BaseException:  # no memory for it: nobody can end the grant
            kernel.leak(bti.owner, pinned)
            raise
        try:
            bti.refuse_if_unusable()
            if check is not None:
                check()  # before the token is in the books, where it would find this very pin
            bti.pins[token.koid] = token
            if count is not None:
                _check_count(token, count)
            return holder.add(token, PMT_RIGHTS)
        except BaseException:
            bti.pins[token.koid] = token
            bti.withdraw(token)
            raise


def _ungranted(bti: BtiObject, vmo: VmoObject, pinned: PinnedRange, error: BaseException) -> None:
    """The bus has raised. Called with the kernel's lock held.

    Only an error of pinfold's is the bus's word that nothing is granted. Any other, whether a
    Ctrl-C or what a signal handler raised, may have come when the bus had granted: hold the pages.
    """
    if isinstance(error, PinfoldError) and not isinstance(error, Reentered):
        bti.let_go(vmo, pinned)
    else:
        bti.kernel.leak(bti.owner, pinned)


def _permits_nothing() -> InvalidArgs:
    return InvalidArgs("a pin that permits nothing", asked=0, remedy="name a Perm")


def _check_count(token: PmtObject, count: int) -> None:
    """Refuse room for another number of addresses than the pin has."""
    found = -(-token.pinned.size // token.step)
    if count != found:
        raise InvalidArgs(
            f"the pin has another number of addresses ({token.form.value})",
            asked=count,
            available=found,
            remedy="give an array of exactly that length",
        )
