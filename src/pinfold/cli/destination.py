# Where a copy goes, and the unfinished file that becomes it.
#
# The order that makes a copy all or nothing; swapped, a power cut leaves a file that is there and
# has not its bytes:
#
#   write    into a file of another name in the same directory, which only its owner can read
#   sync     that file
#   look     that the destination is still the file that was looked at, or still none
#   rename   it over the destination; where there was none, link it there, which replaces nothing
#   sync     the directory
#
# A link of somebody else's is followed once, when the place is looked for. What is replaced is a
# name in the directory that was found then, and never through another link.
#
# Until the rename the destination is as it was, whatever happens. The unfinished file is removed by
# whatever ends the copy, except a kill by SIGKILL or a loss of power.
#
# Who may replace what is as in cp, which writes into the file that is there: a symbolic link is
# followed, a file that is write-protected is not replaced, and mode, owner and access list stay.
# Where the group or the list cannot be kept, the group gets nothing: it would be another one. What
# is not as in cp: the destination is another file afterwards, so other hard links to it keep what
# was there, and its other extended attributes go.
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
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_ACCESS_LIST: Final = "system.posix_acl_access"  # Source: acl(5), <linux/posix_acl_xattr.h>
_NO_LIST: Final = (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOENT)


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
    linked = os.path.islink(path)
    directory, name = os.path.split(os.path.realpath(path) if linked else path)
    directory = directory or "."
    former = _former(path, os.path.join(directory, name), linked=linked)
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


def _former(path: str, real: str, *, linked: bool) -> os.stat_result | None:
    """What is at the place now, no link followed any more; None for nothing."""
    try:
        former = os.lstat(real)
    except FileNotFoundError:
        if linked:
            leads = "is a symbolic link to nothing"
            raise Refused(f"{path} {leads}; remove it, or name what it shall be") from None
        return None
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from error
    if stat.S_ISLNK(former.st_mode):
        if linked:
            raise Refused(f"{path} is a loop of symbolic links; remove it")
        raise Refused(f"{path} became a symbolic link while it was looked at")
    return former


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


def _without_group(mode: int) -> int:
    """A mode whose group may do no more than everybody."""
    return mode & ~stat.S_IRWXG | mode & (mode & stat.S_IRWXO) << 3


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
            self._former = -1
            try:
                if place.former is not None:
                    # Open, so that no other file gets its inode's number meanwhile.
                    looking = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
                    self._former = os.open(place.name, looking, dir_fd=self._directory)
                self.fd = os.open(self._name, access, 0o600, dir_fd=self._directory)
            except BaseException:
                self._close_places()
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
            mode = former.st_mode & _MODE
            ours = os.fstat(self.fd)
            if (ours.st_uid, ours.st_gid) != (former.st_uid, former.st_gid):
                # Who may not give files away owns the new one, in the group that it had if it is
                # theirs as well.
                try:
                    os.fchown(self.fd, former.st_uid, former.st_gid)
                except PermissionError:
                    try:
                        os.fchown(self.fd, -1, former.st_gid)
                    except PermissionError:  # another group than the one that it was open to
                        mode = _without_group(mode)
            os.fchmod(self.fd, mode)
            self._keep_access_list(mode)

    def _keep_access_list(self, mode: int) -> None:
        """Give it the access list of the former file. With one, the mode's bits for the group are
        those of the list's mask, and what the group may do stands in the list."""
        try:
            entries = os.getxattr(f"/proc/self/fd/{self._former}", _ACCESS_LIST)
        except OSError as error:
            if error.errno in _NO_LIST:
                return
            raise
        former_group = None if self.place.former is None else self.place.former.st_gid
        if os.fstat(self.fd).st_gid == former_group:
            with suppress(PermissionError):
                os.setxattr(self.fd, _ACCESS_LIST, entries)
                return
        os.fchmod(self.fd, _without_group(mode))

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
        directory, former = self._directory, self.place.former
        with translated(f"rename the copy to {self.place.path}"):
            calls.intercept("rename")
            if former is None:
                self._publish_first()
            else:
                found = os.stat(self.place.name, dir_fd=directory, follow_symlinks=False)
                if not (
                    os.path.samestat(found, os.fstat(self._former))
                    and os.path.samestat(found, former)
                ):
                    raise FileExistsError(errno.EEXIST, "another file is there meanwhile")
                os.rename(self._name, self.place.name, src_dir_fd=directory, dst_dir_fd=directory)
        self._in_place = True
        with translated(f"{self.place.path} is complete, but a power cut may undo it: sync"):
            calls.intercept("fsync")
            os.fsync(directory)

    def _publish_first(self) -> None:
        """Put it where nothing was. Raises OSError; EEXIST where something is by now."""
        name, here = self.place.name, self._directory
        try:
            os.link(self._name, name, src_dir_fd=here, dst_dir_fd=here)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        else:
            os.unlink(self._name, dir_fd=here)
            return
        # A file system without links: what appears in this very instant is replaced.
        with suppress(FileNotFoundError):
            os.stat(name, dir_fd=here, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, "a file is there meanwhile")
        os.rename(self._name, name, src_dir_fd=here, dst_dir_fd=here)

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
            self._close_places()
        elif error is None:
            self._remove()
        else:
            with noted(f"remove {self._name} from {self.place.directory}", error):
                self._remove()

    def _remove(self) -> None:
        try:
            with suppress(FileNotFoundError):  # somebody has tidied up
                os.unlink(self._name, dir_fd=self._directory)
        finally:
            try:
                os.close(self.fd)
            finally:
                self._close_places()

    def _close_places(self) -> None:
        if self._former >= 0:
            os.close(self._former)
        os.close(self._directory)
