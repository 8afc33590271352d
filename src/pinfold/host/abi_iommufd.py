# Numbers of iommufd, and of VFIO's requests that concern it, each group with its header's name.
#
# A test compares them with the headers of the machine (tests/abi/test_iommufd.py).
from __future__ import annotations

from typing import Final

# <linux/iommufd.h>: the requests; type ';', no size in them. From Linux 6.2 on.
IOMMU_DESTROY: Final = 0x3B80
IOMMU_IOAS_ALLOC: Final = 0x3B81
IOMMU_IOAS_IOVA_RANGES: Final = 0x3B84
IOMMU_IOAS_MAP: Final = 0x3B85
IOMMU_IOAS_UNMAP: Final = 0x3B86

# <linux/iommufd.h>, from Linux 6.6 on
IOMMU_GET_HW_INFO: Final = 0x3B8A
IOMMU_HW_INFO_TYPE_INTEL_VTD: Final = 1

# <linux/iommufd.h>, from Linux 6.13 on
IOMMU_IOAS_MAP_FILE: Final = 0x3B8F

# <linux/iommufd.h>: enum iommufd_ioas_map_flags
IOMMU_IOAS_MAP_FIXED_IOVA: Final = 0x1
IOMMU_IOAS_MAP_WRITEABLE: Final = 0x2
IOMMU_IOAS_MAP_READABLE: Final = 0x4

# <linux/vfio.h>, from Linux 6.6 on
VFIO_DEVICE_BIND_IOMMUFD: Final = 0x3B76
VFIO_DEVICE_ATTACH_IOMMUFD_PT: Final = 0x3B77
VFIO_DEVICE_DETACH_IOMMUFD_PT: Final = 0x3B78
