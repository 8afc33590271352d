# The structures that calls fill or read, as bytes, and what each topic gives.
#
# The layout of each is under the structure's own name: ``zx_info_vmo_t.size`` is C's sizeof,
# ``zx_info_vmo_t.unpack(buffer)`` a record, which has C's field names.
from __future__ import annotations

from typing import Any, Final

from pinfold.dialects.layout import Layout
from pinfold.dialects.topics import Topic, unpacked
from pinfold.dialects.zx import numbers as zx
from pinfold.dialects.zx import structures as of
from pinfold.dialects.zx.structures import VmoLockState as VmoLockState

# Structures inside others come first.
zx_info_maps_mapping_v1_t: Final = Layout("zx_info_maps_mapping_v1_t", of.InfoMapsMappingV1)
zx_info_maps_mapping_v2_t: Final = Layout("zx_info_maps_mapping_v2_t", of.InfoMapsMappingV2)
zx_info_maps_mapping_t: Final = Layout("zx_info_maps_mapping_t", of.InfoMapsMapping)
for _union in (of.UnionV1, of.UnionV2, of.Union):
    Layout("u", _union)

zx_info_handle_basic_t: Final = Layout("zx_info_handle_basic_t", of.InfoHandleBasic)
zx_info_handle_extended_t: Final = Layout("zx_info_handle_extended_t", of.InfoHandleExtended)
zx_info_handle_count_t: Final = Layout("zx_info_handle_count_t", of.InfoHandleCount)
zx_info_process_handle_stats_t: Final = Layout(
    "zx_info_process_handle_stats_t", of.InfoProcessHandleStats
)
zx_info_vmar_t: Final = Layout("zx_info_vmar_t", of.InfoVmar)
zx_info_bti_t: Final = Layout("zx_info_bti_t", of.InfoBti)
zx_info_resource_t: Final = Layout("zx_info_resource_t", of.InfoResource)
zx_info_vmo_v1_t: Final = Layout("zx_info_vmo_v1_t", of.InfoVmoV1)
zx_info_vmo_v2_t: Final = Layout("zx_info_vmo_v2_t", of.InfoVmoV2)
zx_info_vmo_v3_t: Final = Layout("zx_info_vmo_v3_t", of.InfoVmoV3)
zx_info_vmo_t: Final = Layout("zx_info_vmo_t", of.InfoVmo)
zx_info_maps_v1_t: Final = Layout("zx_info_maps_v1_t", of.InfoMapsV1)
zx_info_maps_v2_t: Final = Layout("zx_info_maps_v2_t", of.InfoMapsV2)
zx_info_maps_t: Final = Layout("zx_info_maps_t", of.InfoMaps)
zx_vmo_lock_state_t: Final = Layout("zx_vmo_lock_state_t", of.VmoLockState)
zx_iommu_desc_stub_t: Final = Layout("zx_iommu_desc_stub_t", of.IommuDescStub)
zx_iommu_desc_intel_scope_t: Final = Layout("zx_iommu_desc_intel_scope_t", of.IommuDescIntelScope)
zx_iommu_desc_intel_reserved_memory_t: Final = Layout(
    "zx_iommu_desc_intel_reserved_memory_t", of.IommuDescIntelReservedMemory
)
zx_iommu_desc_intel_t: Final = Layout("zx_iommu_desc_intel_t", of.IommuDescIntel)
zx_iommu_desc_arm_smmu_t: Final = Layout("zx_iommu_desc_arm_smmu_t", of.IommuDescArmSmmu)


TOPICS: Final = {
    zx.ZX_INFO_HANDLE_BASIC: Topic(zx_info_handle_basic_t),
    zx.ZX_INFO_HANDLE_COUNT: Topic(zx_info_handle_count_t),
    zx.ZX_INFO_PROCESS_HANDLE_STATS: Topic(zx_info_process_handle_stats_t),
    zx.ZX_INFO_HANDLE_TABLE: Topic(zx_info_handle_extended_t, many=True),
    zx.ZX_INFO_VMAR: Topic(zx_info_vmar_t),
    zx.ZX_INFO_BTI: Topic(zx_info_bti_t),
    zx.ZX_INFO_RESOURCE: Topic(zx_info_resource_t),
    zx.ZX_INFO_VMO_V1: Topic(zx_info_vmo_v1_t),
    zx.ZX_INFO_VMO_V2: Topic(zx_info_vmo_v2_t),
    zx.ZX_INFO_VMO_V3: Topic(zx_info_vmo_v3_t),
    zx.ZX_INFO_VMO: Topic(zx_info_vmo_t),
    zx.ZX_INFO_PROCESS_VMOS_V1: Topic(zx_info_vmo_v1_t, many=True),
    zx.ZX_INFO_PROCESS_VMOS_V2: Topic(zx_info_vmo_v2_t, many=True),
    zx.ZX_INFO_PROCESS_VMOS_V3: Topic(zx_info_vmo_v3_t, many=True),
    zx.ZX_INFO_PROCESS_VMOS: Topic(zx_info_vmo_t, many=True),
    zx.ZX_INFO_PROCESS_MAPS_V1: Topic(zx_info_maps_v1_t, many=True),
    zx.ZX_INFO_PROCESS_MAPS_V2: Topic(zx_info_maps_v2_t, many=True),
    zx.ZX_INFO_PROCESS_MAPS: Topic(zx_info_maps_t, many=True),
    zx.ZX_INFO_VMAR_MAPS: Topic(zx_info_maps_t, many=True),
}
"""The topics that have records."""

_STRUCTURES: Final = {made.name: made for made in globals().values() if isinstance(made, Layout)}


def unpack(topic: int | str, buffer: Any, count: int | None = None) -> Any:
    """What a call has written to ``buffer``, with names.

    Args:
      topic: of zx_object_get_info, or the name of a structure: ``"zx_vmo_lock_state_t"``.
      count: how many records, of a topic that gives several: what ``actual`` says. By default as
        many as the buffer has room for, which is more than were written where it was too large.

    Returns:
      A record; of a topic that gives several, a list of records.

    Raises:
      NotSupported: there is no such topic or structure, or it has no record.
      BufferTooSmall: the buffer is shorter than that.
      TypeError: it is no buffer.
    """
    return unpacked(TOPICS, _STRUCTURES, topic, buffer, count)
