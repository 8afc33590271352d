# io_uring: a ring with a table of registered buffers, and what it was asked to move.
#
# No policy: which slot a buffer takes, who may use it and when it goes are the bus's to decide.
#
# The rings are memory that this process and the kernel share. A tail is stored after the entries
# before it, and the entries are read after the tail: on x86 loads and stores of one kind keep their
# order. Elsewhere the system call in between orders them: entries are published by `enter`, which
# follows, and are looked for after one.
#
# One caller at a time to `submit`, one to what has completed, one to the table; they may be three.
#
# Source: io_uring_setup(2), io_uring_enter(2), io_uring_register(2).
from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pinfold.host import calls
from pinfold.host.abi import MAP_SHARED, PROT_READ, PROT_WRITE
from pinfold.host.abi_uring import (
    CQE,
    IORING_ENTER_GETEVENTS,
    IORING_FEAT_NODROP,
    IORING_OFF_CQ_RING,
    IORING_OFF_SQ_RING,
    IORING_OFF_SQES,
    IORING_REGISTER_BUFFERS2,
    IORING_REGISTER_BUFFERS_UPDATE,
    IORING_RSRC_REGISTER_SPARSE,
    IOVEC,
    NR_IO_URING_ENTER,
    NR_IO_URING_REGISTER,
    NR_IO_URING_SETUP,
    PARAMS,
    RSRC_REGISTER,
    RSRC_UPDATE,
    SQE,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAP_POPULATE: Final = 0x8000  # <asm-generic/mman.h>: the first request is not to fault

# One name with three lists of arguments: ctypes keeps argtypes by function object.
_setup: Final = calls.declare_syscall(ctypes.c_uint, ctypes.c_void_p)
_enter: Final = calls.declare_syscall(
    ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_size_t
)
_register: Final = calls.declare_syscall(
    ctypes.c_int, ctypes.c_uint, ctypes.c_void_p, ctypes.c_uint
)


def setup(entries: int, params: NDArray[Any]) -> int:
    """io_uring_setup(2): the descriptor, close-on-exec. ``params`` is one `PARAMS`, in and out."""
    calls.intercept("io_uring_setup")
    fd: int = _setup(NR_IO_URING_SETUP, entries, params.ctypes.data)
    if fd < 0:
        raise calls.refused()
    return fd


def register(fd: int, operation: int, argument: int, count: int) -> int:
    """io_uring_register(2) with the address of an argument: what the kernel answers."""
    calls.intercept("io_uring_register")
    result: int = _register(NR_IO_URING_REGISTER, fd, operation, argument, count)
    if result < 0:
        raise calls.refused()
    return result


def enter(fd: int, submit: int, wait_for: int) -> int:
    """io_uring_enter(2): how many were submitted. Waits until ``wait_for`` completions are there.

    EINTR is the caller's to see, so that a signal is heard while it waits.
    """
    calls.intercept("io_uring_enter")
    flags = IORING_ENTER_GETEVENTS if wait_for else 0
    result: int = _enter(NR_IO_URING_ENTER, fd, submit, wait_for, flags, None, 0)
    if result < 0:
        raise calls.refused()
    return result


class Ring:
    """A ring and its table of registered buffers.

    Args:
      entries: requests that can be submitted at once, a power of two; twice as many completions.
      slots: of the table, all empty at first.

    Attributes:
      fd: the descriptor.
      entries: as above.

    Raises:
      OSError: ENOSYS or EPERM where io_uring is not to be had, ENOMEM, EMFILE; the kernel's.
    """

    def __init__(self, entries: int, slots: int) -> None:
        params = np.zeros(1, dtype=PARAMS)
        self.fd = setup(entries, params)
        self._mapped: list[tuple[int, int]] = []
        try:
            self._map(params[0])
            self._make_table(slots)
        except BaseException:
            self.close()
            raise
        vectors = np.zeros(slots, dtype=IOVEC)
        self._bases, self._lengths = vectors["base"], vectors["length"]
        update = np.zeros(1, dtype=RSRC_UPDATE)
        update["data"] = vectors.ctypes.data
        self._update_slot, self._update_count = update["offset"], update["nr"]
        self._update_at = update.ctypes.data

    def _map(self, params: Any) -> None:
        if not int(params["features"]) & IORING_FEAT_NODROP:  # Linux 5.5; completions could be lost
            raise OSError(errno.EOPNOTSUPP, "this io_uring may drop completions")
        self.entries = int(params["sq_entries"])
        sq, cq = params["sq_off"], params["cq_off"]
        completions = int(params["cq_entries"])
        submission = self._share(IORING_OFF_SQ_RING, int(sq["array"]) + 4 * self.entries)
        completion = self._share(IORING_OFF_CQ_RING, int(cq["cqes"]) + CQE.itemsize * completions)
        self._sqes = self._share(IORING_OFF_SQES, SQE.itemsize * self.entries).view(SQE)
        self._sq_head = _word(submission, sq["head"])
        self._sq_tail = _word(submission, sq["tail"])
        self._cq_head = _word(completion, cq["head"])
        self._cq_tail = _word(completion, cq["tail"])
        start = int(cq["cqes"])
        self._cqes = completion[start : start + CQE.itemsize * completions].view(CQE)
        self._sq_mask, self._cq_mask = self.entries - 1, completions - 1
        # Entry i is always request i: the indirection is not needed.
        start = int(sq["array"])
        order = submission[start : start + 4 * self.entries].view(np.uint32)
        order[:] = np.arange(self.entries, dtype=np.uint32)

    def _share(self, offset: int, size: int) -> NDArray[np.uint8]:
        at = calls.mmap(
            0, size, PROT_READ | PROT_WRITE, MAP_SHARED | _MAP_POPULATE, self.fd, offset
        )
        self._mapped.append((at, size))
        return np.frombuffer(memoryview(calls.buffer_at(at, size)), dtype=np.uint8)

    def _make_table(self, slots: int) -> None:
        argument = np.zeros(1, dtype=RSRC_REGISTER)
        argument["nr"] = slots
        argument["flags"] = IORING_RSRC_REGISTER_SPARSE
        register(self.fd, IORING_REGISTER_BUFFERS2, argument.ctypes.data, RSRC_REGISTER.itemsize)

    # The table ----------------------------------------------------------------------------------

    def put(self, slot: int, address: int, size: int, longest: int) -> int:
        """Register ``[address, address + size)`` in slots from ``slot`` on, ``longest`` bytes each.

        Returns: how many slots were filled; fewer than it takes when the kernel stopped on the way.

        Raises:
          OSError: the first was refused (EFAULT, ENOMEM, EINVAL); nothing is registered.
        """
        count = -(-size // longest)
        if count == 1:
            self._bases[0], self._lengths[0] = address, size
        else:
            starts = np.arange(count, dtype=np.uint64) * np.uint64(longest)
            self._bases[:count] = np.uint64(address) + starts
            self._lengths[:count] = longest
            self._lengths[count - 1] = size - (count - 1) * longest
        return self._put(slot, count)

    def clear(self, slot: int, count: int) -> int:
        """Empty ``count`` slots from ``slot`` on; how many were. The kernel lets their pages go
        when the last request that uses them has ended. Raises OSError."""
        self._bases[:count] = self._lengths[:count] = 0
        return self._put(slot, count)

    def _put(self, slot: int, count: int) -> int:
        self._update_slot[0], self._update_count[0] = slot, count
        return register(
            self.fd, IORING_REGISTER_BUFFERS_UPDATE, self._update_at, RSRC_UPDATE.itemsize
        )

    # Requests -----------------------------------------------------------------------------------

    def room(self) -> int:
        """How many requests can be queued now."""
        return self.entries - (int(self._sq_tail[0]) - int(self._sq_head[0]) & 0xFFFFFFFF)

    def queue(self, requests: NDArray[Any]) -> None:
        """Put requests, an array of `SQE` no longer than `room`, where `submit` finds them."""
        tail = int(self._sq_tail[0])
        at = tail & self._sq_mask
        first = min(len(requests), self.entries - at)
        self._sqes[at : at + first] = requests[:first]
        self._sqes[: len(requests) - first] = requests[first:]
        self._sq_tail[0] = tail + len(requests) & 0xFFFFFFFF

    def queued(self) -> int:
        """How many are queued and have not been submitted."""
        return self.entries - self.room()

    def submit(self, wait_for: int = 0) -> int:
        """Hand what is queued to the kernel; how many it took. Raises OSError."""
        return enter(self.fd, self.queued(), wait_for)

    def unqueue(self) -> int:
        """Take back what is queued and was not submitted; how many there were.

        The kernel looks at the queue in `submit` only.
        """
        head, tail = int(self._sq_head[0]), int(self._sq_tail[0])
        self._sq_tail[0] = head
        return tail - head & 0xFFFFFFFF

    def wait(self, count: int = 1) -> None:
        """Wait until there are ``count`` completions. Raises OSError; EINTR after a signal."""
        if int(self._cq_tail[0]) - int(self._cq_head[0]) & 0xFFFFFFFF < count:
            enter(self.fd, 0, count)

    def completed(self) -> NDArray[Any]:
        """The completions that are there, an array of `CQE`. They stay until they are `seen`."""
        head, tail = int(self._cq_head[0]), int(self._cq_tail[0])
        at = head & self._cq_mask
        end = at + (tail - head & 0xFFFFFFFF)
        size = len(self._cqes)
        if end <= size:
            return self._cqes[at:end].copy()
        return np.concatenate((self._cqes[at:], self._cqes[: end - size]))

    def seen(self, count: int) -> None:
        """Take the first ``count`` completions off the ring: the kernel may reuse their entries."""
        self._cq_head[0] = int(self._cq_head[0]) + count & 0xFFFFFFFF

    def close(self) -> None:
        """Unmap the rings and close the descriptor. The kernel lets every buffer go a moment later.

        Raises:
          OSError: the first refusal; all of it was tried.
        """
        self._sqes, self._cqes = np.empty(0, SQE), np.empty(0, CQE)
        self._sq_head = self._sq_tail = self._cq_head = self._cq_tail = np.empty(0, np.uint32)
        failed: OSError | None = None
        while self._mapped:
            at, size = self._mapped.pop()
            try:
                calls.munmap(at, size)
            except OSError as error:
                failed = failed or error
        fd, self.fd = self.fd, -1
        if fd >= 0:
            calls.close(fd)
        if failed is not None:
            raise failed


def _word(ring: NDArray[np.uint8], offset: Any) -> NDArray[np.uint32]:
    at = int(offset)
    return ring[at : at + 4].view(np.uint32)
