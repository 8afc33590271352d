# What a refusal of the Linux kernel means to a caller of ours.
from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pinfold.errors import HostError, NoMemory, NoSpace, PinfoldError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def from_host(what: str, error: OSError, *, asked: int | None = None) -> PinfoldError:
    """The pinfold error for the kernel's refusal of ``what``; chain it with ``from error``."""
    if error.errno == errno.ENOSPC or error.errno == errno.EDQUOT:
        return NoSpace(
            f"{what}: {error.strerror}", asked=asked, remedy="free space in the backing store"
        )
    if error.errno == errno.ENOMEM:
        return NoMemory(
            f"{what}: {error.strerror}",
            asked=asked,
            remedy="free memory, or mappings if vm.max_map_count is reached, or raise RLIMIT_AS",
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return NoMemory(
            f"{what}: {error.strerror}", asked=asked, remedy="close files or raise RLIMIT_NOFILE"
        )
    return HostError(what, error)


@contextmanager
def noted(what: str, error: BaseException) -> Iterator[None]:
    """For undoing after ``error``: a refusal of the block becomes a note on it, and is not raised.

    The caller's own ``raise`` follows: what went wrong first is what the user must see.
    """
    try:
        yield
    except (OSError, PinfoldError) as second:
        error.add_note(f"undoing it failed too, {what}: {second}")


def each_tried(steps: Iterable[Callable[[], object]]) -> None:
    """Take every step, whatever one of them is refused; the first refusal is raised in the end."""
    failed: PinfoldError | None = None
    for step in steps:
        try:
            step()
        except PinfoldError as error:  # raised below: the others are taken all the same
            failed = failed or error
    if failed is not None:
        raise failed


@contextmanager
def translated(what: str, *, asked: int | None = None) -> Iterator[None]:
    """Turn an `OSError` of the block into the pinfold error for it."""
    try:
        yield
    except PinfoldError:
        raise
    except OSError as error:
        raise from_host(what, error, asked=asked) from error
