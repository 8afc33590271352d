# Steps that a test makes up: to expect the wrong thing of the dialect, or what has no meaning.
from __future__ import annotations

from typing import Any, Final

from pinfold.units import PAGE_SIZE

Step = dict[str, Any]


def call(name: str, expect: Any = "OK", /, **parts: Any) -> Step:
    """A step: what is no key of a step is an argument."""
    keys = {key: parts.pop(key) for key in ("out", "data_", "value_", "fields") if key in parts}
    return {
        "call": name,
        "args": parts,
        "expect": expect,
        **{key.rstrip("_"): value for key, value in keys.items()},
    }


def case(*steps: Step, kind: str | None = None) -> dict[str, Any]:
    """A case of a test's own."""
    contentious = None if kind is None else {"kind": kind, "why": "made up"}
    return {"id": "made-up", "area": "vmo", "contentious": contentious, "steps": list(steps)}


VMO: Final = call("vmo_create", size="4*PAGE", options=[], out="v")
MAPPED: Final = call(
    "vmar_map",
    vmar="$root_vmar",
    options=["PERM_READ", "PERM_WRITE"],
    offset=0,
    vmo="$v",
    vmo_offset=0,
    len="2*PAGE",
    out="m",
)
REGION: Final = call(
    "vmar_allocate",
    vmar="$root_vmar",
    options=["CAN_MAP_READ", "CAN_MAP_WRITE", "CAN_MAP_SPECIFIC"],
    offset=0,
    size="4*PAGE",
    out={"child": "r", "addr": "base"},
)
MAPPED_INSIDE: Final = {
    **MAPPED,
    "args": {**MAPPED["args"], "vmar": "$r", "options": ["SPECIFIC", "PERM_READ"]},
}


def info(topic: str, handle: str = "$v", /, **parts: Any) -> Step:
    """An info call."""
    return call("object_get_info", handle=handle, topic=topic, **parts)


def layout(*runs: tuple[int, int, list[str] | None]) -> Step:
    """A check of the region's protections."""
    made = [{"from": start, "to": stop, "prot": prot} for start, stop, prot in runs]
    return {"check": "protection layout", "base": "$base", "layout": made}


WRONG: Final[dict[str, tuple[list[Step], str]]] = {
    "a status": ([call("vmo_create", "INVALID_ARGS", size=0, options=[])], "got OK"),
    "one of several statuses": (
        [call("vmo_create", ["INVALID_ARGS", "NO_MEMORY"], size=0, options=[])],
        "got OK",
    ),
    "any status but one": ([call("vmo_create", {"not": "OK"}, size=0, options=[])], "got OK"),
    "a failure": ([call("handle_close", handle="$root_vmar"), info("VMAR", "$root_vmar")], "got"),
    "data": (
        [
            VMO,
            call("vmo_write", vmo="$v", offset=0, data={"u32": 5}),
            call("vmo_read", vmo="$v", offset=0, length=4, data_={"u32": 5 | 1 << 24}),
        ],
        "from byte 3 on: got 00, expected 01",
    ),
    "a value": ([VMO, call("vmo_get_size", vmo="$v", value_="3*PAGE")], "the value"),
    "a name": (
        [
            VMO,
            call("object_set_property", handle="$v", property="NAME", value="ant"),
            call("object_get_property", handle="$v", property="NAME", value_="bee"),
        ],
        "got 'ant', expected 'bee'",
    ),
    "a stream size": (
        [VMO, call("object_get_property", handle="$v", property="VMO_CONTENT_SIZE", value_=0)],
        "the value",
    ),
    "a field": ([VMO, info("VMO", fields={"size_bytes": "3*PAGE"})], "the field size_bytes"),
    "the most of a field": (
        [VMO, info("VMO", fields={"size_bytes": {"le": "3*PAGE"}})],
        "the field size_bytes",
    ),
    "a type": ([VMO, info("HANDLE_BASIC", fields={"type": "BTI"})], "the field type"),
    "a policy": ([VMO, info("VMO", fields={"cache_policy": "UNCACHED"})], "the field cache_policy"),
    "flags that it has": (
        [VMO, info("HANDLE_BASIC", fields={"rights": {"has": ["READ", "EXECUTE"]}})],
        "the field rights",
    ),
    "flags that it lacks": (
        [VMO, info("HANDLE_BASIC", fields={"rights": {"lacks": ["EXECUTE", "READ"]}})],
        "the field rights",
    ),
    "flags exactly": (
        [VMO, info("VMO", fields={"flags": {"exactly": ["TYPE_PAGED"]}})],
        "the field flags",
    ),
    "rights beside those of a handle": (
        [
            VMO,
            info(
                "HANDLE_BASIC",
                fields={"rights": {"from": "$v", "add": ["EXECUTE"], "remove": []}},
            ),
        ],
        "the field rights",
    ),
    "a check": (
        [VMO, call("vmo_get_size", vmo="$v", out="n"), {"check": "small", "expr": "$n == PAGE"}],
        "small: got false, expected $n == PAGE",
    ),
    "a check of what is not there": (
        [
            info("VMAR_MAPS", "$root_vmar", out="maps"),
            {"check": "three", "expr": "$maps[2].depth == 1"},
        ],
        "three: got list index out of range",
    ),
    "a load": ([VMO, MAPPED, call("mem_read", "NOT_FOUND", addr="$m", length=1)], "got OK"),
    "a load's data": (
        [VMO, MAPPED, call("mem_read", addr="$m", length=1, data_={"u8": 1})],
        "from byte 0 on: got 00, expected 01",
    ),
    "a fault": (
        [REGION, call("mem_read", addr="$base", length=1)],
        "got ACCESS_DENIED|NOT_FOUND|OUT_OF_RANGE",
    ),
    "a fault at the last byte": (
        [REGION, VMO, MAPPED_INSIDE, call("mem_read", addr="$base + 1", length="2*PAGE")],
        "got ACCESS_DENIED|NOT_FOUND|OUT_OF_RANGE",
    ),
    "a fault of a store": (
        [REGION, VMO, MAPPED_INSIDE, call("mem_write", addr="$base", data={"u8": 1})],
        "got ACCESS_DENIED|NOT_FOUND|OUT_OF_RANGE",
    ),
    "a store": (
        [VMO, MAPPED, call("mem_write", "ACCESS_DENIED", addr="$m", data={"u8": 1})],
        "got OK",
    ),
    "bytes done": (
        [
            REGION,
            VMO,
            MAPPED_INSIDE,
            {**call("process_read_memory", addr="$base", length="3*PAGE"), "actual": "3*PAGE"},
        ],
        f"the bytes done: got {2 * PAGE_SIZE}",
    ),
    "a page that is mapped": (
        [VMO, MAPPED, {"check": "pages mapped", "addr": "$m", "mapped": [1, 0]}],
        "got [1, 1], expected [1, 0]",
    ),
    "a page that is not mapped": (
        [REGION, {"check": "pages mapped", "addr": "$base", "mapped": [0, 1]}],
        "got [0, 0], expected [0, 1]",
    ),
    "a protection": (
        [REGION, VMO, MAPPED_INSIDE, layout((0, 2, ["PERM_READ", "PERM_WRITE"]), (2, 4, None))],
        "the protections listed",
    ),
    "nothing where something is": (
        [REGION, VMO, MAPPED_INSIDE, layout((0, 1, ["PERM_READ"]), (1, 4, None))],
        "the protections listed",
    ),
    "an exclusive border": (
        [REGION, VMO, MAPPED_INSIDE, layout((0, 3, ["PERM_READ"]), (3, 4, None))],
        "the protections listed",
    ),
}
"""What a step expects that is not so, after what it takes to get there; and what is told."""

MEANINGLESS: Final[dict[str, Step]] = {
    "a call": call("vmo_explode", vmo="$v"),
    "a call of the runner's own": call("furnish"),
    "an argument": call("vmo_get_size", vmo="$v", colour=1),
    "an argument that lacks": call("vmo_set_size", vmo="$v"),
    "a key": {**call("vmo_get_size", vmo="$v"), "hint": 1},
    "a result of another call": call("vmo_get_size", vmo="$v", data_={"u8": 1}),
    "no expectation": {"call": "vmo_get_size", "args": {"vmo": "$v"}},
    "an expectation": call("vmo_get_size", {"maybe": "OK"}, vmo="$v"),
    "a status": call("vmo_get_size", {"not": "FINE"}, vmo="$v"),
    "a result of a failure": call("vmo_get_size", "BAD_HANDLE", vmo="INVALID", value_=0),
    "a handle": call("vmo_get_size", vmo="v"),
    "a symbol": call("vmo_get_size", vmo="$w"),
    "a number": call("vmo_set_size", vmo="$v", size="big"),
    "an option": call("vmo_create", size=0, options=["FAST"]),
    "options that are no list": call("vmo_create", size=0, options="RESIZABLE"),
    "a right": call("handle_duplicate", handle="$v", rights=["FLY"]),
    "rights": call("handle_duplicate", handle="$v", rights={"base": "$v"}),
    "a topic": info("JOB"),
    "a property": call("object_get_property", handle="$v", property="COLOUR", value_=0),
    "a field": info("VMO", fields={"colour": 1}),
    "a field's form": info("VMO", fields={"size_bytes": {"ge": 0}}),
    "a field's flags": info("HANDLE_BASIC", fields={"rights": {"holds": ["READ"]}}),
    "a field of no record": info("HANDLE_VALID", fields={"type": "VMO"}),
    "bytes": call("vmo_write", vmo="$v", offset=0, data={"u16": 1}),
    "neither data nor a length": call("vmo_write", vmo="$v", offset=0),
    "data of another length": call("vmo_read", vmo="$v", offset=0, length=4, data_={"u8": 0}),
    "a buffer": call("vmo_read", vmo="$v", offset=0, length=1, buffer="HUGE"),
    "a result that is none": call("vmo_set_cache_policy", vmo="$v", policy="CACHED", out="x"),
    "a part of a result": {**REGION, "out": {"child": "r", "colour": "c"}},
    "neither a call nor a check": {"expect": "OK"},
    "a check without an expression": {"check": "all well"},
    "a check with more": {"check": "all well", "expr": "1 == 1", "unless": "2 == 2"},
    "a check that is no truth": {"check": "all well", "expr": "$v"},
    "pages": {"check": "pages mapped", "addr": "$v", "mapped": [2]},
    "a layout with a gap": layout((1, 2, None)) | {"base": "PAGE"},
    "a protection": layout((0, 1, ["PERM_FLY"])) | {"base": "PAGE"},
}
"""Steps that say something without a meaning, by what that is."""
