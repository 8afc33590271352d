"""The stream size: how much of a memory object holds something."""

from __future__ import annotations

import errno
from typing import Any

import pytest

import pinfold as pf
from pinfold.errors import AccessDenied, BadState, NotSupported, OutOfRange, PinfoldError
from pinfold.objects.vmo import CachePolicy, VmoChild
from pinfold.testing import FailNth, HostCalls, check_books
from tests.user_memory import load, store

from .pages import PAGE, device_memory, numbered, numbers, page

C = VmoChild
R = pf.Right
SHOWN = (
    pf.VmOption.PERM_READ
    | pf.VmOption.PERM_WRITE
    | pf.VmOption.ALLOW_FAULTS
    | pf.VmOption.FAULT_BEYOND_STREAM_SIZE
)

pytestmark = pytest.mark.usefixtures("process")


@pytest.mark.parametrize("size", [0, 1, PAGE, PAGE + 1, 4 * PAGE])
def test_it_starts_as_the_size_that_was_asked_for(size: int) -> None:
    """Source: zx_vmo_create, zx_vmo_get_stream_size."""
    with pf.Vmo(size) as vmo, vmo.duplicate(0) as without:
        assert without.stream_size == size


@pytest.mark.parametrize(("former", "size"), [(9, 5), (5, 9), (0, PAGE), (3 * PAGE, PAGE + 1)])
def test_all_from_the_smaller_of_the_two_is_zeroed(former: int, size: int) -> None:
    """Source: zx_vmo_set_stream_size: to the end of the object, not of the stream."""
    with pf.Vmo(4 * PAGE) as vmo:
        vmo.set_stream_size(former)
        vmo.write(b"x" * 4 * PAGE)
        vmo.set_stream_size(size)
        kept = min(former, size)
        assert vmo.read() == b"x" * kept + bytes(4 * PAGE - kept)
        assert (vmo.stream_size, vmo.size) == (size, 4 * PAGE)


def test_the_same_size_changes_nothing() -> None:
    """Source: zx_vmo_set_stream_size in Zircon's kernel: what is beyond the stream stays."""
    with pf.Vmo(5) as vmo:
        vmo.write(b"x" * PAGE)
        vmo.set_stream_size(5)
        assert vmo.read() == b"x" * PAGE
        with vmo.duplicate(R.READ) as less, pytest.raises(AccessDenied):
            less.set_stream_size(5)


def test_setting_the_size_sets_the_stream_and_zeroes_the_tail() -> None:
    """Source: zx_vmo_set_size: with the same number of pages too."""
    with pf.Vmo(2 * PAGE, resizable=True) as vmo:
        vmo.write(b"x" * 2 * PAGE)
        vmo.resize(PAGE + 3)
        assert vmo.stream_size == PAGE + 3
        assert vmo.read(PAGE) == b"xxx" + bytes(PAGE - 3)
        vmo.resize(PAGE + 4)
        assert vmo.read(PAGE, 4) == b"xxx\0"
        vmo.resize(PAGE + 4)
        assert vmo.stream_size == PAGE + 4


def test_pinned_pages_are_zeroed_where_they_are(bti: pf.Bti) -> None:
    """Source: zx_vmo_set_stream_size: a pin is no obstacle."""
    with numbered([1, 2, 3]) as vmo, bti.pin(vmo, PAGE, PAGE, perms=pf.Perm.READ) as pmt:
        vmo.set_stream_size(1)
        assert vmo.read() == b"\1" + bytes(3 * PAGE - 1)
        assert vmo.committed_ranges() == [(0, 2 * PAGE)]
        vmo.write(b"seen", PAGE)
        assert bti.master().read(int(pmt.addrs[0]), 4) == b"seen"


def test_it_limits_nothing_but_streams_and_mappings_that_follow_it(
    bti: pf.Bti, process: pf.Process
) -> None:
    """Source: zx_vmo_set_stream_size."""
    with numbered([1, 2, 3]) as vmo:
        vmo.set_stream_size(0)
        vmo.write(b"beyond", 2 * PAGE)
        assert vmo.read(2 * PAGE, 6) == b"beyond"
        vmo.commit()
        with (
            bti.pin(vmo, perms=pf.Perm.READ),
            process.root.map(vmo, pf.VmOption.PERM_READ) as mapping,
        ):
            assert load(mapping.address + 2 * PAGE, 6) == b"beyond"


def test_contiguous_and_device_memory_have_none(bti: pf.Bti) -> None:
    """Source: zx_vmo_set_stream_size, NOT_SUPPORTED; they say 0."""
    with (
        pf.Vmo.contiguous(bti, 2 * PAGE) as run,
        run.child(C.SLICE, 0, PAGE) as part,
        device_memory() as device,
    ):
        for vmo in (run, part, device):
            assert vmo.stream_size == 0
            for size in (0, PAGE):
                with pytest.raises(NotSupported):
                    vmo.set_stream_size(size)
                with pytest.raises(NotSupported):
                    vmo.set_content_size(size)


def test_what_is_not_cached_cannot_be_cut_within_a_page() -> None:
    """Source: zx_vmo_set_stream_size: whole pages are given back, parts would be written."""
    with numbered([1, 2, 3, 4]) as vmo:
        vmo.set_cache_policy(CachePolicy.UNCACHED)
        with pytest.raises(BadState):
            vmo.set_stream_size(PAGE + 1)
        assert vmo.stream_size == 4 * PAGE
        vmo.set_stream_size(PAGE)
        vmo.set_stream_size(2 * PAGE + 1)
        assert vmo.stream_size == 2 * PAGE + 1
        vmo.set_cache_policy(CachePolicy.CACHED)
        assert numbers(vmo) == [1, 0, 0, 0]


def test_the_stream_of_an_unbounded_object(process: pf.Process) -> None:
    """Source: zx_vmo_create, UNBOUNDED: the stream is what grows."""
    with pf.Vmo(PAGE, unbounded=True) as vmo:
        vmo.write(b"x" * 3 * PAGE)
        vmo.set_stream_size(2 * PAGE + 1)
        assert vmo.read(0, 3 * PAGE) == b"x" * PAGE + bytes(2 * PAGE)
        vmo.set_stream_size(vmo.size)
        with pytest.raises(OutOfRange):
            vmo.set_stream_size(vmo.size + 1)
        with pytest.raises(OutOfRange):
            vmo.set_stream_size(-1)


def test_the_older_way_takes_any_number() -> None:
    """Source: ZX_PROP_VMO_CONTENT_SIZE: beyond the object it is kept, and nothing is zeroed."""
    with numbered([1, 2]) as vmo:
        vmo.set_content_size(9 * PAGE)
        assert (vmo.stream_size, numbers(vmo)) == (9 * PAGE, [1, 2])
        vmo.set_content_size(PAGE)
        assert (vmo.stream_size, numbers(vmo)) == (PAGE, [1, 0])


# Mappings that follow it --------------------------------------------------------------------------


def shown(mapping: pf.Mapping) -> list[int | None]:
    found = [load(mapping.address + at) for at in range(0, mapping.size, PAGE)]
    return [None if byte is None else byte[0] for byte in found]


def test_a_mapping_that_follows_shows_the_pages_of_the_stream(process: pf.Process) -> None:
    """Source: ZX_VM_FAULT_BEYOND_STREAM_SIZE: rounded up to a page; by whichever reference."""
    with (
        numbered([1, 2, 3, 4]) as vmo,
        vmo.child(C.REFERENCE) as other,
        process.root.map(vmo, SHOWN) as mapping,
        process.root.map(other, SHOWN) as second,
    ):
        assert shown(mapping) == [1, 2, 3, 4]
        other.set_stream_size(PAGE + 1)
        assert shown(mapping) == shown(second) == [1, 2, None, None]
        assert not store(mapping.address + 2 * PAGE, b"x")
        vmo.set_stream_size(3 * PAGE)
        assert shown(mapping) == shown(second) == [1, 2, 0, None]
        assert store(second.address + 2 * PAGE, page(9))
        assert vmo.read(2 * PAGE, PAGE) == page(9)


def test_a_mapping_follows_the_stream_that_a_new_size_sets(process: pf.Process) -> None:
    """Source: zx_vmo_set_size: the stream ends where the size does."""
    with (
        numbered([1, 2, 3, 4], resizable=True) as vmo,
        vmo.child(C.REFERENCE | C.RESIZABLE) as other,
        process.root.map(vmo, SHOWN) as mapping,
    ):
        other.resize(PAGE + 1)
        assert shown(mapping) == [1, 2, None, None]
        vmo.resize(4 * PAGE)
        assert shown(mapping) == [1, 2, 0, 0]
        vmo.set_stream_size(PAGE)
        vmo.resize(3 * PAGE)
        assert shown(mapping) == [1, 0, 0, None]


def test_a_live_view_of_what_would_be_hidden_is_in_the_way(process: pf.Process) -> None:
    """It would end the process at the next touch; nothing has changed."""
    with numbered([1, 2, 3]) as vmo, process.root.map(vmo, SHOWN) as mapping:
        view = mapping.view(2 * PAGE, PAGE)
        with pytest.raises(BadState) as caught:
            vmo.set_stream_size(PAGE)
        assert __file__ in str(caught.value.holder)
        assert (vmo.stream_size, numbers(vmo)) == (3 * PAGE, [1, 2, 3])
        del view
        vmo.set_stream_size(PAGE)
        assert shown(mapping) == [1, None, None]


@pytest.mark.parametrize("size", [PAGE, 4 * PAGE])
def test_a_refusal_of_the_host_is_made_good_by_the_same_call(
    process: pf.Process, size: int
) -> None:
    """A mapping that could not follow does so when the call is made again."""
    calls = _stream_calls(process, size, HostCalls())
    assert calls
    for n in range(1, len(calls) + 1):
        _stream_calls(process, size, FailNth(n, errno.ENOMEM))


def _stream_calls(process: pf.Process, size: int, plan: Any) -> list[str]:
    with (
        numbered([1, 2, 3, 4]) as vmo,
        process.root.map(vmo, SHOWN) as mapping,
        process.root.map(vmo, SHOWN) as second,
    ):
        vmo.set_stream_size(2 * PAGE)
        try:
            with plan:
                vmo.set_stream_size(size)
        except PinfoldError:
            check_books(vmo.kernel)
            vmo.set_stream_size(size)
        pages = size // PAGE
        expected = [1, 2, 0, 0][:pages] + [None] * (4 - pages)
        assert vmo.stream_size == size
        assert shown(mapping) == shown(second) == expected
        assert numbers(vmo) == [1, 2 if pages > 1 else 0, 0, 0]
    names: list[str] = plan.names
    return names
