# The calls of the cases: each a method named as the call is, its arguments by the cases' names.
#
# The keys of a step's ``args`` are bound to the parameters here, so that an argument that a method
# does not have is an error, as is one that it lacks.
from __future__ import annotations

import inspect
from array import array
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pinfold.dialects import Out, zx
from tests.user_memory import poke

from . import kinds, memory, words
from .expressions import Unknown
from .machine import FAULT, MOST_ENTRIES, Done, Machine
from .records import LAYOUTS, LOCK_STATE, map_records

if TYPE_CHECKING:
    from collections.abc import Callable

_UNTOUCHED: Final = 0xA5
"""What a buffer for reading into is filled with: a byte that no case expects."""

_LARGEST: Final = 1 << 26
"""A length beyond it is only claimed; no case has data of that size."""

SAYS: Final = {
    "vmo_read": "data",
    "mem_read": "data",
    "vmo_get_size": "value",
    "vmo_get_stream_size": "value",
    "object_get_property": "value",
    "object_get_info": "fields",
    "process_read_memory": "actual",
    "process_write_memory": "actual",
}
"""By which key a step of a call says what its result has to be."""

LACKING: Final = {
    "cache_flush": "pinfold has no zx_cache_flush: Linux has no such call for user space"
}
"""Calls outside the dialect's subject, and why they are not here."""


class Calls(Machine):
    """The machine with everything that a step can call."""

    # Handles ----------------------------------------------------------------------------------

    def handle_close(self, *, handle: Any) -> Done:
        return self.done(zx.zx_handle_close(self.handle(handle)))

    def handle_close_many(self, *, handles: Any) -> Done:
        values = array("I", map(self.handle, handles))
        return self.done(zx.zx_handle_close_many(values, len(values)))

    def handle_check_valid(self, *, handle: Any) -> Done:
        return self.done(zx.zx_handle_check_valid(self.handle(handle)))

    def handle_duplicate(self, *, handle: Any, rights: Any) -> Done:
        out = Out()
        status = zx.zx_handle_duplicate(self.handle(handle), self.rights(rights), out)
        return self.done(status, out, result=out.value)

    def handle_replace(self, *, handle: Any, rights: Any, out_pointer: Any = None) -> Done:
        if out_pointer not in (None, "NULL"):
            raise Unknown(f"{out_pointer!r} is no output pointer")
        out = None if out_pointer == "NULL" else Out()
        status = zx.zx_handle_replace(self.handle(handle), self.rights(rights), out)
        return self.done(status, out, result=out and out.value)

    # What is known of an object -----------------------------------------------------------------

    def object_get_info(
        self,
        *,
        handle: Any,
        topic: Any,
        buffer_size: Any = None,
        actual: Any = None,
        avail: Any = None,
    ) -> Done:
        layout = LAYOUTS.get(topic)
        if layout is None and topic != "HANDLE_VALID":
            raise Unknown(f"no layout of topic {topic!r} is known")
        room = 0 if layout is None else layout.size * (MOST_ENTRIES if topic == "VMAR_MAPS" else 1)
        size = room if buffer_size is None else self.number(buffer_size)
        buffer = bytearray([_UNTOUCHED]) * size
        counts = [Out(), Out()]
        asked = [out if name else None for out, name in zip(counts, (actual, avail), strict=True)]
        number = words.constant(f"ZX_INFO_{topic}")
        status = zx.zx_object_get_info(self.handle(handle), number, buffer, size, *asked)
        for name, out in zip((actual, avail), counts, strict=True):
            if name and out.value is not None:  # they are told on BUFFER_TOO_SMALL as well
                self.symbols[name] = out.value
        result: Any = None
        if status == zx.ZX_OK and layout is not None and size >= layout.size:
            if topic == "VMAR_MAPS":
                result = map_records(buffer, self._listed(buffer, layout.size, counts[0].value))
            else:
                result = layout.record(buffer)
        return self.done(status, result=result)

    @staticmethod
    def _listed(buffer: bytearray, size: int, actual: int | None) -> int:
        """How many entries were written: as the call says, or by where the buffer is untouched."""
        if actual is not None:
            return actual
        untouched = bytes([_UNTOUCHED]) * size
        starts = range(0, len(buffer), size)
        return sum(buffer[at : at + size] != untouched for at in starts)

    def object_get_property(self, *, handle: Any, property: Any) -> Done:  # noqa: A002 - a case's word
        buffer = bytearray([_UNTOUCHED]) * (zx.ZX_MAX_NAME_LEN if property == "NAME" else 8)
        number = words.constant(f"ZX_PROP_{property}")
        status = zx.zx_object_get_property(self.handle(handle), number, buffer, len(buffer))
        result: int | str = (
            buffer.partition(b"\0")[0].decode("latin-1")
            if property == "NAME"
            else int.from_bytes(buffer, "little")
        )
        return self.done(status, result=result)

    def object_set_property(self, *, handle: Any, property: Any, value: Any) -> Done:  # noqa: A002
        data = (
            value.encode("ascii")
            if property == "NAME"
            else self.number(value).to_bytes(8, "little")
        )
        number = words.constant(f"ZX_PROP_{property}")
        return self.done(zx.zx_object_set_property(self.handle(handle), number, data, len(data)))

    def object_wait_one(self, *, handle: Any, signals: Any, deadline: Any) -> Done:
        observed = Out()
        status = zx.zx_object_wait_one(
            self.handle(handle), words.signals(signals), words.deadline(deadline), observed
        )
        return self.done(status)  # what was observed is told when the time is over, too

    # Memory objects -----------------------------------------------------------------------------

    def vmo_create(self, *, size: Any, options: Any) -> Done:
        out = Out()
        status = zx.zx_vmo_create(self.number(size), words.union(options, "ZX_VMO_"), out)
        return self.done(status, out, result=out.value)

    def vmo_create_contiguous(self, *, bti: Any, size: Any, alignment_log2: Any) -> Done:
        out = Out()
        status = zx.zx_vmo_create_contiguous(
            self.handle(bti), self.number(size), self.number(alignment_log2), out
        )
        return self.done(status, out, result=out.value)

    def vmo_create_child(self, *, vmo: Any, options: Any, offset: Any, size: Any) -> Done:
        out = Out()
        bits = words.union(options, "ZX_VMO_CHILD_")
        status = zx.zx_vmo_create_child(
            self.handle(vmo), bits, self.number(offset), self.number(size), out
        )
        return self.done(status, out, result=out.value)

    def vmo_read(self, *, vmo: Any, offset: Any, length: Any, buffer: Any = None) -> Done:
        size = self.number(length)
        into = self._buffer(buffer, size, bytes([_UNTOUCHED]))
        status = zx.zx_vmo_read(self.handle(vmo), into, self.number(offset), size)
        return self.done(status, result=into and bytes(into))

    def vmo_write(
        self, *, vmo: Any, offset: Any, data: Any = None, length: Any = None, buffer: Any = None
    ) -> Done:
        if (data is None) is (length is None):
            raise Unknown("a write has data, or claims a length")
        if data is not None:
            source: bytearray | None = bytearray(words.data(data, self.symbols))
            size = len(source or b"")
        else:
            size = self.number(length)
            source = self._buffer(buffer, size, bytes(1))
        status = zx.zx_vmo_write(self.handle(vmo), source, self.number(offset), size)
        return self.done(status)

    def _buffer(self, word: Any, size: int, fill: bytes) -> bytearray | None:
        """Room for ``size`` bytes; NULL; or none at all where so much is only claimed."""
        if word == "NULL":
            return None
        if word is not None:
            raise Unknown(f"{word!r} is no buffer")
        return bytearray(fill) * (size if size <= _LARGEST else 0)

    def vmo_get_size(self, *, vmo: Any) -> Done:
        out = Out()
        return self.done(zx.zx_vmo_get_size(self.handle(vmo), out), out, result=out.value)

    def vmo_set_size(self, *, vmo: Any, size: Any) -> Done:
        return self.done(zx.zx_vmo_set_size(self.handle(vmo), self.number(size)))

    def vmo_get_stream_size(self, *, vmo: Any) -> Done:
        out = Out()
        return self.done(zx.zx_vmo_get_stream_size(self.handle(vmo), out), out, result=out.value)

    def vmo_set_stream_size(self, *, vmo: Any, size: Any) -> Done:
        return self.done(zx.zx_vmo_set_stream_size(self.handle(vmo), self.number(size)))

    def vmo_op_range(
        self,
        *,
        vmo: Any,
        op: Any,
        offset: Any,
        size: Any,
        buffer: Any = None,
        buffer_size: Any = None,
    ) -> Done:
        state: bytearray | None = None
        if buffer == "LOCK_STATE":
            state = bytearray([_UNTOUCHED]) * LOCK_STATE.size
        elif buffer is not None:
            raise Unknown(f"{buffer!r} is no buffer of an operation")
        room = len(state or b"") if buffer_size is None else self.number(buffer_size)
        number = words.constant(f"ZX_VMO_OP_{op}")
        status = zx.zx_vmo_op_range(
            self.handle(vmo), number, self.number(offset), self.number(size), state, room
        )
        filled = status == zx.ZX_OK and state is not None
        return self.done(status, result=LOCK_STATE.record(state or b"") if filled else None)

    def vmo_set_cache_policy(self, *, vmo: Any, policy: Any) -> Done:
        number = words.constant(f"ZX_CACHE_POLICY_{policy}")
        return self.done(zx.zx_vmo_set_cache_policy(self.handle(vmo), number))

    def vmo_replace_as_executable(self, *, vmo: Any, vmex: Any) -> Done:
        out = Out()
        status = zx.zx_vmo_replace_as_executable(self.handle(vmo), self.handle(vmex), out)
        return self.done(status, out, result=out.value)

    def vmo_transfer_data(
        self, *, dst: Any, options: Any, offset: Any, length: Any, src: Any, src_offset: Any
    ) -> Done:
        status = zx.zx_vmo_transfer_data(
            self.handle(dst),
            self.number(options),
            self.number(offset),
            self.number(length),
            self.handle(src),
            self.number(src_offset),
        )
        return self.done(status)

    # Regions ------------------------------------------------------------------------------------

    def vmar_allocate(self, *, vmar: Any, options: Any, offset: Any, size: Any) -> Done:
        child, address = Out(), Out()
        bits = words.union(options, "ZX_VM_")
        status = zx.zx_vmar_allocate(
            self.handle(vmar), bits, self.number(offset), self.number(size), child, address
        )
        return self.done(status, child, address, child=child.value, addr=address.value)

    def vmar_destroy(self, *, vmar: Any) -> Done:
        return self.done(zx.zx_vmar_destroy(self.handle(vmar)))

    def vmar_map(
        self,
        *,
        vmar: Any,
        options: Any,
        offset: Any,
        vmo: Any,
        vmo_offset: Any,
        len: Any,  # noqa: A002
    ) -> Done:
        out = Out()
        status = zx.zx_vmar_map(
            self.handle(vmar),
            words.union(options, "ZX_VM_"),
            self.number(offset),
            self.handle(vmo),
            self.number(vmo_offset),
            self.number(len),
            out,
        )
        return self.done(status, out, result=out.value)

    def vmar_unmap(self, *, vmar: Any, addr: Any, len: Any) -> Done:  # noqa: A002
        address = self.number(addr)
        return self.done(zx.zx_vmar_unmap(self.handle(vmar), address, self.number(len)))

    def vmar_protect(self, *, vmar: Any, options: Any, addr: Any, len: Any) -> Done:  # noqa: A002
        bits = words.union(options, "ZX_VM_")
        address = self.number(addr)
        return self.done(zx.zx_vmar_protect(self.handle(vmar), bits, address, self.number(len)))

    def vmar_op_range(self, *, vmar: Any, op: Any, addr: Any, len: Any) -> Done:  # noqa: A002
        number = words.constant(f"ZX_VMAR_OP_{op}")
        status = zx.zx_vmar_op_range(
            self.handle(vmar), number, self.number(addr), self.number(len), None, 0
        )
        return self.done(status)

    # Devices ------------------------------------------------------------------------------------

    def bti_create(self, *, iommu: Any, options: Any, bti_id: Any) -> Done:
        out = Out()
        status = zx.zx_bti_create(
            self.handle(iommu), self.number(options), self.number(bti_id), out
        )
        return self.done(status, out, result=out.value)

    def bti_pin(
        self, *, bti: Any, options: Any, vmo: Any, offset: Any, size: Any, num_addrs: Any
    ) -> Done:
        out = Out()
        addresses = np.zeros(self.number(num_addrs), dtype=np.uint64)
        status = zx.zx_bti_pin(
            self.handle(bti),
            words.union(options, "ZX_BTI_"),
            self.handle(vmo),
            self.number(offset),
            self.number(size),
            addresses,
            addresses.size,
            out,
        )
        return self.done(status, out, pmt=out.value, addrs=addresses.tolist())

    def bti_release_quarantine(self, *, bti: Any) -> Done:
        return self.done(zx.zx_bti_release_quarantine(self.handle(bti)))

    def pmt_unpin(self, *, pmt: Any) -> Done:
        return self.done(zx.zx_pmt_unpin(self.handle(pmt)))

    # What is no call of the dialect ---------------------------------------------------------------

    def event_create(self, *, options: Any) -> Done:
        self._no_options(options)
        return self.done(zx.ZX_OK, result=kinds.event(self.process))

    def eventpair_create(self, *, options: Any) -> Done:
        self._no_options(options)
        one, other = kinds.event_pair(self.process)
        return self.done(zx.ZX_OK, h0=one, h1=other)

    def _no_options(self, options: Any) -> None:
        if self.number(options) != 0:
            raise Unknown("an event has no options")

    def mem_read(self, *, addr: Any, length: Any) -> Done:
        size = self.number(length)
        found = memory.peek(self.number(addr), size)
        return self.done(zx.ZX_OK, result=found) if len(found) == size else FAULT

    def mem_write(self, *, addr: Any, data: Any) -> Done:
        source = words.data(data, self.symbols)
        stored = poke(self.number(addr), source)
        return self.done(zx.ZX_OK) if stored == len(source) else FAULT

    def process_read_memory(self, *, addr: Any, length: Any) -> Done:
        found = len(memory.peek(self.number(addr), self.number(length)))
        return self.done(zx.ZX_OK, result=found) if found else FAULT

    def process_write_memory(self, *, addr: Any, length: Any) -> Done:
        source = bytes([_UNTOUCHED]) * self.number(length)
        stored = poke(self.number(addr), source)
        return self.done(zx.ZX_OK, result=stored) if stored else FAULT


def method(name: str) -> Callable[..., Done]:
    """The method that makes a call.

    Raises:
      Unknown: there is none.
    """
    found = vars(Calls).get(name)
    if found is None or name.startswith("_"):
        raise Unknown(f"there is no call {name!r}")
    made: Callable[..., Done] = found
    return made


def check_arguments(name: str, arguments: dict[str, Any]) -> None:
    """Raise `Unknown` unless a call has every one of these arguments, and lacks none."""
    if name in LACKING:
        return
    try:
        inspect.signature(method(name)).bind(None, **arguments)
    except TypeError as error:
        raise Unknown(f"{name}: {error}") from error
