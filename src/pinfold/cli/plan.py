# How much memory a copy pins, and in what pieces it uses it.
#
# The memory is pinned once for each file, and Linux counts each: what RLIMIT_MEMLOCK leaves is
# halved. The rings are charged as well, a little, and no figure shows them; so some is left.
from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pinfold.cli.destination import Refused
from pinfold.cli.text import exact
from pinfold.host import probe
from pinfold.memory.hosterrors import translated
from pinfold.units import KIB, MIB, PAGE_SIZE, page_up

BUFFER: Final = 32 * MIB
CHUNK: Final = MIB
DEPTH: Final = 16
_DEEPEST: Final = 4096
_SMALL_CHUNK: Final = 64 * KIB
_CHUNKS: Final = 16
"""In a buffer that is small: enough of them to keep both sides busy."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What was settled before the first byte; sizes in bytes."""

    size: int
    """Of the file."""
    buffer: int
    """Memory that is pinned, once for each file."""
    chunk: int
    """One read and one write at most."""
    depth: int
    """Chunks under way at once, on each side."""
    limit: int | None
    """RLIMIT_MEMLOCK, where it is why the buffer is smaller than it would be."""
    source_direct: bool
    """True where the source is read past the page cache."""
    target_direct: bool

    @property
    def slots(self) -> int:
        """Chunks in the buffer."""
        return self.buffer // self.chunk


@dataclass(frozen=True, slots=True)
class Options:
    """What the user wants of a copy. Raises Refused where the numbers do not go together."""

    buffer: int | None = None
    """Bytes of memory to pin at most, once for each file; None for what the limits allow."""
    chunk: int | None = None
    """Bytes of one read and one write at most, whole pages; None for what suits the buffer."""
    depth: int = DEPTH
    direct: bool = True
    """Past the page cache, where that can be."""
    verify: bool = False

    def __post_init__(self) -> None:
        if self.chunk is not None and (self.chunk < PAGE_SIZE or self.chunk % PAGE_SIZE):
            page = exact(PAGE_SIZE)
            raise Refused(f"a chunk of {exact(self.chunk)} is not whole pages of {page}")
        if self.buffer is not None and self.buffer < self.least:
            raise Refused(
                f"a buffer of {exact(self.buffer)} does not hold two chunks of "
                f"{exact(self.least // 2)}; make it larger, or the chunks smaller"
            )
        if not 1 <= self.depth <= _DEEPEST:
            raise Refused(f"a depth of {self.depth} is not from 1 to {_DEEPEST}")

    @property
    def least(self) -> int:
        """Bytes of the smallest buffer: one chunk that is read, and one that is written."""
        return 2 * (self.chunk or PAGE_SIZE)

    def check(self, size: int) -> None:
        """Raise Refused where a file of ``size`` bytes would need more memory than is pinned unless
        a person has said how much: a chunk is not where they say that."""
        chunk, needed = self._fitting(size, BUFFER)
        if self.buffer is None and needed > BUFFER:
            raise Refused(
                f"two chunks of {exact(chunk)} are more than the {exact(BUFFER)} that are pinned "
                f"by default; choose a smaller --chunk, or give --buffer {needed} to pin so much"
            )

    def most(self) -> int:
        """Bytes of the largest buffer that is worth a try. Raises HostError."""
        if self.buffer is not None:
            return self.buffer
        with translated("look at the limit on locked memory"):
            limit = None if probe.may_exceed_memlock() else probe.memlock_limit()
            pinned = probe.process_memory().pinned
        if limit is None:
            return BUFFER
        left = max(limit - pinned, 0) // 2
        return min(BUFFER, left - left // _CHUNKS)

    def plan(self, size: int, most: int, *, source_direct: bool, target_direct: bool) -> Plan:
        """For a file of ``size`` bytes, with a buffer of ``most``, or less if it needs no more."""
        chunk, buffer = self._fitting(size, most)
        limit = None
        if self.buffer is None and buffer < self._fitting(size, BUFFER)[1]:
            limit = probe.memlock_limit()
        return Plan(size, buffer, chunk, self.depth, limit, source_direct, target_direct)

    def _fitting(self, size: int, most: int) -> tuple[int, int]:
        """Bytes in a chunk, at most half the file, and in the buffer: two chunks or more."""
        chunk = self.chunk
        if chunk is None:
            chunk = max(min(most // _CHUNKS, CHUNK), min(most // 2, _SMALL_CHUNK), PAGE_SIZE)
            chunk = 1 << (chunk.bit_length() - 1)
        chunk = min(chunk, max(page_up(-(-size // 2)), PAGE_SIZE))
        useful = min(2 * self.depth, -(-size // chunk))
        return chunk, chunk * max(2, min(most // chunk, useful))
