# Numbers and layouts of io_uring, from <linux/io_uring.h>. Compared with the header by tests/abi.
#
# Layouts are numpy dtypes with every offset written out: numpy fills and reads rings, a batch at a
# time.
from __future__ import annotations

from typing import Final

import numpy as np

# System calls, the same on every architecture that Linux has gained since 2011 and on x86-64.
# Source: <asm-generic/unistd.h>, <asm/unistd_64.h>
NR_IO_URING_SETUP: Final = 425
NR_IO_URING_ENTER: Final = 426
NR_IO_URING_REGISTER: Final = 427

IORING_OFF_SQ_RING: Final = 0
IORING_OFF_CQ_RING: Final = 0x8000000
IORING_OFF_SQES: Final = 0x10000000

IORING_FEAT_SINGLE_MMAP: Final = 1 << 0
IORING_FEAT_NODROP: Final = 1 << 1
IORING_FEAT_RSRC_TAGS: Final = 1 << 10

IORING_ENTER_GETEVENTS: Final = 1 << 0

IORING_OP_NOP: Final = 0
IORING_OP_FSYNC: Final = 3
IORING_OP_READ_FIXED: Final = 4
IORING_OP_WRITE_FIXED: Final = 5

IORING_UNREGISTER_BUFFERS: Final = 1
IORING_REGISTER_BUFFERS2: Final = 15
IORING_REGISTER_BUFFERS_UPDATE: Final = 16

IORING_RSRC_REGISTER_SPARSE: Final = 1 << 0

IORING_MAX_REG_BUFFERS: Final = 1 << 14
"""Buffers in one table. Not in the header: io_uring_register(2)."""
MAX_BUFFER: Final = 1 << 30
"""Bytes in one registered buffer. Not in the header: io_uring_register(2)."""

SQE: Final = np.dtype(
    {
        "names": [
            "opcode",
            "flags",
            "ioprio",
            "fd",
            "off",
            "addr",
            "len",
            "rw_flags",
            "user_data",
            "buf_index",
        ],
        "formats": ["u1", "u1", "u2", "i4", "u8", "u8", "u4", "u4", "u8", "u2"],
        "offsets": [0, 1, 2, 4, 8, 16, 24, 28, 32, 40],
        "itemsize": 64,
    }
)
"""struct io_uring_sqe."""

CQE: Final = np.dtype(
    {
        "names": ["user_data", "res", "flags"],
        "formats": ["u8", "i4", "u4"],
        "offsets": [0, 8, 12],
        "itemsize": 16,
    }
)
"""struct io_uring_cqe."""

_SQ_OFFSETS: Final = ["head", "tail", "ring_mask", "ring_entries", "flags", "dropped", "array"]
_CQ_OFFSETS: Final = ["head", "tail", "ring_mask", "ring_entries", "overflow", "cqes", "flags"]

PARAMS: Final = np.dtype(
    {
        "names": [
            "sq_entries",
            "cq_entries",
            "flags",
            "sq_thread_cpu",
            "sq_thread_idle",
            "features",
            "wq_fd",
            "sq_off",
            "cq_off",
        ],
        "formats": [
            *["u4"] * 7,
            np.dtype([(name, "u4") for name in _SQ_OFFSETS]),
            np.dtype([(name, "u4") for name in _CQ_OFFSETS]),
        ],
        "offsets": [0, 4, 8, 12, 16, 20, 24, 40, 80],
        "itemsize": 120,
    }
)
"""struct io_uring_params."""

RSRC_REGISTER: Final = np.dtype(
    {
        "names": ["nr", "flags", "data", "tags"],
        "formats": ["u4", "u4", "u8", "u8"],
        "offsets": [0, 4, 16, 24],
        "itemsize": 32,
    }
)
"""struct io_uring_rsrc_register."""

RSRC_UPDATE: Final = np.dtype(
    {
        "names": ["offset", "data", "tags", "nr"],
        "formats": ["u4", "u8", "u8", "u4"],
        "offsets": [0, 8, 16, 24],
        "itemsize": 32,
    }
)
"""struct io_uring_rsrc_update2."""

IOVEC: Final = np.dtype([("base", "u8"), ("length", "u8")])
"""struct iovec of <linux/uio.h>."""
