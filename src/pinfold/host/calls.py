# The one seam: every call into the kernel or the C library passes here.
#
# Three things happen nowhere else. Argument types are declared: ctypes passes an undeclared Python
# int as a C int, so a 64-bit address is cut to 32 bits and the call succeeds on somebody else's
# memory. Ranges are checked: ctypes cuts a declared int to its type, too, without a word, and an
# address of 65 bits would be somebody else's. What does not fit is EINVAL, which is what Linux says
# of a range that wraps around; flags and descriptors are constants of ours and the kernel's own
# numbers. And failures are injected: `set_interceptor` installs a function that sees the name of
# each call before it is made and may raise OSError in its place, which is how the tests fail the
# n-th call of an operation for every n.
#
# `close` and `munmap` are made even when a failure is injected, and the failure is raised after:
# Linux releases a descriptor whatever close() returns, and a test that leaked on purpose could not
# tell its own leak from ours.
#
# Everything here releases the GIL while the kernel works (ctypes.CDLL does, and so do the os
# calls).
from __future__ import annotations

import ctypes
import errno
import fcntl as _fcntl
import mmap as _mmap
import os
from collections.abc import Callable
from typing import Any, Final, TypeAlias

Interceptor = Callable[[str], None]

_interceptor: Interceptor | None = None


def set_interceptor(interceptor: Interceptor | None) -> Interceptor | None:
    """Install ``interceptor``, called with each call's name before it is made; return the former.

    It may raise `OSError`, which the caller sees as the kernel's refusal. None removes it.
    """
    global _interceptor
    former, _interceptor = _interceptor, interceptor
    return former


def intercept(name: str) -> None:
    """Say that the call ``name`` is about to be made: for the wrappers in other files of this room.

    Raises:
      OSError: the interceptor's, in place of the call.
    """
    if _interceptor is not None:
        _interceptor(name)


_libc: Final = ctypes.CDLL(None, use_errno=True)

_MAP_FAILED: Final = ctypes.c_void_p(-1).value

ADDRESSES: Final = 1 << 64
_OFFSETS: Final = 1 << 63


def declare(name: str, result: Any, *arguments: Any) -> Any:
    """A function of the C library with its types. For this room."""
    function = getattr(_libc, name)
    function.restype = result
    function.argtypes = arguments
    return function


def declare_syscall(*arguments: Any) -> Any:
    """syscall(2) with the types of what follows its number, for calls without a wrapper in the C
    library. For this room."""
    function = ctypes.CDLL(None, use_errno=True).syscall  # its own: types are kept by function
    function.restype = ctypes.c_long
    function.argtypes = (ctypes.c_long, *arguments)
    return function


_c_mmap = declare(
    "mmap",
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)
_c_munmap = declare("munmap", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_c_mprotect = declare("mprotect", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_c_madvise = declare("madvise", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_c_mlock = declare("mlock", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_c_munlock = declare("munlock", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_c_mincore = declare("mincore", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_c_fallocate = declare(
    "fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64
)
_c_memmove = declare("memmove", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_c_memset = declare("memset", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)


def refused() -> OSError:
    """The error of the C call that has just failed. For this room."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def unfit(what: str, first: int, length: int) -> OSError:
    """EINVAL, for numbers that C would cut.

    The checks stand in each call: another Python call costs as much as the shortest system calls.
    """
    text = f"{os.strerror(errno.EINVAL)}: {length:#x} bytes at {what} {first:#x}"
    return OSError(errno.EINVAL, text)


def mmap(address: int, length: int, prot: int, flags: int, fd: int, offset: int) -> int:
    """mmap(2): the address of the new mapping."""
    if not 0 <= address < ADDRESSES >= address + length >= address:
        raise unfit("address", address, length)
    if not 0 <= offset < _OFFSETS:
        raise unfit("offset", offset, length)
    if _interceptor is not None:
        _interceptor("mmap")
    result: int | None = _c_mmap(address, length, prot, flags, fd, offset)
    if result == _MAP_FAILED:
        raise refused()
    return result or 0  # ctypes gives None for a mapping at address 0


def munmap(address: int, length: int) -> None:
    """munmap(2)."""
    if not 0 <= address < ADDRESSES >= address + length >= address:
        raise unfit("address", address, length)
    if _c_munmap(address, length) != 0:
        raise refused()
    if _interceptor is not None:
        _interceptor("munmap")


def mprotect(address: int, length: int, prot: int) -> None:
    """mprotect(2)."""
    if not 0 <= address < ADDRESSES >= address + length >= address:
        raise unfit("address", address, length)
    if _interceptor is not None:
        _interceptor("mprotect")
    if _c_mprotect(address, length, prot) != 0:
        raise refused()


def madvise(address: int, length: int, advice: int) -> None:
    """madvise(2), started again when a signal breaks it off (populating is interruptible)."""
    if not 0 <= address < ADDRESSES >= address + length >= address:
        raise unfit("address", address, length)
    if _interceptor is not None:
        _interceptor("madvise")
    while _c_madvise(address, length, advice) != 0:
        error = refused()
        if error.errno != errno.EINTR:
            raise error


def mlock(address: int, length: int) -> None:
    """mlock(2). On failure part of the range may be left locked: see residency."""
    if not 0 <= address < ADDRESSES >= address + length >= address:
        raise unfit("address", address, length)
    if _interceptor is not None:
        _interceptor("mlock")
    if _c_mlock(address, length) != 0:
        raise refused()


def munlock(address: int, length: int) -> None:
    """munlock(2)."""
    if not 0 <= address < ADDRESSES >= address + length >= address:
        raise unfit("address", address, length)
    if _interceptor is not None:
        _interceptor("munlock")
    if _c_munlock(address, length) != 0:
        raise refused()


def mincore(address: int, length: int, pages: int) -> bytearray:
    """mincore(2): one byte a page, bit 0 set where the page is in memory."""
    if not 0 <= address < ADDRESSES >= address + length >= address:
        raise unfit("address", address, length)
    if _interceptor is not None:
        _interceptor("mincore")
    result = bytearray(pages)
    buffer = (ctypes.c_ubyte * pages).from_buffer(result)
    if _c_mincore(address, length, ctypes.addressof(buffer)) != 0:
        raise refused()
    return result


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2)."""
    if not 0 <= offset < _OFFSETS > length >= 0:
        raise unfit("offset", offset, length)
    if _interceptor is not None:
        _interceptor("fallocate")
    while _c_fallocate(fd, mode, offset, length) != 0:
        error = refused()
        if error.errno != errno.EINTR:
            raise error


def memfd_create(name: str, flags: int) -> int:
    """memfd_create(2)."""
    if _interceptor is not None:
        _interceptor("memfd_create")
    return os.memfd_create(name, flags)


def open_file(path: str, flags: int) -> int:
    """open(2), close-on-exec."""
    if _interceptor is not None:
        _interceptor("open")
    return os.open(path, flags | os.O_CLOEXEC)


def dup(fd: int) -> int:
    """fcntl(F_DUPFD_CLOEXEC)."""
    if _interceptor is not None:
        _interceptor("dup")
    return os.dup(fd)


def close(fd: int) -> None:
    """close(2)."""
    os.close(fd)
    if _interceptor is not None:
        _interceptor("close")


def ftruncate(fd: int, size: int) -> None:
    """ftruncate(2)."""
    if _interceptor is not None:
        _interceptor("ftruncate")
    os.ftruncate(fd, size)


def fstat(fd: int) -> os.stat_result:
    """fstat(2)."""
    if _interceptor is not None:
        _interceptor("fstat")
    return os.fstat(fd)


def fstatvfs(fd: int) -> os.statvfs_result:
    """fstatvfs(3)."""
    if _interceptor is not None:
        _interceptor("fstatvfs")
    return os.fstatvfs(fd)


def fcntl(fd: int, command: int, argument: int = 0) -> int:
    """fcntl(2) with an integer argument."""
    if _interceptor is not None:
        _interceptor("fcntl")
    return _fcntl.fcntl(fd, command, argument)


def ioctl(fd: int, request: int, argument: bytearray) -> int:
    """ioctl(2) with a structure that the kernel reads, and may write: the kernel's result."""
    if _interceptor is not None:
        _interceptor("ioctl")
    result: int = _fcntl.ioctl(fd, request, argument)
    return result


def lseek(fd: int, offset: int, whence: int) -> int:
    """lseek(2)."""
    if _interceptor is not None:
        _interceptor("lseek")
    return os.lseek(fd, offset, whence)


def pread(fd: int, length: int, offset: int) -> bytes:
    """pread(2): up to ``length`` bytes."""
    if _interceptor is not None:
        _interceptor("pread")
    return os.pread(fd, length, offset)


def preadv(fd: int, buffer: memoryview, offset: int) -> int:
    """preadv(2) into one buffer: bytes read."""
    if _interceptor is not None:
        _interceptor("pread")
    return os.preadv(fd, [buffer], offset)


def pwrite(fd: int, data: bytes | memoryview, offset: int) -> int:
    """pwrite(2): bytes written."""
    if _interceptor is not None:
        _interceptor("pwrite")
    return os.pwrite(fd, data, offset)


def memmove(destination: int, source: int, length: int) -> None:
    """memmove(3), with the GIL released. No system call, and no check: the caller has made it."""
    _c_memmove(destination, source, length)


def memset(address: int, value: int, length: int) -> None:
    """memset(3), with the GIL released. No system call, and no check: the caller has made it."""
    _c_memset(address, value, length)


ByteArray: TypeAlias = "ctypes.Array[ctypes.c_ubyte]"


def buffer_at(address: int, length: int) -> ByteArray:
    """The ``length`` bytes at ``address`` as an object with the buffer protocol.

    It does not keep the mapping alive: whoever asks must, for as long as any view of it lives. It
    can be weakly referenced, which is how live views are found.
    """
    return (ctypes.c_ubyte * length).from_address(address)


def readonly_mapping(fd: int, offset: int, length: int) -> _mmap.mmap:
    """A shared read-only mapping that unmaps itself when nothing refers to it any more."""
    if _interceptor is not None:
        _interceptor("mmap")
    return _mmap.mmap(fd, length, _mmap.MAP_SHARED, _mmap.PROT_READ, offset=offset)


def address_of(buffer: memoryview) -> int:
    """The address of the first byte of a contiguous buffer, read-only ones included.

    Raises:
      BufferError: it is contiguous in neither C's nor Fortran's order.
      ValueError: it was released.
    """
    if not buffer.contiguous:
        raise BufferError("not a contiguous buffer")
    view = _PyBuffer()
    _get_buffer(buffer, ctypes.byref(view), _PYBUF_FULL_RO)  # ctypes raises what Python set
    address = view.buf or 0
    _release_buffer(ctypes.byref(view))
    return address


class _PyBuffer(ctypes.Structure):
    """Py_buffer of CPython's <cpython/object.h> (stable ABI since 3.11)."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_PYBUF_FULL_RO: Final = 0x100 | 0x10 | 0x08 | 0x04  # indirect, strides, shape, format; not writable

_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int)
_get_buffer.restype = ctypes.c_int
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.POINTER(_PyBuffer),)
_release_buffer.restype = None
