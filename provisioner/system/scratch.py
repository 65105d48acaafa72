"""Room for work in memory: a tmpfs that only this process and its children see, and that ends with them.

It is mounted in a mount namespace of this process's own (mount_namespaces(7)), so nothing has to be unmounted: also
after ``kill -9`` it is gone, with every mount that a child made below it.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from provisioner.errors import HostError
from provisioner.system.run import Runner

CLONE_NEWNS = 0x00020000
MEMINFO = Path("/proc/meminfo")


def available_memory(meminfo: Path = MEMINFO) -> int:
    """Bytes that programs can take without swapping (proc(5), MemAvailable); 0 where the kernel does not say."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)


def mount_scratch(folder: Path, size: int, runner: Runner) -> bool:
    """Mount a private tmpfs of at most ``size`` bytes on ``folder``; False where this process may not.

    Call it before threads are started: a thread has the namespace of the one that started it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        return False
    try:
        runner.run(["mount", "--make-rprivate", "/"])
        runner.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "provisioner-build", folder])
    except HostError:
        return False
    return True
