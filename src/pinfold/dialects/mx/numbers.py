# Magenta's numbers: statuses, rights, flags, topics.
#
# Source: the public headers of the snapshot of August 2017, named above each group. Numbers only;
# what they mean is in the calls. The kernel's own limits are where they are used.
from __future__ import annotations

from typing import Final

from pinfold.units import PAGE_SIZE as _PAGE_SIZE

PAGE_SIZE: Final = _PAGE_SIZE
"""Of this machine. Magenta's pages and programs write it without a prefix."""

MX_PAGE_SIZE: Final = _PAGE_SIZE
"""The same, as Zircon's programs write it later."""

# Statuses: magenta/errors.h -----------------------------------------------------------------------

MX_OK: Final = 0
MX_ERR_INTERNAL: Final = -1
MX_ERR_NOT_SUPPORTED: Final = -2
MX_ERR_NO_RESOURCES: Final = -3
MX_ERR_NO_MEMORY: Final = -4
MX_ERR_CALL_FAILED: Final = -5
MX_ERR_INTERNAL_INTR_RETRY: Final = -6
MX_ERR_INVALID_ARGS: Final = -10
MX_ERR_BAD_HANDLE: Final = -11
MX_ERR_WRONG_TYPE: Final = -12
MX_ERR_BAD_SYSCALL: Final = -13
MX_ERR_OUT_OF_RANGE: Final = -14
MX_ERR_BUFFER_TOO_SMALL: Final = -15
MX_ERR_BAD_STATE: Final = -20
MX_ERR_TIMED_OUT: Final = -21
MX_ERR_SHOULD_WAIT: Final = -22
MX_ERR_CANCELED: Final = -23
MX_ERR_PEER_CLOSED: Final = -24
MX_ERR_NOT_FOUND: Final = -25
MX_ERR_ALREADY_EXISTS: Final = -26
MX_ERR_ALREADY_BOUND: Final = -27
MX_ERR_UNAVAILABLE: Final = -28
MX_ERR_ACCESS_DENIED: Final = -30
MX_ERR_IO: Final = -40
MX_ERR_IO_REFUSED: Final = -41
MX_ERR_IO_DATA_INTEGRITY: Final = -42
MX_ERR_IO_DATA_LOSS: Final = -43
MX_ERR_IO_NOT_PRESENT: Final = -44
MX_ERR_IO_OVERRUN: Final = -45
MX_ERR_IO_MISSED_DEADLINE: Final = -46
MX_ERR_BAD_PATH: Final = -50
MX_ERR_NOT_DIR: Final = -51
MX_ERR_NOT_FILE: Final = -52
MX_ERR_FILE_BIG: Final = -53
MX_ERR_NO_SPACE: Final = -54
MX_ERR_NOT_EMPTY: Final = -55
MX_ERR_STOP: Final = -60
MX_ERR_NEXT: Final = -61
MX_ERR_PROTOCOL_NOT_SUPPORTED: Final = -70
MX_ERR_ADDRESS_UNREACHABLE: Final = -71
MX_ERR_ADDRESS_IN_USE: Final = -72
MX_ERR_NOT_CONNECTED: Final = -73
MX_ERR_CONNECTION_REFUSED: Final = -74
MX_ERR_CONNECTION_RESET: Final = -75
MX_ERR_CONNECTION_ABORTED: Final = -76

# Rights: magenta/rights.h -------------------------------------------------------------------------

MX_RIGHT_NONE: Final = 0
MX_RIGHT_DUPLICATE: Final = 1
MX_RIGHT_TRANSFER: Final = 2
MX_RIGHT_READ: Final = 4
MX_RIGHT_WRITE: Final = 8
MX_RIGHT_EXECUTE: Final = 0x10
MX_RIGHT_MAP: Final = 0x20
MX_RIGHT_GET_PROPERTY: Final = 0x40
MX_RIGHT_SET_PROPERTY: Final = 0x80
MX_RIGHT_ENUMERATE: Final = 0x100
MX_RIGHT_DESTROY: Final = 0x200
MX_RIGHT_SET_POLICY: Final = 0x400
MX_RIGHT_GET_POLICY: Final = 0x800
MX_RIGHT_SIGNAL: Final = 0x1000
MX_RIGHT_SIGNAL_PEER: Final = 0x2000
MX_RIGHT_SAME_RIGHTS: Final = 0x80000000

# Rights of new handles: magenta/rights.h; the draft of the BTI calls for the last two -------------

MX_DEFAULT_CHANNEL_RIGHTS: Final = 0x300E
MX_DEFAULT_EVENT_RIGHTS: Final = 0x100F
MX_DEFAULT_EVENT_PAIR_RIGHTS: Final = 0x300F
MX_DEFAULT_FIFO_RIGHTS: Final = 0x300F
MX_DEFAULT_GUEST_RIGHTS: Final = 0xB
MX_DEFAULT_INTERRUPT_RIGHTS: Final = 0xE
MX_DEFAULT_IO_MAPPING_RIGHTS: Final = 4
MX_DEFAULT_JOB_RIGHTS: Final = 0x1FCF
MX_DEFAULT_LOG_RIGHTS: Final = 0x100B
MX_DEFAULT_PCI_DEVICE_RIGHTS: Final = 0xF
MX_DEFAULT_PCI_INTERRUPT_RIGHTS: Final = 0xE
MX_DEFAULT_PORT_RIGHTS: Final = 0xF
MX_DEFAULT_PROCESS_RIGHTS: Final = 0x13CF
MX_DEFAULT_RESOURCE_RIGHTS: Final = 0x100F
MX_DEFAULT_SOCKET_RIGHTS: Final = 0x300F
MX_DEFAULT_THREAD_RIGHTS: Final = 0x12CF
MX_DEFAULT_TIMERS_RIGHTS: Final = 0x100F
MX_DEFAULT_VCPU_RIGHTS: Final = 0x101F
MX_DEFAULT_VMAR_RIGHTS: Final = 3
MX_DEFAULT_VMO_RIGHTS: Final = 0x10FF
MX_DEFAULT_IOMMU_RIGHTS: Final = 3
MX_DEFAULT_BTI_RIGHTS: Final = 0x27

# Flags of regions and mappings: magenta/types.h ---------------------------------------------------

MX_VM_FLAG_PERM_READ: Final = 1
MX_VM_FLAG_PERM_WRITE: Final = 2
MX_VM_FLAG_PERM_EXECUTE: Final = 4
MX_VM_FLAG_COMPACT: Final = 8
MX_VM_FLAG_SPECIFIC: Final = 0x10
MX_VM_FLAG_SPECIFIC_OVERWRITE: Final = 0x20
MX_VM_FLAG_CAN_MAP_SPECIFIC: Final = 0x40
MX_VM_FLAG_CAN_MAP_READ: Final = 0x80
MX_VM_FLAG_CAN_MAP_WRITE: Final = 0x100
MX_VM_FLAG_CAN_MAP_EXECUTE: Final = 0x200
MX_VM_FLAG_MAP_RANGE: Final = 0x400

# Operations on ranges: magenta/syscalls/types.h ---------------------------------------------------

MX_VMO_OP_COMMIT: Final = 1
MX_VMO_OP_DECOMMIT: Final = 2
MX_VMO_OP_LOCK: Final = 3
MX_VMO_OP_UNLOCK: Final = 4
MX_VMO_OP_LOOKUP: Final = 5
MX_VMO_OP_CACHE_SYNC: Final = 6
MX_VMO_OP_CACHE_INVALIDATE: Final = 7
MX_VMO_OP_CACHE_CLEAN: Final = 8
MX_VMO_OP_CACHE_CLEAN_INVALIDATE: Final = 9

# Clones -------------------------------------------------------------------------------------------

MX_VMO_CLONE_COPY_ON_WRITE: Final = 1

# Types of objects: magenta/syscalls/object.h ------------------------------------------------------

MX_OBJ_TYPE_NONE: Final = 0
MX_OBJ_TYPE_PROCESS: Final = 1
MX_OBJ_TYPE_THREAD: Final = 2
MX_OBJ_TYPE_VMO: Final = 3
MX_OBJ_TYPE_CHANNEL: Final = 4
MX_OBJ_TYPE_EVENT: Final = 5
MX_OBJ_TYPE_PORT: Final = 6
MX_OBJ_TYPE_INTERRUPT: Final = 9
MX_OBJ_TYPE_PCI_DEVICE: Final = 11
MX_OBJ_TYPE_LOG: Final = 12
MX_OBJ_TYPE_SOCKET: Final = 14
MX_OBJ_TYPE_RESOURCE: Final = 15
MX_OBJ_TYPE_EVENT_PAIR: Final = 16
MX_OBJ_TYPE_JOB: Final = 17
MX_OBJ_TYPE_VMAR: Final = 18
MX_OBJ_TYPE_FIFO: Final = 19
MX_OBJ_TYPE_GUEST: Final = 20
MX_OBJ_TYPE_VCPU: Final = 21
MX_OBJ_TYPE_TIMER: Final = 22
MX_OBJ_TYPE_IOMMU: Final = 23
MX_OBJ_TYPE_BTI: Final = 24

# Topics of mx_object_get_info ---------------------------------------------------------------------

MX_INFO_NONE: Final = 0
MX_INFO_HANDLE_VALID: Final = 1
MX_INFO_HANDLE_BASIC: Final = 2
MX_INFO_PROCESS: Final = 3
MX_INFO_PROCESS_THREADS: Final = 4
MX_INFO_VMAR: Final = 7
MX_INFO_JOB_CHILDREN: Final = 8
MX_INFO_JOB_PROCESSES: Final = 9
MX_INFO_THREAD: Final = 10
MX_INFO_THREAD_EXCEPTION_REPORT: Final = 11
MX_INFO_TASK_STATS: Final = 12
MX_INFO_PROCESS_MAPS: Final = 13
MX_INFO_PROCESS_VMOS: Final = 14
MX_INFO_THREAD_STATS: Final = 15
MX_INFO_CPU_STATS: Final = 16
MX_INFO_KMEM_STATS: Final = 17
MX_INFO_RESOURCE: Final = 18

# What the records of topics say: magenta/syscalls/object.h --------------------------------------

MX_OBJ_PROP_NONE: Final = 0
MX_OBJ_PROP_WAITABLE: Final = 1

MX_INFO_MAPS_TYPE_NONE: Final = 0
MX_INFO_MAPS_TYPE_ASPACE: Final = 1
MX_INFO_MAPS_TYPE_VMAR: Final = 2
MX_INFO_MAPS_TYPE_MAPPING: Final = 3

MX_INFO_VMO_TYPE_PHYSICAL: Final = 0x0
MX_INFO_VMO_TYPE_PAGED: Final = 0x1
MX_INFO_VMO_IS_COW_CLONE: Final = 0x4
MX_INFO_VMO_VIA_HANDLE: Final = 0x8
MX_INFO_VMO_VIA_MAPPING: Final = 0x10

# Cache policies -----------------------------------------------------------------------------------

MX_CACHE_POLICY_CACHED: Final = 0
MX_CACHE_POLICY_UNCACHED: Final = 1
MX_CACHE_POLICY_UNCACHED_DEVICE: Final = 2
MX_CACHE_POLICY_WRITE_COMBINING: Final = 3
MX_CACHE_POLICY_MASK: Final = 3

# Kinds of resource: magenta/syscalls/resource.h ---------------------------------------------------

MX_RSRC_KIND_ROOT: Final = 0
MX_RSRC_KIND_MMIO: Final = 0x1000
MX_RSRC_KIND_IOPORT: Final = 0x1001
MX_RSRC_KIND_IRQ: Final = 0x1002
MX_RSRC_KIND_HYPERVISOR: Final = 0x2000

# IOMMUs: magenta/syscalls/iommu.h -----------------------------------------------------------------

MX_IOMMU_MAX_DESC_LEN: Final = 4096
MX_IOMMU_TYPE_DUMMY: Final = 0

# Handles and names: magenta/types.h ---------------------------------------------------------------

MX_HANDLE_INVALID: Final = 0
MX_MAX_NAME_LEN: Final = 32
MX_KOID_INVALID: Final = 0
MX_KOID_KERNEL: Final = 1
