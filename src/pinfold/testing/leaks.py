# What this process holds of the host, to be compared before and after.
from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pinfold.host import probe
from pinfold.units import GIB


@dataclass(frozen=True, slots=True)
class HostState:
    """Descriptors, shared mappings, reserved address space and locked bytes of this process."""

    descriptors: frozenset[str]
    """What each open descriptor beyond the standard ones points to, with its number."""
    mappings: tuple[str, ...]
    """The lines of /proc/self/maps of shared mappings: where, permissions, and of what.

    All that pinfold maps is shared: memfds, files, and an address space's spare mapping.
    """
    reserved: int
    """GiB of address space that is held and cannot be accessed, in ranges of a GiB and more.

    Smaller ranges are the C library's and the threads'; they come, go, and join their neighbours.
    """
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
        mappings, reserved = [], 0
        for line in Path("/proc/self/maps").read_text().splitlines():
            where, perms, _, _, _, *what = line.split(maxsplit=5)
            if perms.endswith("s"):
                mappings.append(" ".join((where, perms, *what)))
            elif perms == "---p" and not what:
                low, high = (int(border, 16) for border in where.split("-"))
                reserved += (high - low) // GIB
        return cls(
            descriptors=frozenset(found),
            mappings=tuple(mappings),
            reserved=reserved,
            locked_bytes=probe.process_memory().locked,
        )

    def difference(self, later: HostState) -> list[str]:
        """What ``later`` has more or less of; empty when nothing was left behind."""
        found = [f"descriptor left open: {d}" for d in sorted(later.descriptors - self.descriptors)]
        found += [f"descriptor gone: {d}" for d in sorted(self.descriptors - later.descriptors)]
        found += [f"mapping left: {m}" for m in later.mappings if m not in self.mappings]
        found += [f"mapping gone: {m}" for m in self.mappings if m not in later.mappings]
        if later.reserved != self.reserved:
            found.append(f"GiB reserved: {self.reserved} before, {later.reserved} after")
        if later.locked_bytes != self.locked_bytes:
            found.append(f"locked bytes: {self.locked_bytes} before, {later.locked_bytes} after")
        return found
