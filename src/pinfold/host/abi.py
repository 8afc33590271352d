# Numbers from Linux's user-space headers, each group with its header's name.
#
# Python's own modules lack some of these, or have them only in later versions; a test compiles a C
# program against the headers of the machine and compares (tests/abi).
from __future__ import annotations

from typing import Final

# <asm-generic/mman-common.h>, <asm-generic/mman.h>, <linux/mman.h>
PROT_NONE: Final = 0x0
PROT_READ: Final = 0x1
PROT_WRITE: Final = 0x2
PROT_EXEC: Final = 0x4
MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_NORESERVE: Final = 0x4000
MAP_FIXED_NOREPLACE: Final = 0x100000
MADV_DONTNEED: Final = 4
MADV_REMOVE: Final = 9
MADV_DONTFORK: Final = 10
MADV_PAGEOUT: Final = 21
MADV_POPULATE_READ: Final = 22
MADV_POPULATE_WRITE: Final = 23
MADV_COLLAPSE: Final = 25

# <asm-generic/errno.h>
EHWPOISON: Final = 133

# <linux/memfd.h>
MFD_CLOEXEC: Final = 0x1
MFD_ALLOW_SEALING: Final = 0x2
MFD_HUGETLB: Final = 0x4
MFD_NOEXEC_SEAL: Final = 0x8
MFD_HUGE_SHIFT: Final = 26

# <linux/fcntl.h>, <asm-generic/fcntl.h>
F_GETFL: Final = 3
F_ADD_SEALS: Final = 1033
F_GET_SEALS: Final = 1034
F_SEAL_SEAL: Final = 0x1
F_SEAL_SHRINK: Final = 0x2
F_SEAL_GROW: Final = 0x4
F_SEAL_WRITE: Final = 0x8
F_SEAL_FUTURE_WRITE: Final = 0x10

# <linux/falloc.h>
FALLOC_FL_KEEP_SIZE: Final = 0x1
FALLOC_FL_PUNCH_HOLE: Final = 0x2

# <linux/fs.h>
SEEK_DATA: Final = 3
SEEK_HOLE: Final = 4

# <linux/fs.h>, from Linux 6.11 on
PROCMAP_QUERY: Final = 0xC0686611
PROCMAP_QUERY_COVERING_OR_NEXT_VMA: Final = 0x10

# <linux/capability.h>
CAP_FOWNER: Final = 3
CAP_IPC_LOCK: Final = 14
CAP_SYS_ADMIN: Final = 21

# Documentation/admin-guide/mm/pagemap.rst: one 64-bit word a page
PM_PFN_MASK: Final = (1 << 55) - 1
PM_SWAPPED: Final = 1 << 62
PM_PRESENT: Final = 1 << 63
PM_ENTRY_BYTES: Final = 8

# <linux/stat.h>
S_IFMT: Final = 0o170000
S_IFREG: Final = 0o100000

# <linux/time.h> and <sys/stat.h>: st_blocks counts these, whatever the file system's block is
STAT_BLOCK_BYTES: Final = 512
