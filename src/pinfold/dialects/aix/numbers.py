# AIX's numbers, and pinfold's own for what AIX names and does not number.
#
# Source: IBM's published pages for the names; the errno values are those of AIX on POWER, which are
# public in the tables of several compilers. Numbers from 35 on are not Linux's. What IBM prints no
# number for has one of ours: failures are negative, so that they cannot be taken for an errno.
from __future__ import annotations

from typing import Final

# errno
EPERM: Final = 1
ENOENT: Final = 2
ESRCH: Final = 3
EINTR: Final = 4
EIO: Final = 5
ENXIO: Final = 6
E2BIG: Final = 7
ENOEXEC: Final = 8
EBADF: Final = 9
ECHILD: Final = 10
EAGAIN: Final = 11
EWOULDBLOCK: Final = 11
ENOMEM: Final = 12
EACCES: Final = 13
EFAULT: Final = 14
ENOTBLK: Final = 15
EBUSY: Final = 16
EEXIST: Final = 17
EXDEV: Final = 18
ENODEV: Final = 19
ENOTDIR: Final = 20
EISDIR: Final = 21
EINVAL: Final = 22
ENFILE: Final = 23
EMFILE: Final = 24
ENOTTY: Final = 25
ETXTBSY: Final = 26
EFBIG: Final = 27
ENOSPC: Final = 28
ESPIPE: Final = 29
EROFS: Final = 30
EMLINK: Final = 31
EPIPE: Final = 32
EDOM: Final = 33
ERANGE: Final = 34
ENOMSG: Final = 35
EIDRM: Final = 36
ECHRNG: Final = 37
EL2NSYNC: Final = 38
EL3HLT: Final = 39
EL3RST: Final = 40
ELNRNG: Final = 41
EUNATCH: Final = 42
ENOCSI: Final = 43
EL2HLT: Final = 44
EDEADLK: Final = 45
ENOTREADY: Final = 46
EWRPROTECT: Final = 47
EFORMAT: Final = 48
ENOLCK: Final = 49
ENOCONNECT: Final = 50
ESTALE: Final = 52
EDIST: Final = 53
EINPROGRESS: Final = 55
EALREADY: Final = 56
ENOTSOCK: Final = 57
EMSGSIZE: Final = 59
EOPNOTSUPP: Final = 64
ETIMEDOUT: Final = 78
ERESTART: Final = 82
EUSERS: Final = 84
ENAMETOOLONG: Final = 86
EDQUOT: Final = 88
ECORRUPT: Final = 89
ESYSERROR: Final = 90
ENOSYS: Final = 109
EMEDIA: Final = 110
ESOFT: Final = 111
ENOATTR: Final = 112
ESAD: Final = 113
ENOTRUST: Final = 114
EILSEQ: Final = 116
ECANCELED: Final = 117
ENOTSUP: Final = 124
EOVERFLOW: Final = 127

# Results of the cross-memory services
XMEM_SUCC: Final = 0
XMEM_FAIL: Final = -1

# What a descriptor describes (aspace_id)
XMEM_INVAL: Final = 10
XMEM_GLOBAL: Final = 11
XMEM_PROC: Final = 12
XMEM_XLATE: Final = 14
XMEM_REMIO: Final = 15

# Which space an address is in
USER_ADSPACE: Final = 16
SYS_ADSPACE: Final = 17
SYS_ADSPACE_ASSIGN_KEYSET: Final = 19
UIO_USERSPACE: Final = 21
UIO_SYSSPACE: Final = 22

# Flags of xlate_create
XLATE_PERSISTENT: Final = 1
XLATE_ALLOC: Final = 2
XLATE_SPARSE: Final = 4

# Flags of xmemdma
XMEM_HIDE: Final = 1
XMEM_UNHIDE: Final = 2
XMEM_ACC_CHK: Final = 4
XMEM_WRITE_ONLY: Final = 8
XMEM_DR_SAFE: Final = 16

# Direction of a transfer, as the device sees it
B_WRITE: Final = 0
B_READ: Final = 1

# Results of the DMA services
DMA_SUCC: Final = 0
DMA_FAIL: Final = -1
DMA_NORES: Final = -2
DMA_NOACC: Final = -3
DMA_DIOFULL: Final = -4
DMA_TC_NOTREACHED: Final = 25
DMA_BAD_MODE: Final = 26

# Flags of the DMA services
DMA_READ: Final = 1
BUS_DMA: Final = 2
DMA_BYPASS: Final = 4
DMA_STMAP: Final = 8
