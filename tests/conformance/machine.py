# The machine that a case runs on: a fresh kernel and process, and what the case has bound so far.
#
# Here is what turns the words of a step into arguments; the calls themselves are in calls.py. The
# dialect is used as any other program would use it, through its flat calls alone.
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pinfold.dialects import Out, zx
from pinfold.objects.kernel import Kernel
from pinfold.objects.process import Process

from . import words
from .expressions import Record, Unknown, number
from .records import LAYOUTS, map_records

MOST_ENTRIES: Final = 256
"""Room for so many entries of a listing: more than any case makes."""


class Mismatch(Exception):
    """The dialect did something other than the case expects."""

    def __init__(self, what: str, *, got: object, expected: object) -> None:
        super().__init__(f"{what}: got {got}, expected {expected}")
        self.what = what
        self.got = got
        self.expected = expected


@dataclass(frozen=True, slots=True)
class Done:
    """What a call did.

    Attributes:
      status: by the name the cases use; for a fault of memory, any of its three names.
      result: what it returned beside the status: bytes, a number, a name, a record, a handle.
      parts: what it returned by name, where that is more than one thing.
    """

    status: frozenset[str]
    result: Any = None
    parts: dict[str, Any] | None = None


FAULT: Final = Done(words.FAULTS)


class Machine:
    """A process with its root region and a stub IOMMU, as every case finds it.

    Use it in a ``with`` block of its process; `close` ends the process as process death does.
    """

    def __init__(self) -> None:
        self.kernel = Kernel(seed=1)
        self.process = Process(self.kernel, name="case")
        self.symbols: dict[str, Any] = {}

    def furnish(self) -> None:
        """Bind what is there before the first step."""
        self.symbols["root_vmar"] = zx.zx_vmar_root_self()
        iommu = Out()
        status = zx.zx_iommu_create(zx.root_resource(), zx.ZX_IOMMU_TYPE_STUB, bytes(1), 1, iommu)
        if status != zx.ZX_OK:
            raise Mismatch("the IOMMU", got=words.status_name(status), expected="OK")
        self.symbols["iommu"] = iommu.value

    # Arguments --------------------------------------------------------------------------------

    def number(self, word: int | str) -> int:
        """An unsigned 64-bit argument."""
        return number(word, self.symbols)

    def handle(self, word: str) -> int:
        """A handle: what a symbol is bound to, or INVALID."""
        if word == "INVALID":
            return words.constant("ZX_HANDLE_INVALID")
        if not word.startswith("$"):
            raise Unknown(f"{word!r} is no handle")
        return self.number(word)

    def rights(self, word: Any) -> int:
        """Rights: a list of them, SAME_RIGHTS, or those of a base less some."""
        match word:
            case "SAME_RIGHTS":
                return words.constant("ZX_RIGHT_SAME_RIGHTS")
            case {"base": "DEFAULT_VMO", "remove": less, **rest} if not rest:
                return words.constant("ZX_DEFAULT_VMO_RIGHTS") & ~self.rights(less)
            case {"base": str(base), "remove": less, **rest} if not rest:
                return self.rights_of(base) & ~self.rights(less)
        return words.union(word, "ZX_RIGHT_")

    def rights_of(self, word: str) -> int:
        """What a handle has now."""
        layout = LAYOUTS["HANDLE_BASIC"]
        buffer = bytearray(layout.size)
        status = zx.zx_object_get_info(
            self.handle(word), zx.ZX_INFO_HANDLE_BASIC, buffer, len(buffer), None, None
        )
        if status != zx.ZX_OK:
            raise Mismatch(f"the rights of {word}", got=words.status_name(status), expected="OK")
        held: int = layout.record(buffer)["rights"]
        return held

    # Results ----------------------------------------------------------------------------------

    def done(self, status: int, *outs: Out | None, result: Any = None, **parts: Any) -> Done:
        """What a flat call did, its output parameters being ``outs``.

        Raises:
          Mismatch: it succeeded and left one of them as it was, or wrote one and failed.
        """
        succeeded = status == zx.ZX_OK
        for out in outs:
            if out is not None and (out.value is not None) is not succeeded:
                raise Mismatch(
                    "an output parameter",
                    got=f"{words.status_name(status)} and {out.value!r}",
                    expected="a value exactly when the call succeeds",
                )
        return Done(frozenset({words.status_name(status)}), result, parts or None)

    def listing(self, region: int) -> list[Record]:
        """The entries of a region: VMAR_MAPS."""
        buffer = bytearray(MOST_ENTRIES * LAYOUTS["VMAR_MAPS"].size)
        actual, avail = Out(), Out()
        status = zx.zx_object_get_info(
            region, zx.ZX_INFO_VMAR_MAPS, buffer, len(buffer), actual, avail
        )
        if status != zx.ZX_OK or actual.value != avail.value:
            raise Mismatch(
                "the listing of a region",
                got=f"{words.status_name(status)}, {actual.value} of {avail.value} entries",
                expected="OK and all entries",
            )
        return map_records(buffer, actual.value)

    def listed_protections(self, base: int, pages: int) -> list[list[str] | None]:
        """What the root region lists for each page from ``base`` on; None where nothing is mapped.

        Raises:
          Mismatch: it lists a page twice.
        """
        size = words.constant("ZX_PAGE_SIZE")
        found: list[list[str] | None] = [None] * pages
        for entry in self.listing(self.symbols["root_vmar"]):
            if entry["type"] != "MAPPING":
                continue
            low, high = entry["base"], entry["base"] + entry["size"]
            for page in range(max(low, base), min(high, base + pages * size), size):
                index = (page - base) // size
                if found[index] is not None:
                    raise Mismatch("the listing", got=f"page {index} twice", expected="once")
                found[index] = entry["prot"]
        return found
