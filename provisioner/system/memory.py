"""How the C library keeps the memory of a process that runs for months."""

from __future__ import annotations

import ctypes
import gc

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""mallopt(3) of glibc."""
LARGE = 128 << 10
ARENAS = 2
COLLECT = (20_000, 20, 50)
"""Of the collector of cycles (gc.set_threshold): by itself it looks at all connections of a thousand agents, and at all
that is parsed of a plan for them, some hundred times for each change."""


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
    gc.set_threshold(*COLLECT)


def keep_young() -> None:
    """What is there now lives as long as the process: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Give free pages back to the system: a change of a thousand nodes needs for a second what is idle for days."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
