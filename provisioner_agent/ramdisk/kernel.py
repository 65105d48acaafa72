"""What the kernel does at once, and a program for it would take a tenth of a second to start. Each raises OSError."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import sys
from pathlib import Path

BLKSSZGET = 0x1268
EXT4_IOC_RESIZE_FS = 0x40086610
"""Linux, fs/ext4/ext4.h: online, to a number of blocks."""
MS_RDONLY = 1
FILESYSTEMS = ("ext4", "xfs", "btrfs", "vfat")
"""Tried in turn."""
LIBC = ctypes.CDLL(None, use_errno=True)


def measure(device: str) -> tuple[int, int]:
    """(its size, its logical sector), in bytes."""
    with Path(device).open("rb") as file:
        sector = fcntl.ioctl(file, BLKSSZGET, bytes(4))
        return file.seek(0, os.SEEK_END), int.from_bytes(sector, sys.byteorder)


def mount(device: str, folder: str, filesystem: str, *, read_only: bool) -> None:
    """mount(2). :param filesystem: empty: whichever it is."""
    flags = MS_RDONLY if read_only else 0
    code = errno.EINVAL
    for kind in (filesystem,) if filesystem else FILESYSTEMS:
        words = (os.fsencode(word) for word in (device, folder, kind))
        if LIBC.mount(*words, ctypes.c_ulong(flags), None) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENODEV):  # else it is no such file system
            break
    raise OSError(code, os.strerror(code))


def unmount(folder: str) -> None:
    """umount2(2)."""
    if LIBC.umount2(os.fsencode(folder), 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def grow(folder: str, size: int) -> None:
    """Let the ext4 that is mounted there fill ``size`` bytes."""
    blocks = size // os.statvfs(folder).f_bsize
    door = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(door, EXT4_IOC_RESIZE_FS, struct.pack("@Q", blocks))
    finally:
        os.close(door)
