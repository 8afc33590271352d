# Reading and writing the memory of a process through the kernel: a bad address is EFAULT, where a
# load or a store would end the process.
#
# Source: process_vm_readv(2).
from __future__ import annotations

import ctypes
from typing import Any

from pinfold.host import calls


class _IoVec(ctypes.Structure):
    """struct iovec of <bits/types/struct_iovec.h>."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_process_vm = (
    ctypes.c_int,
    ctypes.POINTER(_IoVec),
    ctypes.c_ulong,
    ctypes.POINTER(_IoVec),
    ctypes.c_ulong,
    ctypes.c_ulong,
)
_c_process_vm_readv = calls.declare("process_vm_readv", ctypes.c_ssize_t, *_process_vm)
_c_process_vm_writev = calls.declare("process_vm_writev", ctypes.c_ssize_t, *_process_vm)


def read(pid: int, address: int, length: int) -> bytes:
    """process_vm_readv(2): the bytes up to the first page that is not there; EFAULT for none."""
    if not 0 <= address < calls.ADDRESSES >= address + length >= address:
        raise calls.unfit("address", address, length)
    calls.intercept("process_vm_readv")
    buffer = bytearray(length)
    return bytes(buffer[: _move(_c_process_vm_readv, pid, address, memoryview(buffer))])


def read_into(pid: int, address: int, buffer: memoryview) -> int:
    """`read` into a writable buffer: bytes read."""
    if not 0 <= address < calls.ADDRESSES >= address + buffer.nbytes:
        raise calls.unfit("address", address, buffer.nbytes)
    calls.intercept("process_vm_readv")
    return _move(_c_process_vm_readv, pid, address, buffer)


def write(pid: int, address: int, data: bytes | memoryview) -> int:
    """process_vm_writev(2) of one range: bytes written. Otherwise as `read`."""
    if not 0 <= address < calls.ADDRESSES >= address + len(data):
        raise calls.unfit("address", address, len(data))
    calls.intercept("process_vm_writev")
    return _move(_c_process_vm_writev, pid, address, memoryview(data))


def _move(call: Any, pid: int, address: int, buffer: memoryview) -> int:
    local = _IoVec(calls.address_of(buffer), buffer.nbytes)
    remote = _IoVec(address, buffer.nbytes)
    count: int = call(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    if count < 0:
        raise calls.refused()
    return count
