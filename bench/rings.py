# Rings without pinfold: by ctypes, in C, and with PyPI's liburing. What others would write.
from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bench.measure import Subject

_SETUP, _ENTER, _REGISTER = 425, 426, 427  # <asm-generic/unistd.h>
_GETEVENTS = 1
_READ_FIXED = 4
_BUFFERS2, _BUFFERS_UPDATE, _SPARSE = 15, 16, 1
_LONGEST = 1 << 30

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long,) + (ctypes.c_void_p,) * 6


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class _Params(ctypes.Structure):
    _fields_ = (
        ("sq_entries", ctypes.c_uint32),
        ("cq_entries", ctypes.c_uint32),
        ("rest", ctypes.c_uint32 * 8),
        ("sq", ctypes.c_uint32 * 10),
        ("cq", ctypes.c_uint32 * 10),
    )


class _Sqe(ctypes.Structure):
    _fields_ = (
        ("opcode", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("ioprio", ctypes.c_uint16),
        ("fd", ctypes.c_int32),
        ("off", ctypes.c_uint64),
        ("addr", ctypes.c_uint64),
        ("length", ctypes.c_uint32),
        ("rw_flags", ctypes.c_uint32),
        ("user_data", ctypes.c_uint64),
        ("buf_index", ctypes.c_uint16),
        ("rest", ctypes.c_uint8 * 22),
    )


class _Cqe(ctypes.Structure):
    _fields_ = (
        ("user_data", ctypes.c_uint64),
        ("res", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
    )


class RawRing:
    """A ring with a table of buffers, by three system calls and ctypes."""

    def __init__(self, depth: int, *, slots: int) -> None:
        params = _Params()
        self.depth = depth
        self.fd = _checked(_syscall(_SETUP, depth, ctypes.addressof(params), 0, 0, 0, 0))
        entries = params.cq_entries
        sq = mmap.mmap(self.fd, params.sq[6] + 4 * depth, offset=0)
        cq = mmap.mmap(self.fd, params.cq[5] + 16 * entries, offset=0x8000000)
        sqes = mmap.mmap(self.fd, 64 * depth, offset=0x10000000)
        self.sqes = (_Sqe * depth).from_buffer(sqes)
        self.cqes = (_Cqe * entries).from_buffer(cq, params.cq[5])
        self.sq_tail = ctypes.c_uint32.from_buffer(sq, params.sq[1])
        self.cq_head = ctypes.c_uint32.from_buffer(cq, params.cq[0])
        self.cq_tail = ctypes.c_uint32.from_buffer(cq, params.cq[1])
        self.cq_mask = entries - 1
        order = (ctypes.c_uint32 * depth).from_buffer(sq, params.sq[6])
        order[:] = list(range(depth))
        table = (ctypes.c_uint64 * 4)(slots | _SPARSE << 32, 0, 0, 0)
        self._register(_BUFFERS2, table)

    def _register(self, operation: int, argument: Any) -> None:
        _checked(
            _syscall(_REGISTER, self.fd, operation, ctypes.addressof(argument), 32, None, None)
        )

    def update(self, address: int, size: int) -> Callable[[], None]:
        """What registers memory, or clears what was registered; its arguments are made now."""
        count = max(1, -(-size // _LONGEST))
        vectors = (ctypes.c_uint64 * (2 * count))()
        for slot in range(count if size else 0):
            vectors[2 * slot] = address + slot * _LONGEST
            vectors[2 * slot + 1] = min(_LONGEST, size - slot * _LONGEST)
        argument = (ctypes.c_uint64 * 4)(0, ctypes.addressof(vectors), 0, count)
        at, fd = ctypes.addressof(argument), self.fd

        def call() -> None:
            if _syscall(_REGISTER, fd, _BUFFERS_UPDATE, at, 32, None, None) != count:
                raise OSError(ctypes.get_errno(), "not all buffers were registered")
            _ = vectors, argument  # the kernel reads them

        return call

    def reads(self, fd: int, address: int, size: int, offsets: NDArray[np.uint64]) -> Subject:
        """Read at each offset, with the ring kept full."""
        count, wanted = len(offsets), offsets.tolist()
        for index, sqe in enumerate(self.sqes):
            sqe.opcode, sqe.fd, sqe.length = _READ_FIXED, fd, size
            sqe.addr = address + index * size
        sqes, cqes, mask, cq_mask = self.sqes, self.cqes, self.depth - 1, self.cq_mask
        sq_tail, cq_head, cq_tail, ring = self.sq_tail, self.cq_head, self.cq_tail, self.fd

        def subject(rounds: int) -> None:
            for _ in range(rounds):
                left = count
                pending = iter(wanted)
                room = self.depth
                while left:
                    tail = sq_tail.value
                    new = 0
                    for offset in islice(pending, room):
                        sqes[tail + new & mask].off = offset
                        new += 1
                    sq_tail.value = tail + new & 0xFFFFFFFF
                    _checked(_syscall(_ENTER, ring, new, 1, _GETEVENTS, None, 0))
                    head, stop = cq_head.value, cq_tail.value
                    for index in range(head, head + (stop - head & 0xFFFFFFFF)):
                        if cqes[index & cq_mask].res != size:
                            raise OSError(-cqes[index & cq_mask].res, "a read fell short")
                    room = stop - head & 0xFFFFFFFF
                    left -= room
                    cq_head.value = stop

        return subject

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


_C_SOURCE = r"""
#include <linux/io_uring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static unsigned *sq_tail, *cq_head, *cq_tail, sq_mask, cq_mask;
static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;

int make_ring(unsigned depth, void *memory, unsigned long length)
{
    struct io_uring_params p;
    struct iovec vector = { memory, length };
    memset(&p, 0, sizeof p);
    int ring = syscall(__NR_io_uring_setup, depth, &p);
    if (ring < 0)
        return -1;
    int prot = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_POPULATE;
    char *sq = mmap(0, p.sq_off.array + 4 * depth, prot, flags, ring, IORING_OFF_SQ_RING);
    char *cq = mmap(0, p.cq_off.cqes + 16 * p.cq_entries, prot, flags, ring, IORING_OFF_CQ_RING);
    sqes = mmap(0, 64 * depth, prot, flags, ring, IORING_OFF_SQES);
    if (sq == MAP_FAILED || cq == MAP_FAILED || (void *)sqes == MAP_FAILED)
        return -1;
    sq_tail = (unsigned *)(sq + p.sq_off.tail);
    cq_head = (unsigned *)(cq + p.cq_off.head);
    cq_tail = (unsigned *)(cq + p.cq_off.tail);
    cqes = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
    sq_mask = depth - 1;
    cq_mask = p.cq_entries - 1;
    for (unsigned i = 0; i < depth; i++)
        ((unsigned *)(sq + p.sq_off.array))[i] = i;
    if (syscall(__NR_io_uring_register, ring, IORING_REGISTER_BUFFERS, &vector, 1) < 0)
        return -1;
    return ring;
}

int reads(int ring, int fd, char *memory, unsigned size, const unsigned long *offsets, long count)
{
    long given = 0, ended = 0;
    while (ended < count) {
        unsigned tail = *sq_tail, fresh = 0;
        while (given < count && given - ended <= sq_mask) {
            struct io_uring_sqe *sqe = &sqes[(tail + fresh) & sq_mask];
            memset(sqe, 0, sizeof *sqe);
            sqe->opcode = IORING_OP_READ_FIXED;
            sqe->fd = fd;
            sqe->addr = (unsigned long)memory + (given & sq_mask) * size;
            sqe->len = size;
            sqe->off = offsets[given++];
            fresh++;
        }
        __atomic_store_n(sq_tail, tail + fresh, __ATOMIC_RELEASE);
        if (syscall(__NR_io_uring_enter, ring, fresh, 1, IORING_ENTER_GETEVENTS, 0, 0) < 0)
            return 1;
        unsigned head = *cq_head, stop = __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE);
        for (; head != stop; head++, ended++)
            if (cqes[head & cq_mask].res != (int)size)
                return 1;
        __atomic_store_n(cq_head, head, __ATOMIC_RELEASE);
    }
    return 0;
}
"""


@cache
def _c_library() -> ctypes.CDLL | None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "rings.c"), Path(folder, "rings.so")
        source.write_text(_C_SOURCE, encoding="utf-8")
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(command, check=True, capture_output=True)
        loaded = ctypes.CDLL(str(library))
    loaded.make_ring.argtypes = (ctypes.c_uint, ctypes.c_void_p, ctypes.c_ulong)
    loaded.reads.argtypes = (
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_long,
    )
    return loaded


def c_reads(
    depth: int, fd: int, address: int, length: int, size: int, offsets: NDArray[np.uint64]
) -> Subject | None:
    """The loop in C; None where there is no compiler."""
    library = _c_library()
    if library is None:
        return None
    ring = library.make_ring(depth, address, length)
    if ring < 0:
        raise OSError("C has made no ring")

    def subject(rounds: int) -> None:
        for _ in range(rounds):
            if library.reads(ring, fd, address, size, offsets.ctypes.data, len(offsets)):
                raise OSError("a read in C fell short")

    return subject


def binding_reads(
    stack: ExitStack, depth: int, fd: int, size: int, offsets: NDArray[np.uint64]
) -> Subject | None:
    """The loop with PyPI's `liburing`; None where that cannot be imported.

    It takes bytearrays only, and registers nothing else. To be aligned for direct I/O they lose
    bytes at the front, which moves where they begin.
    """
    try:
        import liburing as lib
    except ImportError:
        return None
    ring = lib.Ring()
    lib.io_uring_queue_init(depth, ring)
    stack.callback(lib.io_uring_queue_exit, ring)
    buffers = [bytearray(2 * size - 16) for _ in range(depth)]
    for buffer in buffers:
        start = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        del buffer[: -start % size]
        del buffer[size:]
        if len(buffer) < size or ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % size:
            return None
    cqe = lib.Cqe()

    def subject(rounds: int) -> None:
        for _ in range(rounds):
            left, room, pending = len(offsets), depth, cycle(range(depth))
            wanted = iter(offsets.tolist())
            while left:
                for offset in islice(wanted, room):
                    sqe = lib.io_uring_get_sqe(ring)
                    lib.io_uring_prep_read(sqe, fd, buffers[next(pending)], offset)
                lib.io_uring_submit_and_wait(ring, 1)
                room = lib.io_uring_cq_ready(ring)
                for _ in range(room):
                    lib.io_uring_peek_cqe(ring, cqe)
                    if cqe[0].res != size:
                        raise OSError(-cqe[0].res, "a read fell short")
                    lib.io_uring_cqe_seen(ring, cqe[0])
                left -= room

    return subject
