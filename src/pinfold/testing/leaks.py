# What this process holds of the host, to be compared before and after.
from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pinfold.host import probe


@dataclass(frozen=True, slots=True)
class HostState:
    """Descriptors, mappings of pinfold's memory, and locked bytes of this process."""

    descriptors: frozenset[str]
    """What each open descriptor beyond the standard ones points to, with its number."""
    mappings: tuple[str, ...]
    """The lines of /proc/self/maps that show pinfold's memory, without their inode numbers."""
    locked_bytes: int
    """VmLck."""

    @classmethod
    def now(cls) -> HostState:
        """Look."""
        found = set()
        for entry in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{entry}")
            except FileNotFoundError:  # the descriptor of the listing itself
                continue
            found.add(f"{entry} -> {target}")
        lines = Path("/proc/self/maps").read_text().splitlines()
        ours = (line.split() for line in lines if "pinfold:" in line)
        return cls(
            descriptors=frozenset(found),
            mappings=tuple(f"{fields[0]} {fields[1]} {fields[5]}" for fields in ours),
            locked_bytes=probe.process_memory().locked,
        )

    def difference(self, later: HostState) -> list[str]:
        """What ``later`` has more or less of; empty when nothing was left behind."""
        found = [f"descriptor left open: {d}" for d in sorted(later.descriptors - self.descriptors)]
        found += [f"descriptor gone: {d}" for d in sorted(self.descriptors - later.descriptors)]
        found += [f"mapping left: {m}" for m in later.mappings if m not in self.mappings]
        found += [f"mapping gone: {m}" for m in self.mappings if m not in later.mappings]
        if later.locked_bytes != self.locked_bytes:
            found.append(f"locked bytes: {self.locked_bytes} before, {later.locked_bytes} after")
        return found
