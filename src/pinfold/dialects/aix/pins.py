# AIX's services that pin by address: pin, ltpin, pinu, pincode, and what undoes them.
#
# Source: the pages of the services; the order of checks is the environment, the length, whether the
# range is defined, the limits, then what bringing the pages in may run into. Counting is the
# objects': here numbers become ranges of a space, and errors become errnos.
from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from pinfold.dialects.aix import numbers as aix
from pinfold.dialects.aix.services import (
    DriverBug,
    KernelAssertion,
    WouldWait,
    process_only,
    service,
)
from pinfold.dialects.calling import i32, u64
from pinfold.errors import InvalidArgs, NotPinned, Unavailable
from pinfold.objects.code_pins import pin_code, unpin_code
from pinfold.objects.device_maps import reached
from pinfold.objects.holds import Unpinned
from pinfold.objects.process import current_process
from pinfold.objects.spaces import Space

if TYPE_CHECKING:
    from pinfold.objects.addresses import Stretch

_SPACES = {aix.UIO_SYSSPACE: True, aix.UIO_USERSPACE: False}


def system_space() -> Space:
    """System space, as the current process has it."""
    return Space(current_process(), system=True)


def warn_if_reached(let_go: list[Stretch]) -> None:
    """Warn where memory has lost its last pin and is still mapped for a device."""
    if reached(let_go):
        warnings.warn(
            "memory was unpinned that a device still has mapped: d_unmap it first; it is held",
            DriverBug,
            stacklevel=4,
        )


def _pin(space: Space, start: int, length: int, *, long: bool = False) -> None:
    counted = space.process.kernel.counted
    counted.pin(space.finder(start, length), owner=str(space.process), long=long)


def _unpin(space: Space, start: int, length: int) -> None:
    done = Unpinned()
    try:
        space.process.kernel.counted.unpin(space.finder(start, length), done=done)
    finally:
        warn_if_reached(done.let_go)


# Short-term ---------------------------------------------------------------------------------------


@service("system")
def pin(addr: int, length: int) -> None:
    """Pin a range of system space: ``int pin(caddr_t addr, int length)``.

    Every page that the range touches is brought in and gets one pin more: all of them, or none.
    For the process environment only.

    Returns 0, or, in this order:
      EINVAL: ``length`` is negative or 0; then, a part of the range is not defined: it is not
        mapped in the root region of the current process.
      ENOMEM: the system-wide limit (`Kernel(max_pinned=)`), RLIMIT_MEMLOCK, or the memory of the
        host is not enough.
      ENOSPC: the paging space, or the file system behind the memory, has no room.
      EIO: a page cannot be read: the file behind it has become shorter.

    After an error no count has changed.
    """
    addr, length = u64(addr), i32(length)
    process_only("pin")
    _pin(system_space(), addr, length)


@service("system")
def unpin(addr: int, length: int) -> None:
    """Undo `pin`: ``int unpin(caddr_t addr, int length)``. In any environment.

    Page by page, upwards: what has no short-term pin ends it. The pages before that have lost one.

    Returns 0, or, in this order:
      EINVAL: ``length`` is negative or 0; a part of the range is not defined; nothing changed.
      EINVAL: a page was not pinned.
      EIO: the host refused to unlock a page; it and those after it are as they were.

    Warns with `DriverBug` where a device still has mapped what lost its last pin.
    """
    addr, length = u64(addr), i32(length)
    _unpin(system_space(), addr, length)


# Long-term ----------------------------------------------------------------------------------------


@service("system")
def ltpin(addr: int, length: int) -> None:
    """Pin a range of system space for long: ``int ltpin(caddr_t addr, int length)``.

    As `pin`, with a counter of its own; the pages have no paging space meanwhile. A length of 0
    pins nothing.

    Returns 0, or the errors of `pin`, where EINVAL is for a negative ``length``.
    """
    addr, length = u64(addr), i32(length)
    process_only("ltpin")
    if length:
        _pin(system_space(), addr, length, long=True)


@service("system")
def ltunpin(addr: int, length: int) -> None:
    """Undo `ltpin`: ``int ltunpin(caddr_t addr, int length)``. All of the range, or nothing.

    For the process environment only: it waits for paging space.

    Returns 0, or, in this order:
      EINVAL: ``length`` is negative; a part of the range is not defined.
      EIO: as `unpin`.

    Raises:
      KernelAssertion: a page has no long-term pin; nothing changed.
      WouldWait: there is no paging space for the pages; nothing changed. Free some, and call again.
    """
    addr, length = u64(addr), i32(length)
    process_only("ltunpin")
    if not length:
        return
    space = system_space()
    done = Unpinned()
    try:
        space.process.kernel.counted.unpin(
            space.finder(addr, length), long=True, whole=True, done=done
        )
    except NotPinned as error:
        raise KernelAssertion(f"ltunpin: {error}") from error
    except Unavailable as error:
        raise WouldWait(f"ltunpin: {error}") from error
    finally:
        warn_if_reached(done.let_go)


# The older way to user space ----------------------------------------------------------------------


def _named_space(segflg: int) -> Space:
    system = _SPACES.get(segflg)
    if system is None:
        raise InvalidArgs("there is no such space", asked=segflg)
    return Space(current_process(), system=system)


def _deprecated(name: str, better: str) -> None:
    warnings.warn(
        f"{name} is for whichever process is current; attach the memory and use {better}",
        DeprecationWarning,
        stacklevel=4,
    )


@service("described")
def pinu(base: int, len: int, segflg: int) -> None:  # noqa: A002 - the page's name
    """Pin a range of either space: ``int pinu(caddr_t base, int len, short segflg)``.

    Older than `xmempin`, and deprecated. Not for mapped files. For the process environment only.

    Returns 0, or, in this order:
      EINVAL: ``segflg`` is neither UIO_SYSSPACE nor UIO_USERSPACE; ``len`` is negative or 0.
      EFAULT: a part of the range is not in that space.
      EINVAL: a part of it is not defined, or shows a file.
      ENOMEM, ENOSPC, EIO: as `pin`.
    """
    base, length, segflg = u64(base), i32(len), i32(segflg)
    process_only("pinu")
    _deprecated("pinu", "xmempin")
    space = _named_space(segflg)
    space.look(base, length)
    if space.shows_a_file(base, length):
        raise InvalidArgs("pinu does not pin mapped files", asked=base)
    _pin(space, base, length)


@service("described")
def unpinu(base: int, len: int, segflg: int) -> None:  # noqa: A002 - the page's name
    """Undo `pinu`: ``int unpinu(caddr_t base, int len, short segflg)``. As `xmemunpin`.

    At interrupt level for system space only.

    Returns 0, or, in this order:
      EINVAL: ``segflg`` is neither of the two; ``len`` is negative or 0.
      EFAULT: a part of the range is not in that space.
      EINVAL: a part of it is not defined; nothing changed. Or a page was not pinned.
      ENOMEM: the host has none to say what is mapped; nothing changed.
      EIO: as `unpin`.
    """
    base, length, segflg = u64(base), i32(len), i32(segflg)
    space = _named_space(segflg)
    if not space.system:
        process_only("unpinu of user space")
    _deprecated("unpinu", "xmemunpin")
    _unpin(space, base, length)


# Code ---------------------------------------------------------------------------------------------


@service("system")
def pincode(func: int) -> None:
    """Pin the program or library that a function is in, code and data: ``int pincode(int (*)())``.

    For long, as what loads a driver does; `unpincode` says so. For the process environment only.

    Args:
      func: the address of any code of it.

    Returns 0, or, in this order:
      EINVAL: no program or library has code there.
      ENOMEM, ENOSPC, EIO: as `pin`; nothing is pinned.
    """
    start = u64(func)
    process_only("pincode")
    pin_code(current_process(), start)


@service("system")
def unpincode(func: int) -> None:
    """Undo `pincode`: ``int unpincode(int (*)())``.

    Returns 0, or, in this order:
      EFAULT: what was pinned there has been unloaded; its pins are gone with it.
      EINVAL: no program or library has code there.
      ENOMEM: the host has none to say what is mapped; nothing changed.
      EIO: as `unpin`.

    Raises:
      KernelAssertion: it was not pinned.
    """
    start = u64(func)
    process_only("unpincode")
    try:
        accessible = unpin_code(current_process(), start)
    except NotPinned as error:
        raise KernelAssertion(f"unpincode: {error}") from error
    return None if accessible else aix.EFAULT  # type: ignore[return-value]  # an errno
