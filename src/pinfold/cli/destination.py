# Where a copy goes, and the unfinished file that becomes it.
#
# The order that makes a copy all or nothing; swapped, a power cut leaves a file that is there and
# has not its bytes:
#
#   write    into a file of another name in the same directory, which only its owner can read
#   sync     that file
#   rename   it over the destination
#   sync     the directory
#
# Until the rename the destination is as it was, whatever happens. The unfinished file is removed by
# whatever ends the copy, except a kill by SIGKILL or a loss of power.
#
# Who may replace what is as in cp, which writes into the file that is there: a symbolic link is
# followed, a file that is write-protected is not replaced, and mode and owner stay. What is not as
# in cp: the destination is another file afterwards, so other hard links to it keep what was there.
from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from pinfold.errors import NoSpace
from pinfold.host import calls, probe
from pinfold.memory.hosterrors import from_host, noted, translated
from pinfold.units import human_size

if TYPE_CHECKING:
    from types import TracebackType

_NAME: Final = ".pinfold-copy-"
_MODE: Final = 0o777  # cp gives no set-user-ID away either
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_NO_SUCH_CALL: Final = (errno.EOPNOTSUPP, errno.ENOSYS)


class Refused(ValueError):
    """What was asked for cannot be done so; nothing was started, and nothing was touched."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a copy goes."""

    path: str
    """As a person would say it: the directory they named with the file in it, links as named."""
    directory: str
    """Of the file itself, links followed."""
    name: str
    former: os.stat_result | None
    """The file that will be replaced; None where there is none."""


def place_for(source: str, found: os.stat_result, target: str) -> Place:
    """Where a copy of ``source``, which is ``found``, goes if ``target`` is what was asked for.

    Raises:
      Refused: nowhere; the message says why.
    """
    path = os.path.join(target, os.path.basename(source)) if os.path.isdir(target) else target
    if path.endswith("/") or not path:
        raise Refused(f"{path or 'DST'} is no directory that is there; make it, or name a file")
    # Only a link is resolved: a path from here must do where the way from the root is closed to us.
    directory, name = os.path.split(os.path.realpath(path) if os.path.islink(path) else path)
    directory = directory or "."
    try:
        former = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            leads = "is a symbolic link to nothing"
            raise Refused(f"{path} {leads}; remove it, or name what it shall be") from None
        former = None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Refused(f"{path} is a loop of symbolic links; remove it") from error
        raise Refused(f"{path}: {error.strerror}") from error
    if former is not None:
        if os.path.samestat(found, former):
            raise Refused(f"{source} and {path} are the same file")
        if stat.S_ISDIR(former.st_mode):
            raise Refused(f"{path} is a directory; a file does not replace one")
        if not stat.S_ISREG(former.st_mode):
            raise Refused(f"{path} is no regular file; only those are replaced")
        _refuse_protected(path, directory, former)
    elif not os.path.isdir(directory):
        raise Refused(f"{path}: there is no directory {directory}; make it first")
    return Place(path, directory, name, former)


def _refuse_protected(path: str, directory: str, former: os.stat_result) -> None:
    """Raise `Refused` where a rename would be refused, or would replace what cp may not write.

    It is opened for that, and not asked with access(2): only open(2) knows of files that are
    append-only, which Linux has nobody rename over. A program that is running is replaced.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:
        remedies = {
            errno.EACCES: " may not be written to; change its mode, or remove it",
            errno.EPERM: " is append-only or immutable; ask lsattr, and take that off with chattr",
            errno.EROFS: " is in a file system that is read-only; mount it otherwise",
        }
        if error.errno != errno.ETXTBSY:
            why = remedies.get(error.errno or 0, f": {error.strerror}")
            raise Refused(f"{path}{why}") from error
    # In /tmp and the like, what others own is theirs to remove. Source: unlink(2), EPERM.
    above, us = os.stat(directory), os.geteuid()
    others = above.st_mode & stat.S_ISVTX and us not in (above.st_uid, former.st_uid)
    if others and not probe.may_act_as_owner():
        raise Refused(
            f"{path} is another user's in a directory with the sticky bit, where only its owner "
            "may replace it; name another file"
        )


class Unfinished:
    """The file that a copy is written to: a context manager, at whose end it is in place or gone.

    Args:
      place: where it is to be.
      size: bytes that it will have; all of it is a hole at first.
      mode: of the file that it is a copy of.

    Attributes:
      fd: its descriptor, open for reading and writing.

    Raises:
      Refused: no file can be made there.
      NoSpace, HostError: it cannot have that size.
    """

    def __init__(self, place: Place, size: int, mode: int) -> None:
        self.place = place
        self.size = size
        self._mode = mode
        self._name = f"{_NAME}{secrets.token_hex(8)}"
        self._in_place = False
        self._reserves = True
        access = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._directory = os.open(place.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self.fd = os.open(self._name, access, 0o600, dir_fd=self._directory)
            except BaseException:
                os.close(self._directory)
                raise
        except OSError as error:
            raise Refused(f"no file can be made in {place.directory}: {error.strerror}") from error
        try:
            with translated(f"give {place.path} its size of {human_size(size)}"):
                calls.ftruncate(self.fd, size)
        except BaseException as error:
            self.__exit__(None, error, None)
            raise

    def reserve(self, start: int, size: int) -> None:
        """Have the file system set blocks aside for a part, so that it is full now and not later.

        Nothing where it cannot, as ext2 cannot. Raises NoSpace, HostError.
        """
        if not self._reserves:
            return
        try:
            calls.fallocate(self.fd, 0, start, size)
        except OSError as error:
            if error.errno not in _NO_SUCH_CALL:
                raise self.refusal(error, start) from error
            self._reserves = False

    def refusal(self, error: OSError, at: int | None) -> Exception:
        """What it means that it could not be written there, or synced: ``at`` None."""
        if error.errno not in _FULL:
            what = f"sync {self.place.path}" if at is None else f"write {self.place.path}"
            return from_host(what if at is None else f"{what} at byte {at}", error)
        with translated(f"look at the file system of {self.place.path}"):
            system = calls.fstatvfs(self.fd)
        free = human_size(system.f_bavail * system.f_frsize)
        why = "the quota is spent" if error.errno == errno.EDQUOT else f"{free} free"
        written = human_size(self.size if at is None else at)
        return NoSpace(
            f"no room for {self.place.path}: {human_size(self.size)} wanted, "
            f"{written} written, {why}",
            remedy="free space in that file system",
        )

    def dress(self) -> None:
        """Give it the mode that the destination is to have, and its owner. Raises HostError."""
        former = self.place.former
        with translated(f"set the mode of {self.place.path}"):
            if former is None:
                umask = os.umask(0)
                os.umask(umask)
                os.fchmod(self.fd, self._mode & _MODE & ~umask)
                return
            ours = os.fstat(self.fd)
            if (ours.st_uid, ours.st_gid) != (former.st_uid, former.st_gid):
                # Who may not give files away owns the new one, in the group that it had if it is
                # theirs as well.
                try:
                    os.fchown(self.fd, former.st_uid, former.st_gid)
                except PermissionError:
                    with suppress(PermissionError):
                        os.fchown(self.fd, -1, former.st_gid)
            os.fchmod(self.fd, former.st_mode & _MODE)

    def forget_cached(self) -> None:
        """Have the kernel drop what it keeps of the file in memory, as far as it is on the medium.

        What is read next comes from there. Source: posix_fadvise(2), POSIX_FADV_DONTNEED.
        """
        with translated(f"drop what is cached of {self.place.path}"):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def publish(self) -> None:
        """Put it in place, in one step. It has been synced.

        Raises:
          NoSpace, HostError: it was not put in place; or it was, as the message says, and the
            directory could not be synced.
        """
        directory = self._directory
        with translated(f"rename the copy to {self.place.path}"):
            calls.intercept("rename")
            os.rename(self._name, self.place.name, src_dir_fd=directory, dst_dir_fd=directory)
        self._in_place = True
        with translated(f"{self.place.path} is complete, but a power cut may undo it: sync"):
            calls.intercept("fsync")
            os.fsync(directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._in_place:
            os.close(self.fd)
            os.close(self._directory)
        elif error is None:
            self._remove()
        else:
            with noted(f"remove {self._name} from {self.place.directory}", error):
                self._remove()

    def _remove(self) -> None:
        try:
            os.close(self.fd)
            with suppress(FileNotFoundError):  # somebody has tidied up
                os.unlink(self._name, dir_fd=self._directory)
        finally:
            os.close(self._directory)
