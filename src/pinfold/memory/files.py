# Backings over files that somebody else has opened: adopted descriptors, files, device windows.
#
# A descriptor that the caller keeps is opened anew, through /proc/self/fd, with the same access: a
# dup would share the caller's position in the file, which looking for data moves, and O_APPEND,
# with which Linux writes at the end whatever offset it is given. Where the file may not be opened
# anew (another owner's, or no /proc) it is a dup after all: then nothing looks for data, and a
# descriptor for appending is refused.
#
# Source: dup(2), open(2), proc(5), pwrite(2) for O_APPEND; fcntl(2) for seals.
from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from pinfold.errors import InvalidArgs, NotSupported, OutOfRange
from pinfold.host import calls, mm
from pinfold.host.abi import (
    F_GETFL,
    F_SEAL_FUTURE_WRITE,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    S_IFMT,
    S_IFREG,
)
from pinfold.memory.backing import Backing
from pinfold.memory.hosterrors import noted, translated
from pinfold.units import PAGE_SIZE, page_up

if TYPE_CHECKING:
    from collections.abc import Iterable

_NO_WRITING: Final = F_SEAL_WRITE | F_SEAL_FUTURE_WRITE
_NOT_ANEW: Final = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENXIO)


def adopted(fd: int) -> Backing:
    """The file behind ``fd``, through a descriptor of our own.

    A memfd that can be sealed is sealed against shrinking, for good: memory that a device writes to
    must not be cut by whoever else holds the file.

    Raises:
      NotSupported: not a regular file or memfd.
      InvalidArgs: empty; cannot be read; opened for appending, and cannot be opened anew.
      HostError: ``fd`` is not open.
    """
    own, alone = _descriptor(fd)
    return _of_file("fd", own, own_position=alone)


def opened(path: str | os.PathLike[str], *, writable: bool) -> Backing:
    """The bytes of a file, shared with everybody else who has it open. Errors as `adopted`."""
    flags = os.O_RDWR if writable else os.O_RDONLY
    with translated(f"open {os.fspath(path)}"):
        fd = calls.open_file(os.fspath(path), flags)
    return _of_file("file", fd, own_position=True)


def window_of(fd: int, base: int, size: int) -> Backing:
    """``size`` bytes from ``base`` of a device's memory or of a file; ``fd`` stays its owner's.

    How much of a BAR there is, is asked when a part is shown: it does not know its size.

    Raises:
      OutOfRange: a regular file that ends before that.
      InvalidArgs: it cannot be read; opened for appending, and cannot be opened anew.
      HostError, NoMemory: it is not open, or the host has no descriptor left.
    """
    own, alone = _descriptor(fd)
    made = Backing("physical", own, size, base=base)
    made.own_position = alone
    try:
        with translated("look at a device window"):
            status = calls.fstat(own)
            access = calls.fcntl(own, F_GETFL) & os.O_ACCMODE
            regular = _is_regular(status.st_mode)
            seals = mm.seals_of(own) if regular else None
            # What is no file cannot be truncated: a BAR, /dev/mem.
            made.sealed = not regular or _seal_against_shrinking(own, seals)
            status = calls.fstat(own)
        if regular:
            _check_end(status.st_size, base + size)
        if access == os.O_WRONLY:
            raise InvalidArgs("a descriptor that cannot be read", remedy="open it for reading")
    except BaseException as error:
        with noted("close the window's descriptor", error):
            made.close()
        raise
    made.writable = access == os.O_RDWR and not (seals or 0) & _NO_WRITING
    made.exclusive = not regular  # a seal keeps nobody from punching a hole
    if regular:
        made.inode = (status.st_dev, status.st_ino)
    return made


def part_of(whole: Backing, base: int, size: int) -> Backing:
    """``size`` bytes from ``base`` of a device window, through a descriptor of their own.

    Raises:
      OutOfRange: a regular file that ends before the part does.
      HostError, NoMemory: the host has no descriptor left.
    """
    with translated("open a device window"):
        own = calls.dup(whole.fd)
    made = Backing("physical", own, size, base=base, writable=whole.writable)
    made.own_position, made.inode = whole.own_position, whole.inode
    made.sealed, made.exclusive = whole.sealed, whole.exclusive
    try:
        with translated("look at a device window"):
            status = calls.fstat(own)
        if _is_regular(status.st_mode):
            _check_end(status.st_size, base + size)
    except BaseException as error:
        with noted("close the window's descriptor", error):
            made.close()
        raise
    return made


def is_memory_of(fd: int, backings: Iterable[Backing]) -> Backing | None:
    """Which of ``backings`` is memory of our own that ``fd`` is too; None for any other file.

    Raises:
      HostError: ``fd`` is not open.
    """
    with translated("look at a descriptor"):
        if mm.seals_of(fd) is None:
            return None
        file = calls.fstat(fd)
        for backing in backings:
            if backing.inode is None and os.path.samestat(calls.fstat(backing.fd), file):
                return backing
    return None


def _descriptor(fd: int) -> tuple[int, bool]:
    """A descriptor of ours for the file behind ``fd``; True when its position is ours as well."""
    with translated("adopt a descriptor"):
        flags = calls.fcntl(fd, F_GETFL)
        if _is_regular(calls.fstat(fd).st_mode):
            try:
                return calls.open_file(f"/proc/self/fd/{fd}", flags & os.O_ACCMODE), True
            except OSError as error:
                if error.errno not in _NOT_ANEW:
                    raise
        if flags & os.O_APPEND:
            raise InvalidArgs(
                "a descriptor for appending: every write would go to the end of the file",
                remedy="open it without O_APPEND",
            )
        return calls.dup(fd), False


def _of_file(kind: str, fd: int, *, own_position: bool) -> Backing:
    try:
        with translated("look at a descriptor"):
            if not _is_regular(calls.fstat(fd).st_mode):
                raise NotSupported("only a regular file or a memfd can hold memory")
            access = calls.fcntl(fd, F_GETFL) & os.O_ACCMODE
            seals = mm.seals_of(fd)
        if access == os.O_WRONLY:
            raise InvalidArgs("a descriptor that cannot be read", remedy="open it for reading")
        with translated("seal a descriptor"):
            sealed = _seal_against_shrinking(fd, seals)
        # Only now is its size asked for: before the seal somebody else could have cut it.
        with translated("look at a descriptor"):
            status = calls.fstat(fd)
            block = calls.fstatvfs(fd).f_bsize
        # Of huge pages there may be none when one is touched, and that ends the process. The file
        # system says which it has; st_blksize is large on a tmpfs that prefers them, too.
        if seals is not None and block > PAGE_SIZE:
            raise NotSupported(
                "a memfd of huge pages",
                asked=block,
                limit=PAGE_SIZE,
                remedy="pass one of ordinary pages",
            )
        if not status.st_size:
            raise InvalidArgs("the file is empty", asked=0, remedy="give it a size first")
        writable = access == os.O_RDWR and not (seals or 0) & _NO_WRITING
        made = Backing(kind, fd, page_up(status.st_size), writable=writable)
        made.own_position = own_position
        made.length = status.st_size
        made.sealed = sealed and made.length == made.size
        made.inode = (status.st_dev, status.st_ino)
    except BaseException as error:
        with noted("close the descriptor", error):
            calls.close(fd)
        raise
    return made


def _check_end(length: int, stop: int) -> None:
    if length < stop:
        raise OutOfRange("the file ends before the window", asked=stop, limit=length)


def _is_regular(mode: int) -> bool:
    return mode & S_IFMT == S_IFREG


def _seal_against_shrinking(fd: int, seals: int | None) -> bool:
    """True when the file behind ``fd``, which has ``seals``, cannot shrink any more."""
    if seals is None:
        return False
    if seals & F_SEAL_SHRINK:
        return True
    try:
        mm.seal(fd, F_SEAL_SHRINK)
    except OSError as error:
        if error.errno == errno.EPERM:  # it cannot be sealed any more
            return False
        raise
    return True
