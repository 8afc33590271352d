# The records that the kernel fills, taken apart by the documents' own table of C's layout.
#
# Not by the dialect's `unpack`: a field written to a wrong place would be read from there too.
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from .expressions import Record, Unknown
from .words import constant, names

PROTECTIONS: Final = ("PERM_READ", "PERM_WRITE", "PERM_EXECUTE")

_TYPES: Final = ("NONE", "ASPACE", "VMAR", "MAPPING")

_DOCUMENTED: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "dialects" / "data" / "zircon_constants.json").read_text()
)


class Layout:
    """One C structure. A structure inside it has its fields in the outer one's record."""

    def __init__(self, name: str) -> None:
        structs = _DOCUMENTED["structs"]
        self.size: Final[int] = structs[name]["size"]
        self._fields: dict[str, tuple[int, int, str]] = {}
        for field in structs[name]["fields"]:
            inner = structs.get(field["type"])
            for part in inner["fields"] if inner else [field]:
                at = part["offset"] + (field["offset"] if inner else 0)
                if not part["name"].startswith("padding"):
                    self._fields[part["name"]] = (at, part["size"], part["type"])

    def record(self, buffer: bytes | bytearray, index: int = 0) -> Record:
        """The record that begins ``index`` whole records into the buffer."""
        found: dict[str, Any] = {}
        for name, (at, size, kind) in self._fields.items():
            raw = bytes(buffer[index * self.size + at : index * self.size + at + size])
            if len(raw) != size:
                raise Unknown(f"the buffer ends before {name}")
            number = int.from_bytes(raw, "little")
            found[name] = raw.rstrip(b"\0") if kind.startswith("char[") else number
        return Record(**found)


LAYOUTS: Final = {
    topic: Layout(_DOCUMENTED["struct_for_topic"][f"ZX_INFO_{topic}"])
    for topic in ("HANDLE_BASIC", "HANDLE_COUNT", "VMAR", "BTI", "VMO", "VMAR_MAPS")
}
"""What each topic fills in, by its name; HANDLE_VALID fills in nothing."""

LOCK_STATE: Final = Layout("zx_vmo_lock_state_t")


def map_records(buffer: bytes | bytearray, count: int) -> list[Record]:
    """A listing of a region, with types and protections by their names."""
    found = []
    for index in range(count):
        fields = dict(LAYOUTS["VMAR_MAPS"].record(buffer, index).fields)
        kinds = [kind for kind in _TYPES if constant(f"ZX_INFO_MAPS_TYPE_{kind}") == fields["type"]]
        if len(kinds) != 1:
            raise Unknown(f"no entry of a listing has type {fields['type']}")
        fields["type"] = kinds[0]
        flags = fields.pop("mmu_flags")
        mapping = fields["type"] == "MAPPING"
        fields["prot"] = names(flags, "ZX_VM_", PROTECTIONS) if mapping else []
        found.append(Record(**fields))
    return found
