"""How the C library keeps the memory of a process that runs for months."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""mallopt(3) of glibc."""
LARGE = 128 << 10
ARENAS = 2


def tune_memory() -> None:
    """For a service with many threads and connections: a piece of :data:`LARGE` bytes or more is a mapping of its own.

    Each connection by TLS asks for 256 kB and uses a few of them. glibc, which learns from the first piece that is
    freed, would take the next ones from its heaps, where their pages have been used before and count as memory. Nothing
    is done where the C library is another.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE)
        mallopt(M_ARENA_MAX, ARENAS)
