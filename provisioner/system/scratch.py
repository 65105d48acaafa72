"""Room for work in memory: a tmpfs that only this process and its children see, and that ends with them.

It is mounted in a mount namespace of this process's own (mount_namespaces(7)), so nothing has to be unmounted: also
after ``kill -9`` it is gone, with every mount that a child made below it.
"""

from __future__ import annotations

import ctypes
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from provisioner.errors import HostError
from provisioner.system.run import Runner

CLONE_NEWNS, MNT_DETACH = 0x00020000, 2
MEMINFO = Path("/proc/meminfo")
HOLD_TRIES = 1000


def available_memory(meminfo: Path = MEMINFO) -> int:
    """Bytes that programs can take without swapping (proc(5), MemAvailable); 0 where the kernel does not say."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)


@contextmanager
def scratch_memory(folder: Path, size: int, runner: Runner) -> Iterator[bool]:
    """A private tmpfs of at most ``size`` bytes on ``folder`` while the block runs; False where this process may not.

    Enter it before threads are started: a thread has the namespace of the one that started it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        yield False
        return
    try:
        runner.run(["mount", "--make-rprivate", "/"])
        runner.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "provisioner-build", folder])
    except HostError:
        yield False
        return
    try:
        yield True
    finally:
        libc.umount2(str(folder).encode(), MNT_DETACH)


@contextmanager
def held_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder ``parent/PREFIX…`` that goes when the block ends.

    It is locked meanwhile, and the kernel drops the lock when the process dies, however it dies: what
    :func:`sweep_folders` finds unlocked belongs to nobody.

    :raises HostError: each folder was swept before it was locked.
    """
    parent.mkdir(parents=True, exist_ok=True)
    folder, handle = _hold(parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _hold(parent: Path, prefix: str) -> tuple[Path, int]:
    """A sweep may come between making a folder and locking it; then the lock is that of a folder that is gone."""
    for _ in range(HOLD_TRIES):
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        with suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.exists():
                return folder, handle
            os.close(handle)
    raise HostError("a folder to work in is removed again and again", where=str(parent))


def sweep_folders(parent: Path, prefix: str) -> list[Path]:
    """Remove the folders of :func:`held_folder` that processes left when they were killed; returns them."""
    swept = []
    for folder in sorted(parent.glob(f"{glob.escape(prefix)}*")):
        with suppress(OSError):  # gone meanwhile, or held
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                swept.append(folder)
            finally:
                os.close(handle)
    return swept
