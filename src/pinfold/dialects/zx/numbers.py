# Zircon's numbers: statuses, rights, options, topics.
#
# Source: the public headers named above each group. Numbers only, and so many that this is the
# longest of files; what they mean is in the calls.
from __future__ import annotations

from typing import Final

from pinfold.units import PAGE_SIZE

ZX_PAGE_SIZE: Final = PAGE_SIZE
"""Of this machine; what zx_system_get_page_size() gives."""

ZX_TIME_INFINITE: Final = (1 << 63) - 1
ZX_TIME_INFINITE_PAST: Final = -(1 << 63)

# Statuses: zircon/errors.h -----------------------------------------------------------------------

ZX_OK: Final = 0
ZX_ERR_INTERNAL: Final = -1
ZX_ERR_NOT_SUPPORTED: Final = -2
ZX_ERR_NO_RESOURCES: Final = -3
ZX_ERR_NO_MEMORY: Final = -4
ZX_ERR_INTERNAL_INTR_RETRY: Final = -6
ZX_ERR_INVALID_ARGS: Final = -10
ZX_ERR_BAD_HANDLE: Final = -11
ZX_ERR_WRONG_TYPE: Final = -12
ZX_ERR_BAD_SYSCALL: Final = -13
ZX_ERR_OUT_OF_RANGE: Final = -14
ZX_ERR_BUFFER_TOO_SMALL: Final = -15
ZX_ERR_BAD_STATE: Final = -20
ZX_ERR_TIMED_OUT: Final = -21
ZX_ERR_SHOULD_WAIT: Final = -22
ZX_ERR_CANCELED: Final = -23
ZX_ERR_PEER_CLOSED: Final = -24
ZX_ERR_NOT_FOUND: Final = -25
ZX_ERR_ALREADY_EXISTS: Final = -26
ZX_ERR_ALREADY_BOUND: Final = -27
ZX_ERR_UNAVAILABLE: Final = -28
ZX_ERR_ACCESS_DENIED: Final = -30
ZX_ERR_IO: Final = -40
ZX_ERR_IO_REFUSED: Final = -41
ZX_ERR_IO_DATA_INTEGRITY: Final = -42
ZX_ERR_IO_DATA_LOSS: Final = -43
ZX_ERR_IO_NOT_PRESENT: Final = -44
ZX_ERR_IO_OVERRUN: Final = -45
ZX_ERR_IO_MISSED_DEADLINE: Final = -46
ZX_ERR_IO_INVALID: Final = -47
ZX_ERR_BAD_PATH: Final = -50
ZX_ERR_NOT_DIR: Final = -51
ZX_ERR_NOT_FILE: Final = -52
ZX_ERR_FILE_BIG: Final = -53
ZX_ERR_NO_SPACE: Final = -54
ZX_ERR_NOT_EMPTY: Final = -55
ZX_ERR_STOP: Final = -60
ZX_ERR_NEXT: Final = -61
ZX_ERR_ASYNC: Final = -62
ZX_ERR_PROTOCOL_NOT_SUPPORTED: Final = -70
ZX_ERR_ADDRESS_UNREACHABLE: Final = -71
ZX_ERR_ADDRESS_IN_USE: Final = -72
ZX_ERR_NOT_CONNECTED: Final = -73
ZX_ERR_CONNECTION_REFUSED: Final = -74
ZX_ERR_CONNECTION_RESET: Final = -75
ZX_ERR_CONNECTION_ABORTED: Final = -76
ZX_ERR_INTERNAL_INTR_KILLED: Final = -502

# Rights: zircon/rights.h -------------------------------------------------------------------------

ZX_RIGHT_NONE: Final = 0
ZX_RIGHT_DUPLICATE: Final = 1
ZX_RIGHT_TRANSFER: Final = 2
ZX_RIGHT_READ: Final = 4
ZX_RIGHT_WRITE: Final = 8
ZX_RIGHT_EXECUTE: Final = 0x10
ZX_RIGHT_MAP: Final = 0x20
ZX_RIGHT_GET_PROPERTY: Final = 0x40
ZX_RIGHT_SET_PROPERTY: Final = 0x80
ZX_RIGHT_ENUMERATE: Final = 0x100
ZX_RIGHT_DESTROY: Final = 0x200
ZX_RIGHT_SET_POLICY: Final = 0x400
ZX_RIGHT_GET_POLICY: Final = 0x800
ZX_RIGHT_SIGNAL: Final = 0x1000
ZX_RIGHT_SIGNAL_PEER: Final = 0x2000
ZX_RIGHT_WAIT: Final = 0x4000
ZX_RIGHT_INSPECT: Final = 0x8000
ZX_RIGHT_MANAGE_JOB: Final = 0x10000
ZX_RIGHT_MANAGE_PROCESS: Final = 0x20000
ZX_RIGHT_MANAGE_THREAD: Final = 0x40000
ZX_RIGHT_APPLY_PROFILE: Final = 0x80000
ZX_RIGHT_MANAGE_SOCKET: Final = 0x100000
ZX_RIGHT_OP_CHILDREN: Final = 0x200000
ZX_RIGHT_RESIZE: Final = 0x400000
ZX_RIGHT_ATTACH_VMO: Final = 0x800000
ZX_RIGHT_MANAGE_VMO: Final = 0x1000000
ZX_RIGHT_SAME_RIGHTS: Final = 0x80000000

# Groups of rights: zircon/rights.h ---------------------------------------------------------------

ZX_RIGHTS_BASIC: Final = 0xC003
ZX_RIGHTS_IO: Final = 0xC
ZX_RIGHTS_PROPERTY: Final = 0xC0
ZX_RIGHTS_POLICY: Final = 0xC00

# Rights of a first handle: zircon/rights.h -------------------------------------------------------

ZX_DEFAULT_VMO_RIGHTS: Final = 0xD0EF
ZX_DEFAULT_VMAR_RIGHTS: Final = 0x208003
ZX_DEFAULT_IOMMU_RIGHTS: Final = 0x8003
ZX_DEFAULT_BTI_RIGHTS: Final = 0x80EF
ZX_DEFAULT_PMT_RIGHTS: Final = 0x8000
ZX_DEFAULT_RESOURCE_RIGHTS: Final = 0x800B
ZX_DEFAULT_PROCESS_RIGHTS: Final = 0x6D3CF
ZX_DEFAULT_JOB_RIGHTS: Final = 0x7DFCF
ZX_DEFAULT_EVENT_RIGHTS: Final = 0xD003
ZX_DEFAULT_PAGER_RIGHTS: Final = 0x1808002
ZX_DEFAULT_IOB_RIGHTS: Final = 0xF0EF

# Handles: zircon/types.h -------------------------------------------------------------------------

ZX_HANDLE_INVALID: Final = 0
ZX_HANDLE_FIXED_BITS_MASK: Final = 3
ZX_HANDLE_OP_MOVE: Final = 0
ZX_HANDLE_OP_DUPLICATE: Final = 1

# Object ids: zircon/types.h ----------------------------------------------------------------------

ZX_KOID_INVALID: Final = 0
ZX_KOID_KERNEL: Final = 1
ZX_KOID_FIRST: Final = 1024

# Object types: zircon/types.h --------------------------------------------------------------------

ZX_OBJ_TYPE_NONE: Final = 0
ZX_OBJ_TYPE_PROCESS: Final = 1
ZX_OBJ_TYPE_THREAD: Final = 2
ZX_OBJ_TYPE_VMO: Final = 3
ZX_OBJ_TYPE_CHANNEL: Final = 4
ZX_OBJ_TYPE_EVENT: Final = 5
ZX_OBJ_TYPE_PORT: Final = 6
ZX_OBJ_TYPE_INTERRUPT: Final = 9
ZX_OBJ_TYPE_PCI_DEVICE: Final = 11
ZX_OBJ_TYPE_DEBUGLOG: Final = 12
ZX_OBJ_TYPE_SOCKET: Final = 14
ZX_OBJ_TYPE_RESOURCE: Final = 15
ZX_OBJ_TYPE_EVENTPAIR: Final = 16
ZX_OBJ_TYPE_JOB: Final = 17
ZX_OBJ_TYPE_VMAR: Final = 18
ZX_OBJ_TYPE_FIFO: Final = 19
ZX_OBJ_TYPE_GUEST: Final = 20
ZX_OBJ_TYPE_VCPU: Final = 21
ZX_OBJ_TYPE_TIMER: Final = 22
ZX_OBJ_TYPE_IOMMU: Final = 23
ZX_OBJ_TYPE_BTI: Final = 24
ZX_OBJ_TYPE_PROFILE: Final = 25
ZX_OBJ_TYPE_PMT: Final = 26
ZX_OBJ_TYPE_SUSPEND_TOKEN: Final = 27
ZX_OBJ_TYPE_PAGER: Final = 28
ZX_OBJ_TYPE_EXCEPTION: Final = 29
ZX_OBJ_TYPE_CLOCK: Final = 30
ZX_OBJ_TYPE_STREAM: Final = 31
ZX_OBJ_TYPE_MSI: Final = 32
ZX_OBJ_TYPE_IOB: Final = 33
ZX_OBJ_TYPE_COUNTER: Final = 34
ZX_OBJ_TYPE_IOB_SHARED_REGION: Final = 35
ZX_OBJ_TYPE_UPPER_BOUND: Final = 64
ZX_OBJ_TYPE_LOG: Final = 12

# Topics of zx_object_get_info: zircon/syscalls/object.h ------------------------------------------

ZX_INFO_NONE: Final = 0
ZX_INFO_HANDLE_VALID: Final = 1
ZX_INFO_HANDLE_BASIC: Final = 2
ZX_INFO_PROCESS: Final = 0x10000003
ZX_INFO_PROCESS_THREADS: Final = 4
ZX_INFO_VMAR: Final = 7
ZX_INFO_JOB_CHILDREN: Final = 8
ZX_INFO_JOB_PROCESSES: Final = 9
ZX_INFO_THREAD: Final = 10
ZX_INFO_THREAD_EXCEPTION_REPORT_V1: Final = 11
ZX_INFO_THREAD_EXCEPTION_REPORT: Final = 0x1000000B
ZX_INFO_TASK_STATS_V1: Final = 12
ZX_INFO_TASK_STATS: Final = 0x1000000C
ZX_INFO_PROCESS_MAPS_V1: Final = 13
ZX_INFO_PROCESS_MAPS_V2: Final = 0x1000000D
ZX_INFO_PROCESS_MAPS: Final = 0x2000000D
ZX_INFO_PROCESS_VMOS_V1: Final = 14
ZX_INFO_PROCESS_VMOS_V2: Final = 0x1000000E
ZX_INFO_PROCESS_VMOS_V3: Final = 0x2000000E
ZX_INFO_PROCESS_VMOS: Final = 0x3000000E
ZX_INFO_THREAD_STATS: Final = 15
ZX_INFO_CPU_STATS: Final = 16
ZX_INFO_KMEM_STATS: Final = 0x10000011
ZX_INFO_KMEM_STATS_V1: Final = 17
ZX_INFO_RESOURCE: Final = 18
ZX_INFO_HANDLE_COUNT: Final = 19
ZX_INFO_BTI: Final = 20
ZX_INFO_PROCESS_HANDLE_STATS: Final = 21
ZX_INFO_SOCKET: Final = 22
ZX_INFO_VMO_V1: Final = 23
ZX_INFO_VMO_V2: Final = 0x10000017
ZX_INFO_VMO_V3: Final = 0x20000017
ZX_INFO_VMO: Final = 0x30000017
ZX_INFO_JOB: Final = 24
ZX_INFO_TIMER: Final = 25
ZX_INFO_STREAM: Final = 26
ZX_INFO_HANDLE_TABLE: Final = 27
ZX_INFO_MSI: Final = 28
ZX_INFO_GUEST_STATS: Final = 29
ZX_INFO_TASK_RUNTIME_V1: Final = 30
ZX_INFO_TASK_RUNTIME: Final = 0x1000001E
ZX_INFO_KMEM_STATS_EXTENDED: Final = 31
ZX_INFO_VCPU: Final = 32
ZX_INFO_KMEM_STATS_COMPRESSION: Final = 33
ZX_INFO_IOB: Final = 34
ZX_INFO_IOB_REGIONS: Final = 35
ZX_INFO_VMAR_MAPS: Final = 36
ZX_INFO_POWER_DOMAINS: Final = 37
ZX_INFO_MEMORY_STALL: Final = 38
ZX_INFO_INTERRUPT: Final = 39
ZX_INFO_CLOCK_MAPPED_SIZE: Final = 40

# Flags of zx_info_vmo_t: zircon/syscalls/object.h ------------------------------------------------

ZX_INFO_VMO_TYPE_PHYSICAL: Final = 0
ZX_INFO_VMO_TYPE_PAGED: Final = 1
ZX_INFO_VMO_RESIZABLE: Final = 2
ZX_INFO_VMO_IS_COW_CLONE: Final = 4
ZX_INFO_VMO_VIA_HANDLE: Final = 8
ZX_INFO_VMO_VIA_MAPPING: Final = 0x10
ZX_INFO_VMO_PAGER_BACKED: Final = 0x20
ZX_INFO_VMO_CONTIGUOUS: Final = 0x40
ZX_INFO_VMO_DISCARDABLE: Final = 0x80
ZX_INFO_VMO_IMMUTABLE: Final = 0x100
ZX_INFO_VMO_VIA_IOB_HANDLE: Final = 0x200

# Types of zx_info_maps_t: zircon/syscalls/object.h -----------------------------------------------

ZX_INFO_MAPS_TYPE_NONE: Final = 0
ZX_INFO_MAPS_TYPE_ASPACE: Final = 1
ZX_INFO_MAPS_TYPE_VMAR: Final = 2
ZX_INFO_MAPS_TYPE_MAPPING: Final = 3

# Properties: zircon/syscalls/object.h ------------------------------------------------------------

ZX_PROP_NAME: Final = 3
ZX_PROP_PROCESS_DEBUG_ADDR: Final = 5
ZX_PROP_PROCESS_VDSO_BASE_ADDRESS: Final = 6
ZX_PROP_PROCESS_BREAK_ON_LOAD: Final = 7
ZX_PROP_PROCESS_HW_TRACE_CONTEXT_ID: Final = 8
ZX_PROP_SOCKET_RX_THRESHOLD: Final = 12
ZX_PROP_SOCKET_TX_THRESHOLD: Final = 13
ZX_PROP_JOB_KILL_ON_OOM: Final = 15
ZX_PROP_EXCEPTION_STATE: Final = 16
ZX_PROP_VMO_CONTENT_SIZE: Final = 17
ZX_PROP_EXCEPTION_STRATEGY: Final = 18
ZX_PROP_STREAM_MODE_APPEND: Final = 19
ZX_PROP_REGISTER_GS__x86_64_only: Final = 2
ZX_PROP_REGISTER_GS: Final = 2
ZX_PROP_REGISTER_FS__x86_64_only: Final = 4
ZX_PROP_REGISTER_FS: Final = 4

# Signals: zircon/types.h -------------------------------------------------------------------------

ZX_SIGNAL_NONE: Final = 0
ZX_USER_SIGNAL_ALL: Final = 0xFF000000
ZX_VMO_ZERO_CHILDREN: Final = 8
ZX_SIGNAL_HANDLE_CLOSED: Final = 0x800000
ZX_EVENT_SIGNALED: Final = 8
ZX_TASK_TERMINATED: Final = 8
ZX_PROCESS_TERMINATED: Final = 8
ZX_USER_SIGNAL_0: Final = 0x1000000
ZX_USER_SIGNAL_1: Final = 0x2000000
ZX_USER_SIGNAL_2: Final = 0x4000000
ZX_USER_SIGNAL_3: Final = 0x8000000
ZX_USER_SIGNAL_4: Final = 0x10000000
ZX_USER_SIGNAL_5: Final = 0x20000000
ZX_USER_SIGNAL_6: Final = 0x40000000
ZX_USER_SIGNAL_7: Final = 0x80000000

# Options of zx_vmo_create: zircon/types.h --------------------------------------------------------

ZX_VMO_RESIZABLE: Final = 2
ZX_VMO_DISCARDABLE: Final = 4
ZX_VMO_TRAP_DIRTY: Final = 8
ZX_VMO_UNBOUNDED: Final = 0x10

# Options of zx_vmo_create_child: zircon/types.h --------------------------------------------------

ZX_VMO_CHILD_SNAPSHOT: Final = 1
ZX_VMO_CHILD_RESIZABLE: Final = 4
ZX_VMO_CHILD_SLICE: Final = 8
ZX_VMO_CHILD_SNAPSHOT_AT_LEAST_ON_WRITE: Final = 0x10
ZX_VMO_CHILD_NO_WRITE: Final = 0x20
ZX_VMO_CHILD_REFERENCE: Final = 0x40
ZX_VMO_CHILD_SNAPSHOT_MODIFIED: Final = 0x80

# Operations of zx_vmo_op_range: zircon/types.h ---------------------------------------------------

ZX_VMO_OP_COMMIT: Final = 1
ZX_VMO_OP_DECOMMIT: Final = 2
ZX_VMO_OP_LOCK: Final = 3
ZX_VMO_OP_UNLOCK: Final = 4
ZX_VMO_OP_CACHE_SYNC: Final = 6
ZX_VMO_OP_CACHE_INVALIDATE: Final = 7
ZX_VMO_OP_CACHE_CLEAN: Final = 8
ZX_VMO_OP_CACHE_CLEAN_INVALIDATE: Final = 9
ZX_VMO_OP_ZERO: Final = 10
ZX_VMO_OP_TRY_LOCK: Final = 11
ZX_VMO_OP_DONT_NEED: Final = 12
ZX_VMO_OP_ALWAYS_NEED: Final = 13
ZX_VMO_OP_PREFETCH: Final = 14

# Operations of zx_vmar_op_range: zircon/types.h --------------------------------------------------

ZX_VMAR_OP_COMMIT: Final = 1
ZX_VMAR_OP_DECOMMIT: Final = 2
ZX_VMAR_OP_MAP_RANGE: Final = 3
ZX_VMAR_OP_ZERO: Final = 10
ZX_VMAR_OP_DONT_NEED: Final = 12
ZX_VMAR_OP_ALWAYS_NEED: Final = 13
ZX_VMAR_OP_PREFETCH: Final = 14

# Options of address regions: zircon/types.h ------------------------------------------------------

ZX_VM_PERM_READ: Final = 1
ZX_VM_PERM_WRITE: Final = 2
ZX_VM_PERM_EXECUTE: Final = 4
ZX_VM_COMPACT: Final = 8
ZX_VM_SPECIFIC: Final = 0x10
ZX_VM_SPECIFIC_OVERWRITE: Final = 0x20
ZX_VM_CAN_MAP_SPECIFIC: Final = 0x40
ZX_VM_CAN_MAP_READ: Final = 0x80
ZX_VM_CAN_MAP_WRITE: Final = 0x100
ZX_VM_CAN_MAP_EXECUTE: Final = 0x200
ZX_VM_MAP_RANGE: Final = 0x400
ZX_VM_REQUIRE_NON_RESIZABLE: Final = 0x800
ZX_VM_ALLOW_FAULTS: Final = 0x1000
ZX_VM_OFFSET_IS_UPPER_LIMIT: Final = 0x2000
ZX_VM_PERM_READ_IF_XOM_UNSUPPORTED: Final = 0x4000
ZX_VM_FAULT_BEYOND_STREAM_SIZE: Final = 0x8000
ZX_VM_ALIGN_BASE: Final = 24
ZX_VM_ALIGN_1KB: Final = 0xA000000
ZX_VM_ALIGN_2KB: Final = 0xB000000
ZX_VM_ALIGN_4KB: Final = 0xC000000
ZX_VM_ALIGN_8KB: Final = 0xD000000
ZX_VM_ALIGN_16KB: Final = 0xE000000
ZX_VM_ALIGN_32KB: Final = 0xF000000
ZX_VM_ALIGN_64KB: Final = 0x10000000
ZX_VM_ALIGN_128KB: Final = 0x11000000
ZX_VM_ALIGN_256KB: Final = 0x12000000
ZX_VM_ALIGN_512KB: Final = 0x13000000
ZX_VM_ALIGN_1MB: Final = 0x14000000
ZX_VM_ALIGN_2MB: Final = 0x15000000
ZX_VM_ALIGN_4MB: Final = 0x16000000
ZX_VM_ALIGN_8MB: Final = 0x17000000
ZX_VM_ALIGN_16MB: Final = 0x18000000
ZX_VM_ALIGN_32MB: Final = 0x19000000
ZX_VM_ALIGN_64MB: Final = 0x1A000000
ZX_VM_ALIGN_128MB: Final = 0x1B000000
ZX_VM_ALIGN_256MB: Final = 0x1C000000
ZX_VM_ALIGN_512MB: Final = 0x1D000000
ZX_VM_ALIGN_1GB: Final = 0x1E000000
ZX_VM_ALIGN_2GB: Final = 0x1F000000
ZX_VM_ALIGN_4GB: Final = 0x20000000

# Their older names: zircon/types.h ---------------------------------------------------------------

ZX_VM_FLAG_PERM_READ: Final = 1
ZX_VM_FLAG_PERM_WRITE: Final = 2
ZX_VM_FLAG_PERM_EXECUTE: Final = 4
ZX_VM_FLAG_COMPACT: Final = 8
ZX_VM_FLAG_SPECIFIC: Final = 0x10
ZX_VM_FLAG_SPECIFIC_OVERWRITE: Final = 0x20
ZX_VM_FLAG_CAN_MAP_SPECIFIC: Final = 0x40
ZX_VM_FLAG_CAN_MAP_READ: Final = 0x80
ZX_VM_FLAG_CAN_MAP_WRITE: Final = 0x100
ZX_VM_FLAG_CAN_MAP_EXECUTE: Final = 0x200
ZX_VM_FLAG_MAP_RANGE: Final = 0x400
ZX_VM_FLAG_REQUIRE_NON_RESIZABLE: Final = 0x800

# Cache policies: zircon/types.h ------------------------------------------------------------------

ZX_CACHE_POLICY_CACHED: Final = 0
ZX_CACHE_POLICY_UNCACHED: Final = 1
ZX_CACHE_POLICY_UNCACHED_DEVICE: Final = 2
ZX_CACHE_POLICY_WRITE_COMBINING: Final = 3
ZX_CACHE_POLICY_MASK: Final = 3

# Options of zx_bti_pin: zircon/types.h -----------------------------------------------------------

ZX_BTI_PERM_READ: Final = 1
ZX_BTI_PERM_WRITE: Final = 2
ZX_BTI_PERM_EXECUTE: Final = 4
ZX_BTI_COMPRESS: Final = 8
ZX_BTI_CONTIGUOUS: Final = 0x10

# IOMMUs: zircon/syscalls/iommu.h -----------------------------------------------------------------

ZX_IOMMU_MAX_DESC_LEN: Final = 4096
ZX_IOMMU_TYPE_STUB: Final = 0
ZX_IOMMU_TYPE_DUMMY: Final = 0
ZX_IOMMU_TYPE_INTEL: Final = 1
ZX_IOMMU_TYPE_ARM_SMMU: Final = 2
ZX_IOMMU_INTEL_SCOPE_ENDPOINT: Final = 0
ZX_IOMMU_INTEL_SCOPE_BRIDGE: Final = 1

# Resources: zircon/syscalls/resource.h -----------------------------------------------------------

ZX_RSRC_KIND_MMIO: Final = 0
ZX_RSRC_KIND_IRQ: Final = 1
ZX_RSRC_KIND_IOPORT: Final = 2
ZX_RSRC_KIND_SMC: Final = 4
ZX_RSRC_KIND_SYSTEM: Final = 5
ZX_RSRC_KIND_COUNT: Final = 6
ZX_RSRC_FLAG_EXCLUSIVE: Final = 65536
ZX_RSRC_FLAGS_MASK: Final = 65536
ZX_RSRC_SYSTEM_HYPERVISOR_BASE: Final = 0
ZX_RSRC_SYSTEM_VMEX_BASE: Final = 1
ZX_RSRC_SYSTEM_DEBUG_BASE: Final = 2
ZX_RSRC_SYSTEM_INFO_BASE: Final = 3
ZX_RSRC_SYSTEM_CPU_BASE: Final = 4
ZX_RSRC_SYSTEM_POWER_BASE: Final = 5
ZX_RSRC_SYSTEM_MEXEC_BASE: Final = 6
ZX_RSRC_SYSTEM_ENERGY_INFO_BASE: Final = 7
ZX_RSRC_SYSTEM_IOMMU_BASE: Final = 8
ZX_RSRC_SYSTEM_PROFILE_BASE: Final = 10
ZX_RSRC_SYSTEM_MSI_BASE: Final = 11
ZX_RSRC_SYSTEM_DEBUGLOG_BASE: Final = 12
ZX_RSRC_SYSTEM_STALL_BASE: Final = 13
ZX_RSRC_SYSTEM_TRACING_BASE: Final = 14
ZX_RSRC_SYSTEM_SAMPLING_BASE: Final = 15
ZX_RSRC_SYSTEM_COUNT: Final = 16

# Limits: zircon/types.h --------------------------------------------------------------------------

ZX_MAX_NAME_LEN: Final = 32
