# The structures that calls fill or read, as bytes, and what each topic gives.
#
# The layout of each is under the structure's own name: ``mx_info_vmo_t.size`` is C's sizeof,
# ``mx_info_vmo_t.unpack(buffer)`` a record, which has C's field names.
from __future__ import annotations

from typing import Any, Final

from pinfold.dialects.layout import Layout
from pinfold.dialects.mx import numbers as mx
from pinfold.dialects.mx import structures as of
from pinfold.dialects.topics import Topic, unpacked

# Structures inside others come first.
mx_info_maps_mapping_t: Final = Layout("mx_info_maps_mapping_t", of.InfoMapsMapping)
Layout("u", of.Union)

mx_info_handle_basic_t: Final = Layout("mx_info_handle_basic_t", of.InfoHandleBasic)
mx_info_vmar_t: Final = Layout("mx_info_vmar_t", of.InfoVmar)
mx_info_maps_t: Final = Layout("mx_info_maps_t", of.InfoMaps)
mx_info_vmo_t: Final = Layout("mx_info_vmo_t", of.InfoVmo)
mx_info_resource_t: Final = Layout("mx_info_resource_t", of.InfoResource)
mx_iommu_desc_dummy_t: Final = Layout("mx_iommu_desc_dummy_t", of.IommuDescDummy)

TOPICS: Final = {
    mx.MX_INFO_HANDLE_BASIC: Topic(mx_info_handle_basic_t),
    mx.MX_INFO_VMAR: Topic(mx_info_vmar_t),
    mx.MX_INFO_PROCESS_MAPS: Topic(mx_info_maps_t, many=True),
    mx.MX_INFO_PROCESS_VMOS: Topic(mx_info_vmo_t, many=True),
    mx.MX_INFO_RESOURCE: Topic(mx_info_resource_t),
}
"""The topics that have records."""

_STRUCTURES: Final = {made.name: made for made in globals().values() if isinstance(made, Layout)}


def unpack(topic: int | str, buffer: Any, count: int | None = None) -> Any:
    """What a call has written to ``buffer``, with names.

    Args:
      topic: of mx_object_get_info, or the name of a structure: ``"mx_info_vmo_t"``.
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
