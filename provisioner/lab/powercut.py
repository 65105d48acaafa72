"""What a power cut leaves of a disk whose writes were logged: all up to its last flush, and nothing after it.

Ending a virtual machine is no power cut, since what it has written is in the host's memory all the same. The log is
QEMU's (``blklogwrites``), in the format of Linux's dm-log-writes (admin-guide/device-mapper/log-writes).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from provisioner.errors import LabError

MAGIC, VERSION = 0x6A736677736872, 1
SUPERBLOCK, ENTRY = struct.Struct("<QQQI"), struct.Struct("<QQQQ")
FLUSH, FUA, DISCARD = 1, 2, 4
SECTOR = 512
STEP = 1 << 20


@dataclass(frozen=True)
class Write:
    """One entry: ``offset`` and ``length`` of the disk in bytes; ``data`` is where they lie in the log."""

    offset: int
    length: int
    flags: int
    data: int


def cut_power(log: Path, disk: Path) -> int:
    """Make ``disk`` what a power cut would have left of it. The machine has ended.

    QEMU counts in the log what was written up to the last flush; what comes after it is not counted, and lost too.

    :returns: how many writes are left. :raises LabError: the log is none.
    """
    size = disk.stat().st_size
    with log.open("rb") as source:
        writes = list(read_log(source))
        ends = [number for number, write in enumerate(writes) if write.flags & (FLUSH | FUA)]
        kept = writes[: ends[-1] + 1] if ends else []
        with disk.open("r+b") as target:
            target.truncate(0)
            target.truncate(size)
            for write in kept:
                _apply(write, source, target)
    return len(kept)


def read_log(source: BinaryIO) -> Iterator[Write]:
    """:raises LabError: it is not such a log."""
    magic, version, entries, sector = SUPERBLOCK.unpack(source.read(SUPERBLOCK.size).ljust(SUPERBLOCK.size, b"\0"))
    if (magic, version) != (MAGIC, VERSION) or sector < SECTOR:
        raise LabError("the log of writes cannot be understood", where=getattr(source, "name", "log"))
    at = sector
    for _ in range(entries):
        source.seek(at)
        head = source.read(ENTRY.size)
        if len(head) < ENTRY.size:
            return
        first, count, flags, _length = ENTRY.unpack(head)
        length = count * sector
        yield Write(first * sector, length, flags, at + sector)
        at += sector + (0 if flags & DISCARD else length)


def _apply(write: Write, source: BinaryIO, target: BinaryIO) -> None:
    target.seek(write.offset)
    source.seek(write.data)
    left = write.length
    while left > 0:
        step = min(left, STEP)
        target.write(bytes(step) if write.flags & DISCARD else source.read(step))
        left -= step
