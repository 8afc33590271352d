"""Magenta's calls over pinfold's objects: ``from pinfold.dialects import Out, mx``.

Names, order of parameters, numbers and statuses are those of August 2017, with the draft of the BTI
calls that no release had. An output parameter is an `Out`; its ``value`` is None until a call that
succeeds has written it. A buffer is whatever has one, and None is NULL. Handles are numbers of the
current process: ``with mx.Process():`` makes one for a block.

Where the pages and the kernel of that time differ, the pages are followed;
``Kernel(strict="kernel")`` follows the kernel.
"""

from __future__ import annotations

from pinfold.dialects.calling import Out
from pinfold.dialects.mx import numbers
from pinfold.dialects.mx.devices import (
    iommu_from_bus,
    mx_bti_create,
    mx_bti_pin,
    mx_bti_unpin,
    mx_iommu_create,
    root_resource,
)
from pinfold.dialects.mx.handles import (
    handle_transfer,
    mx_handle_close,
    mx_handle_duplicate,
    mx_handle_replace,
    mx_process_self,
    mx_vmar_root_self,
)
from pinfold.dialects.mx.info import (
    mx_object_get_info,
)
from pinfold.dialects.mx.numbers import *  # noqa: F403 - all of Magenta's numbers, by their names
from pinfold.dialects.mx.numbers import PAGE_SIZE
from pinfold.dialects.mx.records import (
    mx_info_handle_basic_t,
    mx_info_maps_mapping_t,
    mx_info_maps_t,
    mx_info_resource_t,
    mx_info_vmar_t,
    mx_info_vmo_t,
    mx_iommu_desc_dummy_t,
    unpack,
)
from pinfold.dialects.mx.status import (
    mx_status_get_string,
)
from pinfold.dialects.mx.vmar import (
    mx_vmar_allocate,
    mx_vmar_destroy,
    mx_vmar_map,
    mx_vmar_protect,
    mx_vmar_unmap,
)
from pinfold.dialects.mx.vmo import (
    mx_vmo_clone,
    mx_vmo_create,
    mx_vmo_create_contiguous,
    mx_vmo_create_physical,
    mx_vmo_get_size,
    mx_vmo_op_range,
    mx_vmo_read,
    mx_vmo_set_cache_policy,
    mx_vmo_set_size,
    mx_vmo_write,
)
from pinfold.objects.process import Process

__all__ = [
    *(name for name in vars(numbers) if name.startswith("MX_")),
    "Out",
    "PAGE_SIZE",
    "Process",
    "handle_transfer",
    "iommu_from_bus",
    "mx_bti_create",
    "mx_bti_pin",
    "mx_bti_unpin",
    "mx_handle_close",
    "mx_handle_duplicate",
    "mx_handle_replace",
    "mx_info_handle_basic_t",
    "mx_info_maps_mapping_t",
    "mx_info_maps_t",
    "mx_info_resource_t",
    "mx_info_vmar_t",
    "mx_info_vmo_t",
    "mx_iommu_create",
    "mx_iommu_desc_dummy_t",
    "mx_object_get_info",
    "mx_process_self",
    "mx_status_get_string",
    "mx_vmar_allocate",
    "mx_vmar_destroy",
    "mx_vmar_map",
    "mx_vmar_protect",
    "mx_vmar_root_self",
    "mx_vmar_unmap",
    "mx_vmo_clone",
    "mx_vmo_create",
    "mx_vmo_create_contiguous",
    "mx_vmo_create_physical",
    "mx_vmo_get_size",
    "mx_vmo_op_range",
    "mx_vmo_read",
    "mx_vmo_set_cache_policy",
    "mx_vmo_set_size",
    "mx_vmo_write",
    "root_resource",
    "unpack",
]
