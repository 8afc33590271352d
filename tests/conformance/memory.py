# What a program reads, and what the host's kernel says is mapped.
from __future__ import annotations

from pathlib import Path

from pinfold.units import PAGE_SIZE
from tests.user_memory import load


def peek(address: int, length: int) -> bytes:
    """The bytes there, up to the first that faults."""
    return load(address, length) or b""


def host_protections(base: int, pages: int) -> list[list[str]]:
    """What the host allows on each page from ``base`` on; an empty list where it allows nothing."""
    stop = base + pages * PAGE_SIZE
    found: list[list[str]] = [[] for _ in range(pages)]
    for line in Path("/proc/self/maps").read_text().splitlines():
        where, perms = line.split(maxsplit=2)[:2]
        low, high = (int(border, 16) for border in where.split("-"))
        allowed = [
            word
            for word, letter in (("READ", "r"), ("WRITE", "w"), ("EXECUTE", "x"))
            if letter in perms
        ]
        for page in range(max(low, base), min(high, stop), PAGE_SIZE):
            found[(page - base) // PAGE_SIZE] = [f"PERM_{word}" for word in allowed]
    return found
