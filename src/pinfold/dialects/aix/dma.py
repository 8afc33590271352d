# AIX's DMA services over pinfold's buses.
#
# Source: the pages of d_map_init, d_map_page, d_map_list, d_unmap_page, d_unmap_list, d_map_clear,
# d_map_enable, d_map_disable.
#
# A bus id is a device's authority, a `Bti`: what AIX finds out from the id is what a Bti knows. A
# mapping needs memory that is pinned, and does not pin it in AIX's counters; the grant holds its
# pages itself, as every grant does.
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from pinfold.dialects.aix import numbers as aix
from pinfold.dialects.aix.descriptor import Xmem, descriptor
from pinfold.dialects.aix.services import process_only
from pinfold.dialects.calling import Out, handle_of, i32, slot, u32, u64
from pinfold.errors import BadState, InvalidArgs, NoMemory, NotPinned, PinfoldError, Unavailable
from pinfold.objects.bti import Bti
from pinfold.objects.device_maps import DeviceMap, Item, Mapped
from pinfold.rights import Perm
from pinfold.units import PAGE_SIZE, page_down

d_handle_t = DeviceMap
"""What `d_map_init` gives: nothing to look into."""

_FLAGS: Final = aix.DMA_READ | aix.BUS_DMA | aix.DMA_BYPASS | aix.DMA_STMAP


@dataclass
class Iovec:
    """One run of a list: ``struct d_iovec``.

    Attributes:
      iov_base: an address, or a bus address.
      iov_len: bytes.
      xmp: the descriptor of the memory; of no use in a bus list.
    """

    iov_base: int = 0
    iov_len: int = 0
    xmp: Xmem | None = None


@dataclass
class Dio:
    """A scatter-gather list: ``struct dio``.

    Attributes:
      total_iovecs: how many runs there is room for.
      used_iovecs: how many there are.
      bytes_done: what has been mapped.
      resid_iov: the first run that was not mapped as a whole.
      dvec: the runs.
    """

    total_iovecs: int = 0
    used_iovecs: int = 0
    bytes_done: int = 0
    resid_iov: int = 0
    dvec: list[Iovec] = field(default_factory=list)
    granted: list[int] = field(default_factory=list, repr=False, compare=False)
    """Of a bus list: where each grant begins. `d_map_list` and `d_unmap_list` keep it."""


def d_map_init(bid: Bti | int, flags: int, bus_flags: int, channel: int) -> DeviceMap | int:
    """Begin to map for a device: ``d_handle_t d_map_init(int bid, int flags, int bus_flags, uint
    channel)``. For the process environment only.

    Args:
      bid: the device: a `Bti`, or the number of one in the current process.
      flags, bus_flags, channel: of the hardware; nothing is made of them.

    Returns a handle, or DMA_FAIL: there is no such device.
    """
    i32(flags), i32(bus_flags), u32(channel)
    process_only("d_map_init")
    if not isinstance(bid, int | Bti):
        raise TypeError(f"a bus id is a Bti or its number, not a {type(bid).__name__}")
    try:
        return DeviceMap(handle_of(u32(bid), Bti) if isinstance(bid, int) else bid)
    except PinfoldError:
        return aix.DMA_FAIL


def d_map_clear(handle: DeviceMap) -> int:
    """The end of a handle: ``void d_map_clear(d_handle_t handle)``. What is mapped is unmapped.

    Returns DMA_SUCC, or DMA_FAIL where the device could not be shut out of something: that is in
    the Bti's quarantine.
    """
    try:
        _handle(handle).clear()
    except PinfoldError:
        return aix.DMA_FAIL
    return aix.DMA_SUCC


def d_map_enable(handle: DeviceMap) -> int:
    """Allow mapping again: ``int d_map_enable(d_handle_t handle)``. Returns DMA_SUCC."""
    _handle(handle).enabled = True
    return aix.DMA_SUCC


def d_map_disable(handle: DeviceMap) -> int:
    """Allow no more mapping: ``int d_map_disable(d_handle_t handle)``. Returns DMA_SUCC.

    What is mapped stays mapped.
    """
    _handle(handle).enabled = False
    return aix.DMA_SUCC


def d_map_page(
    handle: DeviceMap, flags: int, baddr: int, busaddr: Out | None, xmp: Xmem | None
) -> int:
    """Map the rest of a page: ``int d_map_page(d_handle_t handle, int flags, caddr_t baddr, uint
    *busaddr, struct xmem *xmp)``.

    Args:
      flags: DMA_READ: the device writes the memory; else it reads it. DMA_BYPASS: it is not looked
        at whether the memory allows that. BUS_DMA and DMA_STMAP say nothing here.
      busaddr: gets the address of the byte at ``baddr`` on the device's bus.

    Returns DMA_SUCC, or:
      DMA_NOACC: fail the I/O: the page is not pinned, not defined, not in the space, or does not
        allow the access; the descriptor is free; there is no such flag; ``busaddr`` is NULL.
      DMA_NORES: try again later: the bus has no address space, or is disabled.
    """
    flags, baddr, busaddr = u32(flags), u64(baddr), slot(busaddr)
    mapped = _handle(handle)
    try:
        perms, check = _access(flags)
        if busaddr is None:
            return aix.DMA_NOACC
        memory = descriptor(xmp)
        runs = mapped.map(memory, baddr, page_down(baddr) + PAGE_SIZE - baddr, perms, check=check)
    except PinfoldError as error:
        return _result(error)
    busaddr.value = int(runs[0].address)
    return aix.DMA_SUCC


def d_unmap_page(handle: DeviceMap, busaddr: int) -> int:
    """Undo `d_map_page`: ``void d_unmap_page(d_handle_t handle, uint busaddr)``.

    Returns DMA_SUCC, or DMA_FAIL: nothing is mapped there; or the device could not be shut out, and
    the page is in its Bti's quarantine.
    """
    try:
        _handle(handle).unmap(u64(busaddr))
    except PinfoldError:
        return aix.DMA_FAIL
    return aix.DMA_SUCC


def d_map_list(handle: DeviceMap, flags: int, minxfer: int, virt_list: Dio, bus_list: Dio) -> int:
    """Map a list of buffers: ``int d_map_list(d_handle_t handle, int flags, int minxfer, struct dio
    *virt_list, struct dio *bus_list)``.

    Args:
      flags: as `d_map_page`.
      minxfer: what is mapped in the end is a multiple of so many bytes, unless it is all.
      virt_list: the buffers, its first ``used_iovecs``, each with its descriptor. Gets
        ``bytes_done`` and ``resid_iov``.
      bus_list: has room for ``total_iovecs`` runs, and gets them, and ``used_iovecs`` and
        ``bytes_done``. It is what `d_unmap_list` takes.

    Returns DMA_SUCC, or:
      DMA_DIOFULL: there was no room for all of the runs; a part is mapped.
      DMA_NORES: as `d_map_page`; a part may be mapped, as ``bytes_done`` says.
      DMA_NOACC: as `d_map_page`, of one of the buffers, or ``minxfer`` is not above 0: nothing is
        mapped; ``bytes_done`` is what lies before that buffer, which ``resid_iov`` names.
    """
    flags, minxfer = u32(flags), i32(minxfer)
    mapped, virt_list, bus_list = _handle(handle), _list(virt_list), _list(bus_list)
    items: list[Item] = []
    bus_list.granted = []
    bus_list.used_iovecs = bus_list.bytes_done = 0
    virt_list.bytes_done = virt_list.resid_iov = 0
    try:
        perms, check = _access(flags)
        if minxfer <= 0:
            raise InvalidArgs("a transfer has at least a byte", asked=minxfer)
        if not 0 <= virt_list.used_iovecs <= len(virt_list.dvec):
            raise InvalidArgs("a list has fewer runs than that", asked=virt_list.used_iovecs)
        for number, vec in enumerate(virt_list.dvec[: virt_list.used_iovecs]):
            virt_list.resid_iov = number
            item = Item(descriptor(vec.xmp), u64(vec.iov_base), i32(vec.iov_len))
            mapped.check(item, perms, check=check)
            items.append(item)
            virt_list.bytes_done += item.size
        done = mapped.map_list(items, minxfer, bus_list.total_iovecs, perms, check=check)
    except PinfoldError as error:
        return _result(error)
    virt_list.resid_iov = len(items) if done.stopped is None else done.stopped
    _fill(bus_list, done)
    virt_list.bytes_done = bus_list.bytes_done
    if done.stopped is None:
        return aix.DMA_SUCC
    return aix.DMA_DIOFULL if done.error is None else _result(done.error)


def d_unmap_list(handle: DeviceMap, bus_list: Dio) -> int:
    """Undo `d_map_list`: ``void d_unmap_list(d_handle_t handle, struct dio *bus_list)``.

    Returns DMA_SUCC, or DMA_FAIL: the list is not mapped; or the device could not be shut out of a
    part, which is in its Bti's quarantine: the rest is unmapped.
    """
    mapped, granted = _handle(handle), _list(bus_list).granted
    bus_list.granted = []
    result = aix.DMA_SUCC if granted else aix.DMA_FAIL
    for address in reversed(granted):
        try:
            mapped.unmap(address)
        except PinfoldError:
            result = aix.DMA_FAIL
    return result


def _handle(handle: Any) -> DeviceMap:
    if not isinstance(handle, DeviceMap):
        raise TypeError(f"a handle of d_map_init, not a {type(handle).__name__}")
    return handle


def _list(dio: Any) -> Dio:
    if not isinstance(dio, Dio) or not all(isinstance(vec, Iovec) for vec in dio.dvec):
        raise TypeError("a list is a Dio, of Iovecs")
    return dio


def _access(flags: int) -> tuple[int, bool]:
    """What the device is to do, and whether it is looked at whether the memory allows it."""
    if flags & ~_FLAGS:
        raise InvalidArgs("there is no such flag", asked=flags, limit=_FLAGS)
    perms = Perm.WRITE if flags & aix.DMA_READ else Perm.READ
    return int(perms), not flags & aix.DMA_BYPASS


def _result(error: PinfoldError) -> int:
    later = isinstance(error, NoMemory | Unavailable | BadState)
    return aix.DMA_NORES if later and not isinstance(error, NotPinned) else aix.DMA_NOACC


def _fill(bus_list: Dio, done: Mapped) -> None:
    bus_list.dvec[: len(done.runs)] = [Iovec(int(run.address), run.size) for run in done.runs]
    bus_list.used_iovecs = len(done.runs)
    bus_list.bytes_done = done.size
    bus_list.granted = [address for address, _ in done.granted]
