"""What a power cut leaves of a disk whose writes were logged: all up to its last flush, and of what came after it
nothing, all, or any part.

Ending a virtual machine is no power cut, since what it has written is in the host's memory all the same. The log is
QEMU's (``blklogwrites``), in the format of Linux's dm-log-writes (admin-guide/device-mapper/log-writes).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
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


@dataclass(frozen=True)
class Cut:
    """One way in which the power may fail.

    :param flushed: the first so many entries of the log are on the disk for sure. :param kept: numbers of the entries
        after them that the disk has written too, of its own accord, in the order of the log.
    """

    flushed: int
    kept: tuple[int, ...] = ()


def list_cuts(writes: Sequence[Write], chance: random.Random, chosen: int) -> list[Cut]:
    """At the start and after each flush: nothing of what came after it, and ``chosen`` chance parts of that.

    A disk may write what it has not flushed in any order, so each part of the writes before the next flush can be what
    it has kept. Only a write past its cache (FUA) is always there.
    """
    ends = [number + 1 for number, write in enumerate(writes) if write.flags & FLUSH]
    cuts: list[Cut] = []
    for flushed, end in zip([0, *ends], [*ends, len(writes)], strict=True):
        pending = [number for number in range(flushed, end) if writes[number].length]
        cuts.append(Cut(flushed))
        for _ in range(chosen if pending else 0):
            kept = (n for n in pending if writes[n].flags & FUA or chance.random() < 0.5)
            cuts.append(Cut(flushed, tuple(kept)))
    return list(dict.fromkeys(cuts))


class Replay:
    """Builds the disk that each cut leaves, one after another. :param disk: it, before the first entry of the log."""

    def __init__(self, source: BinaryIO, writes: Sequence[Write], disk: bytes) -> None:
        self._source = source
        self._writes = writes
        self._disk = bytearray(disk)
        self._done = 0

    def disk_after(self, cut: Cut) -> bytes:
        """:raises ValueError: it has fewer flushed entries than the one before."""
        if cut.flushed < self._done:
            raise ValueError("cuts are asked for in the order of the log")
        for write in self._writes[self._done : cut.flushed]:
            self._put(write, self._disk)
        self._done = cut.flushed
        disk = bytearray(self._disk)
        for number in cut.kept:
            self._put(self._writes[number], disk)
        return bytes(disk)

    def _put(self, write: Write, disk: bytearray) -> None:
        self._source.seek(write.data)
        data = bytes(write.length) if write.flags & DISCARD else self._source.read(write.length)
        disk[write.offset : write.offset + len(data)] = data


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
