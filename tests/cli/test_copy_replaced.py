"""pinfold copy: whom the copy is open to, and what it replaces."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import TYPE_CHECKING

import pytest

from pinfold.cli.copying import copy_file
from pinfold.errors import HostError
from pinfold.host import calls
from pinfold.units import PAGE_SIZE
from tests.cli.copies import SMALL, Looking, once, random_file
from tests.programs import run

if TYPE_CHECKING:
    from pathlib import Path

SMALL_PIECES = 4 * PAGE_SIZE
ACCESS_LIST = "system.posix_acl_access"
USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
NOBODY = 0xFFFFFFFF
# The user 1001 may write, the group may do nothing, and the mode's bits for it are the mask's.
LIST = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in (
        (USER_OBJ, 6, NOBODY),
        (USER, 6, 1001),
        (GROUP_OBJ, 0, NOBODY),
        (MASK, 6, NOBODY),
        (OTHER, 0, NOBODY),
    )
)


def with_list(path: Path) -> None:
    """A file with that access list, or a skip."""
    path.write_bytes(b"former")
    try:
        os.setxattr(path, ACCESS_LIST, LIST)
    except OSError as error:
        pytest.skip(f"no access lists here: {error}")


def test_the_access_list_of_what_is_replaced_stays(tmp_path: Path) -> None:
    """Without it the bits of its mask would be the group's."""
    random_file(tmp_path / "a", 5000)
    with_list(tmp_path / "b")
    copy_file(str(tmp_path / "a"), str(tmp_path / "b"), SMALL, Looking())
    assert (tmp_path / "b").stat().st_size == 5000
    assert os.getxattr(tmp_path / "b", ACCESS_LIST) == LIST


@pytest.mark.parametrize(("mode", "left"), [(0o660, 0o600), (0o664, 0o644), (0o666, 0o666)])
def test_a_group_that_cannot_be_kept_gets_what_everybody_has(
    tmp_path: Path, mode: int, left: int
) -> None:
    """It is another group's file otherwise."""
    if os.geteuid() != 0:
        pytest.skip("files of other groups are made by root")
    random_file(tmp_path / "a", 5000)
    (tmp_path / "b").touch()
    os.chown(tmp_path / "b", 65534, 4242)
    (tmp_path / "b").chmod(mode)
    os.chmod(tmp_path, 0o777)  # noqa: S103 - for nobody, who has no way to it but from inside
    program = """
        import stat
        from pinfold.cli.copying import copy_file
        from pinfold.cli.plan import Options
        from tests.cli.copies import Looking

        os.chdir(sys.argv[1])
        copy_file("a", "warm", Options(), Looking())  # loads what nobody may not load
        os.unlink("warm")
        os.chmod("a", 0o644)
        give_up_privileges()
        copy_file("a", "b", Options(), Looking())
        found = os.stat("b")
        print(json.dumps([found.st_gid == 4242, stat.S_IMODE(found.st_mode), found.st_size]))
    """
    assert run(program, str(tmp_path)) == [False, left, 5000]


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """There was nothing when the copy began; whoever made it since keeps it."""
    random_file(tmp_path / "a", 5 * SMALL_PIECES)
    target = tmp_path / "b"
    with pytest.raises(HostError) as caught:
        copy_file(
            str(tmp_path / "a"),
            str(target),
            SMALL,
            once("copy", lambda: target.write_bytes(b"theirs")),
        )
    assert caught.value.errno == errno.EEXIST
    assert target.read_bytes() == b"theirs"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_another_file_than_the_one_that_was_there_is_not_replaced(tmp_path: Path) -> None:
    """Nor is a link followed that was put there since: what it leads to stays as it was."""
    random_file(tmp_path / "a", 5 * SMALL_PIECES)
    target, victim = tmp_path / "b", tmp_path / "victim"
    target.write_bytes(b"former")
    victim.write_bytes(b"victim's")

    def swap() -> None:
        target.unlink()
        target.symlink_to(victim)

    with pytest.raises(HostError) as caught:
        copy_file(str(tmp_path / "a"), str(target), SMALL, once("copy", swap))
    assert caught.value.errno == errno.EEXIST
    assert victim.read_bytes() == b"victim's"
    assert target.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "victim"]


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As FAT is: there it is renamed, after another look."""
    content = random_file(tmp_path / "a", 5000)

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    copy_file(str(tmp_path / "a"), str(tmp_path / "b"), SMALL, Looking())
    assert (tmp_path / "b").read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_the_name_of_a_copy_that_is_in_place_is_the_only_one(tmp_path: Path) -> None:
    """Where nothing was it is linked there; the name that it was written under goes."""
    random_file(tmp_path / "a", 5000)
    copy_file(str(tmp_path / "a"), str(tmp_path / "b"), SMALL, Looking())
    assert (tmp_path / "b").stat().st_nlink == 1
    assert stat.S_ISREG((tmp_path / "b").lstat().st_mode)


def test_a_refused_link_leaves_nothing(tmp_path: Path) -> None:
    """The name that it was written under goes, too."""
    random_file(tmp_path / "a", 5000)

    def refuse(name: str) -> None:
        if name == "rename":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    calls.set_interceptor(refuse)
    try:
        with pytest.raises(HostError):
            copy_file(str(tmp_path / "a"), str(tmp_path / "b"), SMALL, Looking())
    finally:
        calls.set_interceptor(None)
    assert os.listdir(tmp_path) == ["a"]
